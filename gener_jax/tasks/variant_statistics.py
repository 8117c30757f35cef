"""What scores of a set's variants are worth: metrics, intervals, and gains over baselines, on the rows of both."""

import numpy as np

from gener_jax.statistics import matched
from gener_jax.statistics.intervals import RESAMPLES
from gener_jax.tasks.variant_tables import Rows, VariantSet


class Statistics:
    """Those of one set.

    A metric is one of `matched.CLASSES` or `VALUES`, over all rows or as the mean over a stratum of `VariantSet.macro`,
    "" for none. `truth` is a target as `VariantSet.target` gives it, `scores` float64 [rows]; a row without either
    does not count.

    Attributes:
      units: what the bootstrap draws together, int [rows]: match groups, or the variants of a position.
    """

    def __init__(self, spec: VariantSet, rows: Rows, seed: int, resamples: tuple[int, int] = (RESAMPLES, RESAMPLES)):
        """`resamples`: at least and at most; few suffice where rows are many, and cost much there."""
        self.spec, self.table, self.seed, self.resamples = spec, rows.table, seed, resamples
        if spec.match:
            names = rows.table.values(spec.match, "match")
        else:
            names = [f"{v.contig}:{v.start}" for v in rows.variants]
        self.units = np.unique(names, return_inverse=True)[1].reshape(-1)

    def value(self, metric: str, truth: np.ndarray, stratum: str, scores: np.ndarray) -> float:
        """The metric; NaN where it does not exist."""
        arguments, settings = self._on(metric, truth, stratum, scores)
        return matched.value(*arguments, settings["strata"], settings["weighting"])

    def interval(self, metric: str, truth: np.ndarray, stratum: str, scores: np.ndarray) -> tuple[float, float] | None:
        """Its 95 % interval; see `matched.bootstrap`."""
        arguments, settings = self._on(metric, truth, stratum, scores)
        return matched.bootstrap(*arguments, **settings)

    def baseline(
        self, name: str, of: tuple[str, np.ndarray, str], scores: np.ndarray, values: np.ndarray, headline: bool = True
    ) -> dict[str, float]:
        """A baseline's metric as `name`, on the rows that have a score; `rows`, if the baseline has not all of them.

        Args:
          of: metric, truth and stratum.
          scores: of the model.
          values: of the baseline.
          headline: also its interval, `name_low` and so on, and what the model gains over it, `name_gain`.
        """
        values = np.where(np.isfinite(scores), values, np.nan)
        row = {name: self.value(*of, values)}
        if not np.isfinite(row[name]):
            return {}
        if headline:
            arguments, settings = self._on(*of, scores, values)
            gain = matched.paired(*arguments, **settings)
            row |= dict(zip((f"{name}_low", f"{name}_high"), self.interval(*of, values) or (), strict=False))
            row |= {f"{name}_gain": gain.gain}
            row |= {} if gain.low is None else {f"{name}_gain_low": gain.low, f"{name}_gain_high": gain.high}
        if (np.isfinite(scores) & ~np.isfinite(values)).any():
            row["rows"] = int(np.isfinite(values).sum())
        return row

    def _on(self, metric: str, truth: np.ndarray, stratum: str, *scores: np.ndarray) -> tuple[tuple, dict]:
        """The arguments of `matched.bootstrap` and `paired`, on the rows that have all of these."""
        chosen = np.isfinite([truth, *scores]).all(0)
        target = truth[chosen] == 1 if metric in matched.CLASSES else truth[chosen]
        column, weighting = self.spec.macro.get(stratum, ("", "size"))
        settings = {
            "groups": self.units[chosen],
            "strata": np.array(self.table.values(column, "macro"))[chosen] if column else None,
            "weighting": weighting,
            "resamples": int(np.clip(2_000_000 // max(chosen.sum(), 1), *self.resamples)),
            "seed": self.seed,
        }
        return (metric, target, *(each[chosen] for each in scores)), settings
