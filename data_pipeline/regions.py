"""Gene regions: which stretches of a record the model is trained on, and their bases.

The rules, in 0-based half-open coordinates of the record:
 1. A `gene` feature is a region: its outer span on its strand, introns included. Parts on both strands, or
    /trans_splicing, give one region a part.
 2. On a circular record a location that runs over the origin is one region: the end piece, then the start piece.
 3. Kind: `pseudo` if the gene has /pseudo or /pseudogene; otherwise the best of CDS > tRNA > rRNA > ncRNA and tmRNA >
    misc_RNA among the features of its /locus_tag (lacking that, its /gene) that overlap it on its strand; else `other`.
 4. One of those features that overlaps no gene on its strand is a region of its own.
 5. The minus strand is reverse-complemented.
 6. Equal (accession, start, end, strand) count once. What is skipped is counted.
"""

import bisect
import collections
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline import bases
from data_pipeline.genome import Feature, Part, Record

KINDS = ("cds", "tRNA", "rRNA", "ncRNA", "miscRNA", "pseudo", "other", "mRNA", "regulatory", "whole")
PRODUCTS = {"CDS": "cds", "tRNA": "tRNA", "rRNA": "rRNA", "ncRNA": "ncRNA", "tmRNA": "ncRNA", "misc_RNA": "miscRNA"}
FEATURE_KINDS = frozenset(("gene", *PRODUCTS))

NO_SEQUENCE = "records without sequence"
ELSEWHERE = "parts on other records"
DUPLICATE = "duplicate regions"
MALFORMED = "malformed locations"


class Skipped(dict):
    """What was left out, by reason: {"count": records, regions or parts, "bases": bases}."""

    def __init__(self, reasons: tuple[str, ...] = (NO_SEQUENCE, ELSEWHERE, DUPLICATE, MALFORMED)):
        super().__init__({reason: {"count": 0, "bases": 0} for reason in reasons})

    def add(self, reason: str, count: int, bases: int) -> None:
        """Counts `count` more for a reason, `bases` bases in all."""
        row = self.setdefault(reason, {"count": 0, "bases": 0})
        row["count"] += count
        row["bases"] += bases


SCHEMES = ("gene", "whole", "mrna", "cds")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Which stretches of a record become regions, and how they are cut. Lengths in bases.

    `gene`: the rules above. `whole`: the record itself, in pieces. `mrna`, `cds`: those features, their parts joined.
    """

    name: str = "gene"
    flank: int = 0  # bases added at both outer ends, where the record has them
    min_length: int = 1  # shorter regions are dropped
    max_length: int | None = None  # longer ones are cut into pieces; None: never, but `whole` at WHOLE_LENGTH
    cut_n: int | None = None  # runs of at least so many N are cut out; None keeps them
    regulatory: bool = False  # regulatory features are regions too
    kinds: tuple[str, ...] = ()  # only these of KINDS; empty: all
    gene: str | None = None  # only where this regular expression is found in /gene or /locus_tag
    product: str | None = None  # only where this one is found in /product


class Span(NamedTuple):
    """Where a region lies on its record, and what is known of it.

    `start` >= `end` when it runs over the origin of a circle; strand +1 or -1. `parts` are the (start, end, strand)
    of a spliced region in 5' to 3' order, empty for one stretch. `frame` is the number of bases before the first
    whole codon, -1 where nothing is coded; `translation` one of translation.OUTCOMES, or empty.
    """

    start: int
    end: int
    strand: int
    kind: str
    parts: tuple[tuple[int, int, int], ...] = ()
    gene: str = ""
    locus_tag: str = ""
    product: str = ""
    frame: int = -1
    genetic_code: int = 0  # NCBI's number; 0 where nothing is coded
    exceptions: str = ""  # /transl_except, /exception and /ribosomal_slippage as they stand
    translation: str = ""

    def pieces(self, record_length: int) -> list[tuple[int, int]]:
        """The one or two (start, end) pieces, along the forward strand from the region's beginning there."""
        if self.start < self.end:
            return [(self.start, self.end)]
        return [piece for piece in ((self.start, record_length), (0, self.end)) if piece[0] < piece[1]]

    def length(self, record_length: int) -> int:
        """Bases in the region."""
        return sum(end - start for start, end in self.pieces(record_length))


@dataclasses.dataclass(frozen=True)
class Region:
    """A gene region in its own 5' to 3' orientation.

    `codes` is uint8 [length] as in `bases`; `lower_case` is int64 [runs, 2], (start, end) within the region of
    soft-masked stretches. `start`, `end` and `strand` place it on `accession` as in `Span`.
    """

    accession: str
    start: int
    end: int
    strand: int
    kind: str
    taxon: str | None
    codes: np.ndarray
    lower_case: np.ndarray
    parts: tuple[tuple[int, int, int], ...] = ()
    gene: str = ""
    locus_tag: str = ""
    product: str = ""
    frame: int = -1
    genetic_code: int = 0
    exceptions: str = ""
    translation: str = ""


def regions(record: Record, skipped: Skipped | None = None) -> Iterator[Region]:
    """The regions of a record by position; what is left out is counted in `skipped`."""
    for span in spans(record, Skipped() if skipped is None else skipped):
        yield extract(record, span)


def extract(record: Record, span: Span, taxon: str | None = None) -> Region:
    """A region's bases and soft-masked stretches, read 5' to 3' on its own strand; `taxon` replaces the record's."""
    pieces = span.pieces(len(record.codes))
    codes = np.concatenate([record.codes[start:end] for start, end in pieces])
    lower = np.concatenate([_within(record.lower_case, start, end) for start, end in pieces])
    if len(pieces) == 2:
        first = len(_within(record.lower_case, *pieces[0]))
        lower[first:] += pieces[0][1] - pieces[0][0]
        if 0 < first < len(lower) and lower[first - 1, 1] == lower[first, 0]:  # one run over the origin
            lower[first - 1, 1] = lower[first, 1]
            lower = np.delete(lower, first, axis=0)
    if span.strand < 0:
        codes = bases.reverse_complement(codes)
        lower = len(codes) - lower[::-1, ::-1]
    return Region(
        accession=record.accession,
        start=span.start,
        end=span.end,
        strand=span.strand,
        kind=span.kind,
        taxon=taxon or record.taxon,
        codes=codes,
        lower_case=lower,
    )


def spans(record: Record, skipped: Skipped) -> list[Span]:
    """Where the regions of a record lie, by start, end and strand; what is left out is counted in `skipped`."""
    if not len(record.codes):
        skipped.add(NO_SEQUENCE, 1, record.declared_length)
        return []
    length = len(record.codes)
    named = collections.defaultdict(list)
    products = []
    for feature in record.features:
        if feature.kind in PRODUCTS:
            kind = PRODUCTS[feature.kind]
            for start, end, strand in _outer_spans(feature, record, skipped):
                span = Span(start, end, strand, kind)
                products.append(span)
                for key in ("locus_tag", "gene"):
                    for value in feature.qualifiers.get(key, ()):
                        named[key, value].append(span)
    found: dict[tuple[int, int, int], Span] = {}
    genes: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
    duplicates = []
    for feature in record.features:
        if feature.kind != "gene":
            continue
        key = "locus_tag" if "locus_tag" in feature.qualifiers else "gene"
        children = [span for value in feature.qualifiers.get(key, ()) for span in named[key, value]]
        for place in _outer_spans(feature, record, skipped):
            gene = Span(*place, "other")
            pieces = gene.pieces(length)
            genes[gene.strand] += pieces
            if "pseudo" in feature.qualifiers or "pseudogene" in feature.qualifiers:
                gene = gene._replace(kind="pseudo")
            else:
                kinds = [child.kind for child in children if _overlap(child, gene.strand, pieces, length)]
                gene = gene._replace(kind=min(kinds, key=KINDS.index, default="other"))
            if found.setdefault(place, gene) is not gene:
                duplicates.append(gene)
    unions = {strand: _union(pieces) for strand, pieces in genes.items()}
    for product in products:
        if any(_touches(unions[product.strand], *piece) for piece in product.pieces(length)):
            continue  # the gene it lies in stands for it
        if found.setdefault(product[:3], product) is not product:
            duplicates.append(product)
    for span in duplicates:
        skipped.add(DUPLICATE, 1, span.length(length))
    return sorted(found.values())


def _outer_spans(feature: Feature, record: Record, skipped: Skipped) -> list[tuple[int, int, int]]:
    """(start, end, strand) of a feature: one outer span, or one a part where strands mix or the gene is spliced."""
    own = [part for part in feature.parts if part.accession is None]
    if len(own) < len(feature.parts):
        away = sum(max(0, part.end - part.start) for part in feature.parts if part.accession is not None)
        skipped.add(ELSEWHERE, len(feature.parts) - len(own), away)
    if not own:
        return []
    length = len(record.codes)
    if any(not 0 <= part.start <= part.end <= length for part in own):
        skipped.add(MALFORMED, 1, sum(max(0, min(part.end, length) - max(part.start, 0)) for part in own))
        return []
    strand = own[0].strand
    if any(part.strand != strand for part in own) or "trans_splicing" in feature.qualifiers:
        places = [(part.start, part.end, part.strand) for part in own]
    else:
        ends = _ends_over_origin(own, record)
        if ends and ends[0] < ends[1]:
            skipped.add(MALFORMED, 1, length)  # round the circle and over itself: more bases than the record has
            return []
        if ends:
            return [(*ends, strand)]
        places = [(min(part.start for part in own), max(part.end for part in own), strand)]
    whole = [place for place in places if place[0] < place[1]]
    if len(whole) < len(places):
        skipped.add(MALFORMED, len(places) - len(whole), 0)  # a place between two bases holds none
    return whole


def _ends_over_origin(own: list[Part], record: Record) -> tuple[int, int] | None:
    """Where a feature of one strand starts and ends on the forward strand, if it runs over a circle's origin.

    Equal ends are the whole circle.
    """
    along = own if own[0].strand > 0 else own[::-1]
    if record.circular:
        for before, after in itertools.pairwise(along):
            if before.end == len(record.codes) and after.start == 0:
                return along[0].start, along[-1].end
    return None


def _overlap(span: Span, strand: int, pieces: list[tuple[int, int]], length: int) -> bool:
    return span.strand == strand and any(
        start < right and left < end for start, end in span.pieces(length) for left, right in pieces
    )


def _union(pieces: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The starts and ends of the disjoint stretches that the pieces cover."""
    starts, ends = [], []
    for start, end in sorted(pieces):
        if ends and start < ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


def _touches(union: tuple[list[int], list[int]], start: int, end: int) -> bool:
    starts, ends = union
    at = bisect.bisect_left(starts, end) - 1  # the last stretch that starts before `end`
    return at >= 0 and ends[at] > start


def _within(runs: np.ndarray, start: int, end: int) -> np.ndarray:
    """The runs (sorted, disjoint) inside [start, end), clipped to it and counted from it; a copy."""
    if not len(runs):
        return runs.copy()
    first = np.searchsorted(runs[:, 1], start, "right")
    last = np.searchsorted(runs[:, 0], end, "left")
    return np.clip(runs[first:last], start, end) - start
