"""How much likelier a sequence is with the reference allele of a variant than with another: positive is against it.

Two protocols of the field, and what we make of them for variants other than of one base:

"next_kmer" (as on ClinVar): the bases before the variant as context, N at their beginning stripped, a whole number of
k-mers, <s> in front; log(p_ref / (p_alt + 1e-10)), p an allele's probability there. For one base it is the sum over the
k-mers that begin with it. Where length or place need more than one k-mer, p is the exact likelihood of the allele, and,
where the alleles' lengths differ, of `FLANK` bases behind it, the same ones for both.

"window" (as on BRCA2 and TraitGym): a window from `context / 2` bases before the variant to as many behind its first
base, cut to a whole number of k-mers; the log-likelihood with the reference allele, less that with the other, over the
k-mers of the window. An insertion or deletion leaves the window's other bases as they are, so both have equal content,
and the last k-mer may be partial. So it may at the end of a contig, where whole k-mers would end before the variant.

Averaged over phases, the variant takes every place in its k-mer: contexts then end up to k - 1 bases before it (the
bases between are given), and windows begin up to k - 1 bases later. At the end of a contig there are fewer such places.

Insertions and deletions are taken at the leftmost of the places that give the same sequence, on the strand that is
read. Both alleles are scored as they are: one with more bases has more to pay, about 1.4 nats a base under a model that
knows nothing, so insertions and deletions are best compared among themselves.
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
from gener_jax.inference.likelihood import STRANDS, Row, frame, log_masses, score_all
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import FLANK, Site, Variant, sites_of
from gener_jax.model.decoder import Decoder

PROTOCOLS = ("next_kmer", "window")
PROTOCOL_ALIASES = {"right_edge": "next_kmer", "centred": "window"}  # the names used before
CONTEXT = 8192  # bases
_EPSILON = 1e-10  # of the published formula


@dataclasses.dataclass(frozen=True)
class Scored:
    """A variant's score, or why it has none.

    Attributes:
      score: its name: "next_kmer", "next_kmer_sequence" (exact likelihoods of more than one k-mer), "window", or
        "window_base" (mean over bases of the log-marginals).
      llr: log-likelihood ratio, reference against alternate; mean over strands and phases.
      spread: the standard deviation over phases; None of one phase.
      log_p_ref, log_p_alt: of the alleles, means likewise. Right edge: their log-probabilities behind the context;
        window: the log-likelihoods of the windows, in nats ("window_base": per base).
      flag: empty, or one line that says why there is no score.
    """

    score: str
    llr: float = float("nan")
    spread: float | None = None
    log_p_ref: float = float("nan")
    log_p_alt: float = float("nan")
    flag: str = ""


@functools.partial(jax.jit, static_argnames="model")
def edge_masses(
    model: Decoder, params, ids: Int[Array, "B T"], lengths: Int[Array, " B"], codes: Int[Array, "B k"]
) -> Float[Array, "B k 4"]:
    """`log_masses` of the token behind each row's last, the softmax over the full vocabulary."""
    hidden, _ = model.apply({"params": params}, ids)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    logits = model.apply({"params": params}, last, method="logits")
    log_p = logits[:, -(4 ** codes.shape[-1]) :] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return log_masses(log_p, codes.astype(jnp.int32))


class Deduplicated:
    """Rows that variants need, each once: neighbours share contexts and reference windows."""

    def __init__(self):
        self.rows, self._numbers = [], {}

    def number(self, row, key: bytes) -> int:
        """The number of the row with this key; a new row is added."""
        if key not in self._numbers:
            self._numbers[key] = len(self.rows)
            self.rows.append(row)
        return self._numbers[key]


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
    """The score of each variant, in their order; a few hundred are held at a time. See the module's docstring.

    Args:
      lm: a model over k-mers.
      context: bases before the variant ("next_kmer"), or of the window ("window").
      phases: 1, as published, or k: the mean over every place of the variant in its k-mer, and its spread.
      strand: the strand that is read: "+", "-", or "both", the mean.
      marginals: ("window") score windows by the mean over bases of their log-marginals.
      batch_tokens: tokens read together, padding included.

    Raises:
      ValueError: for an option that is none, or more context than the model has positions.
    """
    k = lm.tokenizer.k
    protocol = PROTOCOL_ALIASES.get(protocol, protocol)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if strand not in STRANDS:
        raise ValueError(f"strand {strand!r} is none of {', '.join(STRANDS)}")
    if phases not in (1, k):
        raise ValueError(f"phases is {phases}: it is 1 or {k}")
    if context < 2 * k:
        raise ValueError(f"context is {context}: it has to be {2 * k} bases at least")
    if marginals and protocol != "window":
        raise ValueError("marginals: are of protocol window")
    tokens = context // k + 1
    lm.check_length(tokens, f"a context of {context} bases")
    longest = lm.config.model.max_length
    # What alleles and the bases behind them add may not leave the model's positions either.
    largest = context // 4 if longest is None else min(context // 4, (longest - tokens - 1) * k - FLANK)
    run = _score_next_kmer if protocol == "next_kmer" else functools.partial(_score_windows, marginals=marginals)

    def groups() -> Iterator[Scored]:
        rest, held = iter(variants), max(batch_tokens * k // context, 1) * 8
        while group := list(itertools.islice(rest, held)):
            yield from _group(lm, group, genome, run, context, largest, phases, strand, batch_tokens)

    return groups()


def _group(lm, variants, genome, run, context, largest, phases, strand, batch_tokens) -> list[Scored]:
    sites = [sites_of(v, genome, context, largest, "+-" if strand == "both" else strand) for v in variants]
    good = [s for s in sites if not isinstance(s, str)]
    strands = [run(lm, list(own), context, phases, batch_tokens) for own in zip(*good, strict=True)]
    found, at = [], 0
    for site in sites:
        if isinstance(site, str):
            found.append(Scored("", flag=site))
            continue
        name = strands[0][at][0]
        values = [s[at][1] for s in strands]  # of each, [phases, 3]; at an edge there are fewer phases
        at += 1
        if flags := [v for v in values if isinstance(v, str)]:
            found.append(Scored(name, flag=flags[0]))
            continue
        if not all(np.isfinite(v).all() for v in values):
            found.append(Scored(name, flag="the model gives no finite score"))
            continue
        several = min(map(len, values)) > 1
        spread = None
        if several:
            number = min(map(len, values))
            spread = float(np.mean([v[:number, 0] for v in values], axis=0).std())
        llr, log_p_ref, log_p_alt = np.mean([v.mean(0) for v in values], axis=0).tolist()
        found.append(Scored(name, llr, spread, log_p_ref, log_p_alt))
    return found


def _no_right_edge(site: Site, context: int) -> str:
    """One line that says why a site cannot be scored from the bases before it; empty where it can."""
    if len(site.ref) != len(site.alt) and len(site.behind) < FLANK:
        return f"fewer than {FLANK} bases behind it"
    before = site.before[max(len(site.before) - context, 0) :]
    return "no known base in the context before it" if len(before) and (before >= bases.N).all() else ""


def _score_next_kmer(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int
) -> list[tuple[str, np.ndarray | str]]:
    """By site: the score's name; and llr, log p of reference and alternate, float [phases, 3], or why not."""
    k = lm.tokenizer.k
    edges, sequences = Deduplicated(), Deduplicated()
    plans = []
    for site in sites:
        plan = []
        for phase in range(0 if _no_right_edge(site, context) else min(phases, len(site.before) + 1)):
            cut = len(site.before) - phase
            upstream, given = site.before[max(cut - context, 0) : cut], site.before[cut:]
            known = np.flatnonzero(upstream < bases.N)
            upstream = upstream[known[0] if len(known) else len(upstream) :]
            upstream = upstream[len(upstream) % k :]
            whole = len(site.ref) == len(site.alt)
            if whole and len(site.ref) == 1:
                codes = np.full(k, bases.N, np.uint8)
                codes[:phase] = given
                ids = np.concatenate([[BOS], lm.tokenizer.encode_bases(upstream)]).astype(np.int32)
                key = upstream.tobytes() + b"|" + codes.tobytes()
                plan.append((phase, edges.number((ids, codes), key), site.ref[0], site.alt[0]))
                continue
            flank = site.behind[: 0 if whole else FLANK]
            texts = [np.concatenate([given, allele, flank]) for allele in (site.ref, site.alt)]
            numbers = [
                sequences.number(_behind(lm, upstream, text), upstream.tobytes() + b"|" + text.tobytes())
                for text in ([given] * (phase > 0) + texts)  # what is given, alone: its share is taken off again
            ]
            plan.append((phase, numbers[0] if phase else None, *numbers[-2:]))
        plans.append(plan)
    usual = context // k + 1
    masses = _edges(lm, edges.rows, batch_tokens, usual)
    behind = score_all(lm, sequences.rows, batch_tokens=batch_tokens, usual=usual)
    sums = [float(x.sum(dtype=np.float64)) for x in behind]
    found = []
    for site, plan in zip(sites, plans, strict=True):
        one_base = len(site.ref) == len(site.alt) == 1
        values = []
        for phase, first, second, third in plan:
            if one_base:
                at_place = masses[first][phase].astype(np.float64)
                # Behind given bases, of what agrees with them; else of everything, special tokens included.
                rest = np.logaddexp.reduce(at_place) if phase else 0.0
                log_ref, log_alt = at_place[second] - rest, at_place[third] - rest
            else:
                rest = 0.0 if first is None else sums[first]
                log_ref, log_alt = sums[second] - rest, sums[third] - rest
            # Without ε for sequences: their likelihoods are far below it.
            llr = log_ref - np.logaddexp(log_alt, np.log(_EPSILON)) if one_base else log_ref - log_alt
            values.append((llr, log_ref, log_alt))
        name = "next_kmer" if one_base else "next_kmer_sequence"
        found.append((name, _no_right_edge(site, context) or np.array(values)))
    return found


def _behind(lm, upstream: np.ndarray, text: np.ndarray) -> Row:
    """A row in which the bases of `text`, behind `upstream` (whole k-mers), are scored."""
    row = frame(lm.tokenizer, "", np.concatenate([upstream, text]))
    row.codes[: len(upstream) // lm.tokenizer.k] = bases.N
    return row


def _edges(lm, rows: list[tuple[np.ndarray, np.ndarray]], batch_tokens: int, usual: int) -> list[np.ndarray]:
    def dispatched():
        for chosen, number, length in by_length([len(ids) for ids, _ in rows], batch_tokens, usual):
            empty = (np.array([BOS]), np.zeros(lm.tokenizer.k, np.uint8))
            batch = [rows[i] for i in chosen] + [empty] * (number - len(chosen))
            ids, codes = right_pad([ids for ids, _ in batch], length), np.stack([codes for _, codes in batch])
            lengths = np.array([len(ids) for ids, _ in batch], np.int32)
            with jax.set_mesh(lm.mesh):
                masses = edge_masses(lm.model, lm.params, ids, lengths, codes)
            yield chosen, masses

    found = [None] * len(rows)
    for i, mass in results(dispatched()):
        found[i] = mass
    return found


def _score_windows(
    lm, sites: list[Site], context: int, phases: int, batch_tokens: int, *, marginals: bool
) -> list[tuple[str, np.ndarray]]:
    """The same for windows around the variant."""
    k = lm.tokenizer.k
    asked, plans = Deduplicated(), []
    length = context // k * k
    for site in sites:
        plan = []
        for phase in range(min(phases, len(site.before) + 1)):
            before = site.before[max(len(site.before) - context // 2, 0) + phase :]
            behind = site.behind[: max(length - len(before) - len(site.ref), 0)]
            numbers = []
            for allele in (site.ref, site.alt):
                window = np.concatenate([before, allele, behind])
                # Whole k-mers, also where the contig ends before the window, but never less than the variant.
                if len(site.ref) == len(site.alt) and len(window) // k * k >= len(before) + len(allele):
                    window = window[: len(window) // k * k]
                numbers.append(asked.number(frame(lm.tokenizer, "", window), window.tobytes()))
            plan.append(numbers)
        plans.append(plan)
    name = "base" if marginals else "token"
    values = score_all(lm, asked.rows, score=name, batch_tokens=batch_tokens, usual=length // k)
    sums = [float(x.sum(dtype=np.float64)) for x in values]
    found = []
    for plan in plans:
        rows = []
        for ref, alt in plan:
            if marginals:
                per_base = [sums[i] / max((asked.rows[i].dna < bases.N).sum(), 1) for i in (ref, alt)]
                rows.append((per_base[0] - per_base[1], *per_base))
            else:
                rows.append(((sums[ref] - sums[alt]) / len(asked.rows[ref].codes), sums[ref], sums[alt]))
        found.append(("window_base" if marginals else "window", np.array(rows)))
    return found
