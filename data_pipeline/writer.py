"""Writes a dataset: regions into records, shards, an index and dataset.json, in the format of `records`."""

import contextlib
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
    NO_RUNS,
    PAYLOAD_BYTES,
    READER_OPTIONS,
    UINT16,
    UINT32,
    VERSION,
    pack,
)
from data_pipeline.regions import KINDS, Region
from data_pipeline.split import PARTS

SHARD_BYTES = 256 << 20


class Tokenizer(Protocol):
    """What the writer asks of a tokenizer; one with an attribute `k` drops up to k - 1 bases at a region's end."""

    name: str
    vocab_size: int
    digest: str

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Token ids, int32, of codes, uint8 [bases]."""
        ...


class DatasetWriter:
    """Writes the regions of all splits into a folder; `close` adds dataset.json. Equal input gives equal bytes.

    `tokenizer` None stores bases, otherwise its ids. `piece_length` (bases or tokens) is by default what 64 KiB hold.
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
        if tokenizer is None:
            self.payload_type, per_record = BASES, 4 * PAYLOAD_BYTES
        else:
            self.payload_type = UINT16 if tokenizer.vocab_size <= 1 << 16 else UINT32
            per_record = PAYLOAD_BYTES // ITEM[self.payload_type].itemsize
        self.piece_length = per_record if piece_length is None else piece_length
        if not 0 < self.piece_length < 1 << 30:
            raise DataError(f"piece_length {piece_length} is not between 1 and 2**30")
        self.accessions: dict[str, int] = {}
        self.splits = {part: _SplitWriter(self, part, shard_bytes) for part in PARTS}

    def add(self, part: str, region: Region) -> None:
        """Appends a region to the split `part`."""
        self.splits[part].add(region)

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
        dataset = {"digest": digest, **info, "created_by": _versions(), "splits": splits, **content}
        text = json.dumps(dataset, indent=1)
        (self.folder / "dataset.json").write_text(text + "\n")
        return dataset

    def abandon(self) -> None:
        """Closes the open shard files, whatever state they are in."""
        for split in self.splits.values():
            split.abandon()


class _SplitWriter:
    def __init__(self, dataset: DatasetWriter, part: str, shard_bytes: int):
        self.dataset, self.part, self.shard_bytes = dataset, part, shard_bytes
        self.columns = {
            name: array({1: "b", 4: "i", 8: "q"}[np.dtype(kind).itemsize]) for name, kind in INDEX_COLUMNS.items()
        }
        self.pieces, self.runs, self.payload, self.metadata = [], [], [], []  # of the record being filled
        self.payload_bytes = self.record_bytes = 0
        self.records = self.remainder = 0
        self.shards: list[dict] = []
        self.writer = None
        self.content = hashlib.sha256()

    def add(self, region: Region) -> None:
        dataset, number = self.dataset, len(self.columns["length"])
        length = len(region.codes)
        if dataset.tokenizer is None:
            items, units = region.codes, length
        else:
            items = np.asarray(dataset.tokenizer.encode_bases(region.codes))
            units = len(items)
            self.remainder += length % getattr(dataset.tokenizer, "k", 1)
        size = -(-units // 4) if dataset.tokenizer is None else units * ITEM[dataset.payload_type].itemsize
        if self.pieces and (units > dataset.piece_length or self.record_bytes + size > PAYLOAD_BYTES):
            self._end_record()
        row = {
            "length": length,
            "tokens": 0 if dataset.tokenizer is None else units,
            "record": self.records,
            "slot": len(self.pieces),
            "start": region.start,
            "end": region.end,
            "strand": region.strand,
            "kind": KINDS.index(region.kind),
            "taxon": TAXA.index(region.taxon),
            "accession": dataset.accessions.setdefault(region.accession, len(dataset.accessions)),
        }
        for name, value in row.items():
            self.columns[name].append(value)
        described = json.dumps(
            [region.accession, region.start, region.end, region.strand, region.kind, region.taxon],
            separators=(",", ":"),
        )
        for offset in range(0, max(units, 1), dataset.piece_length):
            if offset:
                self._end_record()
            piece = items[offset : offset + dataset.piece_length]
            if dataset.tokenizer is None:
                unknown = bases.runs(piece == bases.N) if bases.N in piece else NO_RUNS
                lower = region.lower_case
                if len(lower):
                    lower = np.clip(lower, offset, offset + len(piece)) - offset
                    lower = lower[lower[:, 0] < lower[:, 1]]
                payload = pack(piece)
            else:
                unknown = lower = NO_RUNS
                if len(piece) and not 0 <= piece.min() <= piece.max() < dataset.tokenizer.vocab_size:
                    raise DataError(f"tokenizer {dataset.tokenizer.name}: an id outside 0..{self._last_id()}")
                payload = piece.astype(ITEM[dataset.payload_type]).tobytes()
            self.pieces.append((number, offset, len(piece), self.payload_bytes, len(unknown), len(lower)))
            self.runs += [unknown, lower]
            self.payload.append(payload)
            self.metadata.append(described)
            self.payload_bytes += len(payload)
            # Of short regions the tables are half the record, so they count towards its size too.
            self.record_bytes += len(payload) + 8 * (COLUMNS + len(unknown) + len(lower)) + len(described)

    def _last_id(self) -> int:
        return self.dataset.tokenizer.vocab_size - 1

    def _end_record(self) -> None:
        runs = np.concatenate(self.runs)
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
        for name, column in index.items():
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
            "shards": self.shards,
        }

    def abandon(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(RuntimeError):  # the file is being thrown away
                self.writer.close()
            self.writer = None


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
