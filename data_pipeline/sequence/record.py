"""The common form of an annotated sequence from any file format: a record's bases and its features.

Every reader in `formats` (`genbank`, `fasta`, `gff`) returns it, and `regions.extraction` uses nothing else.
Coordinates are 0-based, half-open.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

# The divisions of a RefSeq release, in the order of the published vocabulary's tags.
DIVISIONS = {
    "vertebrate_mammalian": "mam",
    "vertebrate_other": "vrt",
    "invertebrate": "inv",
    "plant": "pln",
    "fungi": "fng",
    "protozoa": "prt",
    "archaea": "arc",
    "bacteria": "bct",
    "mitochondrion": "mit",
    "plastid": "plt",
    "plasmid": "plm",
    "viral": "vir",
}
TAXA = tuple(DIVISIONS.values())
UNKNOWN = "unknown"  # the name in a dataset of no taxon
LONGER = "records longer than declared"  # in `Record.notes`


def tag(text: str) -> str:
    """The tag of a taxon by its text: "bct", "BCT" and "bacteria" are `bct`; text that is none is returned as it is."""
    name = text.lower()
    return DIVISIONS.get(name, name if name in (*TAXA, UNKNOWN) else text)


class Segment(NamedTuple):
    """One interval of a location, 0-based half-open; an invalid one (start > end, outside the record) is as written."""

    start: int
    end: int
    strand: int
    accession: str | None = None  # accession.version of another record; None for the feature's own record


class Feature(NamedTuple):
    """An annotated feature: its kind, its segments in 5' to 3' order, and its qualifiers with all their values.

    Kinds and qualifiers have GenBank's names in every format. `gene_id` is the ID of the gene that a feature is or
    belongs to in GFF3 and GTF; it is None in GenBank, where /locus_tag and /gene identify the gene.
    """

    kind: str
    segments: tuple[Segment, ...]
    qualifiers: dict[str, tuple[str, ...]]
    gene_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One sequence and its annotation.

    `codes` is uint8 [length] as in `bases`, empty for a record without sequence (`declared_length` is then its length
    in bases). `lower_case` is int64 [runs, 2], the (start, end) of soft-masked intervals. `taxon` is one of TAXA, or
    None if unknown. `taxon_id` is NCBI's taxonomy ID, if given. `notes` counts by name what the reader could not use.
    """

    accession: str
    declared_length: int
    codes: np.ndarray
    lower_case: np.ndarray
    circular: bool
    division: str
    organism: str
    lineage: tuple[str, ...]
    taxon: str | None
    features: tuple[Feature, ...]
    taxon_id: str | None = None
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
