"""Coding sequences of annotated genomes with the bases around them, chosen for tests; what is left fits baselines.

A set made of them is a function of the genomes alone. Of each species at most half the genes are tested, in a fixed
random order; codon usage and Markov models are counted on the other genes, without the bases that are asked for.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.dataset import inputs
from data_pipeline.regions import extraction
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases, translation
from gener_jax.data.permutation import permute
from gener_jax.tasks.annotated_genomes import SOURCES, Source, files, records
from gener_jax.tasks.base import Options
from gener_jax.tasks.markov import Markov

ORDER = 5  # of the Markov models
MARKOV_BASES = 2**21  # that each of them is fitted to, at most
TRANSLATED = (translation.EQUAL, translation.EQUAL_BUT_START, translation.NONE_GIVEN)  # outcomes of a readable CDS
_CDS = Scheme("cds")
_CODON = np.array([25, 5, 1])  # a codon's number in base 5, as in `translation`


@dataclasses.dataclass(frozen=True, eq=False)
class CodingSequence:
    """A CDS in its contig. Positions count from the contig's end that is 5' of the gene, in the gene's direction.

    Attributes:
      species, division: of the `Source`.
      name: of the gene; without one, its accession and position.
      accession: of the contig.
      contig: its forward strand, codes uint8 [bases].
      strand: +1 or -1.
      exons: (start, end) of each coding exon, 5' to 3'.
      frame: bases before the first complete codon.
      genetic_code: NCBI's number.
      outcome: of the comparison with the annotated translation, one of `translation.OUTCOMES`.
    """

    species: str
    division: str
    name: str
    accession: str
    contig: np.ndarray
    strand: int
    exons: tuple[tuple[int, int], ...]
    frame: int
    genetic_code: int
    outcome: str

    @property
    def key(self) -> str:
        """Species and name: what a resample draws."""
        return f"{self.species}: {self.name}"

    @property
    def start(self) -> int:
        """The first coding base."""
        return self.exons[0][0]

    @property
    def end(self) -> int:
        """The end of the last coding exon."""
        return self.exons[-1][1]

    def on_contig(self, start: int, end: int) -> tuple[int, int]:
        """The same stretch on the contig's forward strand."""
        return (start, end) if self.strand > 0 else (len(self.contig) - end, len(self.contig) - start)

    def cut(self, start: int, end: int, contig: np.ndarray | None = None) -> np.ndarray:
        """The bases [start, end) in the gene's direction, introns included, from its contig or one of equal length."""
        first, last = self.on_contig(start, end)
        codes = (self.contig if contig is None else contig)[first:last]
        return codes if self.strand > 0 else bases.reverse_complement(codes)

    def window(self, centre: int, length: int) -> tuple[int, int]:
        """(start, end) of a window of a length, moved inside the contig where it crosses an end, or all of a shorter
        contig.
        """
        start = max(0, min(centre - length // 2, len(self.contig) - length))
        return start, min(start + length, len(self.contig))

    def longest_exon(self) -> int:
        """The index of the longest coding exon, the first of equal ones."""
        return max(range(len(self.exons)), key=lambda i: self.exons[i][1] - self.exons[i][0])

    def codons(self) -> np.ndarray:
        """The positions of the bases of its complete codons, int64 [codons, 3]; introns may divide one."""
        positions = np.concatenate([np.arange(start, end) for start, end in self.exons])[self.frame :]
        return positions[: len(positions) // 3 * 3].reshape(-1, 3)

    def codon_numbers(self) -> np.ndarray:
        """Its complete codons as numbers in base 5, as in `translation`, int64 [codons]."""
        coding = np.concatenate([self.cut(start, end) for start, end in self.exons])[self.frame :]
        return coding[: len(coding) // 3 * 3].reshape(-1, 3) @ _CODON


def starts_protein(gene: CodingSequence) -> bool:
    """Whether its annotated start is there: a codon that can start a protein, in frame."""
    return gene.frame == 0 and bool(translation.start_codons(gene.genetic_code)[gene.codon_numbers()[:1]].all())


def read(
    options: Options, sources: Iterable[Source] = SOURCES
) -> tuple[list[CodingSequence], collections.Counter[str]]:
    """One CDS per gene of each source, in its order, and the number of those left out by reason.

    Of several transcripts of a gene it keeps the one with most coding bases: those with the name of a longer one, or
    that share more than half of their bases with one.

    Raises:
      NotRun: if a file is missing.
      DataError: if one cannot be read.
    """
    found, left_out, sources = [], collections.Counter(), tuple(sources)
    files(options, sources)
    for source in sources:
        genes, dropped = _read(options.data, source)
        found += genes
        left_out.update(dropped)
    return found, left_out


@functools.cache  # several tasks use the same genomes
def _read(folder: Path, source: Source) -> tuple[tuple[CodingSequence, ...], collections.Counter[str]]:
    ledger, left_out, found = Ledger(), collections.Counter(), []
    for annotation, sequence in source.files:
        file = inputs.Input(None if sequence is None else folder / sequence, folder / annotation)
        for record, _ in records([file], _CDS):
            for span in extraction.find(record, _CDS, ledger):
                gene = _gene(source, record, span)
                if isinstance(gene, str):
                    left_out[gene] += 1
                else:
                    found.append(gene)
    left_out.update({reason: row[0] for reason, row in ledger.dropped.items()})
    kept, names, coding = [], set(), {}
    for gene in sorted(found, key=lambda gene: -sum(end - start for start, end in gene.exons)):
        of_strand = coding.setdefault((id(gene.contig), gene.strand), np.zeros(len(gene.contig), bool))
        overlap = np.concatenate([of_strand[slice(*gene.on_contig(*exon))] for exon in gene.exons])
        if gene.name in names or overlap.mean() > 0.5:
            left_out["another transcript of the gene"] += 1
            continue
        names.add(gene.name)
        for exon in gene.exons:
            of_strand[slice(*gene.on_contig(*exon))] = True
        kept.append(gene)
    order = {id(gene): number for number, gene in enumerate(found)}
    return tuple(sorted(kept, key=lambda gene: order[id(gene)])), left_out


def _gene(source: Source, record, span: extraction.Region) -> CodingSequence | str:
    """The CDS of a span, or why it is left out."""
    length = len(record.codes)
    if span.translation == translation.PSEUDO:
        return "pseudogenes"
    if span.exceptions or span.translation == translation.UNREADABLE:
        return "an exception of the genetic code, or an unreadable one"
    segments = span.stranded_intervals(length)
    if span.start >= span.end or any(strand != span.strand for _, _, strand in segments):
        return "over the origin, or on both strands"
    exons = [(start, end) if span.strand > 0 else (length - end, length - start) for start, end, _ in segments]
    if any(after < before for (_, before), (after, _) in itertools.pairwise(exons)):
        return "exons overlap or are out of order"
    name = span.locus_tag or span.gene or f"{record.accession}:{span.start + 1}-{span.end}"
    return CodingSequence(
        source.species, source.division, name, record.accession, record.codes, span.strand, tuple(exons),
        span.reading_frame, span.genetic_code, span.translation,
    )  # fmt: skip


def by_species(genes: Iterable[CodingSequence]) -> dict[str, list[CodingSequence]]:
    """The genes of each species."""
    found: dict[str, list[CodingSequence]] = {}
    for gene in genes:
        found.setdefault(gene.species, []).append(gene)
    return found


def chosen(
    genes: Sequence[CodingSequence], suits: Callable[[CodingSequence], bool], per_species: int, seed: int
) -> list[CodingSequence]:
    """The genes to test: of each species at most so many, and half its genes, that suit, in a fixed random order.

    The species alternate, so that any number of the first ones has all of them.
    """
    ranked = []
    for rank, own in enumerate(by_species(genes).values()):
        order = permute(np.arange(len(own)), len(own), key=seed)
        suitable = [own[i] for i in order.tolist() if suits(own[i])]
        ranked += [(i, rank, gene) for i, gene in enumerate(suitable[: min(per_species, len(own) // 2)])]
    return [gene for _, _, gene in sorted(ranked, key=lambda row: row[:2])]


def untested(genes: Iterable[CodingSequence], tested: Iterable[CodingSequence]) -> list[CodingSequence]:
    """The other genes."""
    taken = {id(gene) for gene in tested}
    return [gene for gene in genes if id(gene) not in taken]


def preferred_codons(genes: Iterable[CodingSequence], genetic_code: int) -> np.ndarray:
    """For each codon, by its number in base 5, the codes of the synonym that these genes use most, uint8 [125, 3].

    Only genes with the same genetic code count. A stop, a codon with N and the codons of an amino acid that does not
    occur stand for themselves; of equally frequent synonyms it is the first as text.
    """
    counts = np.zeros(125, np.int64)
    for gene in genes:
        if gene.genetic_code == genetic_code:
            counts += np.bincount(gene.codon_numbers(), minlength=125)
    codes = np.stack(np.unravel_index(np.arange(125), (5, 5, 5)), axis=1).astype(np.uint8)
    letters = translation.translate(codes.ravel(), genetic_code)
    best = codes.copy()
    for letter in sorted(set(letters) - {"*", "X"}):
        synonyms = [i for i in range(125) if letters[i] == letter and (codes[i] < bases.N).all()]
        if counts[synonyms].any():
            best[synonyms] = codes[min(synonyms, key=lambda i: (-counts[i], bases.decode(codes[i])))]
    return best


def markov_models(
    genes: Sequence[CodingSequence], asked: Sequence[tuple[CodingSequence, int, int]], window: int, seed: int
) -> dict[str, Markov]:
    """Models of order `ORDER` of each species, fitted to windows around the middle of its untested genes.

    Args:
      genes: all genes.
      asked: (gene, start, end) of the bases that a test asks for; they count nowhere, on neither strand.
      window: bases.
      seed: of the order in which untested genes are added, up to `MARKOV_BASES` bases.
    """
    masked: dict[int, np.ndarray] = {}
    for gene, start, end in asked:
        contig = masked.setdefault(id(gene.contig), gene.contig.copy())
        contig[slice(*gene.on_contig(start, end))] = bases.N
    others, models = by_species(untested(genes, (gene for gene, _, _ in asked))), {}
    for species, own in others.items():
        models[species], number = Markov(ORDER), 0
        for i in permute(np.arange(len(own)), len(own), key=seed).tolist():
            if number >= MARKOV_BASES:
                break
            gene = own[i]
            codes = gene.cut(*gene.window((gene.start + gene.end) // 2, window), masked.get(id(gene.contig)))
            models[species].add(codes)
            number += len(codes)
    return models


def crossed_models(sequences: Sequence[np.ndarray], strata: Sequence[str], groups: Sequence[str]) -> list[Markov]:
    """For each sequence, a model of order `ORDER` fitted to those of the other half of its stratum, whole groups each.

    For tables that hold nothing but what is tested.
    """
    halves: dict[tuple[str, str], tuple[str, int]] = {}  # of a group in a stratum
    sizes: collections.Counter[str] = collections.Counter()
    for key in dict.fromkeys(zip(strata, groups, strict=True)):
        halves[key] = (key[0], sizes[key[0]] % 2)
        sizes[key[0]] += 1
    of_row = [halves[key] for key in zip(strata, groups, strict=True)]
    models = collections.defaultdict(lambda: Markov(ORDER))
    fitted: collections.Counter[tuple[str, int]] = collections.Counter()
    for half, sequence in zip(of_row, sequences, strict=True):
        if fitted[half] < MARKOV_BASES:
            models[half].add(sequence)
            fitted[half] += len(sequence)
    return [models[stratum, 1 - half] for stratum, half in of_row]
