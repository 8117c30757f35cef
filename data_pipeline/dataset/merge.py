"""Merges the spills of all inputs into a dataset: drops duplicates, assigns splits, measures leakage, writes shards.

Inputs are processed in order, so the result does not depend on the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset.packing import starts_of
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
    """The regions of all spills, end to end.

    `starts`, int64 [spills + 1], are the first region of each spill, and their number. Of each region there is its
    `length` in bases; `kept`, whether it is not dropped; `splits`, int8, -1 if it is dropped; and `train_overlap`.
    """

    def __init__(self, folders: list[Path], settings: Settings):
        self.spills, self.settings, self.ledger = [Spill(folder) for folder in folders], settings, Ledger()
        for spill in self.spills:
            self.ledger.add(spill.facts["ledger"])
        self.starts = starts_of([len(spill) for spill in self.spills])
        self.length = self._column("length")
        self.kept = np.ones(len(self.length), bool)
        self.train_overlap = np.full(len(self.length), np.nan, np.float32)
        self.leakage: dict = {}

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([spill.column(name) for spill in self.spills])

    def _by_spill(self, *columns: np.ndarray) -> Iterator[tuple]:
        """Yields each spill with its part of each column."""
        return zip(self.spills, *(np.split(column, self.starts[1:-1]) for column in columns), strict=True)

    def _drop(self, reason: str, dropped: np.ndarray) -> None:
        dropped = dropped & self.kept
        if dropped.any():
            self.ledger.drop(reason, int(self.length[dropped].sum()), int(dropped.sum()))
            self.kept &= ~dropped

    def drop_records(self) -> None:
        """Drops the regions of records that occurred in an earlier input.

        Raises:
          MismatchError: an accession.version occurs with different bases.
        """
        known: dict[str, str] = {}
        dropped = []
        for spill in self.spills:
            again = np.zeros(len(spill.facts["records"]), bool)
            for number, record in enumerate(spill.facts["records"]):
                name = split.full_name(record["accession"], spill.facts["assembly"])
                before = known.setdefault(name, record["content"])
                if before != record["content"]:
                    raise other_bases(spill.facts["path"], record["accession"])
                again[number] = before is not record["content"]
            dropped.append(again[spill.column("record")])
        self._drop(DUPLICATE_RECORD, np.concatenate(dropped))

    def drop_duplicates(self, which: str) -> None:
        """Drops regions with the bases of an earlier one, of an earlier input ("inputs") or of any input ("all")."""
        if self.settings.digests:
            digests = [spill.digests for spill in self.spills]
            again = duplicates.repeated(digests, self.starts, self.kept, within=which == "all")
            self._drop(DUPLICATE_BASES, again)

    def assign_splits(self, validation_fraction: float, test_fraction: float) -> None:
        """Assigns a split to each region; if clusters are kept together, drops regions that link two splits."""
        names = [spill.facts["split"] for spill in self.spills]
        fixed = [None if name is None else split.SPLITS.index(name) for name in names]
        split_hash = self._column("split_hash")
        if self.settings.split_by == "cluster":
            sketches = [spill.sketches for spill in self.spills]
            self.splits, links = clusters.assign(
                sketches, self.starts, split_hash, self.length, self.kept, fixed, validation_fraction, test_fraction
            )
            self._drop(LINK, links)
        else:
            given = np.repeat([-1 if number is None else number for number in fixed], np.diff(self.starts))
            by_hash = split.splits_of(split_hash, validation_fraction, test_fraction)
            self.splits = np.where(given < 0, by_hash, given).astype(np.int8)
        self.splits[~self.kept] = -1

    def kept_bases(self) -> int:
        """The number of bases in the kept regions."""
        return int(self.length[self.kept].sum())

    def num_groups(self) -> int:
        """The number of groups with a kept region, each of which is in one split as a whole."""
        return len(np.unique(self._column("split_hash")[self.kept]))

    def measure_leakage(self, folder: Path, apply: Map = map, progress: Callable[[int], None] = lambda n: None) -> None:
        """Measures the fraction of each held-out region's 32-mers that occur in training.

        `apply` is `map` or a parallel version of it; `progress` is called with the number of bases done.
        """
        held_out, training = self.splits > 0, self.splits == 0
        num_bases = int(self.length[held_out].sum())
        if not num_bases or not training.any():
            return
        sample = leakage.sampling(num_bases)
        found = [leakage.hash_regions(spill.codes(mine), sample) for spill, mine in self._by_spill(held_out)]
        hashes, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        members, which = np.unique(hashes, return_inverse=True)
        file = folder / "held_out.npy"
        np.save(file, members)
        jobs = [(spill.folder, mine, file, sample) for spill, mine in self._by_spill(training)]
        occurs = np.zeros(len(members), bool)
        for here, (_, length, kept) in zip(
            apply(_occurring, *zip(*jobs, strict=True)), self._by_spill(self.length, self.kept), strict=True
        ):
            occurs |= here
            progress(int(length[kept].sum()))
        file.unlink()
        self.train_overlap[:] = 0
        self.train_overlap[held_out] = leakage.train_overlaps(occurs, which, sizes)
        self.leakage = leakage.report(
            self.splits[held_out], self.length[held_out], self.train_overlap[held_out], sizes, sample, split.SPLITS
        )

    def write(self, writer: DatasetWriter, progress: Callable[[int], None], **info) -> dict:
        """Writes the kept regions in input order; `progress` is called with bases. Returns dataset.json's content."""
        if not self.kept.any():
            raise self._no_region()
        try:
            for spill, splits, overlap in self._by_spill(self.splits, self.train_overlap):
                packed = spill.packed(self.settings.tokenizer is not None)
                for number, name in enumerate(split.SPLITS):
                    chosen = np.flatnonzero(splits == number)
                    writer.splits[name].write(packed, chosen, overlap[chosen])
                    progress(int(packed.table["length"][chosen].sum()))
            info |= {
                "inputs": self._inputs(),
                "excluded": self._excluded(),
                "ledger": self.ledger.content(),
                "leakage": self.leakage,
            }
            dataset = writer.close(**info)
        finally:
            writer.release()
        self.ledger.check(*(sum(facts[name] for facts in dataset["splits"].values()) for name in ("regions", "bases")))
        return dataset

    def _inputs(self) -> list[dict]:
        rows = []
        for number, facts in enumerate(spill.facts for spill in self.spills):
            totals = {"records": len(facts["records"]), "bases": sum(record["bases"] for record in facts["records"])}
            rows += [{**file, "input": number, "assembly": facts["assembly"], **totals} for file in facts["files"]]
        return rows

    def _excluded(self) -> list[dict]:
        """The inputs of which a part occurs in the excluded sequences, with its bases, cut out or kept."""
        return [
            {"input": number, "file": facts["files"][0]["file"], **facts["excluded"]}
            for number, facts in enumerate(spill.facts for spill in self.spills)
            if facts["excluded"]["bases"]
        ]

    def _no_region(self) -> NoRegion:
        content = self.ledger.content()
        reasons = {**content["records"]["skipped"], **content["regions"]["dropped"], **content["notes"]}
        listed = ", ".join(f"{row['count']} {reason}" for reason, row in reasons.items() if row["count"])
        files = [file["file"] for spill in self.spills for file in spill.facts["files"]]
        names = ", ".join(files[:3]) + (" …" if len(files) > 3 else "")
        return NoRegion(
            f"no region found; skipped: {listed or 'nothing'}",
            file=names, remedy="give annotated records, or choose another --scheme",
        )  # fmt: skip


def _occurring(folder: Path, training: np.ndarray, file: Path, sample: int) -> np.ndarray:
    return leakage.occurring(shared_kmers.load(file), Spill(folder).batches(training, leakage.CHUNK), sample)
