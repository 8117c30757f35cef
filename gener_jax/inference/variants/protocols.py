"""The two protocols of variant scoring: each computes a log-likelihood ratio, reference minus alternate.

A positive ratio means that the model prefers the reference allele; many papers report the opposite sign. Each protocol
is published for substitutions of one base, and extended here to other variants.

"next_kmer" (GENERator's protocol for ClinVar; old name "right_edge"): how likely is each allele as the continuation of
the bases before the variant? The context is `<s>` and up to `context` bases that end just before the variant, without N
at their beginning and cut at the left to a whole number of k-mers. The ratio is log(p_ref / (p_alt + 1e-10)) in nats,
where p of one base is the sum over all k-mers that begin with it. Other variants may need more than one k-mer: there p
is the exact likelihood of the allele, without the 1e-10. If the alleles differ in length, the `FLANK` bases after them,
the same for both, are scored too.

"window" (the protocol for BRCA2 and TraitGym; old name "centred"): how likely is the whole sequence around the variant
with each allele? The window of `context` bases begins `context / 2` bases before the variant and is cut at the right to
a whole number of k-mers. The ratio is the log-likelihood of the window with the reference allele minus that with the
alternate allele, divided by the number of k-mers in the reference window: nats per k-mer. With `marginals` it is the
difference of the two windows' mean log-marginals per base. An insertion or deletion leaves the other bases of the
window as they are, so both windows hold the same other bases, and the last k-mer may be partial. It may also be partial
near the end of a contig, where whole k-mers would end before the variant.

Averaging over phases puts the variant at every position in its k-mer: the contexts end up to k - 1 bases before the
variant (p is then conditioned on the bases in between), and the windows begin up to k - 1 bases later. Near the start
of a contig, on the scored strand, there are fewer phases.

An insertion or deletion is scored at the leftmost position, on the scored strand, that gives the same sequence. The
alleles' lengths are not corrected for: each further base costs about 1.4 nats under an untrained model, so compare
insertions and deletions only among themselves.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS
from gener_jax.inference.batches import by_length, results, right_pad
from gener_jax.inference.likelihood import STRANDS, Framed, frame, log_masses, score_all
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import FLANK, Site, Variant, sites_of
from gener_jax.model.decoder import Decoder
from gener_jax.runtime.errors import InputError

PROTOCOLS = ("next_kmer", "window")
PROTOCOL_ALIASES = {"right_edge": "next_kmer", "centred": "window"}  # old name → name
CONTEXT = 8192  # default, in bases
_EPSILON = 1e-10  # of the published formula


@dataclasses.dataclass(frozen=True)
class Scored:
    """The score of a variant, or the reason why it has none.

    Attributes:
      score: the name of the score: "next_kmer", "next_kmer_sequence" (exact likelihoods of more than one k-mer),
        "window", or "window_base" (mean log-marginals per base).
      llr: the log-likelihood ratio, reference minus alternate: positive if the model prefers the reference allele. In
        nats ("window": per k-mer, "window_base": per base); the mean over strands and phases.
      spread: the standard deviation of `llr` over phases; None if there is only one.
      log_p_ref, log_p_alt: the log-probabilities in nats that are compared, also means over strands and phases: of the
        allele after the context ("next_kmer", "next_kmer_sequence"), or of the window with it ("window_base": per
        base).
      flag: empty, or one line with the reason why there is no score.
    """

    score: str
    llr: float = float("nan")
    spread: float | None = None
    log_p_ref: float = float("nan")
    log_p_alt: float = float("nan")
    flag: str = ""


@functools.partial(jax.jit, static_argnames="model")
def next_kmer_masses(
    model: Decoder, params, ids: Int[Array, "B T"], lengths: Int[Array, " B"], codes: Int[Array, "B k"]
) -> Float[Array, "B k 4"]:
    """`log_masses` of the token after the last of each row, by a softmax over the full vocabulary."""
    hidden, _ = model.apply({"params": params}, ids)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    logits = model.apply({"params": params}, last, method="logits")
    log_p = logits[:, -(4 ** codes.shape[-1]) :] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return log_masses(log_p, codes.astype(jnp.int32))


class Deduplicated:
    """The rows that variants need, without duplicates: nearby variants share contexts and reference windows."""

    def __init__(self):
        self.rows, self._indices = [], {}

    def index(self, row, key: bytes) -> int:
        """The index of the row with this key; adds the row if the key is new."""
        if key not in self._indices:
            self._indices[key] = len(self.rows)
            self.rows.append(row)
        return self._indices[key]


def score(
    lm,
    variants: Iterable[Variant],
    genome: Genome,
    *,
    protocol: str = "next_kmer",
    context: int = CONTEXT,
    phases: int = 1,
    strand: str = "+",
    marginals: bool = False,
    batch_tokens: int,
) -> Iterator[Scored]:
    """Yields the score of each variant, in order, holding a few hundred at a time; see the module's docstring.

    Args:
      lm: a k-mer model.
      protocol: "next_kmer" or "window", or one of the old names.
      context: bases before the variant ("next_kmer"), or in the window ("window").
      phases: 1, as published; or k, the mean over all positions of the variant in its k-mer, with the spread.
      strand: the strand that is scored: "+", "-", or "both", the mean of the two.
      marginals: ("window" only) score windows by the mean over bases of their log-marginals.
      batch_tokens: tokens per batch, including padding.

    Raises:
      InputError: if an option is invalid, or the context exceeds the model's positions.
    """
    k = lm.tokenizer.k
    protocol = PROTOCOL_ALIASES.get(protocol, protocol)
    if protocol not in PROTOCOLS:
        raise InputError(f"must be one of {', '.join(PROTOCOLS)}", "protocol", protocol)
    if strand not in STRANDS:
        raise InputError(f"must be one of {', '.join(STRANDS)}", "strand", strand)
    if phases not in (1, k):
        raise InputError(f"must be 1 or {k}", "phases", phases)
    if context < 2 * k:
        raise InputError(f"must be at least {2 * k} bases", "context", context)
    if marginals and protocol != "window":
        raise InputError(f"needs protocol window, not {protocol}", "marginals", marginals)
    tokens = context // k + 1
    lm.check_length(tokens, "context", context)
    longest = lm.spec.model.max_length
    # The alleles and the flank after them must fit the model's positions too.
    largest = context // 4 if longest is None else min(context // 4, (longest - tokens - 1) * k - FLANK)
    run = _score_next_kmer if protocol == "next_kmer" else functools.partial(_score_windows, marginals=marginals)

    def groups() -> Iterator[Scored]:
        remaining, size = iter(variants), max(batch_tokens * k // context, 1) * 8
        while group := list(itertools.islice(remaining, size)):
            yield from _group(lm, group, genome, run, context, largest, phases, strand, batch_tokens)

    return groups()


def _group(lm, variants, genome, run, context, largest, phases, strand, batch_tokens) -> list[Scored]:
    """The scores of some variants; `run` computes those of a list of sites on one strand."""
    sites = [sites_of(v, genome, context, largest, "+-" if strand == "both" else strand) for v in variants]
    good = [s for s in sites if not isinstance(s, str)]
    strands = [run(lm, list(of_strand), context, phases, batch_tokens) for of_strand in zip(*good, strict=True)]
    found, at = [], 0
    for site in sites:
        if isinstance(site, str):
            found.append(Scored("", flag=site))
            continue
        name = strands[0][at][0]
        values = [s[at][1] for s in strands]  # per strand [phases, 3]; near a contig's ends there are fewer phases
        at += 1
        if flags := [v for v in values if isinstance(v, str)]:
            found.append(Scored(name, flag=flags[0]))
            continue
        if not all(np.isfinite(v).all() for v in values):
            found.append(Scored(name, flag="the score is not finite"))
            continue
        common = min(map(len, values))  # phases that every strand has
        spread = float(np.mean([v[:common, 0] for v in values], axis=0).std()) if common > 1 else None
        llr, log_p_ref, log_p_alt = np.mean([v.mean(0) for v in values], axis=0).tolist()
        found.append(Scored(name, llr, spread, log_p_ref, log_p_alt))
    return found


def _next_kmer_flag(site: Site, context: int) -> str:
    """One line with the reason why "next_kmer" cannot score a site; empty if it can."""
    if len(site.ref) != len(site.alt) and len(site.after) < FLANK:
        return f"fewer than {FLANK} bases after the variant"
    before = site.before[max(len(site.before) - context, 0) :]
    return "no known base in the context before the variant" if len(before) and (before >= bases.N).all() else ""


def _score_next_kmer(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int
) -> list[tuple[str, np.ndarray | str]]:
    """For each site: the name of the score; and (llr, log_p_ref, log_p_alt) per phase, float [phases, 3], or a flag."""
    k = lm.tokenizer.k
    contexts, sequences = Deduplicated(), Deduplicated()  # for one base; for longer alleles
    plans = []
    for site in sites:
        plan = []
        for phase in range(0 if _next_kmer_flag(site, context) else min(phases, len(site.before) + 1)):
            cut = len(site.before) - phase
            upstream, given = site.before[max(cut - context, 0) : cut], site.before[cut:]
            known = np.flatnonzero(upstream < bases.N)
            upstream = upstream[known[0] if len(known) else len(upstream) :]
            upstream = upstream[len(upstream) % k :]
            same_length = len(site.ref) == len(site.alt)
            if same_length and len(site.ref) == 1:
                codes = np.full(k, bases.N, np.uint8)
                codes[:phase] = given
                ids = np.concatenate([[BOS], lm.tokenizer.encode_bases(upstream)]).astype(np.int32)
                key = upstream.tobytes() + b"|" + codes.tobytes()
                plan.append((phase, contexts.index((ids, codes), key), site.ref[0], site.alt[0]))
                continue
            flank = site.after[: 0 if same_length else FLANK]
            texts = [np.concatenate([given, allele, flank]) for allele in (site.ref, site.alt)]
            indices = [
                sequences.index(_after(lm, upstream, text), upstream.tobytes() + b"|" + text.tobytes())
                for text in ([given] * (phase > 0) + texts)  # `given` alone too: its log-likelihood is subtracted
            ]
            plan.append((phase, indices[0] if phase else None, *indices[-2:]))
        plans.append(plan)
    usual = context // k + 1
    masses = _masses(lm, contexts.rows, batch_tokens, usual)
    scores = score_all(lm, sequences.rows, batch_tokens=batch_tokens, usual=usual)
    sums = [float(x.sum(dtype=np.float64)) for x in scores]
    found = []
    for site, plan in zip(sites, plans, strict=True):
        one_base = len(site.ref) == len(site.alt) == 1
        values = []
        for phase, row, ref, alt in plan:
            if one_base:  # the row of the context, and the codes of the alleles
                by_base = masses[row][phase].astype(np.float64)
                # Conditioned on the given bases, if any: only then is the mass of special tokens excluded.
                log_p_given = np.logaddexp.reduce(by_base) if phase else 0.0
                log_ref, log_alt = by_base[ref] - log_p_given, by_base[alt] - log_p_given
            else:  # the rows of the given bases alone, if any, and with each allele
                log_p_given = 0.0 if row is None else sums[row]
                log_ref, log_alt = sums[ref] - log_p_given, sums[alt] - log_p_given
            # No epsilon for sequences: their likelihoods are far smaller than it.
            llr = log_ref - np.logaddexp(log_alt, np.log(_EPSILON)) if one_base else log_ref - log_alt
            values.append((llr, log_ref, log_alt))
        name = "next_kmer" if one_base else "next_kmer_sequence"
        found.append((name, _next_kmer_flag(site, context) or np.array(values)))
    return found


def _after(lm, upstream: np.ndarray, text: np.ndarray) -> Framed:
    """Frames `upstream` (whole k-mers) and `text` so that only the bases of `text` are scored."""
    row = frame(lm.tokenizer, (), np.concatenate([upstream, text]))
    row.codes[: len(upstream) // lm.tokenizer.k] = bases.N
    return row


def _masses(lm, rows: list[tuple[np.ndarray, np.ndarray]], batch_tokens: int, usual: int) -> list[np.ndarray]:
    """`next_kmer_masses` of each row (ids of the context, codes of the next token), float32 [k, 4]."""

    def dispatched():
        for chosen, number, length in by_length([len(ids) for ids, _ in rows], batch_tokens, usual):
            empty = (np.array([BOS]), np.zeros(lm.tokenizer.k, np.uint8))
            batch = [rows[i] for i in chosen] + [empty] * (number - len(chosen))
            ids, codes = right_pad([ids for ids, _ in batch], length), np.stack([codes for _, codes in batch])
            lengths = np.array([len(ids) for ids, _ in batch], np.int32)
            with jax.set_mesh(lm.mesh):
                masses = next_kmer_masses(lm.model, lm.params, ids, lengths, codes)
            yield chosen, masses

    found = [None] * len(rows)
    for i, mass in results(dispatched()):
        found[i] = mass
    return found


def _score_windows(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int, *, marginals: bool
) -> list[tuple[str, np.ndarray]]:
    """As `_score_next_kmer`, by windows around the variant."""
    k = lm.tokenizer.k
    windows, plans = Deduplicated(), []
    length = context // k * k
    for site in sites:
        plan = []
        for phase in range(min(phases, len(site.before) + 1)):
            before = site.before[max(len(site.before) - context // 2, 0) + phase :]
            after = site.after[: max(length - len(before) - len(site.ref), 0)]
            indices = []
            for allele in (site.ref, site.alt):
                window = np.concatenate([before, allele, after])
                # Whole k-mers, also if the contig ends before the window does, but never without the variant.
                if len(site.ref) == len(site.alt) and len(window) // k * k >= len(before) + len(allele):
                    window = window[: len(window) // k * k]
                indices.append(windows.index(frame(lm.tokenizer, (), window), window.tobytes()))
            plan.append(indices)
        plans.append(plan)
    name = "base" if marginals else "token"
    values = score_all(lm, windows.rows, score=name, batch_tokens=batch_tokens, usual=length // k)
    sums = [float(x.sum(dtype=np.float64)) for x in values]
    found = []
    for plan in plans:
        by_phase = []
        for ref, alt in plan:
            if marginals:
                per_base = [sums[i] / max((windows.rows[i].dna < bases.N).sum(), 1) for i in (ref, alt)]
                by_phase.append((per_base[0] - per_base[1], *per_base))
            else:
                by_phase.append(((sums[ref] - sums[alt]) / len(windows.rows[ref].codes), sums[ref], sums[alt]))
        found.append(("window_base" if marginals else "window", np.array(by_phase)))
    return found
