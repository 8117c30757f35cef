"""Writes a dataset in the format that `reader` describes: shards of entries, an index and dataset.json."""

import contextlib
import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.dataset.packing import Packed, Tokenizer, pack_regions, payload_type, with_tokens
from data_pipeline.dataset.reader import (
    COLUMNS,
    FORMAT,
    HEADER,
    INDEX_COLUMNS,
    ITEM,
    MAGIC,
    NAME_COLUMNS,
    PAYLOAD_BYTES,
    READER_OPTIONS,
    VERSION,
)
from data_pipeline.errors import ArgumentError, FileError, one_line
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA
from data_pipeline.splitting.split import SPLITS

SHARD_BYTES = 256 << 20
_NOT_READ = (
    "assembly",
    "reading_frame",
    "genetic_code",
    "train_overlap",
)  # columns that do not affect what training reads


class DatasetWriter:
    """Writes the regions of all splits into a folder; `close` adds dataset.json. Equal input gives equal bytes.

    With `tokenizer` None it stores bases, otherwise token ids. `chunk_length` is in bases (a multiple of 4) or tokens;
    the default fills 64 KiB.
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
        if not 0 < self.chunk_length < 1 << 30:
            raise ArgumentError("must be at least 1 and below 2**30", field="chunk_length", value=chunk_length)
        if tokenizer is None and self.chunk_length % 4:
            raise ArgumentError(
                "must be a multiple of 4: four bases share a byte", field="chunk_length", value=chunk_length
            )
        self.accessions: dict[str, int] = {}
        self.assemblies: dict[str, int] = {}
        self.splits = {name: _SplitWriter(self, name, shard_bytes) for name in SPLITS}

    def add(self, split: str, region: Region) -> None:
        """Appends a region to a split."""
        packed = pack_regions([region])
        if self.tokenizer is not None:
            packed = with_tokens(packed, [region], self.tokenizer)
        self.write(split, packed, np.zeros(1, np.int64), np.zeros(1, np.float32))

    def write(self, split: str, packed: Packed, chosen: np.ndarray, train_overlap: np.ndarray) -> None:
        """Appends the regions `chosen`, int64 [n], of `packed` to a split; `train_overlap` is float32 [n]."""
        self.splits[split].write(packed, chosen, train_overlap)

    def close(self, **info) -> dict:
        """Finishes the shards and writes dataset.json with the facts in `info`; returns its content."""
        splits = {name: writer.close() for name, writer in self.splits.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "storage": "bases" if self.tokenizer is None else "token_ids",
            "chunk_length": self.chunk_length,
            "tokenizer": None if self.tokenizer is None else _described(self.tokenizer),
            "kinds": list(KINDS),
            "taxa": list(TAXA),
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

    def abandon(self) -> None:
        """Closes the open shard files without finishing them."""
        for writer in self.splits.values():
            writer.abandon()


class _SplitWriter:
    def __init__(self, dataset: DatasetWriter, name: str, shard_bytes: int):
        self.dataset, self.name, self.shard_bytes = dataset, name, shard_bytes
        self.columns: dict[str, list[np.ndarray]] = {name: [] for name in INDEX_COLUMNS}
        # Texts are buffered in files: those of millions of regions would exhaust memory.
        self.texts = {
            name: (tempfile.TemporaryFile(dir=dataset.folder), [])  # noqa: SIM115 (closed with the writer)
            for name in NAME_COLUMNS
        }
        self.regions = self.bases = 0
        self.chunks, self.runs, self.payload, self.metadata = [], [], [], []  # of the entry being filled
        self.payload_bytes = self.entry_bytes = 0
        self.entries = self.remainder = 0
        self.shards: list[dict] = []
        self.writer = None
        self.content = hashlib.sha256()

    def write(self, packed: Packed, chosen: np.ndarray, train_overlap: np.ndarray) -> None:
        dataset, of_bases = self.dataset, self.dataset.tokenizer is None
        columns = {name: column[chosen] for name, column in packed.columns.items()}
        if not of_bases:
            self.remainder += int((columns["length"] % getattr(dataset.tokenizer, "k", 1)).sum())
        accession = packed.accession[chosen]
        used, first = np.unique(accession, return_index=True)
        known = np.zeros(len(packed.accessions), np.int64)
        for number in used[np.argsort(first)].tolist():
            known[number] = dataset.accessions.setdefault(packed.accessions[number], len(dataset.accessions))
        assembly = dataset.assemblies.setdefault(packed.assembly, len(dataset.assemblies))
        columns |= {
            "accession": known[accession],
            "assembly": np.full(len(chosen), assembly),
            "train_overlap": train_overlap,
        }
        columns["entry"], columns["slot"] = self._fill(packed, chosen, columns)
        for name, kind in INDEX_COLUMNS.items():
            self.columns[name].append(columns[name].astype(kind))
        for name, (texts, ends) in packed.texts.items():
            file, sizes = self.texts[name]
            starts = np.concatenate([[0], ends])
            mask = np.zeros(len(ends), bool)
            mask[chosen] = True
            lengths = np.diff(starts)
            file.write(texts[np.repeat(mask, lengths)].tobytes())
            sizes.append(lengths[mask])
        self.regions += len(chosen)
        self.bases += int(columns["length"].sum())

    def _fill(self, packed: Packed, chosen: np.ndarray, columns: dict[str, np.ndarray]) -> tuple:
        """Puts regions into entries; returns the entry and the slot of each, int64 [regions]."""
        of_bases, chunk_length = self.dataset.tokenizer is None, self.dataset.chunk_length
        firsts, lasts = (packed.payload_starts[chosen + i].tolist() for i in (0, 1))
        run_firsts, run_lasts = (packed.run_starts[chosen + i].tolist() for i in (0, 1))
        unknowns = packed.unknown[chosen].tolist()
        rows = zip(
            firsts, lasts, run_firsts, run_lasts, unknowns,
            columns["length" if of_bases else "tokens"].tolist(),
            packed.accession[chosen].tolist(),
            *(columns[name].tolist() for name in ("start", "end", "strand", "kind", "taxon")),
            strict=True,
        )  # fmt: skip
        accessions = [json.dumps(accession) for accession in packed.accessions]
        payload = memoryview(packed.payload)  # slicing it costs a third of slicing an array
        entries, slots = [], []
        for number, row in enumerate(rows, self.regions):
            first, last, run_first, run_last, unknown, units, accession, start, end, strand, kind, taxon = row
            size = last - first
            if self.chunks and (units > chunk_length or self.entry_bytes + size > PAYLOAD_BYTES):
                self._end_entry()
            entries.append(self.entries)
            slots.append(len(self.chunks))
            described = f'[{accessions[accession]},{start},{end},{strand},"{KINDS[kind]}","{TAXA[taxon]}"]'
            middle = run_first + unknown
            if units <= chunk_length:
                n_runs, lower = packed.runs[run_first:middle], packed.runs[middle:run_last]
                self._add_chunk(number, 0, units, payload[first:last], n_runs, lower, described)
                continue
            for offset in range(0, units, chunk_length):
                if offset:
                    self._end_entry()
                stop = min(offset + chunk_length, units)
                low, high = (offset // 4, -(-stop // 4)) if of_bases else (x * size // units for x in (offset, stop))
                n_runs = _between(packed.runs[run_first:middle], offset, stop)
                lower = _between(packed.runs[middle:run_last], offset, stop)
                self._add_chunk(
                    number, offset, stop - offset, payload[first + low : first + high], n_runs, lower, described
                )
        return np.array(entries, np.int64), np.array(slots, np.int64)

    def _add_chunk(self, number, offset, length, payload, unknown, lower, described) -> None:
        self.chunks.append((number, offset, length, self.payload_bytes, len(unknown), len(lower)))
        if len(unknown) or len(lower):
            self.runs += (unknown, lower)
        self.payload.append(payload)
        self.metadata.append(described)
        self.payload_bytes += len(payload)
        # For short regions the tables are half of the entry, so they count towards its size.
        self.entry_bytes += len(payload) + 8 * (COLUMNS + len(unknown) + len(lower)) + len(described)

    def totals(self) -> tuple[int, int]:
        """The regions and bases written so far."""
        return self.regions, self.bases

    def _end_entry(self) -> None:
        runs = np.concatenate([bases.NO_RUNS, *self.runs])
        runs = np.stack([runs[:, 0], runs[:, 1] - runs[:, 0]], 1).astype("<i4")
        columns = ["accession", "start", "end", "strand", "kind", "taxon"]
        metadata = f'{{"columns":{json.dumps(columns)},"rows":[{",".join(self.metadata)}]}}'.encode()
        header = HEADER.pack(
            MAGIC,
            VERSION,
            self.dataset.payload_type,
            len(self.chunks),
            len(runs),
            self.payload_bytes,
            len(metadata),
        )
        table = np.array(self.chunks, "<i8")
        self._write(b"".join([header, table.tobytes(), runs.tobytes(), *self.payload, metadata]))
        self.chunks, self.runs, self.payload, self.metadata = [], [], [], []
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
        if self.chunks:
            self._end_entry()
        if self.writer is not None:
            self._end_shard()
        for number, shard in enumerate(self.shards):
            path = self.dataset.folder / shard["file"]
            shard["file"] = f"{self.name}-{number:05d}-of-{len(self.shards):05d}.array_record"
            path.rename(path.with_name(shard["file"]))
        index = {name: np.concatenate([np.zeros(0, kind), *self.columns[name]]) for name, kind in INDEX_COLUMNS.items()}
        path = self.dataset.folder / f"{self.name}.index.npz"
        names = {}
        for name, (file, sizes) in self.texts.items():
            file.flush()
            names[name] = np.memmap(file, np.uint8, "r") if file.tell() else np.zeros(0, np.uint8)
            names[f"{name}_ends"] = np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))
        np.savez(path, **index, **names)
        self._close_texts()
        for name, column in index.items():
            if name in _NOT_READ:
                continue
            self.content.update(name.encode() + column.astype(column.dtype.newbyteorder("<")).tobytes())
        return {
            "regions": len(index["length"]),
            "bases": int(index["length"].sum()),
            "tokens": int(index["tokens"].sum()),
            "remainder": self.remainder,
            "entries": self.entries,
            "kinds": _counts(index, "kind", KINDS),
            "taxa": _counts(index, "taxon", TAXA),
            "digest": self.content.hexdigest(),
            "index": {"file": path.name, "bytes": path.stat().st_size},
            "shards": self.shards,
        }

    def _close_texts(self) -> None:
        for file, _ in self.texts.values():
            file.close()

    def abandon(self) -> None:
        self._close_texts()
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
    for package in ("gener_jax", "numpy", "array_record"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
