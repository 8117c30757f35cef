"""Recall by distance: how much better a segment is predicted if it occurred so many bases before.

The question of recall-bench. The segment is the end of a stretch of a real genome. A copy of it replaces the bases at a
distance before it, and the gain is the log-likelihood per base of the segment with the copy minus that without. Nothing
else differs, and all distances have the same context. The copy is exact; exact but 3 bases further, so that it has
other 6-mers; with 1, 5 or 10 % of its bases changed; or the reverse complement. Models of other contexts get the same
segments and copies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.plotting import evaluation
from gener_jax.statistics import intervals
from gener_jax.statistics.metrics import Metric
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.needle import known_bases

SEGMENT = 96  # bases, a multiple of 6
DISTANCES = tuple(SEGMENT * 2**i for i in range(11))  # bases from the start of the copy to that of the segment
CHANGED = {"mutated_1": 0.01, "mutated_5": 0.05, "mutated_10": 0.10}  # fraction of bases
FORMS = ("exact", "out_of_phase", *CHANGED, "reverse_complement")
_LEAD, _SHIFT = 6, 3
_BATCH = 4  # examples that are scored together


def copy_of(segment: np.ndarray, form: str, rng: np.random.Generator) -> np.ndarray:
    """The copy of a segment that a form plants, uint8 [bases]."""
    if form == "reverse_complement":
        return bases.reverse_complement(segment)
    copy, changed = segment.copy(), round(CHANGED.get(form, 0) * len(segment))
    at = rng.choice(len(segment), changed, replace=False)
    copy[at] = (copy[at] + rng.integers(1, 4, changed, dtype=np.uint8)) % 4
    return copy


def planted(stretch: np.ndarray, distance: int, form: str, seed: Sequence[int]) -> np.ndarray:
    """The stretch with a copy of its last 96 bases `distance` bases before them (3 more out of phase)."""
    rng = np.random.default_rng([*seed, distance])
    start = len(stretch) - SEGMENT - distance - _SHIFT * (form == "out_of_phase")
    found = stretch.copy()
    found[start : start + SEGMENT] = copy_of(stretch[-SEGMENT:], form, rng)
    return found


class Recall(ModelTask):
    """The task. It needs `model.log_likelihood(sequences, score="token", per_base=True)` and `model.max_bases`.

    A gain is in bits per base, at most what the segment costs without the copy. Distances that exceed the model's
    context are not run. Intervals are by resampling stretches.
    """

    name, metric = "recall", "exact"
    metrics: ClassVar = {form: Metric("bits per base", higher_is_better=True) for form in FORMS}

    def __init__(
        self,
        options: Options,
        *,
        haystack: str | Path = EXAMPLE_GENOME,
        distances: Sequence[int] = DISTANCES,
        n: int = 200,
    ):
        """In the chromosome of the package.

        Args:
          options: `rows`, if given and fewer, are instead of `n`.
          haystack: a FASTA or GenBank file.
          distances: bases, at least 96; of multiples of 6 all but one form are in phase.
          n: stretches.
        """
        self.haystack, self.distances, self.seed = Path(haystack), tuple(sorted(distances)), options.seed
        self.n = n if options.rows is None else min(n, options.rows)

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `base.ModelTask`.

        Raises:
          NotRun: if no distance fits the model's context, or the haystack is too short.
        """
        longest = model.max_bases
        distances = [x for x in self.distances if longest is None or _stretch_bases(x) <= longest]
        if not distances:
            least = _stretch_bases(self.distances[0])
            raise NotRun(f"needs {least:,} bases of context, and the model has {longest:,}")
        haystack, size = known_bases(self.haystack), _stretch_bases(distances[-1])
        if len(haystack) < size:
            raise NotRun(f"needs a haystack of {size:,} known bases; {self.haystack} has {len(haystack):,}")
        cells = [(form, distance) for form in FORMS for distance in distances]
        least = min(_stretch_bases(self.distances[-1]), len(haystack))  # the same segments for every context
        gains, costs = [], []
        for first in range(0, self.n, _BATCH):
            texts = []
            for number in range(first, min(first + _BATCH, self.n)):
                end = int(np.random.default_rng([self.seed, number]).integers(least, len(haystack) + 1))
                stretch = haystack[end - size : end]
                texts += [stretch, *(planted(stretch, distance, form, [self.seed, number]) for form, distance in cells)]
            scores = model.log_likelihood(map(bases.decode, texts), score="token", per_base=True)
            bits = [x.per_base[-SEGMENT:].astype(np.float64).mean() / np.log(2) for x in scores]
            bits = np.reshape(bits, (-1, 1 + len(cells)))
            gains.append(bits[:, 1:] - bits[:, :1])
            costs.append(-bits[:, 0])
            progress(first + len(bits), self.n)
        gains = np.concatenate(gains).reshape(self.n, len(FORMS), len(distances))
        return self._result(gains, np.concatenate(costs), distances)

    def _result(self, gains: np.ndarray, costs: np.ndarray, distances: Sequence[int]) -> Result:
        """From the gains, float64 [stretches, forms, distances], and the bits per base without a copy."""
        means, ends = gains.mean(0), {}
        for i, form in enumerate(FORMS):
            ends[form] = intervals.mean_interval(gains[:, i].mean(1), seed=self.seed)
        by_distance = {}
        for j, distance in enumerate(distances):
            row = by_distance[f"{distance:,} bases"] = {}
            for i, form in enumerate(FORMS):
                row[form] = float(means[i, j])
                if found := intervals.mean_interval(gains[:, i, j], seed=self.seed):
                    row[f"{form}_low"], row[f"{form}_high"] = found
            row["stretches"] = self.n
        skipped = [f"{x:,} bases" for x in self.distances if x not in distances]
        by_distance |= {name: {"stretches": 0} for name in skipped}
        number, distance = (x.reshape(-1) for x in np.indices((self.n, len(distances))))
        note = (
            f"The last {SEGMENT} bases of stretches of {self.haystack.name} cost {costs.mean():.3f} bits per base "
            "without a copy, which bounds the gain; less if the model was trained on them."
        )
        return Result(
            metrics={name: float(x) for name, x in zip(FORMS, means.mean(1), strict=True)},
            counts={"distances": len(distances), "stretches": self.n},
            intervals=ends,
            baselines={"without memory": dict.fromkeys(FORMS, 0.0)},
            breakdown={"distance": by_distance},
            note=note + (f" Not run, since it exceeds the context: {', '.join(skipped)}." if skipped else ""),
            predictions={
                "row": [f"{x}, {distances[y]} bases" for x, y in zip(number, distance, strict=True)],
                "stretch": number,
                "distance": np.array(distances)[distance],
                **{form: gains[:, i].reshape(-1) for i, form in enumerate(FORMS)},
            },
            paired=Paired("mean", "exact", scores=("exact",), groups="stretch", rows="row"),
            figures={self.name: lambda: _figure(by_distance, distances)},
        )


def _stretch_bases(distance: int) -> int:
    """The bases that a copy at this distance needs."""
    return _LEAD + distance + SEGMENT


def _figure(by_distance: dict[str, dict[str, float]], distances: Sequence[int]):
    rows = list(by_distance.values())[: len(distances)]
    lines = {
        form.replace("_", " "): [[row.get(f"{form}{end}", np.nan) for row in rows] for end in ("", "_low", "_high")]
        for form in FORMS
    }
    title = f"Gain from a copy of {SEGMENT} bases"
    return evaluation.curves(title, "bits per base", ("bases before the segment", distances), lines)


ENTRIES = (Entry("recall", lambda config: Recall(Options.of(config)), quick=30),)
