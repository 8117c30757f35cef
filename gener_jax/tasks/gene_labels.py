"""Labelled sequences cut from annotated genomes: the types of genes and the taxa of the Gener tasks, and two controls.

As published, a type of gene is told from 100 to 5,000 bases and a taxon from 10,000 to 100,000, by weighted F1. What
is not published is our choice: which genes and windows are taken, how many of a class, and how they are split. Here a
class has at most `per_class` rows, the first in an order that their place in the genome alone decides, so that more
genomes do not reorder those of before; a row is at most 5 % N; and each row names its contig and its species, either of
which can be held out whole.

    found, _ = inputs.discover(["genomes"], annotated=True)
    print(build(found, Path("types.tsv"), gene_types))

    gener-jax finetune --config.finetune.train=types.tsv --config.finetune.group=species …
"""

import dataclasses
import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.dataset.inputs import Input
from data_pipeline.errors import DataError
from data_pipeline.files import write_text
from data_pipeline.ranges import Whole
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import Record
from data_pipeline.splitting import split
from gener_jax.tasks.annotated_genomes import (
    SOURCES,
    annotations,
    between_genes,
    coding_windows,
    inputs_of,
    intergenic_windows,
    records,
)

GENE_LENGTHS, TAXON_LENGTHS = (100, 5_000), (10_000, 100_000)  # bases
TYPES = schemes.KINDS[:6]  # cds, tRNA, rRNA, ncRNA, miscRNA, pseudo: the six types of genes
CONTROL = "intergenic"
LEAST_ROWS = 50  # of a class
PER_CLASS = 500
MAX_UNKNOWN = 0.05  # N of a row

YEAST = annotations("Saccharomyces cerevisiae")
PROKARYOTES = tuple(sorted(file for source in SOURCES if source.division == "bacteria" for file, _ in source.files))
GENOMES = (  # of the test data; tasks that draw rows at random draw them in this order
    *YEAST,
    *PROKARYOTES,
    *annotations("Arabidopsis thaliana", "Caenorhabditis elegans", "Drosophila melanogaster"),
    "genomes/eukaryote/human_AL449423.14.gb.gz",
    "genomes/eukaryote/human_gbpri1_18records.seq.gz",
    "genomes/eukaryote/invertebrate_gbinv1_2records.seq.gz",
)
BARE = {  # further sequences, without genes, from the folder of the test data
    "genomes/eukaryote/dmel_dm3_chr2R_2M-7M.fa.gz": "inv",
    "human/human_hg19_chr3_42000000-44000000.fa.gz": "mam",
    "human/human_hg19_chr4_103000000-105000000.fa.gz": "mam",
    "human/human_hg19_chr5_124000000-126000000.fa.gz": "mam",
}


class Row(NamedTuple):
    """A labelled interval of a record, 0-based half-open, in 5' to 3' order; `codes` as in `sequence.bases`."""

    label: str
    codes: np.ndarray
    start: int
    end: int
    strand: int


Rows = Callable[[Record, np.random.Generator], Iterable[Row]]  # what is labelled in a record


def gene_types(
    record: Record, rng: np.random.Generator, least: int = GENE_LENGTHS[0], most: int = GENE_LENGTHS[1]
) -> Iterator[Row]:
    """The genes of six types, introns included, and a control: a piece of each stretch between genes, of either strand.

    A control is as long as a random gene of its record that fits there, so that length tells it from genes as little as
    the stretches allow. A gene above `most` bases is no row; it is not cut.
    """
    lengths = []
    for span in extraction.find(record, Scheme(min_length=least), Ledger()):
        length = span.length(len(record.codes))
        if span.kind in TYPES and length <= most:
            lengths.append(length)
            yield Row(span.kind, extraction.extract(record, span).codes, *span[:3])
    lengths = np.sort(lengths)
    for start, end in between_genes(record).tolist():
        if fitting := int(np.searchsorted(lengths, end - start, "right")):
            length = int(lengths[rng.integers(fitting)])
            start = int(rng.integers(start, end - length + 1))
            yield _piece(record, CONTROL, start, start + length, rng)


def taxa(
    record: Record, rng: np.random.Generator, least: int = TAXON_LENGTHS[0], most: int = TAXON_LENGTHS[1]
) -> Iterator[Row]:
    """Windows of a record of a known taxon, one after the other, each of a random length and strand."""
    start = 0
    while record.taxon and (end := start + int(rng.integers(least, most + 1))) <= len(record.codes):
        yield _piece(record, record.taxon, start, end, rng)
        start = end


def _piece(record: Record, label: str, start: int, end: int, rng: np.random.Generator) -> Row:
    strand = 1 - 2 * int(rng.integers(2))
    codes = record.codes[start:end]
    return Row(label, codes if strand > 0 else bases.reverse_complement(codes), start, end, strand)


@dataclasses.dataclass(frozen=True)
class Built:
    """A table of labelled sequences, and what it does not hold.

    Attributes:
      table: with the columns sequence, label, contig, species, start and end (0-based, half-open), strand.
      kept: class → its rows.
      refused: class → its rows, of classes with fewer than `LEAST_ROWS`.
      unused: class → rows beyond those of a class that are kept.
      unknown: rows with too many N.
    """

    table: Path
    kept: dict[str, int]
    refused: dict[str, int]
    unused: dict[str, int]
    unknown: int

    def __str__(self) -> str:
        lines = [f"rows of each class: {_counted(self.kept)}"]
        lines += [f"refused, as they have under {LEAST_ROWS} rows: {_counted(self.refused)}"] if self.refused else []
        lines += [f"further rows that are not used: {_counted(self.unused)}"] if self.unused else []
        return "\n".join(lines + [f"left out for their N: {self.unknown:,} rows"] * bool(self.unknown))


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{label} {number:,}" for label, number in rows.items())


def build(sources: Sequence[Input], table: Path, rows_of: Rows, *, per_class: int = PER_CLASS, seed: int = 0) -> Built:
    """Writes the table of what `rows_of`, `gene_types` or `taxa`, finds in genomes.

    Args:
      sources: of `inputs.discover`, or of `inputs.manifest`, which can name the taxon of each.
      table: a TSV file.
      per_class: rows of a class at most.
      seed: of the choice of rows, of controls and of windows.

    Raises:
      DataError: if a file cannot be read, or fewer than two classes have 50 rows.
    """
    Whole(LEAST_ROWS).check(per_class, "per_class")
    found: dict[str, list[tuple]] = {}
    counts, unknown = Counter(), 0
    for record, source in records(sources):
        contig = split.full_name(record.accession, source.assembly).replace("\t", "/")
        species = (record.organism or source.assembly).replace("\t", " ")
        for row in rows_of(record, np.random.default_rng([seed, _number(contig)])):
            if (row.codes == bases.N).mean() > MAX_UNKNOWN:
                unknown += 1
                continue
            counts[row.label] += 1
            order = _number(f"{seed}\t{contig}\t{row.start}\t{row.end}\t{row.strand}")
            entry = -order, contig, row.start, species, row  # unique before `row`, which cannot be compared
            add = heapq.heappush if len(heap := found.setdefault(row.label, [])) < per_class else heapq.heappushpop
            add(heap, entry)
    labels = sorted(label for label in found if len(found[label]) >= LEAST_ROWS)
    refused = {label: counts[label] for label in sorted(found) if label not in labels}
    if len(labels) < 2:
        problem = f"of two classes {LEAST_ROWS} rows are needed; there are: {_counted(counts) or 'none'}"
        raise DataError(problem, file=table, remedy="give more genomes, with annotations or taxa")
    lines = ["sequence\tlabel\tcontig\tspecies\tstart\tend\tstrand\n"]
    for label in labels:
        for _, contig, _, species, row in sorted(found[label], key=lambda entry: -entry[0]):
            place = f"{row.start}\t{row.end}\t{'+' if row.strand > 0 else '-'}"
            lines.append(f"{bases.decode(row.codes)}\t{label}\t{contig}\t{species}\t{place}\n")
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, "".join(lines))
    kept = {label: len(found[label]) for label in labels}
    unused = {label: counts[label] - number for label, number in kept.items() if counts[label] > number}
    return Built(table, kept, refused, unused, unknown)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def types_of_test_data(data: Path, table: Path, files: Iterable[str] = GENOMES, least: int = 100) -> Built:
    """The table of types of genes of the test data."""
    return build(inputs_of(data, files), table, functools.partial(gene_types, least=least))


def taxa_of_test_data(data: Path, table: Path) -> Built:
    """The table of taxa of the test data, which has some whole and some partial contigs of each."""
    bare = [Input(data / file, None, taxon, assembly=Path(file).name) for file, taxon in BARE.items()]
    return build([*inputs_of(data, GENOMES), *bare], table, taxa)


# The controls of the fine-tuning matrix: whole contigs in a split, as `data build --split_by contig` divides them.

WINDOW, LONGEST = 300, 600  # bases of coding and intergenic rows; of genes, longer ones are cut
PER_CONTIG = 100  # rows of a class and contig


def by_contig(data: Path, folder: Path, rows_of: Callable[[Record], Iterator[tuple[str, np.ndarray]]]) -> dict:
    """Writes tables of (label, codes) rows of contigs, whole contigs in a split; returns the file of each."""
    found: dict[str, list[str]] = {name: [] for name in split.SPLITS}
    rng = np.random.default_rng(0)
    for record, source in records(inputs_of(data, (*YEAST, *PROKARYOTES))):
        whole = extraction.Region(0, len(record.codes), 1, "whole")
        [place] = split.split_hashes(record, [whole], by="contig", seed=0, assembly=source.assembly)
        name = split.SPLITS[split.splits_of(np.array([place], np.uint64), 0.15, 0.25)[0]]
        by_label: dict[str, list[np.ndarray]] = {}
        for label, codes in rows_of(record):
            by_label.setdefault(label, []).append(codes)
        for label, several in by_label.items():
            for i in rng.permutation(len(several))[:PER_CONTIG]:
                found[name].append(f"{bases.decode(several[i])}\t{label}\t{record.accession}\n")
    for name, lines in found.items():
        (folder / f"{name}.tsv").write_text("sequence\tlabel\tcontig\n" + "".join(lines))
    return {name: (str(folder / f"{name}.tsv"),) for name in split.SPLITS}


def coding(record: Record) -> Iterator[tuple[str, np.ndarray]]:
    """The middle of coding sequences, and of stretches without a gene on any strand."""
    yield from (("coding", codes) for codes in coding_windows(record, WINDOW))
    yield from (("intergenic", codes) for codes in intergenic_windows(record, WINDOW))


def first_bases(record: Record) -> Iterator[tuple[str, np.ndarray]]:
    """Gene regions with their kind, as the scheme gene of `data build` gives them, the first 600 bases.

    rRNA and ncRNA are one class: rRNA genes are few.
    """
    names = {"cds": "cds", "tRNA": "tRNA", "rRNA": "other RNA", "ncRNA": "other RNA", "pseudo": "pseudo"}
    for span in extraction.find(record, Scheme(min_length=50), Ledger()):
        if span.kind in names:
            yield names[span.kind], extraction.extract(record, span).codes[:LONGEST]
