"""Turns a table of coordinates into one of sequences, cut from the genome that the coordinates are of.

Coordinates are 0-based and half-open, as in BED files and the Genomic Benchmarks. A row on the minus strand is the
reverse complement.
"""

import dataclasses
import functools
import itertools
import re
from pathlib import Path

import numpy as np

from data_pipeline.errors import FormatError, MismatchError, one_line
from data_pipeline.formats import faidx, fasta, file_names, stream
from data_pipeline.formats.contigs import Contigs
from data_pipeline.sequence import bases
from gener_jax.labelled.table import Table

SEQUENCE = "sequence"  # the column that is added
_COLUMNS = {
    "chrom": ("chrom", "chr", "chromosome", "region", "contig", "seqname"),
    "start": ("start", "chromstart"),
    "end": ("end", "chromend", "stop"),
    "strand": ("strand",),
    "assembly": ("assembly", "genome", "genome_assembly"),
}
_METADATA = ("metadata.yaml", "metadata.yaml.gz")
_ENTRY = re.compile(r"^\s*(url|assembly|genome):\s*['\"]?([^\s'\"]+)", re.MULTILINE)
_SAME = {  # UCSC's names of assemblies, and those of the consortia
    "hg19": "grch37", "hg38": "grch38", "mm10": "grcm38", "mm39": "grcm39", "dm3": "bdgp5", "dm6": "bdgp6",
    "ce11": "wbcel235", "saccer3": "r64-1-1", "danrer10": "grcz10", "danrer11": "grcz11",
}  # fmt: skip


def found(table: Table) -> dict[str, str]:
    """The columns of coordinates in a table, by what they are: chrom, start, end, strand, assembly."""
    return {what: name for what, names in _COLUMNS.items() for name in table.columns if name.lower() in names}


class Genome:
    """The contigs of a FASTA file and the assembly that it is of.

    The file is read at the first table of that assembly: all of it, or with an index of samtools faidx beside it only
    what is cut out.
    """

    def __init__(self, path: str | Path, assembly: str):
        self.path, self.assembly = Path(path), assembly

    @functools.cached_property
    def _codes(self) -> dict[str, np.ndarray | faidx.Contig]:
        indexed = faidx.contigs(self.path)
        return {x.name: x.codes for x in fasta.read(self.path)} if indexed is None else indexed

    @functools.cached_property
    def _contigs(self) -> Contigs:
        return Contigs(self._codes)

    def cut(self, table: Table) -> Table:
        """The table with a column of the sequences at its coordinates, upper-case letters.

        Raises:
          FileError, DamagedFileError: the genome, its index or metadata.yaml cannot be read.
          MismatchError: the table is of another assembly.
          FormatError: the table has no coordinates or no assembly; with line or record, those of a row are not in the
            genome.
        """
        columns = found(table)
        if lacking := [what for what in ("chrom", "start", "end") if what not in columns]:
            remedy = f"its columns are {one_line(', '.join(table.columns))}"
            raise FormatError(f"has no column {lacking[0]} of coordinates", file=table.path, remedy=remedy)
        if SEQUENCE in table.columns:
            remedy = "remove finetune.genome, or the column"
            raise FormatError("is a column of a table of coordinates", file=table.path, field=SEQUENCE, remedy=remedy)
        self.check_assembly(table)
        cut = [bases.decode(self._bases(table, row, columns)) for row in range(len(table))]
        return dataclasses.replace(table, columns=table.columns | {SEQUENCE: cut})

    def _bases(self, table: Table, row: int, columns: dict[str, str]) -> np.ndarray:
        chrom, start, end = (table.columns[columns[what]][row].strip() for what in ("chrom", "start", "end"))
        contig = self._contigs.find(chrom)
        if contig is None:
            table.refuse(row, columns["chrom"], f"is no contig of {self.path}")
        for column, text in ((columns["start"], start), (columns["end"], end)):
            if not (text.isascii() and text.isdigit() and len(text) < 13):
                table.refuse(row, column, "is no position", "give a 0-based number")
        length = len(self._codes[contig])
        if not int(start) < int(end) <= length:
            table.refuse(row, columns["end"], f"must be after start {start} and within the {length} bases of {contig}")
        codes = self._codes[contig][int(start) : int(end)]
        strand = table.columns[columns["strand"]][row].strip() if "strand" in columns else "+"
        if strand not in ("+", "-", ".", ""):
            table.refuse(row, columns["strand"], "must be + or -")
        return bases.reverse_complement(codes) if strand == "-" else codes

    def check_assembly(self, table: Table) -> None:
        """Checks that a table is of the genome's assembly; raises as `cut`."""
        column, remedy = found(table).get("assembly"), "give the genome of that assembly as finetune.genome"
        if column is not None:
            for row, name in enumerate(table.columns[column]):
                if _known(name) != _known(self.assembly):
                    table.refuse(row, column, f"is not {self.assembly}, the assembly of {self.path}", remedy)
            return
        stated = _metadata(table.path)
        if not stated:
            raise FormatError(
                "names no assembly of its coordinates", file=table.path,
                remedy="add a column assembly, or metadata.yaml with a line `assembly: NAME` beside it",
            )  # fmt: skip
        for name, file in stated.items():
            if _known(name) != _known(self.assembly):
                problem = f"({file}) is not {self.assembly}, the assembly of {self.path}"
                raise MismatchError(problem, file=table.path, field="assembly", value=name, remedy=remedy)


def _metadata(path: Path) -> dict[str, Path]:
    """The assemblies that metadata.yaml names, by an entry `assembly`, or by the `url` of a genome, with their file."""
    for folder, name in itertools.product((path.parent, path.parent.parent), _METADATA):
        file = folder / name
        if file.exists():
            text = b"".join(stream.chunks(file, lambda count: None)).decode("utf-8", "replace")
            return {_of_url(value) if key == "url" else value: file for key, value in _ENTRY.findall(text)}
    return {}


def _of_url(url: str) -> str:
    """The assembly of a genome's file: .../Homo_sapiens.GRCh38.dna.toplevel.fa.gz is GRCh38, .../hg38.fa.gz is hg38."""
    name = file_names.describe(Path(url.rpartition("/")[2])).assembly.rpartition("/")[2]
    return name.partition(".")[2] if re.match(r"[A-Z][a-z]+_\w+\.", name) else name


def _known(name: str) -> str:
    """What assemblies are compared by: GRCh38.p14, grch38 and hg38 are the same, and BDGP6.28 and dm6."""
    name = name.strip().lower()
    name = name if name.startswith(("gca_", "gcf_")) else re.sub(r"\.(p?\d+)$", "", name)
    return _SAME.get(name, name)
