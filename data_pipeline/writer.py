"""Writes a dataset: regions into records, shards, an index and dataset.json, in the format of `records`."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
from array import array
from pathlib import Path
from typing import Protocol

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline import bases
from data_pipeline.errors import DataError
from data_pipeline.genome import TAXA
from data_pipeline.records import (
    BASES,
    COLUMNS,
    FORMAT,
    HEADER,
    INDEX_COLUMNS,
    ITEM,
    MAGIC,
    NAME_COLUMNS,
    NO_RUNS,
    PAYLOAD_BYTES,
    READER_OPTIONS,
    UINT16,
    UINT32,
    VERSION,
    join_texts,
    pack,
)
from data_pipeline.regions import KINDS, Region
from data_pipeline.split import PARTS

SHARD_BYTES = 256 << 20
_NOT_READ = ("assembly", "frame", "genetic_code", "seen")  # columns that change nothing of what training reads


class Tokenizer(Protocol):
    """What the writer asks of a tokenizer; one with an attribute `k` drops up to k - 1 bases at a region's end."""

    name: str
    vocab_size: int
    digest: str

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Token ids, int32, of codes, uint8 [bases]."""
        ...


@dataclasses.dataclass(frozen=True)
class Packed:
    """A region as it is written: its index columns, its names, its payload (uint8) and its runs (int64 [runs, 2])."""

    columns: dict[str, int]  # of INDEX_COLUMNS, all but record, slot, accession and assembly
    accession: str
    assembly: str
    names: tuple[str, ...]  # NAME_COLUMNS
    payload: np.ndarray
    unknown: np.ndarray
    lower_case: np.ndarray


def payload_type(tokenizer: Tokenizer | None) -> int:
    """What the records of a tokenizer hold, BASES, UINT16 or UINT32."""
    if tokenizer is None:
        return BASES
    return UINT16 if tokenizer.vocab_size <= 1 << 16 else UINT32


def pack_region(region: Region, tokenizer: Tokenizer | None, assembly: str = "") -> Packed:
    """A region's bases at two bits each, or its token ids, with all that the index says of it."""
    length, units = len(region.codes), 0
    if tokenizer is None:
        payload = np.frombuffer(pack(region.codes), np.uint8)
        unknown = bases.runs(region.codes == bases.N) if bases.N in region.codes else NO_RUNS
        lower = region.lower_case
    else:
        ids = np.asarray(tokenizer.encode_bases(region.codes))
        units, unknown, lower = len(ids), NO_RUNS, NO_RUNS
        if units and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
            raise DataError(f"tokenizer {tokenizer.name}: an id outside 0..{tokenizer.vocab_size - 1}")
        payload = ids.astype(ITEM[payload_type(tokenizer)]).view(np.uint8)
    columns = {
        "length": length,
        "tokens": units,
        "start": region.start,
        "end": region.end,
        "strand": region.strand,
        "kind": KINDS.index(region.kind),
        "taxon": TAXA.index(region.taxon),
        "frame": region.frame,
        "genetic_code": region.genetic_code,
    }
    parts = ",".join(f"{start}-{end}{'+' if strand > 0 else '-'}" for start, end, strand in region.parts)
    names = (region.gene, region.locus_tag, region.product, parts, region.exceptions, region.translation)
    return Packed(columns, region.accession, assembly, names, payload, unknown, lower)


class DatasetWriter:
    """Writes the regions of all splits into a folder; `close` adds dataset.json. Equal input gives equal bytes.

    `tokenizer` None stores bases, otherwise its ids. `piece_length` (bases, by fours, or tokens) is by default what
    64 KiB hold.
    """

    def __init__(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | None = None,
        piece_length: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ):
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        self.payload_type = payload_type(tokenizer)
        per_record = 4 * PAYLOAD_BYTES if tokenizer is None else PAYLOAD_BYTES // ITEM[self.payload_type].itemsize
        self.piece_length = per_record if piece_length is None else piece_length
        if not 0 < self.piece_length < 1 << 30:
            raise DataError(f"piece_length {piece_length} is not between 1 and 2**30")
        if tokenizer is None and self.piece_length % 4:
            raise DataError(f"piece_length {piece_length} is not a multiple of 4: four bases share a byte")
        self.accessions: dict[str, int] = {}
        self.assemblies: dict[str, int] = {}
        self.splits = {part: _SplitWriter(self, part, shard_bytes) for part in PARTS}

    def add(self, part: str, region: Region) -> None:
        """Appends a region to the split `part`."""
        self.write(part, pack_region(region, self.tokenizer))

    def write(self, part: str, packed: Packed, seen: float = 0.0) -> None:
        """Appends a region that `pack_region` made with this writer's tokenizer; `seen` as in the index."""
        self.splits[part].write(packed, seen)

    def close(self, **info) -> dict:
        """Finishes the shards and writes dataset.json with the facts in `info`; returns what it holds."""
        splits = {part: split.close() for part, split in self.splits.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "records": "bases" if self.tokenizer is None else "tokens",
            "piece_length": self.piece_length,
            "tokenizer": None if self.tokenizer is None else _described(self.tokenizer),
            "kinds": list(KINDS),
            "taxa": list(TAXA),
            "accessions": list(self.accessions),
        }
        # Everything that decides what is read, and nothing else: no time, no path, no size of a shard.
        digested = {**content, "splits": {part: split["digest"] for part, split in splits.items()}}
        digest = hashlib.sha256(json.dumps(digested, sort_keys=True).encode()).hexdigest()
        content["assemblies"] = list(self.assemblies)
        dataset = {"digest": digest, **info, "created_by": _versions(), "splits": splits, **content}
        text = json.dumps(dataset, indent=1)
        (self.folder / "dataset.json").write_text(text + "\n")
        return json.loads(text)

    def abandon(self) -> None:
        """Closes the open shard files, whatever state they are in."""
        for split in self.splits.values():
            split.abandon()


class _SplitWriter:
    def __init__(self, dataset: DatasetWriter, part: str, shard_bytes: int):
        self.dataset, self.part, self.shard_bytes = dataset, part, shard_bytes
        self.columns = {
            name: array("f" if kind is np.float32 else {1: "b", 4: "i", 8: "q"}[np.dtype(kind).itemsize])
            for name, kind in INDEX_COLUMNS.items()
        }
        self.names: list[list[str]] = [[] for _ in NAME_COLUMNS]
        self.pieces, self.runs, self.payload, self.metadata = [], [], [], []  # of the record being filled
        self.payload_bytes = self.record_bytes = 0
        self.records = self.remainder = 0
        self.shards: list[dict] = []
        self.writer = None
        self.content = hashlib.sha256()

    def write(self, packed: Packed, seen: float) -> None:
        dataset, number = self.dataset, len(self.columns["length"])
        length, of_bases = packed.columns["length"], dataset.tokenizer is None
        units = length if of_bases else packed.columns["tokens"]
        if not of_bases:
            self.remainder += length % getattr(dataset.tokenizer, "k", 1)
        size = len(packed.payload)
        if self.pieces and (units > dataset.piece_length or self.record_bytes + size > PAYLOAD_BYTES):
            self._end_record()
        row = {
            **packed.columns,
            "record": self.records,
            "slot": len(self.pieces),
            "accession": dataset.accessions.setdefault(packed.accession, len(dataset.accessions)),
            "assembly": dataset.assemblies.setdefault(packed.assembly, len(dataset.assemblies)),
            "seen": seen,
        }
        for name, column in self.columns.items():
            column.append(row[name])
        for texts, text in zip(self.names, packed.names, strict=True):
            texts.append(text)
        described = (
            f"[{_quoted(packed.accession)},{row['start']},{row['end']},{row['strand']},"
            f'"{KINDS[row["kind"]]}","{TAXA[row["taxon"]]}"]'
        )
        whole = units <= dataset.piece_length
        for offset in range(0, max(units, 1), dataset.piece_length):
            if offset:
                self._end_record()
            stop = min(offset + dataset.piece_length, units)
            if whole:
                piece, unknown, lower = packed.payload, packed.unknown, packed.lower_case
            else:
                first, last = (offset // 4, -(-stop // 4)) if of_bases else (x * size // units for x in (offset, stop))
                piece = packed.payload[first:last]
                unknown, lower = (_between(runs, offset, stop) for runs in (packed.unknown, packed.lower_case))
            payload = piece.tobytes()
            self.pieces.append((number, offset, stop - offset, self.payload_bytes, len(unknown), len(lower)))
            self.runs += [runs for runs in (unknown, lower) if len(runs)]
            self.payload.append(payload)
            self.metadata.append(described)
            self.payload_bytes += len(payload)
            # Of short regions the tables are half the record, so they count towards its size too.
            self.record_bytes += len(payload) + 8 * (COLUMNS + len(unknown) + len(lower)) + len(described)

    def totals(self) -> tuple[int, int]:
        """The regions and bases written so far."""
        return len(self.columns["length"]), sum(self.columns["length"])

    def _end_record(self) -> None:
        runs = np.concatenate(self.runs) if self.runs else NO_RUNS
        runs = np.stack([runs[:, 0], runs[:, 1] - runs[:, 0]], 1).astype("<i4")
        columns = ["accession", "start", "end", "strand", "kind", "taxon"]
        metadata = f'{{"columns":{json.dumps(columns)},"rows":[{",".join(self.metadata)}]}}'.encode()
        header = HEADER.pack(
            MAGIC,
            VERSION,
            self.dataset.payload_type,
            len(self.pieces),
            len(runs),
            self.payload_bytes,
            len(metadata),
        )
        table = np.array(self.pieces, "<i8")
        self._write(b"".join([header, table.tobytes(), runs.tobytes(), *self.payload, metadata]))
        self.pieces, self.runs, self.payload, self.metadata = [], [], [], []
        self.payload_bytes = self.record_bytes = 0

    def _write(self, record: bytes) -> None:
        try:
            if self.writer is None:
                options = "group_size:1," + ("uncompressed" if self.dataset.tokenizer is None else "zstd:1")
                path = self.dataset.folder / f"{self.part}-{len(self.shards):05d}.array_record"
                self.shards.append({"file": path.name, "bytes": 0, "records": 0})
                self.writer, self.written = ArrayRecordWriter(str(path), options), 0
            self.writer.write(record)
        except RuntimeError as error:
            raise self._cannot_write(error) from None
        self.content.update(len(record).to_bytes(8, "little"))
        self.content.update(record)
        self.shards[-1]["records"] += 1
        self.records += 1
        self.written += len(record)
        if self.written >= self.shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        writer, self.writer, shard = self.writer, None, self.shards[-1]
        path = self.dataset.folder / shard["file"]
        try:
            writer.close()
            reader = ArrayRecordReader(str(path), READER_OPTIONS)  # writing can fail without a word
            whole = reader.ok() and reader.num_records() == shard["records"]
            reader.close()
        except RuntimeError as error:
            raise self._cannot_write(error) from None
        if not whole:
            raise self._cannot_write("the file does not read back")
        shard["bytes"] = path.stat().st_size

    def _cannot_write(self, cause: object) -> DataError:
        path = self.dataset.folder / self.shards[-1]["file"]
        return DataError(f"{path}: cannot be written ({' '.join(str(cause).split())[:200]}); is the disk full?")

    def close(self) -> dict:
        if self.pieces:
            self._end_record()
        if self.writer is not None:
            self._end_shard()
        for number, shard in enumerate(self.shards):
            path = self.dataset.folder / shard["file"]
            shard["file"] = f"{self.part}-{number:05d}-of-{len(self.shards):05d}.array_record"
            path.rename(path.with_name(shard["file"]))
        index = {name: np.array(self.columns[name], kind) for name, kind in INDEX_COLUMNS.items()}
        path = self.dataset.folder / f"{self.part}.index.npz"
        np.savez(path, **index)
        names = path.with_name(f"{self.part}.names.npz")
        tables = {}
        for name, texts in zip(NAME_COLUMNS, self.names, strict=True):
            tables[name], tables[f"{name}_ends"] = join_texts(texts)
        np.savez_compressed(names, **tables)
        for name, column in index.items():
            if name in _NOT_READ:
                continue
            self.content.update(name.encode() + column.astype(column.dtype.newbyteorder("<")).tobytes())
        return {
            "regions": len(index["length"]),
            "bases": int(index["length"].sum()),
            "tokens": int(index["tokens"].sum()),
            "remainder": self.remainder,
            "records": self.records,
            "kinds": _counts(index, "kind", KINDS),
            "taxa": _counts(index, "taxon", TAXA),
            "digest": self.content.hexdigest(),
            "index": {"file": path.name, "bytes": path.stat().st_size},
            "names": {"file": names.name, "bytes": names.stat().st_size},
            "shards": self.shards,
        }

    def abandon(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(RuntimeError):  # the file is being thrown away
                self.writer.close()
            self.writer = None


def _quoted(text: str) -> str:
    return json.dumps(text)


def _between(runs: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The runs inside [start, stop), counted from it."""
    if not len(runs):
        return runs
    found = np.clip(runs, start, stop) - start
    return found[found[:, 0] < found[:, 1]]


def _described(tokenizer: Tokenizer) -> dict:
    return {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "digest": tokenizer.digest}


def _counts(index: dict[str, np.ndarray], column: str, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    regions = np.bincount(index[column], minlength=len(names))
    lengths = [int(index["length"][index[column] == code].sum()) for code in range(len(names))]
    return {
        name: {"regions": int(count), "bases": length}
        for name, count, length in zip(names, regions, lengths, strict=True)
        if count
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("gener_jax", "numpy", "array_record", "gb-io"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
