"""The protocol "window": how likely is the whole sequence around the variant with each allele?

The protocol for BRCA2 and TraitGym (old name "centred"), published for substitutions of one base and extended here to
other variants. The window of `context` bases begins `context / 2` bases before the variant and is cut at the right to a
whole number of k-mers. The ratio is the log-likelihood of the window with the reference allele minus that with the
alternate allele, divided by the number of k-mers in the reference window: nats per k-mer. With `marginals` it is the
difference of the two windows' mean log-marginals per base.

An insertion or deletion leaves the other bases of the window as they are, so both windows hold the same other bases,
and the last k-mer may be partial. It may also be partial near the end of a contig, where whole k-mers would end before
the variant.

So each inserted base costs about 1.4 nats and each deleted one gains as much, whatever it does. In the protocol
"equal_window" both windows are whole k-mers of the same total length instead: that with the shorter allele has as many
more of the bases that follow. Substitutions have the same score in both.

The windows of the other phases begin up to k - 1 bases later. Near the start of a contig, on the scored strand, there
are fewer phases.
"""

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.likelihood import frame, score_all
from gener_jax.inference.variants.variant import Ratios, Site


def ratios(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int, *, marginals: bool = False, equal: bool = False
) -> list[Ratios]:
    """The log-likelihood ratios of each site; `context` in bases, `phases` at most, `batch_tokens` with padding."""
    k, rows, wanted = lm.tokenizer.k, {}, []  # each distinct row once: nearby variants share reference windows
    for site in sites:
        pairs = [windows(site, context, phase, k, equal) for phase in range(min(phases, len(site.before) + 1))]
        pairs = [] if None in pairs else pairs
        rows |= {window.tobytes(): frame(lm.tokenizer, (), window) for pair in pairs for window in pair}
        wanted.append([[window.tobytes() for window in pair] for pair in pairs])
    score = "base" if marginals else "token"
    values = score_all(lm, list(rows.values()), score=score, batch_tokens=batch_tokens, usual=context // k)
    sums = {key: x.sum(dtype=np.float64) for key, x in zip(rows, values, strict=True)}
    tokens = {key: len(row.codes) for key, row in rows.items()}
    if marginals:
        sums = {key: sums[key] / max((row.dna < bases.N).sum(), 1) for key, row in rows.items()}
        tokens = dict.fromkeys(rows, 1)
    found = []
    for site, pairs in zip(sites, wanted, strict=True):
        values = [((sums[r] - sums[a]) / tokens[r], sums[r], sums[a]) for r, a in pairs]
        name = "equal_window" if equal and len(site.ref) != len(site.alt) else "window"
        flag = "" if pairs else f"fewer than {k} bases after the variant in windows of the same length"
        found.append(Ratios("window_base" if marginals else name, np.array(values).reshape(-1, 3), flag))
    return found


def windows(site: Site, context: int, phase: int, k: int, equal: bool) -> list[np.ndarray] | None:
    """The windows with the reference and the alternate allele, codes uint8 [bases].

    None if they are to be of equal length and end before the first k bases after the longer allele.
    """
    before = site.before[max(len(site.before) - context // 2, 0) + phase :]
    if equal and len(site.ref) != len(site.alt):
        shorter, longer = sorted(map(len, (site.ref, site.alt)))
        length = min(context, len(before) + shorter + len(site.after)) // k * k
        pair = [np.concatenate([before, allele, site.after])[:length] for allele in (site.ref, site.alt)]
        return pair if length >= len(before) + longer + k else None
    after = site.after[: max(context // k * k - len(before) - len(site.ref), 0)]
    pair = [np.concatenate([before, allele, after]) for allele in (site.ref, site.alt)]
    whole = len(pair[0]) // k * k
    # Whole k-mers, also if the contig ends before the window does, but never without the variant.
    cut = len(site.ref) == len(site.alt) and whole >= len(before) + len(site.ref)
    return [window[:whole] for window in pair] if cut else pair
