"""How much likelier a sequence is with the reference allele of a variant than with another: positive is against it.

Two protocols of the field, and what we make of them for variants other than of one base:

"right_edge" (as on ClinVar): the bases before the variant as context, N at their beginning stripped, a whole number of
k-mers, <s> in front; log(p_ref / (p_alt + 1e-10)), p an allele's probability there. For one base it is the sum over the
k-mers that begin with it. Where length or place need more than one k-mer, p is the exact likelihood of the allele, and,
where the alleles' lengths differ, of `FLANK` bases behind it, the same ones for both.

"centred" (as on BRCA2 and TraitGym): a window from `context / 2` bases before the variant to as many behind its first
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
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.errors import DataError
from data_pipeline.formats import fasta
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS
from gener_jax.inference.batches import by_length, results, right_pad
from gener_jax.inference.likelihood import STRANDS, Row, frame, log_masses, score_all
from gener_jax.model.decoder import Decoder

PROTOCOLS = ("right_edge", "centred")
CONTEXT = 8192  # bases
FLANK = 24  # bases
_EPSILON = 1e-10  # of the published formula
_WINDOW = re.compile(r"(.+):(\d+)-(\d+)")


class Variant(NamedTuple):
    """One alternate allele: `start` is 0-based, of the first base of `ref`."""

    contig: str
    start: int
    ref: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Scored:
    """A variant's score, or why it has none.

    Attributes:
      score: its name: "right_edge", "right_edge_sequence" (exact likelihoods of more than one k-mer), "centred", or
        "centred_base" (mean over bases of the log-marginals).
      value: reference against alternate; mean over strands and phases.
      spread: the standard deviation over phases; None of one phase.
      log_p_ref, log_p_alt: of the alleles, means likewise. Right edge: their log-probabilities behind the context;
        centred: the log-likelihoods of the windows, in nats ("centred_base": per base).
      flag: empty, or one line that says why there is no score.
    """

    score: str
    value: float = float("nan")
    spread: float | None = None
    log_p_ref: float = float("nan")
    log_p_alt: float = float("nan")
    flag: str = ""


class Piece(NamedTuple):
    """A stretch of a contig: `start` is 0-based, `codes` uint8 [bases]."""

    start: int
    codes: np.ndarray


class Genome:
    """The contigs of a FASTA file, or windows of them, named `NC_000017.11:42425000-43600000` as by samtools faidx."""

    def __init__(self, pieces: dict[str, list[Piece]], aliases: Sequence[Sequence[str]] = ()):
        """`aliases`: for each contig, names that mean it."""
        self.pieces, self.where = pieces, "the FASTA"
        self._aliases: dict[str, set[str]] = {}
        for names in aliases:
            for name in names:
                self._aliases.setdefault(name, set()).update(n for n in names if n in pieces)

    @classmethod
    def of(cls, sequences: dict[str, str]) -> "Genome":
        """Of sequences by name."""
        return cls({name: [Piece(0, bases.encode(text))] for name, text in sequences.items()})

    @classmethod
    def read(cls, path: str | Path, aliases: str | Path | None = None, progress=None) -> "Genome":
        """Of a FASTA file, held at a byte a base.

        `aliases` is a file with the names of a contig on each line, by tabs, or an assembly report of NCBI.

        Raises:
          DataError: for a file that is no FASTA, or a window whose name and length disagree.
        """
        pieces: dict[str, list[Piece]] = {}
        for record in fasta.read(path, progress):
            name, start = record.name, 0
            if window := _WINDOW.fullmatch(name):
                name, start, end = window[1], int(window[2]) - 1, int(window[3])
                if end - start != len(record.codes):
                    raise DataError(
                        f"{path}: record {record.name}: has {len(record.codes)} bases, a window of that name "
                        f"{end - start}: rename it, or cut it again with samtools faidx"
                    )
            pieces.setdefault(name, []).append(Piece(start, record.codes))
        table = []
        if aliases is not None:
            try:
                lines = Path(aliases).read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{aliases}: cannot be read: {error}") from None
            table = [_names(line.split("\t")) for line in lines if line.strip() and not line.startswith("#")]
        genome = cls(pieces, table)
        genome.where = str(path)
        return genome

    def contig(self, name: str) -> str | None:
        """The name here of a contig of that name, with or without `chr`, or by the aliases; None where none is it."""
        found = self._meant(name)
        return found[0] if len(found) == 1 else None

    def _meant(self, name: str) -> list[str]:
        other = name[3:] if name.startswith("chr") else "chr" + name
        for known in (name, other):
            if known in self.pieces:
                return [known]
        return sorted(self._aliases.get(name, set()) or self._aliases.get(other, set()))

    def missing(self, name: str) -> str:
        """One line that says why `contig` finds none."""
        if found := self._meant(name):
            return f"contig {name} may be {' or '.join(found)}"
        return f"contig {name} is not in the FASTA"

    def piece(self, contig: str, start: int, end: int) -> Piece | None:
        """The stretch of the contig that holds [start, end) with most bases around it; None where none does."""
        holding = [p for p in self.pieces[contig] if p.start <= start and end <= p.start + len(p.codes)]
        return max(holding, key=lambda p: min(start - p.start, p.start + len(p.codes) - end), default=None)


def _names(columns: list[str]) -> list[str]:
    """The names among the columns of a line of aliases: all, but of the ten of NCBI's assembly reports."""
    if len(columns) >= 10:
        # The molecule is a name of a whole one alone: an unplaced scaffold's is that of the chromosome it belongs to.
        molecule = [columns[2]] if columns[1] == "assembled-molecule" else []
        columns = [columns[0], *molecule, columns[4], columns[6], columns[9]]
    return [name for name in map(str.strip, columns) if name not in ("", "na")]


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The alleles without the bases that they share at their ends, those at the right first."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(ref, alt, strict=False)) if a != b), min(len(ref), len(alt)))
    return start + shared, ref[shared:], alt[shared:]


class _Site(NamedTuple):
    """A variant in the bases around it, on the strand that is read: alleles as codes, what is before and behind."""

    before: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    behind: np.ndarray


def _sites(variant: Variant, genome: Genome, context: int, largest: int, strands: str) -> list[_Site] | str:
    """The variant on each of the strands, or a line that says why it has no score; `largest`: bases of an allele."""
    contig = genome.contig(variant.contig)
    if contig is None:
        return genome.missing(variant.contig)
    if variant.start < 0:
        return f"position {variant.start + 1} is before the first base"
    piece = genome.piece(contig, variant.start, variant.start + len(variant.ref))
    if piece is None:
        ends = max(p.start + len(p.codes) for p in genome.pieces[contig])
        return f"position {variant.start + 1} is outside of the bases of {contig} that the FASTA has (to {ends})"
    at = variant.start - piece.start
    if set(variant.ref) - set("ACGT"):
        return f"REF {_short(variant.ref)} is not of A, C, G and T"
    there = bases.decode(piece.codes[at : at + len(variant.ref)])
    if there != variant.ref:
        return f"REF is {_short(variant.ref)}, the FASTA has {_short(there)}"
    if not variant.alt or set(variant.alt) - set("ACGT"):
        return f"ALT {_short(variant.alt)} is no sequence"
    if variant.ref == variant.alt:
        return "ALT is REF"
    at, ref, alt = trimmed(at, variant.ref, variant.alt)
    if max(len(ref), len(alt)) > largest and not len(ref) == len(alt) == 1:
        return f"an allele of {max(len(ref), len(alt))} bases, up to {max(largest, 0)} are compared in this context"
    return [_placed(piece.codes, at, bases.encode(ref), bases.encode(alt), context, strand) for strand in strands]


def _placed(codes: np.ndarray, at: int, ref: np.ndarray, alt: np.ndarray, context: int, strand: str) -> _Site:
    """The alleles at `at` of a piece's codes, on the strand: an insertion or deletion at the first, on that strand, of
    the places that give the same sequence; others where they are.
    """
    end = at + len(ref)
    if not len(ref) or not len(alt):
        allele = ref if len(ref) else alt
        n = len(allele)
        if strand == "+":
            shift = next((i for i in range(at) if codes[at - 1 - i] != allele[(n - 1 - i) % n]), at)
            allele = np.concatenate([codes[at - shift : at], allele])[:n]
            at, end = at - shift, end - shift
        else:
            most = len(codes) - end
            shift = next((i for i in range(most) if codes[end + i] != allele[i % n]), most)
            allele = np.concatenate([allele, codes[end : end + shift]])[-n:]
            at, end = at + shift, end + shift
        ref, alt = (allele, alt) if len(ref) else (ref, allele)
    # A little more than any protocol takes, on either side and either strand.
    site = _Site(codes[max(at - context - 256, 0) : at], ref, alt, codes[end : end + context + 256])
    rc = bases.reverse_complement
    return site if strand == "+" else _Site(rc(site.behind), rc(ref), rc(alt), rc(site.before))


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele)} bases)"


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


class _Asked:
    """Rows that variants need, each once: neighbours share contexts and reference windows."""

    def __init__(self):
        self.rows, self._numbers = [], {}

    def number(self, row, key: bytes) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.rows)
            self.rows.append(row)
        return self._numbers[key]


def score(
    lm,
    variants: Iterable[Variant],
    genome: Genome,
    *,
    protocol: str = "right_edge",
    context: int = CONTEXT,
    phases: int = 1,
    strand: str = "+",
    marginals: bool = False,
    batch_tokens: int,
) -> Iterator[Scored]:
    """The score of each variant, in their order; a few hundred are held at a time. See the module's docstring.

    Args:
      lm: a model over k-mers.
      context: bases before the variant ("right_edge"), or of the window ("centred").
      phases: 1, as published, or k: the mean over every place of the variant in its k-mer, and its spread.
      strand: the strand that is read: "+", "-", or "both", the mean.
      marginals: ("centred") score windows by the mean over bases of their log-marginals.
      batch_tokens: tokens read together, padding included.

    Raises:
      ValueError: for an option that is none, or more context than the model has positions.
    """
    k = lm.tokenizer.k
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if strand not in STRANDS:
        raise ValueError(f"strand {strand!r} is none of {', '.join(STRANDS)}")
    if phases not in (1, k):
        raise ValueError(f"phases is {phases}: it is 1 or {k}")
    if context < 2 * k:
        raise ValueError(f"context is {context}: it has to be {2 * k} bases at least")
    if marginals and protocol != "centred":
        raise ValueError("marginals: are of protocol centred")
    tokens = context // k + 1
    lm.check_length(tokens, f"a context of {context} bases")
    longest = lm.config.model.longest
    # What alleles and the bases behind them add may not leave the model's positions either.
    largest = context // 4 if longest is None else min(context // 4, (longest - tokens - 1) * k - FLANK)
    run = _right_edge if protocol == "right_edge" else functools.partial(_centred, marginals=marginals)

    def groups() -> Iterator[Scored]:
        rest, held = iter(variants), max(batch_tokens * k // context, 1) * 8
        while group := list(itertools.islice(rest, held)):
            yield from _group(lm, group, genome, run, context, largest, phases, strand, batch_tokens)

    return groups()


def _group(lm, variants, genome, run, context, largest, phases, strand, batch_tokens) -> list[Scored]:
    sites = [_sites(v, genome, context, largest, "+-" if strand == "both" else strand) for v in variants]
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
        value, log_p_ref, log_p_alt = np.mean([v.mean(0) for v in values], axis=0).tolist()
        found.append(Scored(name, value, spread, log_p_ref, log_p_alt))
    return found


def _no_right_edge(site: _Site, context: int) -> str:
    """One line that says why a site cannot be scored from the bases before it; empty where it can."""
    if len(site.ref) != len(site.alt) and len(site.behind) < FLANK:
        return f"fewer than {FLANK} bases behind it"
    before = site.before[max(len(site.before) - context, 0) :]
    return "no known base in the context before it" if len(before) and (before >= bases.N).all() else ""


def _right_edge(
    lm, sites: list[_Site], context: int, phases: int, batch_tokens: int
) -> list[tuple[str, np.ndarray | str]]:
    """By site: the score's name; and value, log p of reference and alternate, float [phases, 3], or why not."""
    k = lm.tokenizer.k
    edges, sequences = _Asked(), _Asked()
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
            value = log_ref - np.logaddexp(log_alt, np.log(_EPSILON)) if one_base else log_ref - log_alt
            values.append((value, log_ref, log_alt))
        name = "right_edge" if one_base else "right_edge_sequence"
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


def _centred(
    lm, sites: list[_Site], context: int, phases: int, batch_tokens: int, *, marginals: bool
) -> list[tuple[str, np.ndarray]]:
    """The same for windows around the variant."""
    k = lm.tokenizer.k
    asked, plans = _Asked(), []
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
        found.append(("centred_base" if marginals else "centred", np.array(rows)))
    return found
