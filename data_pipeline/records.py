"""The dataset on disk: what one ArrayRecord record holds, and the reader that training uses.

A dataset is a folder:

    dataset.json                          what it was made of, its counts, its parameters and its digest
    train.index.npz                       a row a region, by column (INDEX_COLUMNS), and its names by column
                                          (NAME_COLUMNS): the texts end to end, and where each ends
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
import json
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline import bases
from data_pipeline.errors import DataError

FORMAT = "gener_jax regions"
VERSION = 2
PAYLOAD_BYTES = 1 << 16

MAGIC = b"GNRR"
HEADER = struct.Struct("<4sHHIIII")
COLUMNS = 6
_REGION, _OFFSET, _LENGTH, _BYTE, _N_RUNS, _LOWER_RUNS = range(COLUMNS)
BASES, UINT16, UINT32 = range(3)  # payload types
ITEM = {UINT16: np.dtype("<u2"), UINT32: np.dtype("<u4")}

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
    "assembly": np.int32,
    "frame": np.int32,  # bases before the first whole codon; -1 where nothing is coded
    "genetic_code": np.int8,  # NCBI's number; 0 where nothing is coded
    "seen": np.float32,  # share of a held-out region's 32-mers, on either strand, in training; NaN: not measured
}
NAME_COLUMNS = ("gene", "locus_tag", "product", "parts", "exceptions", "translation")

# Four codes of each byte, the first in the low bits: unpacking is one table look-up.
_UNPACK = (np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3


def pack(codes: np.ndarray) -> bytes:
    """Codes uint8 [n] as two bits each, ceil(n / 4) bytes; N becomes 0 and has to be kept as a run."""
    if len(codes) % 4:
        codes = np.concatenate([codes, np.zeros(-len(codes) % 4, np.uint8)])
    fours = codes.reshape(-1, 4)
    packed = fours[:, 3] & 3
    for place in (2, 1, 0):
        packed <<= 2
        packed |= fours[:, place] & 3
    return packed.tobytes()


def unpack(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Codes [start, stop) of packed bytes, uint8 [stop - start]; only the bytes they lie in are read."""
    first = start // 4
    return _UNPACK[packed[first : -(-stop // 4)]].reshape(-1)[start - 4 * first : stop - 4 * first]


def join_texts(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts end to end as UTF-8, uint8 [bytes], and where each ends, int64 [texts]."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded], dtype=np.int64)


READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access


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


_INFO_KEYS = ("digest", "records", "piece_length", "tokenizer", "splits", "kinds", "taxa", "accessions", "assemblies")


class RegionSource:
    """Random access to the regions of one split.

    `index` holds the arrays of INDEX_COLUMNS, a row a region; `kinds`, `taxa` and `accessions` are the names its codes
    stand for; `records` is "bases" or "tokens"; `info` is dataset.json and `digest` its digest. Threads may share one
    source. Pickled, it carries its folder only, and opens its files again where it arrives.

    Raises DataError for a file that is missing, cut short or not of this dataset.
    """

    def __init__(self, folder: str | Path, split: str, cached_entries: int = 64):
        self.folder, self.split, self.cached_entries = Path(folder), split, cached_entries
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
        self.assemblies: list[str] = self.info["assemblies"]
        for file in [facts["index"], *facts["shards"]]:
            self._check_size(file)
        self._shards = [self.folder / shard["file"] for shard in facts["shards"]]
        self._first = np.cumsum([0] + [shard["records"] for shard in facts["shards"]])
        self.index = self._read_index(facts)
        self._units = self.index["length" if self.records == "bases" else "tokens"]
        self._names: dict[str, tuple[bytes, np.ndarray]] = {}
        self._lock = threading.Lock()
        self._readers: dict[int, ArrayRecordReader] = {}
        self._cache: collections.OrderedDict[int, _Entry] = collections.OrderedDict()

    def __len__(self) -> int:
        """The number of regions."""
        return len(self._units)

    def __getstate__(self):
        return self.folder, self.split, self.cached_entries, self.digest

    def __setstate__(self, state):
        folder, split, cached_entries, digest = state
        self.__init__(folder, split, cached_entries)
        if self.digest != digest:
            raise DataError(f"{folder}: the dataset was replaced while in use: digest {self.digest}, before {digest}")

    def read(self, region: int, start: int, stop: int) -> np.ndarray:
        """A region's codes, uint8, or token ids, int32, [stop - start], on its own strand from `start` to `stop`.

        Both count bases, or tokens in a dataset of tokens. Raises IndexError where they leave the region.
        """
        dtype = np.uint8 if self.records == "bases" else np.int32
        out = np.empty(stop - start, dtype) if stop > start else np.empty(0, dtype)
        for at, entry, slot, first, last in self._chunks(region, start, stop):
            out[at : at + last - first] = entry.read(slot, first, last)
        return out

    def lower_case(self, region: int, start: int, stop: int) -> np.ndarray:
        """Which bases [start, stop) of a region are soft-masked, bool [stop - start]; datasets of bases only."""
        if self.records != "bases":
            raise DataError(f"{self.folder}: records of tokens keep no lower case; build with --records bases")
        out = np.zeros(max(0, stop - start), bool)
        for at, entry, slot, first, last in self._chunks(region, start, stop):
            for left, right in entry.runs(slot, _LOWER_RUNS, first, last).tolist():
                out[at + left : at + right] = True
        return out

    def name(self, column: str, region: int) -> str:
        """A region's text in one of NAME_COLUMNS; empty where the annotation gives none."""
        if column not in self._names:
            path = self.folder / self.info["splits"][self.split]["index"]["file"]
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    texts, ends = arrays[column].tobytes(), arrays[f"{column}_ends"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                cause = " ".join(str(error).split())[:200]
                raise DataError(f"{path}: no valid table of names ({cause}); build the dataset again") from None
            whole = ends.dtype == np.int64 and ends.shape == (len(self),)
            if not whole or (len(ends) and (ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(texts))):
                raise DataError(f"{path}: column {column} does not fit the regions; build the dataset again")
            self._names[column] = texts, np.concatenate([[0], ends])
        texts, ends = self._names[column]
        return texts[ends[region] : ends[region + 1]].decode()

    def _chunks(self, region: int, start: int, stop: int):
        """For each piece of the slice: its place in the result, its record and slot, and the bounds in the piece."""
        if not 0 <= region < len(self):
            raise IndexError(f"region {region} of {len(self)} in {self.folder} {self.split}")
        if not 0 <= start <= stop <= self._units[region]:
            unit = self.records
            raise IndexError(f"{unit} {start} to {stop} of region {region}, which has {self._units[region]} {unit}")
        number, slot = int(self.index["record"][region]), int(self.index["slot"][region])
        at = start
        while at < stop:
            chunk, first = divmod(at, self.piece_length)
            last = min(first + stop - at, self.piece_length)
            entry = self._entry(number + chunk)
            entry.check(slot if chunk == 0 else 0, region, chunk * self.piece_length, last)
            yield at - start, entry, slot if chunk == 0 else 0, first, last
            at += last - first

    def _entry(self, number: int) -> "_Entry":
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
        entry = _Entry(raw, f"{path}: record {number}")
        with self._lock:
            self._cache[number] = entry
            while len(self._cache) > self.cached_entries:
                self._cache.popitem(last=False)
        return entry

    def _open(self, shard: int) -> ArrayRecordReader:
        path = self._shards[shard]
        expected = int(self._first[shard + 1] - self._first[shard])
        try:
            reader = ArrayRecordReader(str(path), READER_OPTIONS)
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


class _Entry:
    """One raw record, its parts viewed in place; sizes are checked before they are used."""

    def __init__(self, raw: bytes, where: str):
        self.where = where
        if len(raw) < HEADER.size:
            raise self._damaged("it is too short")
        magic, version, self.payload_type, chunks, runs, payload_bytes, metadata_bytes = HEADER.unpack_from(raw)
        if magic != MAGIC or version != VERSION or self.payload_type not in (BASES, UINT16, UINT32):
            raise self._damaged(f"magic {magic!r}, version {version}, payload type {self.payload_type}")
        run_at = HEADER.size + 8 * COLUMNS * chunks
        payload_at = run_at + 8 * runs
        if payload_at + payload_bytes + metadata_bytes != len(raw):
            raise self._damaged("its sizes do not add up")
        table = np.frombuffer(raw, "<i8", COLUMNS * chunks, HEADER.size).reshape(chunks, COLUMNS)
        self.chunks = table.tolist()  # Python's integers: a slice asks for a few of them, one by one
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
        if not 0 <= slot < len(self.chunks):
            raise self._damaged(f"no piece {slot} in it")
        row = self.chunks[slot]
        if row[_REGION] != region or row[_OFFSET] != offset or last > row[_LENGTH]:
            raise self._damaged(f"piece {slot} is not what the index says")
        length = row[_LENGTH]
        size = -(-length // 4) if self.payload_type == BASES else length * ITEM[self.payload_type].itemsize
        if length < 0 or row[_BYTE] < 0 or row[_BYTE] + size > len(self.payload):
            raise self._damaged(f"piece {slot} leaves the payload")

    def read(self, slot: int, start: int, stop: int) -> np.ndarray:
        """Codes or ids [start, stop) of a piece that `check` has passed."""
        byte = self.chunks[slot][_BYTE]
        if self.payload_type != BASES:
            item = ITEM[self.payload_type]
            raw = self.payload[byte + start * item.itemsize : byte + stop * item.itemsize]
            return np.frombuffer(raw.tobytes(), item)
        codes = unpack(self.payload[byte:], start, stop)
        if self.chunks[slot][_N_RUNS]:
            for left, right in self.runs(slot, _N_RUNS, start, stop).tolist():
                codes[left:right] = bases.N
        return codes

    def runs(self, slot: int, column: int, start: int, stop: int) -> np.ndarray:
        """The N or lower-case runs of a piece inside [start, stop), int64 [runs, 2] of (start, end) counted from it."""
        end = int(self.run_ends[2 * slot + (column == _LOWER_RUNS)])
        found = self.all_runs[end - self.chunks[slot][column] : end].astype(np.int64)
        bounds = np.clip(np.stack([found[:, 0], found[:, 0] + found[:, 1]], 1), start, stop) - start
        return bounds[bounds[:, 0] < bounds[:, 1]]

    def metadata(self) -> list[dict]:
        """Where each piece comes from."""
        content = json.loads(self.metadata_bytes)
        return [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
