"""The dataset on disk: the format of an ArrayRecord entry, and the reader that training uses.

A dataset is a folder:

    dataset.json                          its inputs, counts, parameters and digest
    train.index.npz                       one row per region: numbers by column (INDEX_COLUMNS, COMPOSITION), and texts
                                          by column (NAME_COLUMNS), concatenated, with the end of each text
    train-00000-of-00003.array_record     entries of about 64 KiB; likewise for validation and test

A region is cut into chunks of `chunk_length` (bases or tokens), and short regions are grouped, so that an entry has
about 64 KiB. Region r of a split starts in entry `entry[r]` at slot `slot[r]`; chunk k > 0 of a cut region is slot 0
of entry `entry[r] + k`. An entry, little-endian:

    header      magic, version, payload type, numbers of chunks, runs and payload bytes
    chunks      int64 [chunks, 6]: region, offset in the region, length (both in bases or tokens), byte offset in the
                payload, number of N runs, number of lower-case runs
    runs        int32 [runs, 2]: (start, length) within the chunk; the N runs of a chunk, then its lower-case runs
    payload     four bases per byte, the first in the low bits (N as 0); or token ids, uint16 or uint32

An entry of token ids contains a whole region at phase 0 on its own strand, and no runs: ids preserve N but not case.
"""

import functools
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline.errors import DatasetError, did_you_mean, one_line
from data_pipeline.ranges import Whole
from data_pipeline.sequence import bases

FORMAT = "gener_jax regions"
VERSION = 4
PAYLOAD_BYTES = 1 << 16

MAGIC = b"GNRR"
HEADER = struct.Struct("<4sHHIII")
COLUMNS = 6
_REGION, _OFFSET, _LENGTH, _BYTE, _N_RUNS, _LOWER_RUNS = range(COLUMNS)
BASES, UINT16, UINT32 = range(3)  # payload types
ITEM = {UINT16: np.dtype("<u2"), UINT32: np.dtype("<u4")}

INDEX_COLUMNS = {
    "length": np.int64,  # bases
    "tokens": np.int64,  # 0 in a dataset of bases
    "entry": np.int64,  # the entry of the first chunk, counted over the split's shards
    "slot": np.int32,  # the number of the first chunk in that entry
    "start": np.int64,
    "end": np.int64,
    "strand": np.int8,  # +1 or -1
    "kind": np.int8,  # kind, taxon, accession and assembly index lists in dataset.json
    "taxon": np.int8,
    "accession": np.int32,
    "assembly": np.int32,
    "reading_frame": np.int32,  # bases before the first complete codon; -1 for non-coding regions
    "genetic_code": np.int8,  # NCBI's number; 0 for non-coding regions
    "train_overlap": np.float32,  # fraction of a held-out region's 32-mers found in training; NaN: not measured
}
COMPOSITION = ("gc", "unknown_bases", "soft_masked")  # of each region: its G and C, its N, its lower-case bases
NAME_COLUMNS = ("gene", "locus_tag", "product", "segments", "exceptions", "translation")

# The four codes of each byte, the first in the low bits: unpacking is one table lookup.
_UNPACK = (np.arange(256, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3


def pack(codes: np.ndarray) -> bytes:
    """Packs codes, uint8 [n], into two bits each, ceil(n / 4) bytes; N becomes 0 and must be stored as a run."""
    if len(codes) % 4:
        codes = np.concatenate([codes, np.zeros(-len(codes) % 4, np.uint8)])
    fours = codes.reshape(-1, 4)
    packed = fours[:, 3] & 3
    for position in (2, 1, 0):
        packed <<= 2
        packed |= fours[:, position] & 3
    return packed.tobytes()


def unpack(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Unpacks codes [start, stop) of packed bytes, uint8 [stop - start]; reads only the bytes that contain them."""
    first = start // 4
    return _UNPACK[packed[first : -(-stop // 4)]].reshape(-1)[start - 4 * first : stop - 4 * first]


def payload_bytes(payload_type: int, units: int) -> int:
    """The number of bytes of so many bases or tokens."""
    return -(-units // 4) if payload_type == BASES else units * ITEM[payload_type].itemsize


REBUILD = "build the dataset again"
_BUILD = "gener-jax data build"
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access


def read_info(folder: str | Path) -> dict:
    """Reads a dataset's dataset.json; raises DatasetError if it is missing, damaged or of another version."""
    path = Path(folder) / "dataset.json"
    try:
        info = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise _no_dataset(Path(folder)) from None
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror})", file=path) from None
    except ValueError as error:
        raise DatasetError(f"is not valid JSON ({error})", file=path, remedy=REBUILD) from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DatasetError("is not a dataset of gene regions", file=path, remedy=f"make one with `{_BUILD}`")
    if info.get("version") != VERSION:
        raise DatasetError(
            f"is not supported, only {VERSION}",
            file=path, field="format version", value=info.get("version"), remedy=REBUILD,
        )  # fmt: skip
    missing = [key for key in _INFO_KEYS if key not in info]
    if missing:
        raise DatasetError("is missing", file=path, field=missing[0], remedy=REBUILD)
    return info


def _no_dataset(folder: Path) -> DatasetError:
    """The error of a folder without dataset.json."""
    if folder.exists():
        return DatasetError(
            "is not a dataset, as it has no dataset.json", file=folder, remedy=f"make one with `{_BUILD}`"
        )
    datasets = [path.parent.name for path in folder.parent.glob("*/dataset.json")]
    meant = did_you_mean(folder.name, datasets, str(folder).removesuffix(folder.name))
    return DatasetError(f"no such folder{meant}", file=folder, remedy=None if meant else f"make it with `{_BUILD}`")


_INFO_KEYS = ("digest", "storage", "chunk_length", "tokenizer", "splits", "kinds", "taxa", "accessions", "assemblies")


class RegionSource:
    """Random access to the regions of one split.

    `index` contains the arrays of INDEX_COLUMNS, one row per region. `kinds`, `taxa`, `accessions` and `assemblies` are
    the names that its numbers index. `storage` is "bases" or "token_ids". `info` is the content of dataset.json, and
    `digest` its digest. Threads may share a source. A pickled source contains only its folder and opens the files
    again.

    Raises DatasetError if a file is missing, truncated or from another dataset.
    """

    def __init__(self, folder: str | Path, split: str, cached_entries: int = 64):
        cached_entries = Whole().check(cached_entries, "cached_entries")
        self.folder, self.split, self.cached_entries = Path(folder), split, cached_entries
        self.info = read_info(folder)
        if split not in self.info["splits"]:
            raise DatasetError(
                f"is not one of {', '.join(self.info['splits'])}", file=folder, field="split", value=split
            )
        facts = self.info["splits"][split]
        missing = [key for key in ("regions", "index", "shards") if key not in facts]
        if missing:
            raise DatasetError(
                f"is missing for {split}", file=self.folder / "dataset.json", field=missing[0], remedy=REBUILD
            )
        self.digest: str = self.info["digest"]
        self.storage: str = self.info["storage"]
        self.chunk_length: int = self.info["chunk_length"]
        self.kinds: list[str] = self.info["kinds"]
        self.taxa: list[str] = self.info["taxa"]
        self.accessions: list[str] = self.info["accessions"]
        self.assemblies: list[str] = self.info["assemblies"]
        for file in [facts["index"], *facts["shards"]]:
            self._check_size(file)
        self._shards = [self.folder / shard["file"] for shard in facts["shards"]]
        self._first = np.cumsum([0] + [shard["entries"] for shard in facts["shards"]])
        self._index_path = self.folder / facts["index"]["file"]
        self.index = self._read_index(facts["regions"])
        self._units = self.index["length" if self.storage == "bases" else "tokens"]
        self._entry = functools.lru_cache(cached_entries)(self._read_entry)
        self._reader = functools.cache(self._open)
        self._texts = functools.cache(self._read_texts)

    def __len__(self) -> int:
        """The number of regions."""
        return len(self._units)

    def __getstate__(self):
        return self.folder, self.split, self.cached_entries, self.digest

    def __setstate__(self, state):
        folder, split, cached_entries, digest = state
        self.__init__(folder, split, cached_entries)
        if self.digest != digest:
            raise DatasetError(
                f"was replaced while in use: the digest is {self.digest}, before it was {digest}", file=folder
            )

    def read(self, region: int, start: int, stop: int) -> np.ndarray:
        """The codes, uint8, or token ids, int32, [stop - start], of a region on its own strand from `start` to `stop`.

        Both count bases, or tokens in a dataset of token ids. Raises IndexError if they are outside the region.
        """
        dtype = np.uint8 if self.storage == "bases" else np.int32
        out = np.empty(stop - start, dtype) if stop > start else np.empty(0, dtype)
        for at, entry, slot, first, last in self._chunks(region, start, stop):
            out[at : at + last - first] = entry.read(slot, first, last)
        return out

    def lower_case(self, region: int, start: int, stop: int) -> np.ndarray:
        """Whether each base [start, stop) of a region is soft-masked, bool [stop - start]; needs a dataset of bases."""
        if self.storage != "bases":
            raise DatasetError(
                "a dataset of token ids does not preserve lower case",
                file=self.folder, remedy="build it with --storage bases",
            )  # fmt: skip
        out = np.zeros(max(0, stop - start), bool)
        for at, entry, slot, first, last in self._chunks(region, start, stop):
            for left, right in entry.runs(slot, _LOWER_RUNS, first, last).tolist():
                out[at + left : at + right] = True
        return out

    def name(self, column: str, region: int) -> str:
        """The text of a region in one of NAME_COLUMNS; empty if the annotation has none."""
        texts, ends = self._texts(column)
        return texts[ends[region] : ends[region + 1]].decode()

    def composition(self) -> np.ndarray | None:
        """The numbers of COMPOSITION, int64 [regions, 3]; None for a dataset built before they were stored."""
        with np.load(self._index_path, allow_pickle=False) as arrays:
            if COMPOSITION[0] not in arrays:
                return None
        return np.column_stack(self._load(*COMPOSITION))

    def _read_texts(self, column: str) -> tuple[bytes, np.ndarray]:
        """A column's texts end to end, and their starts and the last one's end, int64 [regions + 1]."""
        texts, ends = self._load(column, f"{column}_ends")
        ends = np.concatenate([[0], ends])
        if ends.shape != (len(self) + 1,) or (np.diff(ends) < 0).any() or ends[-1] != len(texts):
            raise self._damaged(self._index_path, f"column {column} does not match the number of regions")
        return texts.tobytes(), ends

    def _chunks(self, region: int, start: int, stop: int):
        """Yields for each chunk of the slice its offset in the result, its entry, its slot, and the bounds in it."""
        if not 0 <= region < len(self):
            raise IndexError(f"region {region} of {len(self)} in {self.folder} {self.split}")
        if not 0 <= start <= stop <= self._units[region]:
            unit = self.storage
            raise IndexError(f"{unit} {start} to {stop} of region {region}, which has {self._units[region]} {unit}")
        number, slot = int(self.index["entry"][region]), int(self.index["slot"][region])
        at = start
        while at < stop:
            chunk, first = divmod(at, self.chunk_length)
            last = min(first + stop - at, self.chunk_length)
            entry = self._entry(number + chunk)
            entry.check(slot if chunk == 0 else 0, region, chunk * self.chunk_length, last)
            yield at - start, entry, slot if chunk == 0 else 0, first, last
            at += last - first

    def _read_entry(self, number: int) -> "_Entry":
        shard = int(np.searchsorted(self._first, number, "right")) - 1
        path, reader = self._shards[shard], self._reader(shard)
        try:
            [raw] = reader.read([number - int(self._first[shard])])
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(path, f"entry {number} cannot be read ({one_line(error)})") from None
        return _Entry(raw, path, number)

    def _open(self, shard: int) -> ArrayRecordReader:
        path = self._shards[shard]
        expected = int(self._first[shard + 1] - self._first[shard])
        try:
            reader = ArrayRecordReader(str(path), READER_OPTIONS)
            found = reader.num_records() if reader.ok() else "no readable"
        except RuntimeError:
            found = "no readable"
        if found != expected:
            raise self._damaged(path, f"has {found} entries, but dataset.json lists {expected}")
        return reader

    @staticmethod
    def _damaged(path: Path, problem: str) -> DatasetError:
        return DatasetError(problem, file=path, remedy=REBUILD)

    def _check_size(self, file: dict) -> None:
        path = self.folder / file["file"]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise self._damaged(path, "is missing, although dataset.json lists it") from None
        if size != file["bytes"]:
            raise self._damaged(path, f"has {size} bytes, but dataset.json lists {file['bytes']}")

    def _load(self, *columns: str) -> list[np.ndarray]:
        """Some columns of the index file."""
        try:
            with np.load(self._index_path, allow_pickle=False) as arrays:
                return [arrays[name] for name in columns]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(self._index_path, f"is not a valid index ({one_line(error)})") from None

    def _read_index(self, regions: int) -> dict[str, np.ndarray]:
        index = dict(zip(INDEX_COLUMNS, self._load(*INDEX_COLUMNS), strict=True))
        for name, column in index.items():
            if column.dtype != INDEX_COLUMNS[name] or column.shape != (regions,):
                raise self._damaged(self._index_path, f"column {name} is {column.dtype} {column.shape}")
        units = index["length" if self.storage == "bases" else "tokens"]
        last = index["entry"] + np.maximum(units - 1, 0) // self.chunk_length
        if len(last) and not (index["entry"].min() >= 0 and last.max() < self._first[-1]):
            raise self._damaged(self._index_path, f"refers to entries beyond the {self._first[-1]} of the shards")
        return index


class _Entry:
    """One raw entry, viewed without copies. ArrayRecord has verified its checksum."""

    def __init__(self, raw: bytes, path: str | Path, number: int):
        self.path, self.number = path, number
        magic, version, self.payload_type, chunks, runs, num_bytes = HEADER.unpack_from(raw)
        if (magic, version) != (MAGIC, VERSION):
            raise self._mismatch(f"magic {magic!r}, version {version}")
        run_at = HEADER.size + 8 * COLUMNS * chunks
        table = np.frombuffer(raw, "<i8", COLUMNS * chunks, HEADER.size).reshape(chunks, COLUMNS)
        self.chunks = table.tolist()  # Python integers: a slice needs only a few of them, one by one
        self.all_runs = np.frombuffer(raw, "<i4", 2 * runs, run_at).reshape(runs, 2)
        self.run_ends = np.cumsum(table[:, [_N_RUNS, _LOWER_RUNS]])
        self.payload = np.frombuffer(raw, np.uint8, num_bytes, run_at + 8 * runs)

    def _mismatch(self, what: str) -> DatasetError:
        return DatasetError(f"entry {self.number} is of another dataset: {what}", file=self.path, remedy=REBUILD)

    def check(self, slot: int, region: int, offset: int, last: int) -> None:
        """Raises DatasetError unless the slot contains this chunk, up to `last`."""
        row = self.chunks[slot] if 0 <= slot < len(self.chunks) else [-1] * COLUMNS
        if row[_REGION] != region or row[_OFFSET] != offset or last > row[_LENGTH]:
            raise self._mismatch(f"chunk {slot} does not match the index")

    def read(self, slot: int, start: int, stop: int) -> np.ndarray:
        """The codes or ids [start, stop) of a chunk that `check` accepted."""
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
        """The N or lower-case runs of a chunk inside [start, stop): (start, end) relative to it, int64 [runs, 2]."""
        end = int(self.run_ends[2 * slot + (column == _LOWER_RUNS)])
        found = self.all_runs[end - self.chunks[slot][column] : end].astype(np.int64)
        bounds = np.clip(np.stack([found[:, 0], found[:, 0] + found[:, 1]], 1), start, stop) - start
        return bounds[bounds[:, 0] < bounds[:, 1]]
