"""Scores of variants: the log-likelihood ratio of their alleles, reference minus alternate, by one of the protocols.

A positive ratio means that the model prefers the reference allele; many papers report the opposite sign.

Averaging over phases puts the variant at every position in its k-mer; each protocol says how.

The alleles' lengths are not corrected for: each further base of an insertion or deletion costs about 1.4 nats under an
untrained model. "equal_window" compares windows of the same length instead.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from gener_jax.config import ModelSpec
from gener_jax.inference.batches import tokens_per_batch
from gener_jax.inference.likelihood import kmer_size
from gener_jax.inference.options import CONTEXT, PROTOCOL_ALIASES, PROTOCOLS, STRANDS
from gener_jax.inference.variants import next_kmer, window
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.normalize import sites_of
from gener_jax.inference.variants.variant import Scored, Variant
from gener_jax.runtime.errors import InputError, whole


def default_context(spec: ModelSpec) -> int:
    """The default context of a model with a k-mer tokenizer, in bases: CONTEXT, or as many as its positions hold.

    That is with room for alleles of a quarter of the context, which `Scorer` allows, and the flank after them.
    """
    k, longest = spec.tokenizer.k, spec.model.max_length
    if longest is None:
        return CONTEXT
    most = ((longest - 2) * k - next_kmer.FLANK) * 4 // 5
    return min(CONTEXT, max(most // k, 2) * k)


class Scorer:
    """Scores variants with a model by one protocol.

    Attributes:
      context: bases before the variant, or in the window.
    """

    def __init__(
        self,
        lm,
        *,
        protocol: str = "next_kmer",
        context: int | None = None,
        phases: int = 1,
        strand: str = "+",
        marginals: bool = False,
        batch_tokens: int | None = None,
    ):
        """See `LM.score_variants` for the options; raises InputError for an invalid one."""
        k, protocol = kmer_size(lm, "score_variants"), PROTOCOL_ALIASES.get(protocol, protocol)
        context = default_context(lm.spec) if context is None else whole(context, "context", 2 * k)
        phases = whole(phases, "phases", 1)
        valid = (
            ("protocol", protocol, protocol in PROTOCOLS, f"must be one of {', '.join(PROTOCOLS)}"),
            ("strand", strand, strand in STRANDS, f"must be one of {', '.join(STRANDS)}"),
            ("phases", phases, phases in (1, k), f"must be 1 or {k}"),
            ("marginals", marginals, not marginals or protocol == "window", f"needs protocol window, not {protocol}"),
        )
        for name, value, holds, problem in valid:
            if not holds:
                raise InputError(problem, name, value)
        tokens = context // k + 1
        lm.check_length(tokens, "context", context)
        longest, batch_tokens = lm.spec.model.max_length, tokens_per_batch(batch_tokens)
        # The alleles and the flank after them must fit the model's positions too.
        room = context if longest is None else (longest - tokens - 1) * k - next_kmer.FLANK
        self.context, self._strands = context, "+-" if strand == "both" else strand
        self._largest = min(context // 4, room)
        self._group = max(batch_tokens * k // context, 1) * 8  # variants at a time
        ratios = next_kmer.ratios
        if protocol != "next_kmer":
            ratios = functools.partial(window.ratios, marginals=marginals, equal=protocol == "equal_window")
        self._ratios = functools.partial(ratios, lm, context=context, phases=phases, batch_tokens=batch_tokens)

    def __call__(self, variants: Iterable[Variant], genome: Genome) -> Iterator[Scored]:
        """Yields the score of each variant, in order, holding a few hundred at a time."""
        remaining = iter(variants)
        while group := list(itertools.islice(remaining, self._group)):
            sites = [sites_of(v, genome, self.context, self._largest, self._strands) for v in group]
            good = [each for each in sites if not isinstance(each, str)]
            strands = [self._ratios(sites=list(of_strand)) for of_strand in zip(*good, strict=True)]
            scored = map(_mean, zip(*strands, strict=True))
            yield from (Scored("", flag=each) if isinstance(each, str) else next(scored) for each in sites)


def _mean(strands) -> Scored:
    """The score of a variant by its ratios on each strand; near a contig's ends there are fewer phases."""
    name, values = strands[0].protocol, [x.phases for x in strands]
    if flags := [x.flag for x in strands if x.flag]:
        return Scored(name, flag=flags[0])
    if not all(np.isfinite(v).all() for v in values):
        return Scored(name, flag="the score is not finite")
    common = min(map(len, values))  # phases that every strand has
    spread = float(np.mean([v[:common, 0] for v in values], axis=0).std()) if common > 1 else None
    llr, log_p_ref, log_p_alt = np.mean([v.mean(0) for v in values], axis=0).tolist()
    return Scored(name, llr, spread, log_p_ref, log_p_alt)
