"""The intermediate files of one input: its regions, packed, with their hashes and counts.

A worker writes a spill under a temporary name and renames it when it is complete, so that a build that was killed finds
the finished spills again. A spill does not depend on other inputs; `merge` combines them.

    spill.json      the input's files, the ledger, the records
    columns.npz     a table (`packing`) without its payload, and what `merge` needs
    bases.bin       the bases, four per byte; each region starts at a byte
    payload.bin     the token ids, in a dataset of token ids
"""

import collections
import dataclasses
import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset import inputs, packing, reader
from data_pipeline.dataset.packing import Packed
from data_pipeline.errors import MismatchError
from data_pipeline.files import atomic
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.exclusion import Exclusion
from data_pipeline.regions.ledger import DUPLICATE_RECORD, NO_SEQUENCE, NO_TAXON, Ledger
from data_pipeline.sequence import bases, shared_kmers
from data_pipeline.sequence.record import Record
from data_pipeline.sequence.tokenizer import Tokenizer
from data_pipeline.splitting import split

VERSION = 6  # of a spill's columns and of the rules for regions; spills of another version are written again
BATCH_BASES = 1 << 24  # regions are packed in batches of at most this many bases


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines a spill, besides its input."""

    scheme: schemes.Scheme
    taxon: str | None = None  # where neither the input nor the record has one
    force_taxon: str | None = None  # of every region
    split_by: str = "group"  # one of split.BY
    seed: int = 0
    tokenizer: Tokenizer | None = None
    aliases: tuple[tuple[str, ...], ...] = ()  # groups of names for the same sequence (see `contigs`)
    digests: bool = True  # hash the bases of each region, to find duplicates
    exclusion: Exclusion | None = None  # what is cut out of regions


def key(source: inputs.Input, settings: Settings) -> str:
    """The name of the spill of an input as it is on disk now; it depends on file sizes, times and the settings."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    tokenizer = settings.tokenizer
    facts = [
        VERSION, reader.VERSION, files, source.taxon, source.split, source.assembly,
        dataclasses.astuple(settings.scheme), settings.taxon, settings.force_taxon, settings.split_by, settings.seed,
        tokenizer and [tokenizer.name, tokenizer.digest], settings.aliases, settings.digests,
        settings.exclusion and [settings.exclusion.digest, settings.exclusion.at_most],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def write(source: inputs.Input, folder: Path, settings: Settings, progress: Callable[[int], None]) -> None:
    """Writes the spill of an input; `progress` is called with the file bytes read since the last call.

    Raises:
      DataError: for bad input, with file and record; no files remain.
    """
    collecting = gc.isenabled()
    gc.disable()  # a record has a hundred thousand small objects, all in use, which collection would only traverse
    try:
        with atomic(folder) as partial:
            writer = _Writer(partial, settings)
            writer.fill(source, progress)
            fraction = round(writer.excluded / max(1, writer.ledger.found[1]), 6)
            cut = not settings.exclusion or fraction <= settings.exclusion.at_most
            excluded = {"bases": writer.excluded, "fraction": fraction, "cut": cut}
            if not cut:  # too much of the input: it is kept whole
                writer = _Writer(partial, dataclasses.replace(settings, exclusion=None))
                writer.fill(source, lambda count: None)
            writer.finish(source, excluded)
    finally:
        if collecting:
            gc.enable()


class _Writer:
    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings, self.ledger = folder, settings, Ledger()
        self.columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        self.records: list[dict] = []
        (folder / "scratch").mkdir(parents=True, exist_ok=True)

    @property
    def excluded(self) -> int:
        """The number of bases cut out because they occur in the excluded sequences."""
        return self.ledger.dropped.get(extraction.EXCLUDED, (0, 0))[1]

    def fill(self, source: inputs.Input, progress: Callable[[int], None]) -> None:
        """Writes the bases of the regions, and collects the columns."""
        seen: dict[str, bytes] = {}
        kinds, wanted = schemes.feature_kinds(self.settings.scheme), schemes.qualifiers(self.settings.scheme)
        with (
            open(self.folder / "bases.bin", "wb") as self.bases,
            open(self.folder / "payload.bin", "wb") as self.payload,
        ):
            self._write([], [])  # every column, also if there is no region
            for record in inputs.records(
                source, kinds, self.folder / "scratch", progress, wanted, self.settings.aliases
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
        shutil.rmtree(self.folder / "scratch")

    def finish(self, source: inputs.Input, excluded: dict) -> None:
        """Writes the columns and spill.json."""
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        np.savez(self.folder / "columns.npz", **columns)
        facts = {
            "files": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in source.files
            ],
            "path": str(source.files[-1]),
            "assembly": source.assembly,
            "split": source.split,
            "excluded": excluded,
            "ledger": self.ledger.content(),
            "records": self.records,
            "regions": len(columns["length"]),
        }
        (self.folder / "spill.json").write_text(json.dumps(facts))

    def _add(self, record: Record, source: inputs.Input, content: bytes) -> None:
        settings = self.settings
        spans = extraction.find(record, settings.scheme, self.ledger)
        taxon = settings.force_taxon or source.taxon or record.taxon or settings.taxon
        if spans and taxon is None:
            self.ledger.note(NO_TAXON, len(record.codes))
        split_hashes = split.split_hashes(
            record, spans, by=settings.split_by, seed=settings.seed, assembly=source.assembly
        )
        self.records.append({"accession": record.accession, "bases": len(record.codes), "content": content.hex()})
        batch, batch_hashes, size = [], [], 0
        for span, split_hash in zip(spans, split_hashes, strict=True):
            whole = extraction.extract(record, span, taxon)
            for region in extraction.cut(whole, settings.scheme, self.ledger, settings.exclusion):
                if size + len(region.codes) > BATCH_BASES:
                    self._write(batch, batch_hashes)
                    batch, batch_hashes, size = [], [], 0
                batch.append(region)
                batch_hashes.append(split_hash)
                size += len(region.codes)
        self._write(batch, batch_hashes)

    def _write(self, batch: list[extraction.Region], split_hashes: list[int]) -> None:
        settings, table = self.settings, packing.pack_regions(batch)
        self.bases.write(table["payload"])
        if settings.tokenizer is not None:
            table = packing.with_tokens(table, batch, settings.tokenizer)
            self.payload.write(table["payload"])
        del table["payload"]
        table["split_hash"] = np.array(split_hashes, np.uint64)
        table["record"] = np.full(len(batch), len(self.records) - 1)
        if settings.digests:
            digests = b"".join([_digest(region.codes) for region in batch])
            table["digest"] = np.frombuffer(digests, np.uint64).reshape(-1, 2)
        if settings.split_by == "cluster":
            sketches = [shared_kmers.sketch(region.codes) for region in batch]
            table["sketch"] = np.concatenate([np.zeros(0, np.uint64), *sketches])
            table["sketch_size"] = np.array([len(sketch) for sketch in sketches], np.int64)
        for name, column in table.items():
            self.columns[name].append(column)


class Spill:
    """A finished spill; its columns are read on demand, so that thousands of spills need little memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts = json.loads((folder / "spill.json").read_text())

    def __len__(self) -> int:
        return self.facts["regions"]

    def load(self, *names: str) -> list[np.ndarray]:
        """The columns with these names."""
        with np.load(self.folder / "columns.npz", allow_pickle=False) as columns:
            return [columns[name] for name in names]

    def column(self, name: str) -> np.ndarray:
        """One column: int64 [regions], but `split_hash`, uint64 [regions], and `digest`, uint64 [regions, 2]."""
        return self.load(name)[0]

    def digests(self) -> tuple[np.ndarray, np.ndarray]:
        """The hash of each region's bases, uint64 [regions, 2], and the region, int64 [regions]."""
        return self.column("digest"), np.arange(len(self))

    def sketches(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all sketches, uint64 [n, 1], and the region each belongs to, int64 [n]."""
        hashes, sizes = self.load("sketch", "sketch_size")
        return hashes[:, None], np.repeat(np.arange(len(self)), sizes)

    def batches(self, chosen: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields the bases of the regions `chosen`, bool [regions], in batches of adjacent regions of about `size`.

        Each batch is codes, uint8 [bases], with the start of each region in it and its length, int64 [regions]. Up to
        three bases after a region belong to no region.
        """
        unknown, sizes, length = self.load("unknown", "unknown_size", "length")
        first, run = packing.starts_of(-(-length // 4)), packing.starts_of(sizes)
        packed = _bytes(self.folder / "bases.bin")
        numbers = np.flatnonzero(chosen)
        parts = first[numbers + 1] // max(1, size // 4)
        breaks = 1 + np.flatnonzero((np.diff(numbers) > 1) | (np.diff(parts) > 0))
        for batch in np.split(numbers, breaks) if len(numbers) else ():
            low, high = int(first[batch[0]]), int(first[batch[-1] + 1])
            codes = reader.unpack(packed[low:high], 0, 4 * (high - low))
            starts = 4 * (first[batch] - low)
            for i in np.flatnonzero(sizes[batch]).tolist():
                for start, end in (starts[i] + unknown[run[batch[i]] : run[batch[i] + 1]]).tolist():
                    codes[start:end] = bases.N
            yield codes, starts, length[batch]

    def codes(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the bases of each region `chosen`, bool [regions], as codes, uint8 [length]."""
        for codes, starts, lengths in self.batches(chosen, BATCH_BASES):
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                yield codes[start : start + length]

    def packed(self, tokens: bool) -> Packed:
        """All regions in the form in which they are written; the payload is memory-mapped."""
        names = ["record", *(name for name in packing.pack_regions([]) if name != "payload")]
        table = dict(zip(names, self.load(*names), strict=True))
        table["payload"] = _bytes(self.folder / ("payload.bin" if tokens else "bases.bin"))
        return Packed(table, [record["accession"] for record in self.facts["records"]], self.facts["assembly"])


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
