"""What one input leaves on disk before the dataset is written: its regions, packed, with their hashes and counts.

A worker writes a spill beside its final name and renames it when it is whole, so that a build that was killed at any
moment finds the finished ones again. A spill does not depend on other inputs; `merge` brings them together.

    spill.json      the files it was made of, the ledger, the records
    columns.npz     a row a region
    bases.bin       its bases, four a byte, each region from a new byte on
    payload.bin     its token ids, in a dataset of tokens
"""

import dataclasses
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline import bases, inputs, kmers, records, regions, split
from data_pipeline.errors import DataError
from data_pipeline.genome import TAXA, Record
from data_pipeline.ledger import DUPLICATE_RECORD, NO_SEQUENCE, Ledger
from data_pipeline.records import NAME_COLUMNS
from data_pipeline.writer import Packed, Tokenizer, pack_region

_NUMBERS = ("length", "tokens", "start", "end", "strand", "kind", "taxon", "frame", "genetic_code")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides a spill beside its input."""

    scheme: regions.Scheme
    taxon: str | None = None  # of every region; None takes the input's, then the record's
    split_by: str = "group"  # one of split.BY
    seed: int = 0
    tokenizer: Tokenizer | None = None


def key(source: inputs.Input, settings: Settings) -> str:
    """A name for the spill of an input as it lies on disk now; another size, time or setting gives another name."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    tokenizer = settings.tokenizer
    facts = [
        records.VERSION, files, source.taxon, source.split, source.assembly, dataclasses.astuple(settings.scheme),
        settings.taxon, settings.split_by, settings.seed, tokenizer and [tokenizer.name, tokenizer.digest],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def write(source: inputs.Input, folder: Path, settings: Settings, progress: Callable[[int, int], None]) -> None:
    """Writes the spill of an input; `progress` is called with the file bytes and the bases since the last call.

    Raises:
      DataError: for bad input, with file and record; nothing is left behind.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    collecting = gc.isenabled()
    gc.disable()  # a record is a tree of a hundred thousand small objects, which collecting only walks over
    try:
        (partial / "scratch").mkdir()
        _Spilling(partial, settings).fill(source, progress)
        shutil.rmtree(partial / "scratch")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if collecting:
            gc.enable()


class _Spilling:
    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings, self.ledger = folder, settings, Ledger()
        self.columns = {name: array("q") for name in (*_NUMBERS, "record", "unknown", "lower_case", "bytes")}
        self.places, self.sketch_sizes = array("Q"), array("q")
        self.digests, self.sketches, self.runs = [], [], []
        self.names: list[list[str]] = [[] for _ in NAME_COLUMNS]
        self.records: list[dict] = []

    def fill(self, source: inputs.Input, progress: Callable[[int, int], None]) -> None:
        settings, seen = self.settings, {}
        parent = multiprocessing.parent_process()

        def advance(count: int) -> None:
            if parent is not None and not parent.is_alive():
                os._exit(1)  # the build was killed; whoever runs it again has no use for this
            progress(count, 0)

        kinds = regions.feature_kinds(settings.scheme)
        with (
            open(self.folder / "bases.bin", "wb") as self.bases,
            open(self.folder / "payload.bin", "wb") as self.payload,
        ):
            for record in inputs.records(source, kinds, self.folder / "scratch", advance):
                self.ledger.record(len(record.codes) or record.declared_length)
                if not len(record.codes):
                    self.ledger.skip(NO_SEQUENCE, record.declared_length)
                    continue
                content = hashlib.blake2b(record.codes, digest_size=16).digest()
                if seen.setdefault(record.accession, content) is content:
                    self._add(record, source, content)
                elif seen[record.accession] == content:
                    self.ledger.skip(DUPLICATE_RECORD, len(record.codes))
                else:
                    raise DataError(other_bases(source.files[-1], record.accession))
                progress(0, len(record.codes))
        numbers = {name: np.array(column, np.int64) for name, column in self.columns.items()}
        tables = {}
        for name, texts in zip(NAME_COLUMNS, self.names, strict=True):
            tables[name], tables[f"{name}_ends"] = records.join_texts(texts)
        np.savez(
            self.folder / "columns.npz",
            place=np.array(self.places, np.uint64),
            digest=np.frombuffer(b"".join(self.digests), np.uint64).reshape(-1, 2),
            runs=np.concatenate([records.NO_RUNS, *self.runs]),
            sketch=np.concatenate([np.zeros(0, np.uint64), *self.sketches]),
            sketch_size=np.array(self.sketch_sizes, np.int64),
            **numbers,
            **tables,
        )
        facts = {
            "files": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in source.files
            ],
            "assembly": source.assembly,
            "split": source.split,
            "ledger": self.ledger.content(),
            "records": self.records,
        }
        (self.folder / "spill.json").write_text(json.dumps(facts))

    def _add(self, record: Record, source: inputs.Input, content: bytes) -> None:
        settings = self.settings
        spans = regions.find(record, settings.scheme, self.ledger)
        taxon = settings.taxon or source.taxon or record.taxon
        if spans and taxon is None:
            raise DataError(
                f"{source.files[-1]}: record {record.accession}: neither the file's name nor the record tells a taxon; "
                f"give --taxon, one of {' '.join(TAXA)}, or a manifest with a column taxon"
            )
        places = split.places(record, spans, by=settings.split_by, seed=settings.seed, assembly=source.assembly)
        number = len(self.records)
        self.records.append(
            {"accession": record.accession, "bases": len(record.codes), "content": content.hex(), "regions": 0}
        )
        for span, place in zip(spans, places, strict=True):
            for region in regions.cut(regions.extract(record, span, taxon), settings.scheme, self.ledger):
                self._write(region, number, place)

    def _write(self, region: regions.Region, record: int, place: int) -> None:
        packed = pack_region(region, None)
        self.bases.write(packed.payload)
        row = {"record": record, "unknown": len(packed.unknown), "lower_case": len(packed.lower_case), "bytes": 0}
        if self.settings.tokenizer is not None:
            tokens = pack_region(region, self.settings.tokenizer)
            self.payload.write(tokens.payload)
            row |= tokens.columns | {"bytes": len(tokens.payload)}
        else:
            row |= packed.columns
        for name, column in self.columns.items():
            column.append(row[name])
        for texts, text in zip(self.names, packed.names, strict=True):
            texts.append(text)
        self.runs += [runs for runs in (packed.unknown, packed.lower_case) if len(runs)]
        self.places.append(place)
        self.digests.append(_digest(region.codes))
        if self.settings.split_by == "cluster":
            self.sketches.append(kmers.sketch(region.codes))
            self.sketch_sizes.append(len(self.sketches[-1]))
        self.records[record]["regions"] += 1


class Spill:
    """A finished spill; its columns are read when asked for, so that thousands of them take little memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts = json.loads((folder / "spill.json").read_text())

    def __len__(self) -> int:
        return sum(record["regions"] for record in self.facts["records"])

    def load(self, *names: str) -> list[np.ndarray]:
        """Columns, by name."""
        with np.load(self.folder / "columns.npz", allow_pickle=False) as columns:
            return [columns[name] for name in names]

    def column(self, name: str) -> np.ndarray:
        """One column: int64 [regions], but `place`, uint64 [regions], and `digest`, uint64 [regions, 2]."""
        return self.load(name)[0]

    def sketches(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all sketches, uint64, and the region each belongs to, int64."""
        hashes, sizes = self.load("sketch", "sketch_size")
        return hashes, np.repeat(np.arange(len(self)), sizes)

    def codes(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """The bases of the regions `chosen`, bool [regions], as codes, uint8 [length], one after the other."""
        unknown, lower, runs, length = self.load("unknown", "lower_case", "runs", "length")
        first = _starts(-(-length // 4))
        run = _starts(unknown + lower)
        packed = _bytes(self.folder / "bases.bin")
        for i in np.flatnonzero(chosen).tolist():
            codes = records.unpack(packed[first[i] : first[i + 1]], 0, int(length[i]))
            for start, end in runs[run[i] : run[i] + unknown[i]].tolist():
                codes[start:end] = bases.N
            yield codes

    def packed(self, chosen: np.ndarray, tokens: bool) -> Iterator[Packed]:
        """The regions `chosen`, bool [regions], as they are written."""
        unknown, lower, runs, size, length = self.load("unknown", "lower_case", "runs", "bytes", "length")
        first = _starts(size if tokens else -(-length // 4))
        run = _starts(unknown + lower)
        payload = _bytes(self.folder / ("payload.bin" if tokens else "bases.bin"))
        texts = []
        for name in NAME_COLUMNS:
            blob, ends = self.load(name, f"{name}_ends")
            texts.append((blob.tobytes(), [0, *ends.tolist()]))
        accessions = [record["accession"] for record in self.facts["records"]]
        assembly, record = self.facts["assembly"], self.column("record").tolist()
        rows = list(zip(*(column.tolist() for column in self.load(*_NUMBERS)), strict=True))
        for i in np.flatnonzero(chosen).tolist():
            middle = run[i] + unknown[i]
            yield Packed(
                columns=dict(zip(_NUMBERS, rows[i], strict=True)),
                accession=accessions[record[i]],
                assembly=assembly,
                names=tuple(blob[ends[i] : ends[i + 1]].decode() for blob, ends in texts),
                payload=payload[first[i] : first[i + 1]],
                unknown=records.NO_RUNS if tokens else runs[run[i] : middle],
                lower_case=records.NO_RUNS if tokens else runs[middle : run[i + 1]],
            )


def other_bases(file: str | Path, accession: str) -> str:
    """What is wrong with an accession that stands for two sequences."""
    return (
        f"{file}: record {accession}: it came before with other bases (another part of the same sequence?); "
        "rename one or build the two apart"
    )


def _digest(codes: np.ndarray) -> bytes:
    """16 bytes that a sequence and its reverse complement share."""
    one, other = codes.tobytes(), bases.reverse_complement(codes).tobytes()
    return hashlib.blake2b(min(one, other), digest_size=16).digest()


def _starts(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _bytes(path: Path) -> np.ndarray:
    # A plain view: slices of a memmap carry its class along, which takes longer than to read them.
    return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
