"""The annotated genomes of the test data, and what several tasks read of any: records, and windows of two kinds."""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_pipeline.dataset import inputs
from data_pipeline.dataset.inputs import Input
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases, locations
from data_pipeline.sequence.record import DIVISIONS, Record

if TYPE_CHECKING:
    from gener_jax.tasks.base import Options  # which imports jax


class Source(NamedTuple):
    """Annotated genomes of a species: (annotation, FASTA or None) below the folder of data."""

    species: str
    division: str  # one of `record.DIVISIONS`, by which results are grouped
    files: tuple[tuple[str, str | None], ...]


def _genbank(species: str, division: str, *files: str) -> Source:
    return Source(species, division, tuple((f"genomes/{file}", None) for file in files))


def _gff(species: str, division: str, name: str, annotation: str, fasta: str = "fa") -> Source:
    stem = f"genomes/eukaryote/{name}"
    return Source(species, division, ((f"{stem}.{annotation}.gz", f"{stem}.{fasta}.gz"),))


_PIECE = "human/human_hg38_chr16_186964_397118"
_HUMAN = ("gbpri1_18records.seq", "AL449423.14.gb", "NC_000001.10_MARK1_region.gb", "NC_000006.12_CDKN1A_region.gb",
          "NC_000017.11_BRCA1_region.gb", "NC_000023.11_DMD_region.gb", "NG_008939.1.gb")  # fmt: skip
SOURCES = (
    _genbank("Escherichia coli", "bacteria", "prokaryote/ecoli_K12_MG1655_NC_000913.3.gbk.gz"),
    _genbank("Leptospira kirschneri", "bacteria", "prokaryote/lkirschneri_H1_draft.gbk.gz"),
    _genbank("Chlamydia trachomatis", "bacteria", "prokaryote/ctrachomatis_1998_CG0037.gbk.gz"),
    _genbank("Mycoplasma gallisepticum", "bacteria", "prokaryote/mgallisepticum_Rlow_NC_004829.2.gbk.gz"),
    _genbank("Mycoplasma mycoides", "bacteria", "prokaryote/mmycoides_GM12_NZ_CP001668.gbff.gz"),
    _genbank("Mycoplasmoides alvi", "bacteria", "prokaryote/malvi_ATCC29626_draft.gbff.gz"),
    _gff("Saccharomyces cerevisiae", "fungi", "yeast_S288C_R64_chrI-XII_MT", "gff", "fna"),
    _gff("Caenorhabditis elegans", "invertebrate", "celegans_1pct", "gff3"),
    _gff("Drosophila melanogaster", "invertebrate", "dmelanogaster_1pct", "gff3"),
    Source("Homo sapiens", "vertebrate_mammalian", (
        (f"{_PIECE}.refseq.gtf.gz", f"{_PIECE}.fa.gz"), *((f"genomes/eukaryote/human_{x}.gz", None) for x in _HUMAN),
    )),
    _genbank("Arabidopsis thaliana", "plastid", "eukaryote/athaliana_chloroplast_NC_000932.1.gb.gz"),
    _genbank("Acinetobacter phage Apostate", "viral", "virus/phage_NC_049491.gbk.gz"),
    _genbank("Enterobacteria phage VT2-Sakai", "viral", "virus/phage_NC_000902.gbk.gz"),
)  # fmt: skip


def files(options: "Options", sources: Iterable[Source] = SOURCES) -> None:
    """Checks that the files are there.

    Raises:
      NotRun: if one is missing.
    """
    for file in (file for source in sources for pair in source.files for file in pair if file):
        options.file(file, "the genomes of SOURCES in gener_jax/tasks/annotated_genomes.py, from NCBI and UCSC")


def annotations(*species: str) -> tuple[str, ...]:
    """The files with the annotations of some species of `SOURCES`."""
    return tuple(file for name in species for source in SOURCES if source.species == name for file, _ in source.files)


def needed(annotated: Iterable[str]) -> tuple[str, ...]:
    """The files with some annotations, each followed by that of its sequences, if these are in another one."""
    sequences = {file: fasta for source in SOURCES for file, fasta in source.files}
    return tuple(each for file in annotated for each in (file, sequences.get(file)) if each)


def inputs_of(data: Path, files: Iterable[str]) -> list[Input]:
    """Annotated genomes below the folder of data, with the taxon of those of `SOURCES` whose files do not state it."""
    taxa = {file: DIVISIONS[source.division] for source in SOURCES for file, fasta in source.files if fasta}
    found = [(inputs.discover([data / file], annotated=True)[0], taxa.get(file)) for file in files]
    return [dataclasses.replace(one, taxon=taxon) for several, taxon in found for one in several]


def records(sources: Iterable[Input], scheme: Scheme = schemes.GENE) -> Iterator[tuple[Record, Input]]:
    """Yields the records of genomes with the features that a scheme needs, and the input of each."""
    kinds, qualifiers = schemes.feature_kinds(scheme), schemes.qualifiers(Scheme("cds"))
    for source in sources:
        with tempfile.TemporaryDirectory() as scratch:
            for record in inputs.records(source, kinds, scratch, lambda read: None, qualifiers):
                yield record, source


def between_genes(record: Record) -> np.ndarray:
    """The stretches without a gene on either strand, int64 [N, 2], empty ones included; none without any gene."""
    length = len(record.codes)
    genes = [x for span in extraction.find(record, Scheme(), Ledger()) for x in span.intervals(length)]
    edges = np.concatenate([[0], np.transpose(locations.union(genes)).ravel(), [length]]) if genes else np.zeros(0)
    return edges.astype(np.int64).reshape(-1, 2)


def coding_windows(record: Record, length: int) -> Iterator[np.ndarray]:
    """The middle of each coding sequence without its introns, uint8 [length], if it has so many bases."""
    for span in extraction.find(record, Scheme("cds", min_length=length), Ledger()):
        yield _middle(extraction.extract(record, span).codes, length)


def intergenic_windows(record: Record, length: int) -> Iterator[np.ndarray]:
    """The middle of each stretch without a gene, uint8 [length]; of every other stretch the reverse complement."""
    for number, (start, end) in enumerate(between_genes(record).tolist()):
        if end - start >= length:
            codes = _middle(record.codes[start:end], length)
            yield bases.reverse_complement(codes) if number % 2 else codes


def _middle(codes: np.ndarray, length: int) -> np.ndarray:
    start = (len(codes) - length) // 2
    return codes[start : start + length]
