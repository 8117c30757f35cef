"""Merges the spills of all inputs into a dataset: drops duplicates, assigns splits, measures leakage, writes shards.

Inputs are processed in order, so the result does not depend on the number of workers.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data_pipeline.dataset.spill import Settings, Spill, other_bases
from data_pipeline.dataset.writer import DatasetWriter
from data_pipeline.errors import DataError
from data_pipeline.regions.ledger import DUPLICATE_RECORD, Ledger
from data_pipeline.sequence import shared_kmers
from data_pipeline.splitting import clusters, duplicates, leakage, split

DUPLICATES = ("inputs", "all", "keep")
DUPLICATE_BASES = "same bases as an earlier region"
LINK = "links two splits"

Map = Callable[..., Iterable]  # like the built-in map


class NoRegion(DataError):
    """No region is left to write; running the build again would give the same result."""


class Merge:
    """The spills of all inputs, and for each one `splits`: the split of each region, int8 [regions], -1 if dropped."""

    def __init__(self, folders: list[Path], settings: Settings):
        self.spills, self.settings, self.ledger = [Spill(folder) for folder in folders], settings, Ledger()
        for spill in self.spills:
            self.ledger.add(spill.facts["ledger"])
        self.kept = [np.ones(len(spill), bool) for spill in self.spills]
        self.train_overlap = [np.full(len(spill), np.nan, np.float32) for spill in self.spills]
        self.leakage: dict = {}

    def _drop(self, reason: str, dropped: list[np.ndarray]) -> None:
        for spill, kept, removed in zip(self.spills, self.kept, dropped, strict=True):
            removed = removed & kept
            if removed.any():
                self.ledger.drop(reason, int(spill.column("length")[removed].sum()), int(removed.sum()))
                kept &= ~removed

    def drop_records(self) -> None:
        """Drops the regions of records that occurred in an earlier input.

        Raises:
          MismatchError: an accession.version occurs with different bases.
        """
        known: dict[str, str] = {}
        if len(self.spills) == 1:
            return  # duplicates within an input were dropped when it was read
        dropped = []
        for spill in self.spills:
            again = np.zeros(len(spill.facts["records"]) + 1, bool)
            for number, record in enumerate(spill.facts["records"]):
                name = split.full_name(record["accession"], spill.facts["assembly"])
                before = known.setdefault(name, record["content"])
                if before != record["content"]:
                    raise other_bases(spill.facts["path"], record["accession"])
                again[number] = before is not record["content"]
            dropped.append(again[spill.column("record")])
        self._drop(DUPLICATE_RECORD, dropped)

    def drop_duplicates(self, which: str) -> None:
        """Drops regions with the bases of an earlier one, of an earlier input ("inputs") or of any input ("all")."""
        if self.settings.digests and (which == "all" or len(self.spills) > 1):
            self._drop(
                DUPLICATE_BASES,
                duplicates.repeated(lambda i: self.spills[i].column("digest"), self.kept, within=which == "all"),
            )

    def assign_splits(self, validation_fraction: float, test_fraction: float) -> None:
        """Assigns a split to each region; if clusters are kept together, drops regions that link two splits."""
        fixed = [
            None if (assigned := spill.facts["split"]) is None else split.SPLITS.index(assigned)
            for spill in self.spills
        ]
        split_hashes = [spill.column("split_hash") for spill in self.spills]
        if self.settings.split_by == "cluster":
            lengths = [spill.column("length") for spill in self.spills]
            self.splits, links = clusters.assign(
                lambda i: self.spills[i].sketches(),
                split_hashes,
                lengths,
                self.kept,
                fixed,
                validation_fraction,
                test_fraction,
            )
            self._drop(LINK, links)
        else:
            self.splits = [
                split.splits_of(split_hash, validation_fraction, test_fraction)
                if assigned is None
                else np.full(len(split_hash), assigned, np.int8)
                for split_hash, assigned in zip(split_hashes, fixed, strict=True)
            ]
        self.splits = [
            np.where(kept, assigned, np.int8(-1)) for kept, assigned in zip(self.kept, self.splits, strict=True)
        ]

    def kept_bases(self) -> int:
        """The number of bases in the kept regions."""
        return sum(int(spill.column("length")[kept].sum()) for spill, kept in zip(self.spills, self.kept, strict=True))

    def measure_leakage(self, folder: Path, apply: Map = map, progress: Callable[[int], None] = lambda n: None) -> None:
        """Measures the fraction of each held-out region's 32-mers that occur in training.

        `apply` is `map` or a parallel version of it; `progress` is called with the number of bases done.
        """
        lengths = [spill.column("length") for spill in self.spills]
        if not any((assigned == 0).any() for assigned in self.splits):
            return  # no training set
        of_bases = sum(int(length[assigned > 0].sum()) for length, assigned in zip(lengths, self.splits, strict=True))
        if not of_bases:
            return
        sample = leakage.sampling(of_bases)
        found = [
            leakage.hash_regions(spill.codes(assigned > 0), sample)
            for spill, assigned in zip(self.spills, self.splits, strict=True)
        ]
        members, which = np.unique(np.concatenate([hashes for hashes, _ in found]), return_inverse=True)
        which = np.split(which, np.cumsum([len(hashes) for hashes, _ in found])[:-1])
        file = folder / "held_out.npy"
        np.save(file, members)
        jobs = [
            (spill.folder, assigned == 0, file, sample)
            for spill, assigned in zip(self.spills, self.splits, strict=True)
        ]
        occurs = np.zeros(len(members), bool)
        for found_here, length, kept in zip(
            apply(_occurring, *zip(*jobs, strict=True)), lengths, self.kept, strict=True
        ):
            occurs |= found_here
            progress(int(length[kept].sum()))
        file.unlink()
        sizes = []
        for train_overlap, assigned, here, (_, size) in zip(self.train_overlap, self.splits, which, found, strict=True):
            train_overlap[:] = 0
            train_overlap[assigned > 0] = leakage.train_overlaps(occurs, here, size)
            sizes.append(np.zeros(len(assigned), np.int64))
            sizes[-1][assigned > 0] = size
        columns = (np.concatenate(column) for column in (self.splits, lengths, self.train_overlap, sizes))
        self.leakage = leakage.report(*columns, sample, split.SPLITS)

    def write(self, writer: DatasetWriter, progress: Callable[[int], None], **info) -> dict:
        """Writes the kept regions in input order; `progress` is called with bases. Returns dataset.json's content."""
        tokens = self.settings.tokenizer is not None
        try:
            for spill, splits, train_overlap in zip(self.spills, self.splits, self.train_overlap, strict=True):
                packed = spill.packed(tokens)
                for number, name in enumerate(split.SPLITS):
                    chosen = np.flatnonzero(splits == number)
                    writer.write(name, packed, chosen, train_overlap[chosen])
                    progress(int(packed.columns["length"][chosen].sum()))
            kept = sum(int((splits >= 0).sum()) for splits in self.splits)
            written = [split_writer.totals() for split_writer in writer.splits.values()]
            self.ledger.check(sum(regions for regions, _ in written), sum(length for _, length in written))
            if kept == 0:
                raise self._no_region()
            return writer.close(**info, inputs=self._inputs(), ledger=self.ledger.content(), leakage=self.leakage)
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.abandon()
            raise

    def _inputs(self) -> list[dict]:
        rows = []
        for number, spill in enumerate(self.spills):
            used = spill.facts["records"]
            totals = {"records": len(used), "bases": sum(record["bases"] for record in used)}
            for file in spill.facts["files"]:
                rows.append({**file, "input": number, "assembly": spill.facts["assembly"], **totals})
        return rows

    def _no_region(self) -> NoRegion:
        content = self.ledger.content()
        reasons = {**content["records"]["skipped"], **content["regions"]["dropped"], **content["notes"]}
        listed = ", ".join(f"{row['count']} {reason}" for reason, row in reasons.items() if row["count"])
        files = [file["file"] for spill in self.spills for file in spill.facts["files"]]
        names = ", ".join(files[:3]) + (" …" if len(files) > 3 else "")
        return NoRegion(
            f"no region found; skipped: {listed or 'nothing'}",
            file=names, remedy="give annotated records, or another --scheme",
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _index(file: Path, written: int) -> shared_kmers.Index:
    """The index of this process, created once for all inputs of a build."""
    return shared_kmers.Index(np.load(file, mmap_mode="r"))


def _occurring(folder: Path, training: np.ndarray, file: Path, sample: int) -> np.ndarray:
    index = _index(file, file.stat().st_mtime_ns)
    return leakage.occurring(index, Spill(folder).batches(training, leakage.CHUNK), sample)
