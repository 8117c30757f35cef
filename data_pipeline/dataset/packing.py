"""Packs many regions for storage: two bits per base, or token ids, with all columns of the index.

A table is a dictionary of columns. A column of numbers is int64 [regions]. A column of texts, runs or other values of
unequal number has them end to end, and beside it `NAME_size`, int64 [regions], the number of values of each region:

    length, tokens, start, end, strand, kind, taxon, reading_frame, genetic_code      numbers, as in INDEX_COLUMNS
    gc, unknown_bases, soft_masked                                                    numbers, as in COMPOSITION
    gene, locus_tag, product, segments, exceptions, translation                       texts in UTF-8, uint8 [bytes]
    unknown, lower_case     runs of N and of lower case in the region, (start, end), int64 [runs, 2]
    payload                 the bases, four per byte, or the token ids, uint8 [bytes]; each region starts at a byte
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.dataset.reader import BASES, COMPOSITION, INDEX_COLUMNS, ITEM, NAME_COLUMNS, UINT16, UINT32, pack
from data_pipeline.errors import DataError
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA
from data_pipeline.sequence.tokenizer import Tokenizer

Table = dict[str, np.ndarray]
_TAXON = {taxon: code for code, taxon in enumerate((*TAXA, None))}
_GC_BITS = 0b10101010  # the high bit of each of four codes: that of C and G


@dataclasses.dataclass(frozen=True)
class Packed:
    """A table of regions of one assembly; its column `record`, int64 [regions], are indices into `accessions`."""

    table: Table
    accessions: list[str]
    assembly: str


def payload_type(tokenizer: Tokenizer | None) -> int:
    """The payload type of a tokenizer's entries: BASES, UINT16 or UINT32."""
    if tokenizer is None:
        return BASES
    return UINT16 if tokenizer.vocab_size <= 1 << 16 else UINT32


def pack_regions(regions: Sequence[Region]) -> Table:
    """The table of some regions, with their bases as payload."""
    lengths = np.array([len(region.codes) for region in regions], np.int64)
    sizes = -(-lengths // 4)
    starts = 4 * starts_of(sizes)
    codes = np.zeros(starts[-1], np.uint8)
    for at, region in zip(starts.tolist(), regions, strict=False):
        codes[at : at + len(region.codes)] = region.codes
    holding_n = set((np.searchsorted(starts, np.flatnonzero(codes == bases.N), "right") - 1).tolist())
    unknown = [
        bases.runs(region.codes == bases.N) if i in holding_n else bases.NO_RUNS for i, region in enumerate(regions)
    ]
    table = {"length": lengths, "tokens": np.zeros_like(lengths)}
    encoded = {"kind": KINDS.index, "taxon": _TAXON.__getitem__}
    for name in INDEX_COLUMNS:
        if name in Region._fields and name != "accession":
            encode = encoded.get(name, int)
            table[name] = np.array([encode(getattr(region, name)) for region in regions], np.int64)
    for name in NAME_COLUMNS:
        written = _segments if name == "segments" else str
        texts = [written(getattr(region, name)).encode() for region in regions]
        table[name] = np.frombuffer(b"".join(texts), np.uint8)
        table[f"{name}_size"] = np.array([len(text) for text in texts], np.int64)
    for name, runs in (("unknown", unknown), ("lower_case", [region.lower_case for region in regions])):
        table[name] = np.concatenate([bases.NO_RUNS, *runs])
        table[f"{name}_size"] = np.array([len(some) for some in runs], np.int64)
    payload = np.frombuffer(pack(codes), np.uint8)
    of_runs = [_sums(np.diff(table[name])[:, 0], table[f"{name}_size"]) for name in ("unknown", "lower_case")]
    table |= dict(zip(COMPOSITION, (_sums(np.bitwise_count(payload & _GC_BITS), sizes), *of_runs), strict=True))
    return table | {"payload": payload, "payload_size": sizes}


def with_tokens(table: Table, regions: Sequence[Region], tokenizer: Tokenizer) -> Table:
    """The same table with token ids as payload."""
    found = [np.asarray(tokenizer.encode_bases(region.codes)) for region in regions]
    ids = np.concatenate([np.zeros(0, np.int32), *found])
    if len(ids) and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        wrong = ids[(ids < 0) | (ids >= tokenizer.vocab_size)][0]
        raise DataError(
            f"of tokenizer {tokenizer.name} is outside 0..{tokenizer.vocab_size - 1}",
            field="token id",
            value=int(wrong),
        )  # fmt: skip
    tokens = np.array([len(some) for some in found], np.int64)
    item = ITEM[payload_type(tokenizer)]
    payload = {"payload": ids.astype(item).view(np.uint8), "payload_size": tokens * item.itemsize}
    return table | {"tokens": tokens} | payload


def _segments(segments: Sequence[tuple[int, int, int]]) -> str:
    return ",".join(f"{start}-{end}{'+' if strand > 0 else '-'}" for start, end, strand in segments)


def _sums(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The sum of each region's values, which are end to end, int64 [regions]."""
    sums, some = np.zeros(len(sizes), np.int64), np.flatnonzero(sizes)
    sums[some] = np.add.reduceat(values, starts_of(sizes)[some], dtype=np.int64)
    return sums


def starts_of(sizes: np.ndarray) -> np.ndarray:
    """The start offsets of concatenated items of these sizes, and the end of the last one, int64 [items + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def slices_of(table: Table, name: str, chosen: np.ndarray) -> Iterator[slice]:
    """Yields where the values of each region `chosen`, int64 [n], are in a column with sizes."""
    starts = starts_of(table[f"{name}_size"])
    return map(slice, starts[chosen].tolist(), starts[chosen + 1].tolist())
