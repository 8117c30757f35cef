"""Selects the regions of a record that the model is trained on, and extracts their bases.

The scheme `gene`, in 0-based half-open coordinates of the record:
 1. A `gene` feature is a region: its outer span on its strand, introns included. If its segments are on both strands,
    or it has /trans_splicing, each segment is a region.
 2. On a circular record, a location across the origin is one region: on the plus strand, the end of the record and then
    its beginning.
 3. The kind is `pseudo` if the gene has /pseudo or /pseudogene. Otherwise it is the best of CDS > tRNA > rRNA > ncRNA
    and tmRNA > misc_RNA among the features with the gene's gene_id (without one, its /locus_tag; without that, its
    /gene) that overlap it on its strand. Without such a feature it is `other`.
 4. Such a feature that overlaps no gene on its strand is a region itself, `pseudo` if it has those qualifiers itself.
    So are regulatory features, on request.
 5. Regions on the minus strand are reverse-complemented.
 6. Regions with equal (accession, start, end, strand) count once. Everything that is dropped is counted.

`mrna` and `cds` take those features with their segments joined; features with equal segments count once. A feature with
a segment on another record cannot be joined and is dropped. `whole` takes the whole record in near-equal windows.
"""

import collections
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.regions.exclusion import Exclusion
from data_pipeline.regions.ledger import DUPLICATE, ELSEWHERE, MALFORMED, NO_SEQUENCE, Ledger
from data_pipeline.regions.schemes import GENE, KINDS, PRODUCTS, REGULATORY, WHOLE_LENGTH, Scheme
from data_pipeline.sequence import bases, locations, translation
from data_pipeline.sequence.locations import Interval
from data_pipeline.sequence.record import Feature, Record

FILTERED = "filtered out"
SHORT = "shorter than min_length"
UNKNOWN = "N runs cut out"
EXCLUDED = "in the excluded sequences, cut out"

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


class Region(NamedTuple):
    """A region of any scheme: its location on its record, its annotation, and the bases that `extract` adds.

    Before that it is called a span. `start` >= `end` if it crosses the origin of a circle; strand is +1 or -1.
    `segments` are the (start, end, strand) of a spliced region in 5' to 3' order, empty for a region of one interval.
    `reading_frame` is the number of bases before the first complete codon, -1 for non-coding regions (it does not give
    the length of a 3' flank). `translation` is one of translation.OUTCOMES, or empty. `codes` are its bases 5' to 3',
    uint8 [length] as in `bases`; `lower_case` is int64 [runs, 2], (start, end) in the region of soft-masked intervals.
    """

    start: int
    end: int
    strand: int
    kind: str
    segments: tuple[Interval, ...] = ()
    gene: str = ""
    locus_tag: str = ""
    product: str = ""
    reading_frame: int = -1
    genetic_code: int = 0  # NCBI's number; 0 for non-coding regions
    exceptions: str = ""  # the qualifiers of translation.EXCEPTIONS, as written
    translation: str = ""
    accession: str = ""  # this and the following ones are given by `extract`
    taxon: str | None = None
    codes: np.ndarray | None = None
    lower_case: np.ndarray = bases.NO_RUNS

    def intervals(self, record_length: int) -> list[tuple[int, int]]:
        """The (start, end) intervals that it covers: its segments, or one or two intervals along the forward strand."""
        if self.segments:
            return [(start, end) for start, end, _ in self.segments]
        if self.start < self.end:
            return [(self.start, self.end)]
        return [interval for interval in ((self.start, record_length), (0, self.end)) if interval[0] < interval[1]]

    def stranded_intervals(self, record_length: int) -> tuple[Interval, ...]:
        """The (start, end, strand) intervals that it covers, 5' to 3'."""
        if self.segments:
            return self.segments
        return tuple((start, end, self.strand) for start, end in self.intervals(record_length)[:: self.strand])

    def length(self, record_length: int) -> int:
        """The number of bases in the region."""
        if self.start < self.end and not self.segments:
            return self.end - self.start
        return sum(end - start for start, end in self.intervals(record_length))


def regions(record: Record, scheme: Scheme = GENE, ledger: Ledger | None = None) -> Iterator[Region]:
    """Yields the regions of a record by position, cut as the scheme requires; counts them in `ledger`."""
    ledger = Ledger() if ledger is None else ledger
    for span in find(record, scheme, ledger):
        yield from cut(extract(record, span), scheme, ledger)


def find(record: Record, scheme: Scheme, ledger: Ledger) -> list[Region]:
    """The spans of a record's regions, flanks included, sorted by start, end and strand.

    `ledger` counts every location considered as found, and each one dropped by its reason. A record without sequence
    has no regions; it is counted as skipped, with its declared length.
    """
    length = len(record.codes)
    for name, count in record.notes.items():
        ledger.note(name, count=count)
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


def extract(record: Record, span: Region, taxon: str | None = None) -> Region:
    """A region's bases and soft-masked intervals, 5' to 3', segments joined; `taxon` overrides the record's."""
    start, end, strand = span[:3]
    intervals = span.stranded_intervals(len(record.codes)) if span.segments or start >= end else ((start, end, strand),)
    lower, at = [], 0
    for start, end, strand in intervals if len(record.lower_case) else ():
        runs = locations.within(record.lower_case, start, end)
        lower.append(at + (runs if strand > 0 else end - start - runs[::-1, ::-1]))
        at += end - start
    return span._replace(
        accession=record.accession,
        taxon=taxon or record.taxon,
        codes=_joined(record, intervals),
        lower_case=locations.merged(np.concatenate(lower)) if lower else bases.NO_RUNS,
    )


def cut(region: Region, scheme: Scheme, ledger: Ledger, exclusion: Exclusion | None = None) -> Iterable[Region]:
    """The region itself, or its sub-regions if the scheme cuts it; `ledger` counts what is dropped.

    Runs of at least `cut_n` N are removed, and those that `exclusion` finds. What remains is cut into near-equal
    sub-regions of at most `max_length` bases that cover every base once. A sub-region shorter than `min_length` is
    dropped.
    """
    whole = scheme.cut_n is None and (scheme.max_length is None or len(region.codes) <= scheme.max_length)
    return (region,) if whole and exclusion is None else _cut(region, scheme, ledger, exclusion)


def _cut(region: Region, scheme: Scheme, ledger: Ledger, exclusion: Exclusion | None) -> Iterator[Region]:
    length = len(region.codes)
    removed = {}
    if scheme.cut_n is not None:
        unknown = bases.runs(region.codes == bases.N)
        removed[UNKNOWN] = unknown[unknown[:, 1] - unknown[:, 0] >= scheme.cut_n]
    if exclusion is not None:
        removed[EXCLUDED] = exclusion.runs(region.codes)  # without N, so that each base is counted once
    edges = np.sort(np.concatenate([[0], *(runs.ravel() for runs in removed.values()), [length]])).reshape(-1, 2)
    intervals = [(start, end) for start, end in edges.tolist() if start < end]
    gone = 0 if intervals else 1
    for reason, runs in removed.items():
        if len(runs):
            ledger.drop(reason, int((runs[:, 1] - runs[:, 0]).sum()), gone)
            gone = 0
    cuts = [cut for interval in intervals for cut in locations.near_equal(*interval, scheme.max_length)]
    if cuts == [(0, length)]:
        yield region
        return
    if cuts:
        ledger.split(len(cuts))
    for start, end in cuts:
        if end - start < scheme.min_length:
            ledger.drop(SHORT, end - start)
        else:
            yield _subregion(region, start, end)


def _subregion(region: Region, start: int, end: int) -> Region:
    """The sub-region [start, end) of a region, 5' to 3', with its own coordinates."""
    if region.segments:
        circle = max(segment[1] for segment in region.segments) if region.start >= region.end else None
    else:
        circle = region.start + len(region.codes) - region.end if region.start >= region.end else None
    segments, at = [], 0
    for segment_start, segment_end, strand in region.stranded_intervals(circle or 0):
        low, high = max(start - at, 0), min(end - at, segment_end - segment_start)
        if low < high:
            ends = (
                (segment_start + low, segment_start + high) if strand > 0 else (segment_end - high, segment_end - low)
            )
            segments.append((*ends, strand))
        at += segment_end - segment_start
    frame = region.reading_frame
    if frame >= 0:
        frame = frame - start if start < frame else (frame - start) % 3
        frame = frame if frame < end - start else -1  # no codon starts in it
    interval = locations.enclosing(segments, circle)
    return region._replace(
        start=interval[0],
        end=interval[1],
        strand=interval[2],
        segments=interval[3],
        codes=region.codes[start:end],
        lower_case=locations.within(region.lower_case, start, end),
        reading_frame=frame,
    )


def _windows(record: Record, scheme: Scheme, ledger: Ledger) -> Iterator[tuple[Region, None]]:
    for start, end in locations.near_equal(0, len(record.codes), scheme.max_length or WHOLE_LENGTH):
        yield Region(start, end, 1, "whole"), None


def _genes(record: Record, scheme: Scheme, ledger: Ledger) -> list[tuple[Region, None]]:
    """The regions of the scheme `gene`, without flanks, duplicates included."""
    length = len(record.codes)
    named = {key: collections.defaultdict(list) for key in ("gene_id", "locus_tag", "gene")}
    products, regulatory = [], []
    for feature in record.features:
        if feature.kind in PRODUCTS:
            kind, qualifiers, gene_id = PRODUCTS[feature.kind], feature.qualifiers, feature.gene_id
            product = _first(feature, "product")
            for interval in _outer_spans(feature, record, ledger):
                span = _named(interval, kind, feature, product)
                products.append(span._replace(kind="pseudo") if _is_pseudo(feature) else span)
                if gene_id is not None:
                    named["gene_id"][gene_id].append(span)
                for key in ("locus_tag", "gene"):
                    for value in qualifiers.get(key, ()):
                        named[key][value].append(span)
        elif scheme.regulatory and feature.kind in REGULATORY:
            for interval in _outer_spans(feature, record, ledger):
                product = _first(feature, "regulatory_class") or feature.kind
                regulatory.append(_named(interval, "regulatory", feature, product))
    found: list[Region] = []
    covered: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
    for feature in record.features:
        if feature.kind != "gene":
            continue
        children = _children(feature, named)
        for interval in _outer_spans(feature, record, ledger):
            start, end, strand = interval
            intervals = [(start, end)] if start < end else Region(*interval, "other").intervals(length)
            covered[strand] += intervals
            mine = [child for child in children if child.strand == strand and _overlap(child, intervals, length)]
            best = mine[0] if len(mine) == 1 else min(mine, key=lambda child: _RANK[child.kind], default=None)
            kind = "pseudo" if _is_pseudo(feature) else best.kind if best else "other"
            product = (best and best.product) or next((child.product for child in mine if child.product), "")
            found.append(_named(interval, kind, feature, product))
    unions = {strand: locations.union(intervals) for strand, intervals in covered.items()}
    for span in products:
        if not any(locations.touches(unions[span.strand], *interval) for interval in span.intervals(length)):
            found.append(span)  # otherwise the gene that it overlaps represents it
    return [(span, None) for span in itertools.chain(found, regulatory)]


def _children(gene: Feature, named: dict[str, dict[str, list[Region]]]) -> list[Region]:
    """The features that belong to a gene by its identifier, or without one by its name."""
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


def _named(interval: Interval, kind: str, feature: Feature, product: str) -> Region:
    """A span with the names of its feature."""
    get = feature.qualifiers.get
    return Region(*interval, kind, (), get("gene", _NONE)[0], get("locus_tag", _NONE)[0], product)


def _transcripts(record: Record, scheme: Scheme, ledger: Ledger) -> Iterator[tuple[Region, Feature]]:
    """Yields the regions of the schemes `mrna` and `cds`, without flanks, duplicates included."""
    wanted = "CDS" if scheme.name == "cds" else "mRNA"
    for feature in record.features:
        if feature.kind == wanted and (span := _spliced(feature, record, ledger)) is not None:
            yield span, feature


def _spliced(feature: Feature, record: Record, ledger: Ledger) -> Region | None:
    """A feature with its segments joined in order; None, and counted, if they cannot be joined."""
    length = len(record.codes)
    if any(segment.accession is not None for segment in feature.segments):
        _drop(ledger, ELSEWHERE, sum(max(0, segment.end - segment.start) for segment in feature.segments))
        return None
    own = [
        segment[:3] for segment in feature.segments if segment.start != segment.end
    ]  # a location between two bases is empty
    circle = length if record.circular else None
    ends = locations.ends_over_origin(own, circle)
    if not own or not locations.inside(own, length) or (ends and ends[0] < ends[1]):
        _drop(ledger, MALFORMED, locations.clipped(own, length))
        return None
    kind = "mRNA"
    if feature.kind == "CDS":
        kind = "pseudo" if _is_pseudo(feature) else "cds"
    *interval, segments = locations.enclosing(own, circle)
    span = _named(interval, kind, feature, _first(feature, "product"))._replace(segments=segments)
    return _coding(span, feature) if kind == "cds" else span


def _coding(span: Region, feature: Feature) -> Region:
    """The span with its reading frame (-1 if invalid), genetic code (0 if invalid) and exceptions."""
    codon_start, genetic_code = _first(feature, "codon_start") or "1", _first(feature, "transl_table") or "1"
    known = re.fullmatch("[0-9]{1,2}", genetic_code) and translation.known_code(int(genetic_code))
    exceptions = [
        f"/{key}={value}" if value else f"/{key}"
        for key in translation.EXCEPTIONS
        for value in feature.qualifiers.get(key, ())
    ]
    return span._replace(
        reading_frame=int(codon_start) - 1 if codon_start in ("1", "2", "3") else -1,
        genetic_code=int(genetic_code) if known else 0,
        exceptions="; ".join(exceptions),
    )


def _translation(record: Record, span: Region, feature: Feature, ledger: Ledger) -> str:
    """Compares a CDS without flanks with its annotation, and counts the outcome."""
    intervals = span.stranded_intervals(len(record.codes))
    codes = _joined(record, intervals)
    outcome = translation.check(codes, intervals, feature.qualifiers, span.reading_frame, span.genetic_code)
    ledger.note(f"translation: {outcome}", len(codes))
    return outcome


def _joined(record: Record, intervals: Iterable[Interval]) -> np.ndarray:
    """The bases of intervals, concatenated, each on its strand; a copy."""
    found = [
        record.codes[start:end].copy() if strand > 0 else bases.reverse_complement(record.codes[start:end])
        for start, end, strand in intervals
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)


def _flanked(span: Region, record: Record, flank: int) -> Region:
    """The span extended by up to `flank` bases at both ends: to the ends of a linear record, on a circle up to itself.

    The flanks of a spliced region extend its first and last segment, and stop at its other segments.
    """
    length = len(record.codes)
    segments = span.stranded_intervals(length)
    (first_start, first_end, first_strand), (last_start, last_end, last_strand) = segments[0], segments[-1]
    front = first_start if first_strand > 0 else first_end
    back = last_end if last_strand > 0 else last_start
    five = locations.room(front, -first_strand, segments, length, record.circular)
    three = locations.room(back, last_strand, segments, length, record.circular)
    if first_strand == last_strand and (front - first_strand * five - back) % length == 0:
        five, three = (five + 1) // 2, three // 2  # both flanks are in the same gap, as on a circle: they share it
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
    frame = span.reading_frame + five if span.reading_frame >= 0 else -1
    return span._replace(start=start, end=end, strand=strand, segments=segments, reading_frame=frame)


def _outer_spans(feature: Feature, record: Record, ledger: Ledger) -> list[Interval]:
    """(start, end, strand) of a feature: its outer span, or its segments if strands differ or it is trans-spliced."""
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
        _drop(ledger, MALFORMED, locations.clipped(own, length))
        return []
    strand = own[0].strand
    if any(segment.strand != strand for segment in own) or "trans_splicing" in feature.qualifiers:
        intervals = [segment[:3] for segment in own]
    else:
        ends = locations.ends_over_origin(own, length if record.circular else None)
        if ends and ends[0] < ends[1]:
            _drop(ledger, MALFORMED, length)  # it overlaps itself on the circle: more bases than the record has
            return []
        if ends:
            return [(*ends, strand)]
        intervals = [(min(segment.start for segment in own), max(segment.end for segment in own), strand)]
    whole = [interval for interval in intervals if interval[0] < interval[1]]
    for _ in range(len(intervals) - len(whole)):
        _drop(ledger, MALFORMED, 0)  # a location between two bases is empty
    return whole


def _drop(ledger: Ledger, reason: str, count: int) -> None:
    """Counts a location of `count` bases as found and dropped."""
    ledger.find(count)
    ledger.drop(reason, count)


def _is_pseudo(feature: Feature) -> bool:
    return "pseudo" in feature.qualifiers or "pseudogene" in feature.qualifiers


def _overlap(span: Region, intervals: list[tuple[int, int]], length: int) -> bool:
    if len(intervals) == 1 and span.start < span.end and not span.segments:  # true of nearly all
        return span.start < intervals[0][1] and intervals[0][0] < span.end
    return any(start < right and left < end for start, end in span.intervals(length) for left, right in intervals)
