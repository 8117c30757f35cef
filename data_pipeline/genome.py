"""An annotated sequence, whatever file it came from: a record's bases and its features.

Every reader (`genbank`, `fasta`, `gff`) makes these, and `regions` knows nothing else. Coordinates are 0-based,
half-open.
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


class Segment(NamedTuple):
    """A piece of a location, 0-based half-open on its record; `start` > `end` or bounds outside it are as written."""

    start: int
    end: int
    strand: int
    accession: str | None = None  # another record's accession.version; None for the feature's own record


class Feature(NamedTuple):
    """An annotated feature: its kind, its parts in 5' to 3' order, its qualifiers with all their values.

    Kinds and qualifiers have GenBank's names in every format. `gene_id` is the ID of the gene a feature is or belongs
    to, where the format says so (GFF3, GTF); None leaves that to /locus_tag and /gene (GenBank).
    """

    kind: str
    segments: tuple[Segment, ...]
    qualifiers: dict[str, tuple[str, ...]]
    gene_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One sequence and its annotation.

    `codes` is uint8 [length] as in `bases`, empty for a record without sequence (`declared_length` then still holds
    its length in bases); `lower_case` is int64 [runs, 2], (start, end) of soft-masked stretches; `taxon` is one of
    TAXA, or None where the file does not tell; `taxon_id` is NCBI's number, where given.
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
