"""Writes a dataset in the format that `reader` describes: shards of entries, an index and dataset.json."""

import contextlib
import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.dataset.packing import Packed, Table, payload_type, slices_of
from data_pipeline.dataset.reader import (
    BASES,
    COLUMNS,
    COMPOSITION,
    FORMAT,
    HEADER,
    INDEX_COLUMNS,
    ITEM,
    MAGIC,
    NAME_COLUMNS,
    PAYLOAD_BYTES,
    READER_OPTIONS,
    VERSION,
    payload_bytes,
)
from data_pipeline.errors import FileError, one_line
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA, UNKNOWN
from data_pipeline.sequence.tokenizer import Tokenizer
from data_pipeline.splitting.split import SPLITS

SHARD_BYTES = 256 << 20
_NOT_READ = {"assembly", "reading_frame", "genetic_code", "train_overlap"}  # do not affect what training reads
_RUNS = ("unknown", "lower_case")


class DatasetWriter:
    """Writes the regions of all splits into a folder; `close` adds dataset.json. Equal input gives equal bytes.

    With `tokenizer` None it stores bases, otherwise token ids. `chunk_length` is in bases (a multiple of 4: four share
    a byte) or tokens; the default fills 64 KiB.
    """

    def __init__(
        self,
        folder: str | Path,
        tokenizer: Tokenizer | None = None,
        chunk_length: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ):
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        self.payload_type = payload_type(tokenizer)
        per_entry = 4 * PAYLOAD_BYTES if tokenizer is None else PAYLOAD_BYTES // ITEM[self.payload_type].itemsize
        self.chunk_length = per_entry if chunk_length is None else chunk_length
        self.accessions: dict[str, int] = {}
        self.assemblies: dict[str, int] = {}
        self.splits = {name: SplitWriter(self, name, shard_bytes) for name in SPLITS}

    def close(self, **info) -> dict:
        """Finishes the shards and writes dataset.json with the facts in `info`; returns its content."""
        splits = {name: writer.close() for name, writer in self.splits.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "storage": "bases" if self.tokenizer is None else "token_ids",
            "chunk_length": self.chunk_length,
            "tokenizer": self.tokenizer
            and {name: getattr(self.tokenizer, name) for name in ("name", "vocab_size", "digest")},
            "kinds": list(KINDS),
            "taxa": [*TAXA, UNKNOWN] if any(UNKNOWN in facts["taxa"] for facts in splits.values()) else list(TAXA),
            "accessions": list(self.accessions),
        }
        # Everything that determines what training reads, and nothing else: no time, path or shard size.
        digested = {**content, "splits": {name: facts["digest"] for name, facts in splits.items()}}
        digest = hashlib.sha256(json.dumps(digested, sort_keys=True).encode()).hexdigest()
        content["assemblies"] = list(self.assemblies)
        dataset = {"digest": digest, **info, "created_by": _versions(), "splits": splits, **content}
        text = json.dumps(dataset, indent=1)
        (self.folder / "dataset.json").write_text(text + "\n")
        return json.loads(text)

    def release(self) -> None:
        """Closes the open files, also after an error."""
        for writer in self.splits.values():
            writer.release()


class SplitWriter:
    """Writes the regions of one split."""

    def __init__(self, dataset: DatasetWriter, name: str, shard_bytes: int):
        self.dataset, self.name, self.shard_bytes = dataset, name, shard_bytes
        others = dict.fromkeys((*COMPOSITION, *(f"{name}_size" for name in NAME_COLUMNS)), np.int64)
        self.columns = {name: [np.zeros(0, kind)] for name, kind in (INDEX_COLUMNS | others).items()}
        # Texts are buffered in files: those of millions of regions would exhaust memory.
        self.texts = {name: tempfile.TemporaryFile(dir=dataset.folder) for name in NAME_COLUMNS}  # noqa: SIM115
        self.chunks, self.runs, self.payload = [], [], []  # of the entry being filled
        self.payload_bytes = self.entry_bytes = 0
        self.regions = self.entries = self.remainder = 0
        self.shards: list[dict] = []
        self.writer = None
        self.content = hashlib.sha256()

    def write(self, packed: Packed, chosen: np.ndarray, train_overlap: np.ndarray) -> None:
        """Appends the regions `chosen`, int64 [n], ascending, of `packed`; `train_overlap` is float32 [n]."""
        dataset, table = self.dataset, packed.table
        columns = {name: table[name][chosen] for name in self.columns if name in table}
        if dataset.tokenizer is not None:
            self.remainder += int((columns["length"] % getattr(dataset.tokenizer, "k", 1)).sum())
        names, known = packed.accessions, dataset.accessions
        columns["accession"] = np.array(
            [known.setdefault(names[record], len(known)) for record in table["record"][chosen].tolist()], np.int64
        )
        assembly = dataset.assemblies.setdefault(packed.assembly, len(dataset.assemblies))
        columns["assembly"] = np.full(len(chosen), assembly)
        columns["train_overlap"] = train_overlap
        columns["entry"], columns["slot"] = self._fill(packed.table, chosen)
        for name, parts in self.columns.items():
            parts.append(columns[name].astype(parts[0].dtype))
        mask = np.isin(np.arange(len(table["length"])), chosen)
        for name, file in self.texts.items():
            file.write(table[name][np.repeat(mask, table[f"{name}_size"])])
        self.regions += len(chosen)

    def _fill(self, table: Table, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts regions into entries; returns the entry and the slot of each, int64 [regions]."""
        kind, chunk_length = self.dataset.payload_type, self.dataset.chunk_length
        whole = memoryview(table["payload"])  # slicing it costs a third of slicing an array
        entries, slots = [], []
        rows = zip(
            table["length" if kind == BASES else "tokens"][chosen].tolist(),
            *(slices_of(table, name, chosen) for name in ("payload", *_RUNS)),
            strict=True,
        )
        unknown, lower_case = (table[name] if kind == BASES else bases.NO_RUNS for name in _RUNS)
        for number, (units, place, unknown_place, lower_place) in enumerate(rows, self.regions):
            payload = whole[place]
            if self.chunks and (units > chunk_length or self.entry_bytes + len(payload) > PAYLOAD_BYTES):
                self._end_entry()
            entries.append(self.entries)
            slots.append(len(self.chunks))
            for offset in range(0, max(units, 1), chunk_length):
                if offset:
                    self._end_entry()
                stop = min(offset + chunk_length, units)
                part = payload[payload_bytes(kind, offset) : payload_bytes(kind, stop)]
                runs = [
                    _between(unknown[unknown_place], offset, stop),
                    _between(lower_case[lower_place], offset, stop),
                ]
                self.chunks.append((number, offset, stop - offset, self.payload_bytes, len(runs[0]), len(runs[1])))
                self.runs += runs
                self.payload.append(part)
                self.payload_bytes += len(part)
                # For short regions the tables are half of the entry, so they count towards its size.
                self.entry_bytes += len(part) + 8 * (COLUMNS + len(runs[0]) + len(runs[1]))
        return np.array(entries, np.int64), np.array(slots, np.int64)

    def _end_entry(self) -> None:
        runs = np.concatenate([bases.NO_RUNS, *self.runs])
        runs = np.stack([runs[:, 0], runs[:, 1] - runs[:, 0]], 1).astype("<i4")
        header = HEADER.pack(MAGIC, VERSION, self.dataset.payload_type, len(self.chunks), len(runs), self.payload_bytes)
        self._write(b"".join([header, np.array(self.chunks, "<i8").tobytes(), runs.tobytes(), *self.payload]))
        self.chunks, self.runs, self.payload = [], [], []
        self.payload_bytes = self.entry_bytes = 0

    def _write(self, entry: bytes) -> None:
        try:
            if self.writer is None:
                options = "group_size:1," + ("uncompressed" if self.dataset.tokenizer is None else "zstd:1")
                path = self.dataset.folder / f"{self.name}-{len(self.shards):05d}.array_record"
                self.shards.append({"file": path.name, "bytes": 0, "entries": 0})
                self.writer, self.written = ArrayRecordWriter(str(path), options), 0
            self.writer.write(entry)
        except RuntimeError as error:
            raise self._cannot_write(error) from None
        self.content.update(len(entry).to_bytes(8, "little"))
        self.content.update(entry)
        self.shards[-1]["entries"] += 1
        self.entries += 1
        self.written += len(entry)
        if self.written >= self.shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        writer, self.writer, shard = self.writer, None, self.shards[-1]
        path = self.dataset.folder / shard["file"]
        try:
            writer.close()
            reader = ArrayRecordReader(str(path), READER_OPTIONS)  # writing can fail without an error
            whole = reader.ok() and reader.num_records() == shard["entries"]
            reader.close()
        except RuntimeError as error:
            raise self._cannot_write(error) from None
        if not whole:
            raise self._cannot_write("the file cannot be read back")
        shard["bytes"] = path.stat().st_size

    def _cannot_write(self, cause: object) -> FileError:
        path = self.dataset.folder / self.shards[-1]["file"]
        return FileError(f"cannot be written ({one_line(cause)})", file=path, remedy="check that the disk is not full")

    def close(self) -> dict:
        """Finishes the shards and writes the index; returns the split's facts for dataset.json."""
        if self.chunks:
            self._end_entry()
        if self.writer is not None:
            self._end_shard()
        for number, shard in enumerate(self.shards):
            path = self.dataset.folder / shard["file"]
            shard["file"] = f"{self.name}-{number:05d}-of-{len(self.shards):05d}.array_record"
            path.rename(path.with_name(shard["file"]))
        index = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        path = self.dataset.folder / f"{self.name}.index.npz"
        for name, file in self.texts.items():
            file.flush()
            index[name] = np.memmap(file, np.uint8, "r") if file.tell() else np.zeros(0, np.uint8)
            index[f"{name}_ends"] = np.cumsum(index.pop(f"{name}_size"))
        np.savez(path, **index)
        self.release()
        for name in INDEX_COLUMNS:
            if name not in _NOT_READ:
                column = index[name].astype(index[name].dtype.newbyteorder("<"))
                self.content.update(name.encode() + column.tobytes())
        return {
            "regions": len(index["length"]),
            "bases": int(index["length"].sum()),
            "tokens": int(index["tokens"].sum()),
            "remainder": self.remainder,
            "entries": self.entries,
            "kinds": _counts(index, "kind", KINDS),
            "taxa": _counts(index, "taxon", (*TAXA, UNKNOWN)),
            "digest": self.content.hexdigest(),
            "index": {"file": path.name, "bytes": path.stat().st_size},
            "shards": self.shards,
        }

    def release(self) -> None:
        """Closes the open files; a shard that is not finished stays unfinished."""
        for file in self.texts.values():
            file.close()
        if self.writer is not None:
            with contextlib.suppress(RuntimeError):  # the file will be deleted
                self.writer.close()
            self.writer = None


def _between(runs: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The runs inside [start, stop), relative to its start."""
    if not len(runs):
        return runs
    found = np.clip(runs, start, stop) - start
    return found[found[:, 0] < found[:, 1]]


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
    for package in ("gener_jax", "numpy", "array_record"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
