"""Whether a model was trained on the bases with which it scores variants."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import DataError, MismatchError
from data_pipeline.sequence import bases, shared_kmers
from data_pipeline.splitting import leakage
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.storage import provenance, run_folder

_BUCKET = 1024  # bases: the resolution of `ScoredBases`
_LARGEST = 2 * 10**9  # training bases up to which "auto" compares


class ScoredBases:
    """The bases that the windows of variants cover, in buckets of 1024 bases."""

    def __init__(self, genome: Genome, context: int):
        self._genome, self._context = genome, context
        self._marks: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def add(self, contig: str, start: int) -> None:
        """Marks the window of a variant, if the genome contains it."""
        name = self._genome.contig(contig)
        stretch = None if name is None else self._genome.stretch(Interval(name, start, start + 1))
        if stretch is None:
            return
        empty = np.zeros(-(-len(stretch.codes) // _BUCKET), bool)
        _, marks = self._marks.setdefault((name, stretch.start), (stretch.codes, empty))
        at = start - stretch.start
        marks[max(at - self._context, 0) // _BUCKET : (at + self._context) // _BUCKET + 1] = True

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields each run of marked bases, codes uint8 [bases]."""
        for codes, marks in self._marks.values():
            for first, last in bases.runs(marks):
                yield codes[first * _BUCKET : last * _BUCKET]


def overlap(dataset: str, folder: Path, step: int | None, scored: Iterable[np.ndarray], check: str) -> str:
    """One line on how many 32-mers of the scored bases occur in a model's training data, on either strand.

    Args:
      dataset: the path of the dataset that the model should have been trained on.
      folder, step: the run and the step of the model's checkpoint; None for a model without one.
      scored: codes, uint8 [bases] each.
      check: one of `options.CHECKS`; "auto" compares with up to 2 Gb of training data.
    """
    if check == "never":
        return "the scored bases were not compared with the training data"
    trained_on = None if step is None else run_folder.read_loader_state(folder, step)
    if trained_on is None:
        known = provenance.read(folder)
        if known is None:
            problem = f"{folder} does not record its training data, which may contain the scored bases"
        else:
            problem = f"the scored bases were not compared with the training data, {known.records}"
        return f"warning: {problem}; --check_overlap never skips this"
    try:
        if read_info(dataset)["digest"] != trained_on["dataset"]:
            raise MismatchError("is not the dataset that the model was trained on", file=dataset)
        source = RegionSource(dataset, "train")
    except DataError as error:
        return f"warning: the training data cannot be read and may contain the scored bases: {error}"
    lengths = source.index["length"].tolist()
    if check == "auto" and sum(lengths) > _LARGEST:
        return (
            f"warning: the {sum(lengths):,} bases of training data were not compared with the scored bases and may "
            "contain them; to compare them, give --check_overlap always"
        )
    if source.storage == "token_ids":
        return "warning: the training data are stored as tokens, cannot be compared and may contain the scored bases"
    scored = list(scored)
    sample = leakage.sampling(sum(map(len, scored)))
    hashes, _ = leakage.hash_regions(scored, sample)
    index = shared_kmers.Index(np.unique(hashes))
    regions = ((source.read(i, 0, n), np.zeros(1, np.int64), np.array([n])) for i, n in enumerate(lengths))
    occurs = leakage.occurring(index, regions, sample)
    if not occurs.any():
        return f"no 32-mer of the scored bases occurs in the model's training data ({sum(lengths):,} bases)"
    longest = leakage.longest_shared(scored, index.hashes[occurs]) if sample == 1 else 0
    return (
        f"warning: {int(occurs.sum()):,} of the {len(occurs):,} distinct 32-mers of the scored bases occur in the "
        f"model's training data, {dataset}, on either strand"
        + (f"; the longest shared run has {longest} bases" if longest else "")
    )
