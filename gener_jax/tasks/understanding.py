"""Sequence understanding: what a frozen model's embeddings, or a fine-tuned model, predict of labelled sequences.

A frozen model is probed by a linear model of its embeddings (`baselines/linear`). Which layer and pooling it reads, and
the penalty, are chosen on validation rows alone; test rows are predicted once. Baselines are fitted to the same rows.
A set without test rows is tested on outer folds: each row is predicted once, by a probe of the other folds, and the
metrics are of all of them together, not means over folds.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import DamagedFileError, FileError, MismatchError, counted
from gener_jax.config import Config
from gener_jax.labelled.audit import Leaks, leaks
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import Splits
from gener_jax.plotting import evaluation as plots
from gener_jax.plotting import prediction
from gener_jax.runtime.errors import InputError
from gener_jax.statistics.calibration import reliability
from gener_jax.statistics.metrics import breakdown
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.labelled_rows import beside, measure, metrics_of
from gener_jax.tasks.labelled_sets import SETS, LabelledSet, outer_folds

POOLINGS = ("mean", "last")
SEARCH = 1000  # training rows, and half as many for validation, by which layer and pooling are chosen
MOST_REFUSED = 0.1  # of the rows: where more exceed the context, the set is not run
LAST = "last"  # the layer after the final norm
LONG = ("refuse", "truncate")

# (model, splits, folder) → what it predicts for the test rows, [N, C], once it is fine-tuned on the others
Adapt = Callable[[object, Splits, Path, int], np.ndarray]  # of a model, rows, a folder and a seed


class Understanding(ModelTask):
    """A labelled set, as a task. Of two classes, the second by value or name is the positive one.

    The model needs `embed(sequences, *, pooling, layer)` (see `LM.embed`), `num_layers`, `k` and `max_bases`. Bases
    left over at the end, fewer than a token, are not embedded.
    """

    def __init__(
        self,
        options: Options,
        labelled: LabelledSet,
        *,
        layers: Sequence[int | None] | None = None,
        poolings: Sequence[str] = POOLINGS,
        long: str = "refuse",
        baselines: bool = True,
    ):
        """`layers`: that may be read, None the last, after the final norm [the embedding, the layers at a quarter, half
        and three quarters, the last]. `long`: rows that exceed the context of the model are left out and counted
        ("refuse"), and the set is not run if they are more than a tenth; or they lose the end ("truncate").

        Raises:
          NotRun: if a file of the set is missing, or the genome is of another assembly.
        """
        if long not in LONG:
            raise InputError(f"must be one of {', '.join(LONG)}", "long", long)
        self.name, self.metrics = labelled.name, metrics_of(labelled.problem)
        self.metric = labelled.metric or next(iter(self.metrics))
        if labelled.problem == "regression" and len(labelled.label) > 1:
            self.metrics |= {labelled.of_output(name): self.metrics[self.metric] for name in labelled.label}
        self.labelled, self._options, self._long, self._baselines = labelled, options, long, baselines
        self._layers, self._poolings = layers, poolings
        self.adapted, self._adapt, self._folder = "frozen", None, None
        for file in labelled.required():
            options.file(file, labelled.source)
        with _not_run(labelled.source):
            labelled.check(options.data)

    def fine_tuned(self, name: str, adapt: Adapt, folder: Path) -> "Understanding":
        """The same task, with the model fine-tuned on the training rows instead of probed.

        Args:
          name: what that is called, "lora" or "full".
          adapt: does it; for example `finetuning.adapting.FineTuning`.
          folder: for its runs, one for each outer fold and seed.
        """
        other = copy.copy(self)
        other.adapted, other._adapt, other._folder = name, adapt, folder
        return other

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `ModelTask`."""
        rows = self._prepared(model.max_bases, model.k)
        if self._adapt is None:
            sign = -1 if self.metrics[self.metric].higher_is_better is False else 1
            probe = Probe(model, self.metric, sign, self._candidates(model), progress, len(rows.folds))
            predicted = [probe(splits) for splits in rows.folds]
        else:
            probe, predicted, seed = None, [], self._options.seed
            folder = self._folder / (f"{self.name}-seed{seed}" if seed else self.name)
            for i, splits in enumerate(rows.folds):
                predicted.append(self._adapt(model, splits, folder / str(i), seed))
                progress(i + 1, len(rows.folds))
        numbers = np.concatenate(predicted)
        result = measure(rows.problem, rows.test, numbers, self.metric, rows.copies)
        others = rows.baselines if self._baselines else {}
        result.baselines = beside(rows.problem.kind, rows.test, numbers, self.metric, others)
        result.metrics |= self._of_outputs(rows, numbers)
        for name, theirs in others.items():
            result.baselines[name] |= self._of_outputs(rows, theirs)
        self._describe(result, rows, probe)
        self._compare(result, rows, numbers)
        result.figures = self._figures(rows, numbers, others, probe)
        return result

    def _candidates(self, model) -> list[tuple[str, int | None]]:
        layers, last = self._layers, model.num_layers
        if layers is None:
            layers = [0, *sorted({round(last * part / 4) for part in (1, 2, 3)} - {0, last}), None]
        return [(pooling, layer) for layer in layers for pooling in self._poolings if (pooling, layer) != ("last", 0)]

    def _prepared(self, max_bases: int | None, k: int) -> "Rows":
        """The rows of all outer folds that the model can read."""
        with _not_run(self.labelled.source):
            folds = outer_folds(self.labelled, self._options.data)
        taken = [self._chosen(splits, len(folds)) for splits in folds]
        made, total, refused, truncated = [], 0, 0, 0
        for splits in taken:
            fitting = {}
            for name in ("train", "validation", "test"):
                each = getattr(splits, name)
                lengths = np.array([len(dna) for dna in each.sequences])
                long = lengths > (lengths.max(initial=0) if max_bases is None else max_bases)
                keep = (lengths >= k) & ~(long & (self._long == "refuse"))
                total, refused, truncated = total + len(each), refused + (~keep).sum(), truncated + (keep & long).sum()
                kept = each.take(keep, name)
                fitting[name] = dataclasses.replace(kept, sequences=[dna[:max_bases] for dna in kept.sequences])
            made.append(dataclasses.replace(splits, **fitting))
        if refused > MOST_REFUSED * total:
            longest = max(len(dna) for splits in taken for dna in splits.train.sequences)
            raise NotRun(
                f"{refused / total:.0%} of the rows of {self.name} have fewer bases than a token or more than the "
                f"{max_bases} of the context (the longest has {longest:,}); long ones can be truncated: long='truncate'"
            )
        _check(made, self.name)
        refused, truncated = (round(number / len(folds)) for number in (refused, truncated))  # each row is in all folds
        return Rows(made, refused, truncated, self.metric, self._options.seed)

    def _chosen(self, splits: Splits, folds: int) -> Splits:
        """At most `rows` rows of training, half as many of validation, and `rows` of all test rows together."""
        rows = self._options.rows
        if rows is None:
            return splits
        limits = {"train": rows, "validation": -(-rows // 2), "test": -(-rows // folds)}
        chosen = {name: first(getattr(splits, name), limit, self._options.seed) for name, limit in limits.items()}
        return dataclasses.replace(splits, **chosen)

    def _of_outputs(self, rows: "Rows", numbers: np.ndarray) -> dict[str, float]:
        """The main metric of each output, if the set has several."""
        names = {self.labelled.of_output(name): name for name in self.labelled.label}
        if not names.keys() <= self.metrics.keys():
            return {}
        found = breakdown(rows.problem.kind, rows.test.targets, numbers, rows.problem.names)
        return {metric: found[name][self.metric] for metric, name in names.items()}

    def _describe(self, result: Result, rows: "Rows", probe: "Probe | None") -> None:
        """Counts, published figures, the sweep and sentences about them."""
        train = {"train_rows": round(np.mean([len(splits.train) for splits in rows.folds]))}
        train |= {name: number for name, number in (("refused", rows.refused), ("truncated", rows.truncated)) if number}
        names, notes = rows.problem.names, [self.labelled.note] if self.labelled.note else []
        if rows.problem.kind == "single_label" and len(names) == 2:
            train["positive_rows"] = int((rows.test.targets == 1).sum())
            notes.append(f"the positive class is {names[1]}")
        result.counts = train | result.counts  # rows last
        complete = self._options.rows is None and not rows.refused and not rows.truncated
        result.published = self.labelled.figures(complete)
        how = "a linear probe of the frozen model" if self.adapted == "frozen" else f"fine-tuned ({self.adapted})"
        if self.labelled.reported is not None:
            same = complete and self.labelled.as_published
            notes.append(f"this is {how}; the published rows and split are {'these' if same else 'others'}")
        result.note = "; ".join(notes)
        lines = list(dict.fromkeys(note for splits in rows.folds[:1] for note in splits.notes))
        if len(rows.folds) > 1:
            lines.append(f"{len(rows.folds)} outer folds; each row is predicted by what was fitted to the others")
        if probe is not None:
            result.breakdown["layer of validation rows"] = probe.layers
            lines += [f"fold {i}: {text}" for i, text in enumerate(probe.choices)]
        result.text = "\n".join(lines)

    def _compare(self, result: Result, rows: "Rows", numbers: np.ndarray) -> None:
        """The predictions, as columns: where a row is from, its outer fold, its target, and what is predicted; and by
        which of them two models are compared.
        """
        problem, test = rows.problem, rows.test
        folds = np.repeat(np.arange(len(rows.folds)), [len(splits.test) for splits in rows.folds])
        found: dict[str, Sequence] = {"row": test.places, "fold": folds}
        found |= {} if test.groups is None else {"group": test.groups}
        if problem.kind == "single_label":
            found["label"] = [problem.names[i] for i in test.targets]
            targets = {"class": test.targets}
        else:
            targets = {f"target({name})": test.targets[:, i] for i, name in enumerate(problem.names)}
        what = "predicted({})" if problem.kind == "regression" else "p({})"
        scores = {what.format(name): numbers[:, i] for i, name in enumerate(problem.names)}
        result.predictions = found | targets | scores
        group = None if test.groups is None else "group"
        result.paired = Paired(problem.kind, self.metric, tuple(scores), tuple(targets), group, "row")

    def _figures(self, rows: "Rows", numbers: np.ndarray, others: dict, probe: "Probe | None") -> dict:
        problem, targets, found = rows.problem, rows.test.targets, {}
        title = self.name.replace("_", " ")
        if problem.kind == "regression":
            pairs = {name: (targets[:, i], numbers[:, i]) for i, name in enumerate(problem.names)}
            found["measured"] = functools.partial(prediction.measured, title, pairs)
        else:
            if problem.kind == "single_label" and len(problem.names) == 2:
                scores = {self.adapted: numbers, **others}
                curves = {name: (targets == 1, x[:, 1]) for name, x in scores.items()}
            else:
                positive = targets[:, None] == np.arange(len(problem.names)) if targets.ndim == 1 else targets == 1
                curves = {name: (positive[:, i], numbers[:, i]) for i, name in enumerate(problem.names)}
            found["roc"] = functools.partial(prediction.roc, title, curves)
            bins = {self.adapted: reliability(targets, numbers)}
            found["reliability"] = functools.partial(prediction.reliability, title, bins)
        if probe is not None:
            label = f"{self.metric} of validation rows"
            found["layers"] = functools.partial(plots.by_layer, title, label, probe.curves)
        return found


@contextlib.contextmanager
def _not_run(source: str) -> Iterator[None]:
    """A file or split that is missing, or a genome of another assembly, is no failure."""
    try:
        yield
    except DamagedFileError:
        raise
    except (FileError, MismatchError) as error:
        raise NotRun(f"{error}; from {source}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a set that a model can read: outer folds, and how many were left out or cut.

    `metric` and `seed` are those of the baselines.
    """

    folds: list[Splits]
    refused: int
    truncated: int
    metric: str
    seed: int

    @property
    def problem(self):
        """What targets mean; the scale of outputs is that of the first fold."""
        return self.folds[0].problem

    @functools.cached_property
    def test(self) -> Examples:
        """The test rows of all folds, one fold after the other."""
        tests = [splits.test for splits in self.folds]
        groups = None if tests[0].groups is None else np.concatenate([each.groups for each in tests])
        return Examples(
            "test",
            [dna for each in tests for dna in each.sequences],
            np.concatenate([each.targets for each in tests]),
            [where for each in tests for where in each.places],
            groups,
        )

    @functools.cached_property
    def copies(self) -> Leaks:
        """What each test row has in common with the training rows of its fold."""
        found = [leaks(splits.train, splits.test) for splits in self.folds]
        columns = [field.name for field in dataclasses.fields(Leaks)]
        return Leaks(**{name: np.concatenate([getattr(each, name) for each in found]) for name in columns})

    @functools.cached_property
    def baselines(self) -> dict[str, np.ndarray]:
        """What each baseline predicts for the test rows; of those that all folds have rows enough for."""
        by_fold = [_baselines(splits, self.metric, self.seed) for splits in self.folds]
        names = [name for name in by_fold[0] if all(name in each for each in by_fold)]
        return {name: np.concatenate([each[name] for each in by_fold]) for name in names}


_fitted: dict[tuple, dict[str, np.ndarray]] = {}  # by the rows: the next model on them needs no other baselines


def _baselines(splits: Splits, metric: str, seed: int) -> dict[str, np.ndarray]:
    """What each baseline predicts for the test rows of a fold; fitted once for all models."""
    from gener_jax.baselines import fitting  # scikit-learn, which takes seconds to import

    key = *(each.digest for each in (splits.train, splits.validation, splits.test)), splits.problem, metric, seed
    if key not in _fitted:
        found = fitting.fit(splits.train, splits.validation, splits.problem, metric=metric, seed=seed)
        _fitted[key] = {each.name: each.predict(splits.test.sequences) for each in found}
    return _fitted[key]


def first(rows: Examples, number: int, seed: int = 0) -> Examples:
    """At most so many rows: the first in a random order of all sequences, so that two folds take mostly the same."""
    keys = [hashlib.blake2b(f"{seed}\t{dna}".encode(), digest_size=8).digest() for dna in rows.sequences]
    return rows.take(sorted(sorted(range(len(rows)), key=keys.__getitem__)[:number]), rows.name)


class Probe:
    """Linear models of the embeddings of a model, for one outer fold after the other.

    Attributes:
      choices: a line for each fold: what was chosen on its validation rows.
    """

    def __init__(
        self,
        model,
        metric: str,
        sign: int,
        candidates: Sequence[tuple[str, int | None]],
        progress: Progress,
        folds: int,
    ):
        """`sign`: -1 of a metric that is better if lower. `candidates`: pairs of pooling and layer. `folds`: their
        number, for `progress`.
        """
        self._model, self._candidates, self._progress = model, candidates, progress
        self._metric, self._sign = metric, sign
        self._known: dict[tuple, dict[str, np.ndarray]] = {each: {} for each in candidates}
        self._values: dict[tuple, list[float]] = {each: [] for each in candidates}
        self._done, self._total = 0, folds * (len(candidates) + 1)
        self.choices: list[str] = []

    def __call__(self, splits: Splits) -> np.ndarray:
        """What the best probe predicts for the test rows, [N, C]."""
        train, validation, values = first(splits.train, SEARCH), first(splits.validation, SEARCH // 2), {}
        for candidate in self._candidates:
            values[candidate] = self._fit(candidate, train, validation, splits.problem)[2]
            self._values[candidate].append(values[candidate])
            self._step()
        best = max(self._candidates, key=values.get)
        predict, choices, value = self._fit(best, splits.train, splits.validation, splits.problem)
        found = predict(self._embedded(best, splits.test.sequences))
        pooling, layer = best
        chosen = [f"{pooling} of layer {_name(layer)}", *(f"{name} {x:g}" for name, x in choices.items())]
        self.choices.append(f"{', '.join(chosen)}; {self._metric} of validation rows {self._sign * value:.4f}")
        self._step()
        return found

    @property
    def curves(self) -> dict[str, dict[str, float]]:
        """Pooling → layer → the metric of validation rows, the mean over folds."""
        found: dict[str, dict[str, float]] = {}
        for (pooling, layer), values in self._values.items():
            mean = np.mean(values)
            found.setdefault(pooling, {})[_name(layer)] = self._sign * float(mean) if np.isfinite(mean) else math.nan
        return found

    @property
    def layers(self) -> dict[str, dict[str, float]]:
        """The same as groups of a breakdown."""
        metric = f"validation_{self._metric}"
        return {f"{layer}, {pooling}": {metric: x} for pooling, row in self.curves.items() for layer, x in row.items()}

    def _fit(self, candidate, train: Examples, validation: Examples, problem):
        from gener_jax.baselines import linear  # scikit-learn, which takes seconds to import

        rows, held_out = (self._embedded(candidate, each.sequences) for each in (train, validation))
        return linear.fit(rows, train.targets, held_out, validation.targets, problem, metric=self._metric)

    def _embedded(self, candidate: tuple[str, int | None], sequences: list[str]) -> np.ndarray:
        """Embeddings, float32 [N, D]; each sequence is embedded once."""
        (pooling, layer), known = candidate, self._known[candidate]
        k = self._model.k
        cut = [dna[: len(dna) // k * k] for dna in sequences]
        if missing := [dna for dna in dict.fromkeys(cut) if dna not in known]:
            known.update(zip(missing, self._model.embed(missing, pooling=pooling, layer=layer), strict=True))
        return np.stack([known[dna] for dna in cut]).astype(np.float32)

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _name(layer: int | None) -> str:
    return LAST if layer is None else str(layer)


def _check(folds: list[Splits], name: str) -> None:
    """Refuses what cannot be learned or measured: a split without rows, or training rows of one class."""
    for splits in folds:
        for each in (splits.train, splits.validation, splits.test):
            if not len(each):
                raise NotRun(f"{name} has no {each.name} row that is taken; give eval.rows a larger number")
        if splits.problem.kind == "single_label" and len(np.unique(splits.train.targets)) < 2:
            rows = counted(len(splits.train), "training row")
            raise NotRun(f"{name} has {rows} of one class alone; give eval.rows a larger number")


def of_config(config: Config, name: str) -> Understanding:
    """The task of a set, with the options of a configuration."""
    return Understanding(Options.of(config), SETS[name])


_QUICK = {"prom_300_tata": 200, "deepstarr_sample": 200, "gener_gene_type": 100}  # rows
ENTRIES: tuple[Entry, ...] = tuple(
    Entry(each.name, functools.partial(of_config, name=each.name), _QUICK.get(each.name), each.suite)
    for each in SETS.values()
)
