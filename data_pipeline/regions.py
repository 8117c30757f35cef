"""Regions: which stretches of a record the model is trained on, and their bases.

The scheme `gene`, in 0-based half-open coordinates of the record:
 1. A `gene` feature is a region: its outer span on its strand, introns included. Parts on both strands, or
    /trans_splicing, give one region a part.
 2. On a circular record a location that runs over the origin is one region: the end piece, then the start piece.
 3. Kind: `pseudo` if the gene has /pseudo or /pseudogene; otherwise the best of CDS > tRNA > rRNA > ncRNA and tmRNA >
    misc_RNA among the features of its gene_id (lacking that, its /locus_tag; lacking that, its /gene) that overlap it
    on its strand; else `other`.
 4. One of those features that overlaps no gene on its strand is a region of its own; so are regulatory features, on
    request.
 5. The minus strand is reverse-complemented.
 6. Equal (accession, start, end, strand) count once. What is left out is counted.

`mrna` and `cds` take those features with their parts joined, equal parts counting once; a feature with a part on
another record cannot be joined and is left out. `whole` takes the record itself in near-equal windows.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline import bases, locations, translation
from data_pipeline.errors import DataError
from data_pipeline.genome import Feature, Record
from data_pipeline.ledger import DUPLICATE, ELSEWHERE, MALFORMED, NO_SEQUENCE, Ledger
from data_pipeline.locations import Interval

KINDS = ("cds", "tRNA", "rRNA", "ncRNA", "miscRNA", "pseudo", "other", "mRNA", "regulatory", "whole")
PRODUCTS = {"CDS": "cds", "tRNA": "tRNA", "rRNA": "rRNA", "ncRNA": "ncRNA", "tmRNA": "ncRNA", "misc_RNA": "miscRNA"}
# The feature key, and those that it replaced in 2014.
REGULATORY = frozenset(
    """regulatory promoter enhancer terminator attenuator RBS TATA_signal CAAT_signal GC_signal -10_signal -35_signal
    polyA_signal misc_signal""".split()  # noqa: SIM905
)
WHOLE_LENGTH = 98_304  # bases of the longest context: 16 384 6-mers

FILTERED = "filtered out"
SHORT = "shorter than min_length"
UNKNOWN = "N runs cut out"

# The kinds of region that each scheme can give.
SCHEMES = {"gene": (*KINDS[:7], "regulatory"), "whole": ("whole",), "mrna": ("mRNA",), "cds": ("cds", "pseudo")}
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


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

    def __post_init__(self):
        if self.name not in SCHEMES:
            raise DataError(f"scheme {self.name!r} is unknown: give one of {' '.join(SCHEMES)}")
        for name, least in (("flank", 0), ("min_length", 1), ("max_length", self.min_length), ("cut_n", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(f"{name} {value} is too small: give {least} or more bases")
        if self.regulatory and self.name != "gene":
            raise DataError(f"regulatory features belong to the scheme gene, not {self.name}: leave them out")
        if self.name == "whole" and (self.flank or self.kinds or self.gene or self.product):
            raise DataError("the scheme whole has no flanks, kinds, genes or products to choose by: leave them out")
        possible = [kind for kind in SCHEMES[self.name] if kind != "regulatory" or self.regulatory]
        for kind in self.kinds:
            if kind not in possible:
                raise DataError(f"kind {kind!r} is not one the scheme {self.name} gives: {' '.join(possible)}")
        for name in ("gene", "product"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                raise DataError(f"{name} {getattr(self, name)!r} is not a regular expression: {error}") from None


GENE = Scheme()


class Span(NamedTuple):
    """Where a region lies on its record, and what is known of it.

    `start` >= `end` when it runs over the origin of a circle; strand +1 or -1. `segments` are the (start, end, strand)
    of a spliced region in 5' to 3' order, empty for one stretch. `frame` is the number of bases before the first
    whole codon, -1 where nothing is coded (how long a 3' flank is it does not tell); `translation` one of
    translation.OUTCOMES, or empty.
    """

    start: int
    end: int
    strand: int
    kind: str
    segments: tuple[Interval, ...] = ()
    gene: str = ""
    locus_tag: str = ""
    product: str = ""
    frame: int = -1
    genetic_code: int = 0  # NCBI's number; 0 where nothing is coded
    exceptions: str = ""  # the qualifiers of translation.EXCEPTIONS, as they stand
    translation: str = ""

    def intervals(self, record_length: int) -> list[tuple[int, int]]:
        """The (start, end) stretches it covers: its parts, else the one or two along the forward strand."""
        if self.segments:
            return [(start, end) for start, end, _ in self.segments]
        if self.start < self.end:
            return [(self.start, self.end)]
        return [piece for piece in ((self.start, record_length), (0, self.end)) if piece[0] < piece[1]]

    def stranded_intervals(self, record_length: int) -> tuple[Interval, ...]:
        """What it covers as (start, end, strand), 5' to 3'."""
        if self.segments:
            return self.segments
        return tuple((start, end, self.strand) for start, end in self.intervals(record_length)[:: self.strand])

    def length(self, record_length: int) -> int:
        """Bases in the region."""
        if self.start < self.end and not self.segments:
            return self.end - self.start
        return sum(end - start for start, end in self.intervals(record_length))


class Region(NamedTuple):
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
    segments: tuple[Interval, ...] = ()
    gene: str = ""
    locus_tag: str = ""
    product: str = ""
    frame: int = -1
    genetic_code: int = 0
    exceptions: str = ""
    translation: str = ""


def feature_kinds(scheme: Scheme) -> frozenset[str]:
    """The GenBank feature kinds that a scheme needs."""
    return {
        "gene": frozenset(("gene", *PRODUCTS)) | (REGULATORY if scheme.regulatory else frozenset()),
        "whole": frozenset(),
        "mrna": frozenset(("mRNA",)),
        "cds": frozenset(("CDS",)),
    }[scheme.name]


def qualifiers(scheme: Scheme) -> frozenset[str]:
    """The qualifiers of those features that a scheme needs."""
    wanted = {"gene", "locus_tag", "product", "pseudo", "pseudogene", "trans_splicing", "regulatory_class"}
    if scheme.name == "cds":
        wanted |= {"codon_start", "transl_table", "translation", *translation.EXCEPTIONS}
    return frozenset(wanted)


def regions(record: Record, scheme: Scheme = GENE, ledger: Ledger | None = None) -> Iterator[Region]:
    """The regions of a record by position, cut as the scheme says; the account is kept in `ledger`."""
    ledger = Ledger() if ledger is None else ledger
    for span in find(record, scheme, ledger):
        yield from cut(extract(record, span), scheme, ledger)


def find(record: Record, scheme: Scheme, ledger: Ledger) -> list[Span]:
    """Where the regions of a record lie, flanks included, by start, end and strand.

    Every location considered is counted in `ledger` as found, and those left out by their reason. A record without
    sequence has none; it is counted as skipped, with its declared length.
    """
    length = len(record.codes)
    if not length:
        ledger.skip(NO_SEQUENCE, record.declared_length)
        return []
    located = {"gene": _genes, "whole": _windows, "mrna": _transcripts, "cds": _transcripts}[scheme.name]
    gene, product = re.compile(scheme.gene or ""), re.compile(scheme.product or "")
    seen, kept = set(), []
    for span, feature in located(record, scheme, ledger):
        flanked = _flanked(span, record, scheme.flank) if scheme.flank else span
        count = flanked.end - flanked.start
        if count <= 0 or flanked.segments:
            count = flanked.length(length)
        ledger.find(count)
        interval = flanked.segments or flanked[:3]
        if (
            (scheme.kinds and span.kind not in scheme.kinds)
            or (scheme.gene and not (gene.search(span.gene) or gene.search(span.locus_tag)))
            or (scheme.product and not product.search(span.product))
        ):
            ledger.drop(FILTERED, count)
        elif interval in seen:
            ledger.drop(DUPLICATE, count)
        elif count < scheme.min_length:
            ledger.drop(SHORT, count)
        else:
            seen.add(interval)
            if scheme.name == "cds":
                flanked = flanked._replace(translation=_translation(record, span, feature, ledger))
            kept.append(flanked)
    return sorted(kept, key=lambda span: span[:3])


def extract(record: Record, span: Span, taxon: str | None = None) -> Region:
    """A region's bases and soft-masked stretches, read 5' to 3', its parts joined; `taxon` replaces the record's."""
    start, end, strand = span[:3]
    stretches = span.stranded_intervals(len(record.codes)) if span.segments or start >= end else ((start, end, strand),)
    lower, at = [], 0
    for start, end, strand in stretches if len(record.lower_case) else ():
        runs = locations.within(record.lower_case, start, end)
        lower.append(at + (runs if strand > 0 else end - start - runs[::-1, ::-1]))
        at += end - start
    return Region(
        record.accession,
        span.start,
        span.end,
        span.strand,
        span.kind,
        taxon or record.taxon,
        _joined(record, stretches),
        locations.merged(np.concatenate(lower)) if lower else bases.NO_RUNS,
        *span[4:],
    )


def cut(region: Region, scheme: Scheme, ledger: Ledger) -> Iterable[Region]:
    """The region itself, or its pieces where the scheme cuts it; what is dropped is counted in `ledger`.

    Runs of at least `cut_n` N are left out, and stretches of more than `max_length` bases are cut into near-equal
    pieces that cover every base once. A piece shorter than `min_length` is dropped.
    """
    whole = scheme.cut_n is None and (scheme.max_length is None or len(region.codes) <= scheme.max_length)
    return (region,) if whole else _cut(region, scheme, ledger)


def _cut(region: Region, scheme: Scheme, ledger: Ledger) -> Iterator[Region]:
    length = len(region.codes)
    stretches = [(0, length)]
    if scheme.cut_n is not None:
        unknown = bases.runs(region.codes == bases.N)
        unknown = unknown[unknown[:, 1] - unknown[:, 0] >= scheme.cut_n]
        if len(unknown):
            edges = np.concatenate([[0], unknown.ravel(), [length]]).reshape(-1, 2).tolist()
            stretches = [(start, end) for start, end in edges if start < end]
            ledger.drop(UNKNOWN, int((unknown[:, 1] - unknown[:, 0]).sum()), 0 if stretches else 1)
    pieces = [piece for stretch in stretches for piece in locations.near_equal(*stretch, scheme.max_length)]
    if pieces == [(0, length)]:
        yield region
        return
    if pieces:
        ledger.split(len(pieces))
    for start, end in pieces:
        if end - start < scheme.min_length:
            ledger.drop(SHORT, end - start)
        else:
            yield _piece(region, start, end)


def _piece(region: Region, start: int, end: int) -> Region:
    """The bases [start, end) of a region, 5' to 3', in their own place."""
    if region.segments:
        circle = max(segment[1] for segment in region.segments) if region.start >= region.end else None
    else:
        circle = region.start + len(region.codes) - region.end if region.start >= region.end else None
    whole = Span(region.start, region.end, region.strand, region.kind, region.segments)
    segments, at = [], 0
    for segment_start, segment_end, strand in whole.stranded_intervals(circle or 0):
        low, high = max(start - at, 0), min(end - at, segment_end - segment_start)
        if low < high:
            ends = (
                (segment_start + low, segment_start + high) if strand > 0 else (segment_end - high, segment_end - low)
            )
            segments.append((*ends, strand))
        at += segment_end - segment_start
    frame = region.frame
    if frame >= 0:
        frame = frame - start if start < frame else (frame - start) % 3
        frame = frame if frame < end - start else -1  # no codon begins in it
    interval = locations.enclosing(segments, circle)
    return region._replace(
        start=interval[0],
        end=interval[1],
        strand=interval[2],
        segments=interval[3],
        codes=region.codes[start:end],
        lower_case=locations.within(region.lower_case, start, end),
        frame=frame,
    )


def _windows(record: Record, scheme: Scheme, ledger: Ledger) -> Iterator[tuple[Span, None]]:
    for start, end in locations.near_equal(0, len(record.codes), scheme.max_length or WHOLE_LENGTH):
        yield Span(start, end, 1, "whole"), None


def _genes(record: Record, scheme: Scheme, ledger: Ledger) -> list[tuple[Span, None]]:
    """The regions of the scheme `gene`, unflanked, duplicates among them."""
    length = len(record.codes)
    named = {key: collections.defaultdict(list) for key in ("gene_id", "locus_tag", "gene")}
    products, regulatory = [], []
    for feature in record.features:
        if feature.kind in PRODUCTS:
            kind, qualifiers, gene_id = PRODUCTS[feature.kind], feature.qualifiers, feature.gene_id
            product = _first(feature, "product")
            for interval in _outer_spans(feature, record, ledger):
                span = _named(interval, kind, feature, product)
                products.append(span)
                if gene_id is not None:
                    named["gene_id"][gene_id].append(span)
                for key in ("locus_tag", "gene"):
                    for value in qualifiers.get(key, ()):
                        named[key][value].append(span)
        elif scheme.regulatory and feature.kind in REGULATORY:
            for interval in _outer_spans(feature, record, ledger):
                product = _first(feature, "regulatory_class") or feature.kind
                regulatory.append(_named(interval, "regulatory", feature, product))
    found: list[Span] = []
    covered: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
    for feature in record.features:
        if feature.kind != "gene":
            continue
        children = _children(feature, named)
        for interval in _outer_spans(feature, record, ledger):
            start, end, strand = interval
            pieces = [(start, end)] if start < end else Span(*interval, "other").intervals(length)
            covered[strand] += pieces
            mine = [child for child in children if child.strand == strand and _overlap(child, pieces, length)]
            best = mine[0] if len(mine) == 1 else min(mine, key=lambda child: _RANK[child.kind], default=None)
            kind = "pseudo" if _is_pseudo(feature) else best.kind if best else "other"
            product = (best and best.product) or next((child.product for child in mine if child.product), "")
            found.append(_named(interval, kind, feature, product))
    unions = {strand: locations.union(pieces) for strand, pieces in covered.items()}
    for span in products:
        if not any(locations.touches(unions[span.strand], *piece) for piece in span.intervals(length)):
            found.append(span)  # otherwise the gene it lies in stands for it
    return [(span, None) for span in itertools.chain(found, regulatory)]


def _children(gene: Feature, named: dict[str, dict[str, list[Span]]]) -> list[Span]:
    """The features that belong to a gene by its identifier, or lacking that by its name."""
    if gene.gene_id is not None:
        return named["gene_id"].get(gene.gene_id, [])
    key = "locus_tag" if "locus_tag" in gene.qualifiers else "gene"
    values = gene.qualifiers.get(key, ())
    if len(values) == 1:
        return named[key].get(values[0], [])
    return [span for value in values for span in named[key].get(value, ())]


_NONE = ("",)


def _first(feature: Feature, key: str) -> str:
    return feature.qualifiers.get(key, _NONE)[0]


def _named(interval: Interval, kind: str, feature: Feature, product: str) -> Span:
    """A span with the names that its feature has."""
    get = feature.qualifiers.get
    return Span(*interval, kind, (), get("gene", _NONE)[0], get("locus_tag", _NONE)[0], product)


def _transcripts(record: Record, scheme: Scheme, ledger: Ledger) -> Iterator[tuple[Span, Feature]]:
    """The regions of the schemes `mrna` and `cds`, unflanked, duplicates among them."""
    wanted = "CDS" if scheme.name == "cds" else "mRNA"
    for feature in record.features:
        if feature.kind == wanted and (span := _spliced(feature, record, ledger)) is not None:
            yield span, feature


def _spliced(feature: Feature, record: Record, ledger: Ledger) -> Span | None:
    """A feature with its parts joined in order; None where they cannot be, which is counted."""
    length = len(record.codes)
    if any(segment.accession is not None for segment in feature.segments):
        _lose(ledger, ELSEWHERE, sum(max(0, segment.end - segment.start) for segment in feature.segments))
        return None
    own = [
        segment[:3] for segment in feature.segments if segment.start != segment.end
    ]  # a place between two bases holds none
    circle = length if record.circular else None
    ends = locations.ends_over_origin(own, circle)
    if not own or not locations.inside(own, length) or (ends and ends[0] < ends[1]):
        _lose(ledger, MALFORMED, locations.clipped(own, length))
        return None
    kind = "mRNA"
    if feature.kind == "CDS":
        kind = "pseudo" if _is_pseudo(feature) else "cds"
    *interval, segments = locations.enclosing(own, circle)
    span = _named(interval, kind, feature, _first(feature, "product"))._replace(segments=segments)
    return _coding(span, feature) if kind == "cds" else span


def _coding(span: Span, feature: Feature) -> Span:
    """The span with its frame, genetic code and exceptions; what cannot be read is -1 or 0."""
    codon_start, genetic_code = _first(feature, "codon_start") or "1", _first(feature, "transl_table") or "1"
    known = re.fullmatch("[0-9]{1,2}", genetic_code) and translation.known_code(int(genetic_code))
    exceptions = [
        f"/{key}={value}" if value else f"/{key}"
        for key in translation.EXCEPTIONS
        for value in feature.qualifiers.get(key, ())
    ]
    return span._replace(
        frame=int(codon_start) - 1 if codon_start in ("1", "2", "3") else -1,
        genetic_code=int(genetic_code) if known else 0,
        exceptions="; ".join(exceptions),
    )


def _translation(record: Record, span: Span, feature: Feature, ledger: Ledger) -> str:
    """How an unflanked CDS reads against its annotation, which is noted."""
    stretches = span.stranded_intervals(len(record.codes))
    codes = _joined(record, stretches)
    outcome = translation.check(codes, stretches, feature.qualifiers, span.frame, span.genetic_code)
    ledger.note(f"translation: {outcome}", len(codes))
    return outcome


def _joined(record: Record, stretches: Iterable[Interval]) -> np.ndarray:
    """The bases of stretches end to end, each on its strand; a copy."""
    found = [
        record.codes[start:end].copy() if strand > 0 else bases.reverse_complement(record.codes[start:end])
        for start, end, strand in stretches
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)


def _flanked(span: Span, record: Record, flank: int) -> Span:
    """The span with up to `flank` bases more at both ends: to the ends of a linear record, round a circle to itself.

    The flanks of a spliced region lengthen its first and last part, and stop at its other parts.
    """
    length = len(record.codes)
    segments = span.stranded_intervals(length)
    (first_start, first_end, first_strand), (last_start, last_end, last_strand) = segments[0], segments[-1]
    front = first_start if first_strand > 0 else first_end
    back = last_end if last_strand > 0 else last_start
    five = locations.room(front, -first_strand, segments, length, record.circular)
    three = locations.room(back, last_strand, segments, length, record.circular)
    if first_strand == last_strand and (front - first_strand * five - back) % length == 0:
        five, three = (five + 1) // 2, three // 2  # one gap, as round a circle: they share it
    five, three = min(five, flank), min(three, flank)
    if len(segments) == 1:
        segments = locations.extended(segments[0], five, three, length)
    else:
        segments = (
            *locations.extended(segments[0], five, 0, length),
            *segments[1:-1],
            *locations.extended(segments[-1], 0, three, length),
        )
    start, end, strand, segments = locations.enclosing(segments, length if record.circular else None)
    frame = span.frame + five if span.frame >= 0 else -1
    return span._replace(start=start, end=end, strand=strand, segments=segments, frame=frame)


def _outer_spans(feature: Feature, record: Record, ledger: Ledger) -> list[Interval]:
    """(start, end, strand) of a feature: one outer span, or one a part where strands mix or the gene is spliced."""
    length = len(record.codes)
    own = feature.segments
    if len(own) == 1:
        start, end, strand, accession = own[0]
        if accession is None and 0 <= start < end <= length:
            return [(start, end, strand)]
    away = [segment for segment in own if segment.accession is not None]
    if away:
        ledger.note(ELSEWHERE, sum(max(0, segment.end - segment.start) for segment in away), len(away))
        own = [segment for segment in own if segment.accession is None]
    if not own:
        return []
    if not locations.inside(own, length):
        _lose(ledger, MALFORMED, locations.clipped(own, length))
        return []
    strand = own[0].strand
    if any(segment.strand != strand for segment in own) or "trans_splicing" in feature.qualifiers:
        intervals = [segment[:3] for segment in own]
    else:
        ends = locations.ends_over_origin(own, length if record.circular else None)
        if ends and ends[0] < ends[1]:
            _lose(ledger, MALFORMED, length)  # round the circle and over itself: more bases than the record has
            return []
        if ends:
            return [(*ends, strand)]
        intervals = [(min(segment.start for segment in own), max(segment.end for segment in own), strand)]
    whole = [interval for interval in intervals if interval[0] < interval[1]]
    for _ in range(len(intervals) - len(whole)):
        _lose(ledger, MALFORMED, 0)  # a place between two bases holds none
    return whole


def _lose(ledger: Ledger, reason: str, count: int) -> None:
    """Counts a location of `count` bases as found and dropped."""
    ledger.find(count)
    ledger.drop(reason, count)


def _is_pseudo(feature: Feature) -> bool:
    return "pseudo" in feature.qualifiers or "pseudogene" in feature.qualifiers


def _overlap(span: Span, pieces: list[tuple[int, int]], length: int) -> bool:
    if len(pieces) == 1 and span.start < span.end and not span.segments:  # nearly all
        return span.start < pieces[0][1] and pieces[0][0] < span.end
    return any(start < right and left < end for start, end in span.intervals(length) for left, right in pieces)
