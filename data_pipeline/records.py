"""The dataset on disk: what one ArrayRecord record holds, the writer, and the reader that training uses.

A dataset is a folder:

    dataset.json                          what it was made of, its counts, its parameters and its digest
    train.index.npz                       a row a region, by column (INDEX_COLUMNS)
    train-00000-of-00003.array_record     records of about 64 KiB; the same for validation and test

A region is cut into pieces of `piece_length` (bases or tokens), and short regions are grouped, so that a record is
about 64 KiB. Region r of a split starts in record `record[r]` at slot `slot[r]`; piece k > 0 of a cut
region is slot 0 of record `record[r] + k`. One record, little-endian:

    header      magic, version, payload type, number of pieces, of runs, of payload bytes, of metadata bytes
    pieces      int64 [pieces, 6]: region, offset in the region, length (both in bases or tokens), byte offset in the
                payload, number of N runs, number of lower-case runs
    runs        int32 [runs, 2]: (start, length) within the piece; a piece's N runs, then its lower-case runs
    payload     four bases a byte, the first in the low bits (N as 0); or token ids, uint16 or uint32
    metadata    JSON: the accession, start, end, strand, kind and taxon of each piece's region

Token records hold the ids of a whole region at phase 0 on its own strand, and no runs: the ids tell N, not case.
"""

import collections
import contextlib
import hashlib
import importlib.metadata
import json
import struct
import threading
import zipfile
from array import array
from pathlib import Path
from typing import Protocol

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline import bases
from data_pipeline.errors import DataError
from data_pipeline.genbank import TAXA
from data_pipeline.regions import KINDS, Region
from data_pipeline.split import PARTS

FORMAT = "gener_jax regions"
VERSION = 1
PAYLOAD_BYTES = 1 << 16
SHARD_BYTES = 256 << 20

_MAGIC = b"GNRR"
_HEADER = struct.Struct("<4sHHIIII")
_COLUMNS = 6
_REGION, _OFFSET, _LENGTH, _BYTE, _N_RUNS, _LOWER_RUNS = range(_COLUMNS)
_BASES, _UINT16, _UINT32 = range(3)  # payload types
_ITEM = {_UINT16: np.dtype("<u2"), _UINT32: np.dtype("<u4")}

INDEX_COLUMNS = {
    "length": np.int64,  # bases
    "tokens": np.int64,  # 0 in a dataset of bases
    "record": np.int64,  # the record, counted over the split's shards, that holds the first piece
    "slot": np.int32,  # the first piece's number in that record
    "start": np.int64,
    "end": np.int64,
    "strand": np.int8,  # +1 or -1
    "kind": np.int8,  # these three are places in lists of dataset.json
    "taxon": np.int8,
    "accession": np.int32,
}

_NO_RUNS = np.zeros((0, 2), np.int64)
# Four codes of each byte, the first in the low bits: unpacking is one table look-up.
_UNPACK = (np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3


class Tokenizer(Protocol):
    """What the writer asks of a tokenizer; one with an attribute `k` drops up to k - 1 bases at a region's end."""

    name: str
    vocab_size: int
    digest: str

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Token ids, int32, of codes, uint8 [bases]."""
        ...


def pack(codes: np.ndarray) -> bytes:
    """Codes uint8 [n] as two bits each, ceil(n / 4) bytes; N becomes 0 and has to be kept as a run."""
    padded = np.zeros(-(-len(codes) // 4) * 4, np.uint8)
    padded[: len(codes)] = codes & 3
    fours = padded.reshape(-1, 4)
    return (fours[:, 0] | fours[:, 1] << 2 | fours[:, 2] << 4 | fours[:, 3] << 6).tobytes()


def unpack(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Codes [start, stop) of packed bytes, uint8 [stop - start]; only the bytes they lie in are read."""
    first = start // 4
    return _UNPACK[packed[first : -(-stop // 4)]].reshape(-1)[start - 4 * first : stop - 4 * first]


# --- writing ---------------------------------------------------------------------------------------------------------


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
            self.payload_type, per_record = _BASES, 4 * PAYLOAD_BYTES
        else:
            self.payload_type = _UINT16 if tokenizer.vocab_size <= 1 << 16 else _UINT32
            per_record = PAYLOAD_BYTES // _ITEM[self.payload_type].itemsize
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
        size = -(-units // 4) if dataset.tokenizer is None else units * _ITEM[dataset.payload_type].itemsize
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
                unknown = bases.runs(piece == bases.N) if bases.N in piece else _NO_RUNS
                lower = region.lower_case
                if len(lower):
                    lower = np.clip(lower, offset, offset + len(piece)) - offset
                    lower = lower[lower[:, 0] < lower[:, 1]]
                payload = pack(piece)
            else:
                unknown = lower = _NO_RUNS
                if len(piece) and not 0 <= piece.min() <= piece.max() < dataset.tokenizer.vocab_size:
                    raise DataError(f"tokenizer {dataset.tokenizer.name}: an id outside 0..{self._last_id()}")
                payload = piece.astype(_ITEM[dataset.payload_type]).tobytes()
            self.pieces.append((number, offset, len(piece), self.payload_bytes, len(unknown), len(lower)))
            self.runs += [unknown, lower]
            self.payload.append(payload)
            self.metadata.append(described)
            self.payload_bytes += len(payload)
            # Of short regions the tables are half the record, so they count towards its size too.
            self.record_bytes += len(payload) + 8 * (_COLUMNS + len(unknown) + len(lower)) + len(described)

    def _last_id(self) -> int:
        return self.dataset.tokenizer.vocab_size - 1

    def _end_record(self) -> None:
        runs = np.concatenate(self.runs)
        runs = np.stack([runs[:, 0], runs[:, 1] - runs[:, 0]], 1).astype("<i4")
        columns = ["accession", "start", "end", "strand", "kind", "taxon"]
        metadata = f'{{"columns":{json.dumps(columns)},"rows":[{",".join(self.metadata)}]}}'.encode()
        header = _HEADER.pack(
            _MAGIC,
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
            reader = ArrayRecordReader(str(path), _READER_OPTIONS)  # writing can fail without a word
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


# --- reading ---------------------------------------------------------------------------------------------------------

_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access


def read_info(folder: str | Path) -> dict:
    """What a dataset's dataset.json holds; raises DataError where it is missing, damaged or of another version."""
    path = Path(folder) / "dataset.json"
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make the dataset with `python -m data_pipeline.build`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); build the dataset again") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"{path}: not a dataset of gene regions; build it with `python -m data_pipeline.build`")
    if info.get("version") != VERSION:
        raise DataError(f"{path}: format version {info.get('version')}, this program reads {VERSION}; build it again")
    missing = [key for key in _INFO_KEYS if key not in info]
    if missing:
        raise DataError(f"{path}: no {missing[0]!r} in it; build the dataset again")
    return info


_INFO_KEYS = ("digest", "records", "piece_length", "tokenizer", "splits", "kinds", "taxa", "accessions")


class RegionSource:
    """Random access to the regions of one split.

    `index` holds the arrays of INDEX_COLUMNS, a row a region; `kinds`, `taxa` and `accessions` are the names its codes
    stand for; `records` is "bases" or "tokens"; `info` is dataset.json and `digest` its digest. Threads may share one
    source. Pickled, it carries its folder only, and opens its files again where it arrives.

    Raises DataError for a file that is missing, cut short or not of this dataset.
    """

    def __init__(self, folder: str | Path, split: str, cached_records: int = 64):
        self.folder, self.split, self.cached_records = Path(folder), split, cached_records
        self.info = read_info(folder)
        if split not in self.info["splits"]:
            raise DataError(f"{folder}: no split {split!r}; it has {', '.join(self.info['splits'])}")
        facts = self.info["splits"][split]
        missing = [key for key in ("regions", "index", "shards") if key not in facts]
        if missing:
            raise DataError(f"{folder}/dataset.json: no {missing[0]!r} for {split}; build the dataset again")
        self.digest: str = self.info["digest"]
        self.records: str = self.info["records"]
        self.piece_length: int = self.info["piece_length"]
        self.kinds: list[str] = self.info["kinds"]
        self.taxa: list[str] = self.info["taxa"]
        self.accessions: list[str] = self.info["accessions"]
        for file in [facts["index"], *facts["shards"]]:
            self._check_size(file)
        self._shards = [self.folder / shard["file"] for shard in facts["shards"]]
        self._first = np.cumsum([0] + [shard["records"] for shard in facts["shards"]])
        self.index = self._read_index(facts)
        self._units = self.index["length" if self.records == "bases" else "tokens"]
        self._lock = threading.Lock()
        self._readers: dict[int, ArrayRecordReader] = {}
        self._cache: collections.OrderedDict[int, _Record] = collections.OrderedDict()

    def __len__(self) -> int:
        """The number of regions."""
        return len(self._units)

    def __getstate__(self):
        return self.folder, self.split, self.cached_records, self.digest

    def __setstate__(self, state):
        folder, split, cached_records, digest = state
        self.__init__(folder, split, cached_records)
        if self.digest != digest:
            raise DataError(f"{folder}: the dataset was replaced while in use: digest {self.digest}, before {digest}")

    def read(self, region: int, start: int, stop: int) -> np.ndarray:
        """A region's codes, uint8, or token ids, int32, [stop - start], on its own strand from `start` to `stop`.

        Both count bases, or tokens in a dataset of tokens. Raises IndexError where they leave the region.
        """
        dtype = np.uint8 if self.records == "bases" else np.int32
        out = np.empty(stop - start, dtype) if stop > start else np.empty(0, dtype)
        for at, record, slot, first, last in self._pieces(region, start, stop):
            out[at : at + last - first] = record.read(slot, first, last)
        return out

    def lower_case(self, region: int, start: int, stop: int) -> np.ndarray:
        """Which bases [start, stop) of a region are soft-masked, bool [stop - start]; datasets of bases only."""
        if self.records != "bases":
            raise DataError(f"{self.folder}: records of tokens keep no lower case; build with --records bases")
        out = np.zeros(max(0, stop - start), bool)
        for at, record, slot, first, last in self._pieces(region, start, stop):
            for left, right in record.runs(slot, _LOWER_RUNS, first, last).tolist():
                out[at + left : at + right] = True
        return out

    def _pieces(self, region: int, start: int, stop: int):
        """For each piece of the slice: its place in the result, its record and slot, and the bounds in the piece."""
        if not 0 <= region < len(self):
            raise IndexError(f"region {region} of {len(self)} in {self.folder} {self.split}")
        if not 0 <= start <= stop <= self._units[region]:
            unit = self.records
            raise IndexError(f"{unit} {start} to {stop} of region {region}, which has {self._units[region]} {unit}")
        number, slot = int(self.index["record"][region]), int(self.index["slot"][region])
        at = start
        while at < stop:
            piece, first = divmod(at, self.piece_length)
            last = min(first + stop - at, self.piece_length)
            record = self._record(number + piece)
            record.check(slot if piece == 0 else 0, region, piece * self.piece_length, last)
            yield at - start, record, slot if piece == 0 else 0, first, last
            at += last - first

    def _record(self, number: int) -> "_Record":
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            shard = int(np.searchsorted(self._first, number, "right")) - 1
            if shard not in self._readers:
                self._readers[shard] = self._open(shard)
            reader = self._readers[shard]
        path = self._shards[shard]
        try:
            [raw] = reader.read([number - int(self._first[shard])])
        except (RuntimeError, ValueError, IndexError) as error:
            cause = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: record {number} cannot be read ({cause}); build the dataset again") from None
        record = _Record(raw, f"{path}: record {number}")
        with self._lock:
            self._cache[number] = record
            while len(self._cache) > self.cached_records:
                self._cache.popitem(last=False)
        return record

    def _open(self, shard: int) -> ArrayRecordReader:
        path = self._shards[shard]
        expected = int(self._first[shard + 1] - self._first[shard])
        try:
            reader = ArrayRecordReader(str(path), _READER_OPTIONS)
            found = reader.num_records() if reader.ok() else "no readable"
        except RuntimeError:
            found = "no readable"
        if found != expected:
            raise DataError(f"{path}: {found} records where dataset.json says {expected}; build the dataset again")
        return reader

    def _check_size(self, file: dict) -> None:
        path = self.folder / file["file"]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{path}: missing, though dataset.json names it; build the dataset again") from None
        if size != file["bytes"]:
            raise DataError(f"{path}: {size} bytes where dataset.json says {file['bytes']}; build the dataset again")

    def _read_index(self, facts: dict) -> dict[str, np.ndarray]:
        path = self.folder / facts["index"]["file"]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index = {name: arrays[name] for name in INDEX_COLUMNS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            cause = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: not a valid index ({cause}); build the dataset again") from None
        for name, column in index.items():
            if column.dtype != INDEX_COLUMNS[name] or column.shape != (facts["regions"],):
                raise DataError(f"{path}: column {name} is {column.dtype} {column.shape}; build the dataset again")
        last = index["record"] + np.maximum(index["length" if self.records == "bases" else "tokens"] - 1, 0) // (
            self.piece_length
        )
        if len(last) and not (index["record"].min() >= 0 and last.max() < self._first[-1]):
            raise DataError(f"{path}: it names records beyond the shards' {self._first[-1]}; build the dataset again")
        return index


class _Record:
    """One raw record, its parts viewed in place; sizes are checked before they are used."""

    def __init__(self, raw: bytes, where: str):
        self.where = where
        if len(raw) < _HEADER.size:
            raise self._damaged("it is too short")
        magic, version, self.payload_type, pieces, runs, payload_bytes, metadata_bytes = _HEADER.unpack_from(raw)
        if magic != _MAGIC or version != VERSION or self.payload_type not in (_BASES, _UINT16, _UINT32):
            raise self._damaged(f"magic {magic!r}, version {version}, payload type {self.payload_type}")
        run_at = _HEADER.size + 8 * _COLUMNS * pieces
        payload_at = run_at + 8 * runs
        if payload_at + payload_bytes + metadata_bytes != len(raw):
            raise self._damaged("its sizes do not add up")
        table = np.frombuffer(raw, "<i8", _COLUMNS * pieces, _HEADER.size).reshape(pieces, _COLUMNS)
        self.pieces = table.tolist()  # Python's integers: a slice asks for a few of them, one by one
        self.all_runs = np.frombuffer(raw, "<i4", 2 * runs, run_at).reshape(runs, 2)
        counts = table[:, [_N_RUNS, _LOWER_RUNS]].reshape(-1)
        if len(counts) and (counts.min() < 0 or counts.sum() != runs):
            raise self._damaged("its runs do not add up")
        self.run_ends = np.cumsum(counts)
        self.payload = np.frombuffer(raw, np.uint8, payload_bytes, payload_at)
        self.metadata_bytes = raw[payload_at + payload_bytes :]

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.where}: not a record of this format: {what}; build the dataset again")

    def check(self, slot: int, region: int, offset: int, last: int) -> None:
        """Raises DataError unless the slot holds this piece, up to `last`, inside the payload."""
        if not 0 <= slot < len(self.pieces):
            raise self._damaged(f"no piece {slot} in it")
        row = self.pieces[slot]
        if row[_REGION] != region or row[_OFFSET] != offset or last > row[_LENGTH]:
            raise self._damaged(f"piece {slot} is not what the index says")
        length = row[_LENGTH]
        size = -(-length // 4) if self.payload_type == _BASES else length * _ITEM[self.payload_type].itemsize
        if length < 0 or row[_BYTE] < 0 or row[_BYTE] + size > len(self.payload):
            raise self._damaged(f"piece {slot} leaves the payload")

    def read(self, slot: int, start: int, stop: int) -> np.ndarray:
        """Codes or ids [start, stop) of a piece that `check` has passed."""
        byte = self.pieces[slot][_BYTE]
        if self.payload_type != _BASES:
            item = _ITEM[self.payload_type]
            raw = self.payload[byte + start * item.itemsize : byte + stop * item.itemsize]
            return np.frombuffer(raw.tobytes(), item)
        codes = unpack(self.payload[byte:], start, stop)
        if self.pieces[slot][_N_RUNS]:
            for left, right in self.runs(slot, _N_RUNS, start, stop).tolist():
                codes[left:right] = bases.N
        return codes

    def runs(self, slot: int, column: int, start: int, stop: int) -> np.ndarray:
        """The N or lower-case runs of a piece inside [start, stop), int64 [runs, 2] of (start, end) counted from it."""
        end = int(self.run_ends[2 * slot + (column == _LOWER_RUNS)])
        found = self.all_runs[end - self.pieces[slot][column] : end].astype(np.int64)
        bounds = np.clip(np.stack([found[:, 0], found[:, 0] + found[:, 1]], 1), start, stop) - start
        return bounds[bounds[:, 0] < bounds[:, 1]]

    def metadata(self) -> list[dict]:
        """Where each piece comes from."""
        content = json.loads(self.metadata_bytes)
        return [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
