"""The intermediate files of one input: its regions, packed, with their hashes and counts.

A worker writes a spill under a temporary name and renames it when it is complete, so that a build that was killed finds
the finished spills again. A spill does not depend on other inputs; `merge` combines them.

    spill.json      the input's files, the ledger, the records
    columns.npz     one row per region
    bases.bin       the bases, four per byte; each region starts at a byte
    payload.bin     the token ids, in a dataset of token ids
"""

import collections
import dataclasses
import gc
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset import inputs, packing, reader
from data_pipeline.dataset.packing import Packed, Tokenizer
from data_pipeline.dataset.reader import NAME_COLUMNS
from data_pipeline.errors import FormatError, MismatchError
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import DUPLICATE_RECORD, NO_SEQUENCE, Ledger
from data_pipeline.sequence import bases, kmers
from data_pipeline.sequence.record import TAXA, Record
from data_pipeline.splitting import split

VERSION = 3  # of a spill's columns and of the rules for regions; spills of another version are written again
BATCH_BASES = 1 << 24  # regions are packed in batches of at most this many bases


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a spill, besides its input."""

    scheme: schemes.Scheme
    taxon: str | None = None  # of every region; None: the input's, or else the record's
    split_by: str = "group"  # one of split.BY
    seed: int = 0
    tokenizer: Tokenizer | None = None
    digests: bool = True  # hash the bases of each region, to find duplicates


def key(source: inputs.Input, settings: Settings) -> str:
    """The name of the spill of an input as it is on disk now; it depends on file sizes, times and the settings."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    tokenizer = settings.tokenizer
    facts = [
        VERSION, reader.VERSION, files, source.taxon, source.split, source.assembly,
        dataclasses.astuple(settings.scheme), settings.taxon, settings.split_by, settings.seed,
        tokenizer and [tokenizer.name, tokenizer.digest], settings.digests,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def write(source: inputs.Input, folder: Path, settings: Settings, progress: Callable[[int, int], None]) -> None:
    """Writes the spill of an input; `progress` is called with the file bytes and bases read since the last call.

    Raises:
      DataError: for bad input, with file and record; no files remain.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    collecting = gc.isenabled()
    gc.disable()  # a record has a hundred thousand small objects, all in use, which collection would only traverse
    try:
        (partial / "scratch").mkdir()
        _Writer(partial, settings).fill(source, progress)
        shutil.rmtree(partial / "scratch")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if collecting:
            gc.enable()


class _Writer:
    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings, self.ledger = folder, settings, Ledger()
        self.columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self.texts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in NAME_COLUMNS}
        self.records: list[dict] = []

    def fill(self, source: inputs.Input, progress: Callable[[int, int], None]) -> None:
        settings, seen = self.settings, {}

        kinds, wanted = schemes.feature_kinds(settings.scheme), schemes.qualifiers(settings.scheme)
        with (
            open(self.folder / "bases.bin", "wb") as self.bases,
            open(self.folder / "payload.bin", "wb") as self.payload,
        ):
            for record in inputs.records(
                source, kinds, self.folder / "scratch", lambda count: progress(count, 0), wanted
            ):
                self.ledger.record(len(record.codes) or record.declared_length)
                if not len(record.codes):
                    self.ledger.skip(NO_SEQUENCE, record.declared_length)
                    continue
                content = _hash(record.codes)
                if seen.setdefault(record.accession, content) is content:
                    self._add(record, source, content)
                elif seen[record.accession] == content:
                    self.ledger.skip(DUPLICATE_RECORD, len(record.codes))
                else:
                    raise other_bases(source.files[-1], record.accession)
                progress(0, len(record.codes))
        tables = {name: np.concatenate([_EMPTY[name], *parts]) for name, parts in self.columns.items()}
        for name in _EMPTY:
            tables.setdefault(name, _EMPTY[name])
        for name, found in self.texts.items():
            sizes = np.concatenate([_EMPTY["length"], *(np.diff(ends, prepend=0) for _, ends in found)])
            tables[name] = np.concatenate([np.zeros(0, np.uint8), *(texts for texts, _ in found)])
            tables[f"{name}_ends"] = np.cumsum(sizes)
        np.savez(self.folder / "columns.npz", **tables)
        facts = {
            "files": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in source.files
            ],
            "path": str(source.files[-1]),
            "assembly": source.assembly,
            "split": source.split,
            "ledger": self.ledger.content(),
            "records": self.records,
        }
        (self.folder / "spill.json").write_text(json.dumps(facts))

    def _add(self, record: Record, source: inputs.Input, content: bytes) -> None:
        settings = self.settings
        spans = extraction.find(record, settings.scheme, self.ledger)
        taxon = settings.taxon or source.taxon or record.taxon
        if spans and taxon is None:
            raise FormatError(
                "is not given by the file's name or the record",
                file=source.files[-1], record=record.accession, field="taxon",
                remedy=f"give --taxon, one of {' '.join(TAXA)}, or a manifest with a column taxon",
            )  # fmt: skip
        split_hashes = split.split_hashes(
            record, spans, by=settings.split_by, seed=settings.seed, assembly=source.assembly
        )
        self.records.append(
            {"accession": record.accession, "bases": len(record.codes), "content": content.hex(), "regions": 0}
        )
        batch, batch_hashes, size = [], [], 0
        for span, split_hash in zip(spans, split_hashes, strict=True):
            for region in extraction.cut(extraction.extract(record, span, taxon), settings.scheme, self.ledger):
                if batch and size + len(region.codes) > BATCH_BASES:
                    self._write(batch, batch_hashes)
                    batch, batch_hashes, size = [], [], 0
                batch.append(region)
                batch_hashes.append(split_hash)
                size += len(region.codes)
        if batch:
            self._write(batch, batch_hashes)

    def _write(self, batch: list[extraction.Region], split_hashes: list[int]) -> None:
        packed = packing.pack_regions(batch)
        self.bases.write(packed.payload)
        add = self.columns
        add["lower_case"].append(np.diff(packed.run_starts) - packed.unknown)
        add["unknown"].append(packed.unknown)
        add["runs"].append(packed.runs)
        if self.settings.tokenizer is not None:
            packed = packing.with_tokens(packed, batch, self.settings.tokenizer)
            self.payload.write(packed.payload)
        add["bytes"].append(np.diff(packed.payload_starts))
        for name, column in packed.columns.items():
            add[name].append(column)
        for name, texts in packed.texts.items():
            self.texts[name].append(texts)
        add["split_hash"].append(np.array(split_hashes, np.uint64))
        add["record"].append(np.full(len(batch), len(self.records) - 1))
        if self.settings.digests:
            digests = b"".join([_digest(region.codes) for region in batch])
            add["digest"].append(np.frombuffer(digests, np.uint64).reshape(-1, 2))
        if self.settings.split_by == "cluster":
            sketches = [kmers.sketch(region.codes) for region in batch]
            add["sketch"] += sketches
            add["sketch_size"].append(np.array([len(sketch) for sketch in sketches], np.int64))
        self.records[-1]["regions"] += len(batch)


_EMPTY = {name: np.zeros(0, np.int64) for name in (*packing.COLUMNS, "record", "unknown", "lower_case", "bytes")} | {
    "split_hash": np.zeros(0, np.uint64),
    "digest": np.zeros((0, 2), np.uint64),
    "runs": bases.NO_RUNS,
    "sketch": np.zeros(0, np.uint64),
    "sketch_size": np.zeros(0, np.int64),
}


class Spill:
    """A finished spill; its columns are read on demand, so that thousands of spills need little memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts = json.loads((folder / "spill.json").read_text())

    def __len__(self) -> int:
        return sum(record["regions"] for record in self.facts["records"])

    def load(self, *names: str) -> list[np.ndarray]:
        """The columns with these names."""
        with np.load(self.folder / "columns.npz", allow_pickle=False) as columns:
            return [columns[name] for name in names]

    def column(self, name: str) -> np.ndarray:
        """One column: int64 [regions], but `split_hash`, uint64 [regions], and `digest`, uint64 [regions, 2]."""
        return self.load(name)[0]

    def sketches(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all sketches, uint64, and the region each belongs to, int64."""
        hashes, sizes = self.load("sketch", "sketch_size")
        return hashes, np.repeat(np.arange(len(self)), sizes)

    def batches(self, chosen: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the bases of the regions `chosen`, bool [regions], in batches of adjacent regions of about `size`.

        Each batch is codes, uint8 [bases], with the start of each region in it and its length, int64 [regions]. Up to
        three bases after a region belong to no region.
        """
        unknown, lower, runs, length = self.load("unknown", "lower_case", "runs", "length")
        first, run = packing.starts_of(-(-length // 4)), packing.starts_of(unknown + lower)
        packed = _bytes(self.folder / "bases.bin")
        numbers = np.flatnonzero(chosen)
        parts = first[numbers + 1] // max(1, size // 4)
        breaks = 1 + np.flatnonzero((np.diff(numbers) > 1) | (np.diff(parts) > 0))
        for batch in np.split(numbers, breaks) if len(numbers) else ():
            low, high = int(first[batch[0]]), int(first[batch[-1] + 1])
            codes = reader.unpack(packed[low:high], 0, 4 * (high - low))
            starts = 4 * (first[batch] - low)
            for i in np.flatnonzero(unknown[batch]).tolist():
                at = int(run[batch[i]])
                for start, end in (starts[i] + runs[at : at + int(unknown[batch[i]])]).tolist():
                    codes[start:end] = bases.N
            yield codes, starts, length[batch]

    def codes(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the bases of each region `chosen`, bool [regions], as codes, uint8 [length]."""
        for codes, starts, lengths in self.batches(chosen, BATCH_BASES):
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                yield codes[start : start + length]

    def packed(self, tokens: bool) -> Packed:
        """All regions in the form in which they are written; the payload is memory-mapped."""
        texts = [part for name in NAME_COLUMNS for part in (name, f"{name}_ends")]
        wanted = (*packing.COLUMNS, *texts, "record", "unknown", "lower_case", "runs", "bytes")
        table = dict(zip(wanted, self.load(*wanted), strict=True))
        columns = {name: table[name] for name in packing.COLUMNS}
        unknown, lower = table["unknown"], table["lower_case"]
        return Packed(
            columns=columns,
            accession=table["record"],
            accessions=[record["accession"] for record in self.facts["records"]],
            assembly=self.facts["assembly"],
            texts={name: (table[name], table[f"{name}_ends"]) for name in NAME_COLUMNS},
            payload=_bytes(self.folder / ("payload.bin" if tokens else "bases.bin")),
            payload_starts=packing.starts_of(table["bytes"] if tokens else -(-columns["length"] // 4)),
            runs=bases.NO_RUNS if tokens else table["runs"],
            run_starts=packing.starts_of(np.zeros_like(unknown) if tokens else unknown + lower),
            unknown=np.zeros_like(unknown) if tokens else unknown,
        )


def other_bases(file: str | Path, accession: str) -> MismatchError:
    """The error for an accession that names two different sequences."""
    return MismatchError(
        "has the accession of an earlier record but different bases (another part of the same sequence?)",
        file=file, record=accession, remedy="rename one of them or build two datasets",
    )  # fmt: skip


def _digest(codes: np.ndarray) -> bytes:
    """A 16-byte hash that is the same for a sequence and its reverse complement."""
    # The strand that comes first in the order of the codes (A, T, C, G) is hashed. Its first 32 bases decide, unless
    # they are the same on both strands.
    one, other = codes[:32].tobytes(), bases.reverse_complement(codes[-32:]).tobytes()
    if one == other:
        one, other = codes.tobytes(), bases.reverse_complement(codes).tobytes()
    return _hash(codes if one <= other else bases.reverse_complement(codes))


def _hash(codes: np.ndarray) -> bytes:
    return hashlib.sha256(codes).digest()[:16]  # twice as fast as blake2b on processors with SHA instructions


def _bytes(path: Path) -> np.ndarray:
    # A plain array: slices of a memmap are memmaps, and creating those takes longer than reading the data.
    return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
