"""Derives from the name of a genome file its format, its set of sequences, their taxon and their assembly."""

import dataclasses
import os
import re
from pathlib import Path

from data_pipeline.sequence.record import DIVISIONS

GENBANK, GFF3, GTF, FASTA = "GenBank", "GFF3", "GTF", "FASTA"
FORMATS = {
    **dict.fromkeys((".gb", ".gbk", ".gbff", ".genbank", ".seq"), GENBANK),
    **dict.fromkeys((".gff", ".gff3"), GFF3),
    ".gtf": GTF,
    **dict.fromkeys((".fa", ".fasta", ".fna"), FASTA),
}
_DERIVED = re.compile(
    r"(^|[._])(cds_from_genomic|rna_from_genomic|translated_cds)[._]|(^|[._])(rna|protein)\.[^.]+$"
    r"|(^|\.)(cds|cdna|ncrna|pep|abinitio|dna_rm)\.|\.(faa|gpff)$",
    re.IGNORECASE,
)
_RELEASE = re.compile(rf"({'|'.join(DIVISIONS)})\.(\d+)(?:\.(\d+))?\.genomic")
_ASSEMBLY = re.compile(r"GC[AF]_\d{9}\.\d+")
_NCBI_STEM = re.compile(rf"({_ASSEMBLY.pattern})(_.+)?_genomic")
_SCOPE = r"((?:chromosome|nonchromosomal|primary_assembly|chr|chr_patch_hapl_scaff)(?:\.\w+)?)"
_SPECIES = r"([A-Z][a-z]+_[A-Za-z0-9_]+\..+?)"  # the species and the assembly: Homo_sapiens.GRCh38
_ENSEMBL_FASTA = re.compile(rf"{_SPECIES}\.(dna|dna_sm)\.(toplevel|{_SCOPE})")
_ENSEMBL_ANNOTATION = re.compile(rf"{_SPECIES}\.\d{{1,3}}(?:\.{_SCOPE})?")


@dataclasses.dataclass(frozen=True)
class GenomeFile:
    """A genome file and the facts in its name.

    Files with the same `key` contain the same sequences; among files of one format, the one with the lowest `rank` is
    preferred. `assembly` is the NCBI accession in the name of the file or its folder; without one, the name that RefSeq
    releases or Ensembl use; otherwise the names of the folder and the file (`yeast/genome`).
    """

    path: Path
    format: str
    key: str
    rank: int = 0
    taxon: str | None = None
    assembly: str = ""

    @property
    def annotates(self) -> bool:
        """Whether the file is an annotation."""
        return self.format != FASTA

    @property
    def has_ncbi_accession(self) -> bool:
        """Whether `assembly` is an NCBI accession."""
        return bool(_ASSEMBLY.fullmatch(self.assembly))


def unpacked(name: str) -> str:
    """The name of a file without .gz or .bgz."""
    return name[: -len(Path(name).suffix)] if name.lower().endswith((".gz", ".bgz")) else name


def format_of(path: Path) -> str | None:
    """One of FORMATS by the suffix of the name; None for any other suffix."""
    return FORMATS.get(Path(unpacked(path.name)).suffix.lower())


def is_derived(path: Path) -> bool:
    """Whether the name is that of a file derived from a genome: transcripts, proteins, predictions, masked bases."""
    return bool(_DERIVED.search(unpacked(path.name)))


def describe(path: Path) -> GenomeFile:
    """The facts in the name of a file of a known format."""
    bare, kind = unpacked(path.name), format_of(path)
    stem = bare[: -len(Path(bare).suffix)]
    folder = Path(os.path.abspath(path)).parent.name
    accession = _ASSEMBLY.search(path.name) or _ASSEMBLY.fullmatch(folder)
    assembly = accession.group() if accession else f"{folder}/{stem}"
    if release := _RELEASE.fullmatch(stem):
        division, number, scope = release.groups()
        name = f"{division}.{number}"
        key = name if scope in (None, "1") else f"{name}.{scope}"
        return GenomeFile(path, kind, key, 0, DIVISIONS[division], name)
    if match := _NCBI_STEM.fullmatch(stem):
        return GenomeFile(path, kind, match[1], assembly=match[1])
    if stem == "genomic":  # the name used in the folders of NCBI datasets
        return GenomeFile(path, kind, assembly, assembly=assembly)
    if kind == FASTA and (match := _ENSEMBL_FASTA.fullmatch(stem)):
        name, masking, whole, scope = match.groups()
        key = name if whole in ("toplevel", "primary_assembly") else f"{name}.{scope}"
        return GenomeFile(path, kind, key, (masking == "dna") * 2 + (whole == "toplevel"), assembly=name)
    if kind in (GFF3, GTF) and (match := _ENSEMBL_ANNOTATION.fullmatch(stem)):
        name, scope = match.groups()
        partial = scope in ("chr", "chr_patch_hapl_scaff")  # the complete annotation without scaffolds, or with patches
        return GenomeFile(path, kind, name if partial or not scope else f"{name}.{scope}", int(partial), assembly=name)
    return GenomeFile(path, kind, stem, assembly=assembly)


def annotation_keys(sequence: GenomeFile) -> tuple[str, ...]:
    """The keys of annotations of a FASTA's sequences. Old Ensembl names contain the release in both files."""
    return tuple(dict.fromkeys((sequence.key, re.sub(r"\.\d+$", "", sequence.key))))
