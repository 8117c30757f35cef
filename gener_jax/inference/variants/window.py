"""The protocol "window": how likely is the whole sequence around the variant with each allele?

The protocol for BRCA2 and TraitGym (old name "centred"), published for substitutions of one base and extended here to
other variants. The window of `context` bases begins `context / 2` bases before the variant and is cut at the right to a
whole number of k-mers. The ratio is the log-likelihood of the window with the reference allele minus that with the
alternate allele, divided by the number of k-mers in the reference window: nats per k-mer. With `marginals` it is the
difference of the two windows' mean log-marginals per base.

An insertion or deletion leaves the other bases of the window as they are, so both windows hold the same other bases,
and the last k-mer may be partial. It may also be partial near the end of a contig, where whole k-mers would end before
the variant.

The windows of the other phases begin up to k - 1 bases later. Near the start of a contig, on the scored strand, there
are fewer phases.
"""

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.likelihood import frame, score_all
from gener_jax.inference.variants.variant import Ratios, Site


def ratios(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int, *, marginals: bool = False
) -> list[Ratios]:
    """The log-likelihood ratios of each site; `context` in bases, `phases` at most, `batch_tokens` with padding."""
    k, rows, wanted = lm.tokenizer.k, {}, []  # each distinct row once: nearby variants share reference windows
    for site in sites:
        wanted.append([])
        for phase in range(min(phases, len(site.before) + 1)):
            pair = _windows(site, context, phase, k)
            rows |= {window.tobytes(): frame(lm.tokenizer, (), window) for window in pair}
            wanted[-1].append([window.tobytes() for window in pair])
    score = "base" if marginals else "token"
    values = score_all(lm, list(rows.values()), score=score, batch_tokens=batch_tokens, usual=context // k)
    sums = {key: x.sum(dtype=np.float64) for key, x in zip(rows, values, strict=True)}
    tokens = {key: len(row.codes) for key, row in rows.items()}
    if marginals:
        sums = {key: sums[key] / max((row.dna < bases.N).sum(), 1) for key, row in rows.items()}
        tokens = dict.fromkeys(rows, 1)
    found = []
    for pairs in wanted:
        values = [((sums[r] - sums[a]) / tokens[r], sums[r], sums[a]) for r, a in pairs]
        found.append(Ratios("window_base" if marginals else "window", np.array(values)))
    return found


def _windows(site: Site, context: int, phase: int, k: int) -> list[np.ndarray]:
    """The windows with the reference and the alternate allele, codes uint8 [bases]."""
    before = site.before[max(len(site.before) - context // 2, 0) + phase :]
    after = site.after[: max(context // k * k - len(before) - len(site.ref), 0)]
    pair = [np.concatenate([before, allele, after]) for allele in (site.ref, site.alt)]
    whole = len(pair[0]) // k * k
    # Whole k-mers, also if the contig ends before the window does, but never without the variant.
    cut = len(site.ref) == len(site.alt) and whole >= len(before) + len(site.ref)
    return [window[:whole] for window in pair] if cut else pair
