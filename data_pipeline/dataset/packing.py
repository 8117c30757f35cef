"""Packs many regions for storage: two bits per base, or token ids, with all columns of the index."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipeline.dataset.reader import BASES, ITEM, NAME_COLUMNS, UINT16, UINT32, join_texts, pack
from data_pipeline.errors import DataError
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA

COLUMNS = ("length", "tokens", "start", "end", "strand", "kind", "taxon", "reading_frame", "genetic_code")


class Tokenizer(Protocol):
    """The interface that packing needs; a tokenizer with an attribute `k` drops up to k - 1 bases at a region's end."""

    name: str
    vocab_size: int
    digest: str

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Encodes codes, uint8 [bases], as token ids, int32."""
        ...


@dataclasses.dataclass(frozen=True)
class Packed:
    """Regions of one assembly in their stored form.

    `columns` are int64 [regions], COLUMNS; `accession` int64 [regions] are indices into `accessions`; `texts` has for
    each of NAME_COLUMNS the texts end to end and their ends, as `join_texts` gives them. Region i has the payload bytes
    from `payload_starts[i]` to `payload_starts[i + 1]`, and of `runs`, int64 [runs, 2], those from `run_starts[i]` on:
    first its `unknown[i]` runs of N, then those of lower case.
    """

    columns: dict[str, np.ndarray]
    accession: np.ndarray
    accessions: list[str]
    assembly: str
    texts: dict[str, tuple[np.ndarray, np.ndarray]]
    payload: np.ndarray
    payload_starts: np.ndarray
    runs: np.ndarray
    run_starts: np.ndarray
    unknown: np.ndarray


def payload_type(tokenizer: Tokenizer | None) -> int:
    """The payload type of a tokenizer's entries: BASES, UINT16 or UINT32."""
    if tokenizer is None:
        return BASES
    return UINT16 if tokenizer.vocab_size <= 1 << 16 else UINT32


def pack_regions(regions: Sequence[Region]) -> Packed:
    """Packs the regions of one record at two bits per base; each region starts at a byte."""
    lengths = np.array([len(region.codes) for region in regions], np.int64)
    starts = starts_of(-(-lengths // 4))
    codes = np.zeros(4 * int(starts[-1]), np.uint8)
    for at, region in zip((4 * starts).tolist(), regions, strict=False):
        codes[at : at + len(region.codes)] = region.codes
    holding_n = set(np.searchsorted(4 * starts, np.flatnonzero(codes == bases.N), "right").tolist())
    runs, sizes = [bases.NO_RUNS], []
    for number, region in enumerate(regions, 1):
        unknown = bases.runs(region.codes == bases.N) if number in holding_n else bases.NO_RUNS
        runs += [some for some in (unknown, region.lower_case) if len(some)]
        sizes.append((len(unknown), len(region.lower_case)))
    unknown, lower = np.array(sizes, np.int64).reshape(-1, 2).T
    columns = {
        "length": lengths,
        "tokens": np.zeros_like(lengths),
        "kind": np.array([KINDS.index(region.kind) for region in regions], np.int64),
        "taxon": np.array([TAXA.index(region.taxon) for region in regions], np.int64),
    }
    for name in COLUMNS:
        if name not in columns:
            columns[name] = np.array([getattr(region, name) for region in regions], np.int64)
    texts = {
        name: join_texts([getattr(region, name) for region in regions]) for name in NAME_COLUMNS if name != "segments"
    }
    texts["segments"] = join_texts([_segments(region) for region in regions])
    return Packed(
        columns=columns,
        accession=np.zeros(len(regions), np.int64),
        accessions=[regions[0].accession],
        assembly="",
        texts=texts,
        payload=np.frombuffer(pack(codes), np.uint8),
        payload_starts=starts,
        runs=np.concatenate(runs),
        run_starts=starts_of(unknown + lower),
        unknown=unknown,
    )


def with_tokens(packed: Packed, regions: Sequence[Region], tokenizer: Tokenizer) -> Packed:
    """The same regions with token ids as payload and without runs: ids preserve N but not case."""
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
    return dataclasses.replace(
        packed,
        columns=packed.columns | {"tokens": tokens},
        payload=ids.astype(item).view(np.uint8),
        payload_starts=starts_of(tokens * item.itemsize),
        runs=bases.NO_RUNS,
        run_starts=np.zeros(len(found) + 1, np.int64),
        unknown=np.zeros(len(found), np.int64),
    )


def _segments(region: Region) -> str:
    return ",".join(f"{start}-{end}{'+' if strand > 0 else '-'}" for start, end, strand in region.segments)


def starts_of(sizes: np.ndarray) -> np.ndarray:
    """The start offsets of concatenated items of these sizes, and the end of the last one, int64 [items + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
