"""Fine-tuning on labels per base: windows of contigs on both strands, the objective, and the evaluation.

The head reads, for each k-mer, its hidden state and that of its reverse complement in the reverse complement of the
window, so that what it predicts depends on the bases of both sides. The layers below are one model, called twice.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.errors import counted
from data_pipeline.files import atomic, write_text
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, PAD, SPECIAL_TOKENS
from gener_jax.config import Config, Head, ModelSpec
from gener_jax.data.loader import read_batches
from gener_jax.data.permutation import mix, permute, subkey
from gener_jax.finetuning import method
from gener_jax.finetuning.plan import Plan, resolved
from gener_jax.inference import annotation as prediction
from gener_jax.inference.batches import round_up
from gener_jax.labelled import annotation, windows
from gener_jax.labelled.annotation import UNLABELLED, Annotated, AnnotatedSplits
from gener_jax.labelled.audit import leaks
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.model import kernels, kmers
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import ROWS, TOKENS
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.statistics.calibration import temperature
from gener_jax.statistics.intervals import LEAST, bootstrap, interval, paired
from gener_jax.statistics.metrics import METRICS, breakdown, evaluate
from gener_jax.storage.results import Dataset
from gener_jax.tasks.base import Progress, Result, silent
from gener_jax.tasks.labelled_rows import metrics_of

PREDICTIONS = "test_predictions.gff3"
BASES = "test_bases.npz"  # of each labelled test base its class, the most probable one and its window, for paired tests
SAMPLE = 2000  # training bases for the baselines; half as many of validation, four times as many that are predicted
NEIGHBOURS = 64  # bases that they see on both sides
_ORDER, _START, _END = range(3)  # the purpose of a key


def plan(config: Config, base: ModelSpec, workdir: Path) -> Plan:
    """The plan of a run on the contigs of `config.finetune`, in windows of `data.context_length` tokens, or as many as
    the model's positions allow. A frozen base is computed in every step, since windows change with each epoch.

    Raises:
      ConfigError, DataError: one line each.
    """
    f, limit = config.finetune, base.model.max_length
    if f.metric not in (None, *METRICS["token"]):
        raise ConfigError(f"must be one of {', '.join(METRICS['token'])}, for token", "finetune.metric", f.metric)
    if base.tokenizer.kind != "kmer":
        raise ConfigError("has no k-mers, which labels per base need", "train.init_from", config.train.init_from)
    if f.layer == "sweep":
        raise ConfigError("cannot be chosen by a sweep for token; give its number", "finetune.layer", f.layer)
    splits = annotation.read(f)
    for note in splits.notes:
        log(note)
    for split in filter(None, (splits.train, splits.validation, splits.test)):
        log(f"{split.name}: {counted(len(split.contigs), 'contig')}; {split}")
    layer = int(f.layer) if f.layer.isdecimal() else None
    model = base.model if layer is None else dataclasses.replace(base.model, num_hidden_layers=layer)
    context = config.data.context_length if limit is None else min(config.data.context_length, limit)
    head = Head("token", splits.train.classes, layer=layer, bias=f.head_bias, context=context)
    spec, metric = dataclasses.replace(base, model=model), f.metric or next(iter(METRICS["token"]))
    data = dataclasses.replace(config.data, context_length=context)
    source = Windows(splits, dataclasses.replace(config, model=model, tokenizer=base.tokenizer, data=data))
    found = resolved(config, spec, rows=len(source), context_length=source.length, metric=metric)
    contigs = {name: getattr(f, name) for name in ("validation", "test") if not annotation.are_files(getattr(f, name))}
    found = dataclasses.replace(found, finetune=dataclasses.replace(found.finetune, **contigs))
    objective, task = Token.of(found, head, splits.train.counts), Annotation(splits.validation, found, head)
    report = Report(found, workdir, splits, head, task)
    test = None if splits.test is None else splits.test.digest
    return Plan(found, head, source, objective, method.init(found, head), task, report, test=test)


class Windows:
    """Windows of contigs with their labels, in a new random order in each epoch: a `DataSource`.

    An example is `inputs` and `reverse`, int32 [length], <s> and the k-mers of the window and of its reverse
    complement, padded; `lengths`, int32, their tokens with <s>; and `labels`, int32 [length, k], the class of each base
    of `inputs`, or -1 without a label or where another window labels the base. With `data.random_phase` each contig is
    read in each epoch without up to k - 1 bases at each end, so that its k-mers begin elsewhere. Windows that label no
    base are left out.
    """

    axes: ClassVar = {"inputs": TOKENS, "reverse": TOKENS, "lengths": ROWS, "labels": ("batch", "length", None)}

    def __init__(self, splits: AnnotatedSplits, config: Config):
        """Windows of the training contigs, of `data.context_length` tokens; the seed is `train.seed`."""
        self.split = split = splits.train
        self.data, self.seed = config.data, config.train.seed
        self.tokenizer = config.tokenizer.make()
        k, tokens = self.tokenizer.k, self.data.context_length - 1
        self._slack, self._counts, rows = [], [], []
        for i, contig in enumerate(split.contigs):
            length = len(contig.codes)
            slack = max(min(k - 1, (length - k) // 2), 0) * self.data.random_phase
            count = max(windows.number(length - left_out, tokens, k) for left_out in range(2 * slack + 1))
            self._slack.append(slack)
            self._counts.append(count)
            for j in range(count):
                window = windows.cut(0, length, tokens, k, count, j)
                if (contig.labels[window.first : window.last] != UNLABELLED).any():
                    rows.append((i, j, window.stop - window.start))
        self.rows = [(i, j) for i, j, _ in rows]
        _check_rows(self.rows, split, config, k)
        longest = 1 + max(size for *_, size in rows) // k
        self.length = min(round_up(longest, steps=4), self.data.context_length)
        self.dataset = split.digest
        settings = {
            "dataset": self.dataset,
            "validation": splits.validation.digest,  # it chooses the checkpoint
            "class_weights": config.finetune.class_weights,
            "tokenizer": self.tokenizer.digest,
            "context_length": self.data.context_length,
            "random_phase": self.data.random_phase,
        }
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.stats = {
            "windows": len(self.rows),
            "bases": sum(len(contig.codes) for contig in split.contigs),
            "labelled": int(split.counts.sum()),
            "kept": sum(size for *_, size in rows),
            "tokens": sum(1 + size // k for *_, size in rows),
        }

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def provenance(self) -> dict:
        """What `storage.provenance` records, as that of `TokenStream`."""
        return {
            "dataset": self.dataset,
            "regions": len(self.split.contigs),
            "bases": self.stats["bases"],
            "special_tokens": [SPECIAL_TOKENS[BOS], SPECIAL_TOKENS[OOV]],
            "context_length": self.length,
            "mask_documents": True,
        }

    def window(self, number: int) -> tuple[int, windows.Window]:
        """The contig and window of an example."""
        epoch, n = divmod(number, len(self.rows))
        contig, i = self.rows[int(permute(np.array(n), len(self.rows), subkey(self.seed, epoch, _ORDER))[0])]
        choices = np.uint64(self._slack[contig] + 1)
        left_out = [int(mix(subkey(self.seed, epoch, end), np.uint64(contig)) % choices) for end in (_START, _END)]
        stop = len(self.split.contigs[contig].codes) - left_out[1]
        tokens, count = self.data.context_length - 1, self._counts[contig]
        return contig, windows.cut(left_out[0], stop, tokens, self.tokenizer.k, count, i)

    def example(self, number: int) -> dict[str, np.ndarray]:
        """The `number`-th example of the run."""
        number, (start, stop, first, last) = self.window(number)
        contig, k = self.split.contigs[number], self.tokenizer.k
        strands = windows.tokens_of_strands(contig.codes[start:stop], self.tokenizer)
        padded = np.full((2, self.length), PAD, np.int32)
        padded[:, : len(strands[0])] = strands
        labels = np.full((self.length, k), UNLABELLED, np.int32)
        labels.reshape(-1)[k + first - start : k + last - start] = contig.labels[first:last]
        return {"inputs": padded[0], "reverse": padded[1], "lengths": np.int32(len(strands[0])), "labels": labels}

    def batches(self, position: int, batch_size: int, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `example`s, as `DataSource` describes."""
        workers, prefetch = self.data.num_workers, self.data.prefetch
        return read_batches(self.example, position, batch_size, rows, num_workers=workers, prefetch=prefetch)


def _check_rows(rows, split: Annotated, config: Config, k: int) -> None:
    if not rows:
        value = getattr(config.finetune, split.name)
        raise ConfigError(f"has no labelled base in a whole {k}-mer", f"finetune.{split.name}", value)


@dataclasses.dataclass(frozen=True)
class Token:
    """Cross-entropy of the class of each labelled base, in nats, the mean over them, weighted by class."""

    head: Head
    k: int  # bases per token
    weights: tuple[float, ...] = ()  # of the classes; none: all 1

    @classmethod
    def of(cls, config: Config, head: Head, counts: np.ndarray) -> "Token":
        """As configured; `finetune.class_weights` are inverse to the classes' `counts` in training, on average 1."""
        weights = counts.sum() / np.maximum(counts, 1) / np.count_nonzero(counts) * (counts > 0)
        return cls(head, config.tokenizer.make().k, tuple(weights.tolist()) if config.finetune.class_weights else ())

    def weight(self, batch):
        """The sum of the weights; without any label the loss is 0, not NaN."""
        return jnp.maximum(jnp.sum(self._weights(batch["labels"])), np.finfo(np.float32).tiny)

    def _weights(self, labels):
        weights = jnp.asarray(self.weights or (1.0,) * len(self.head.names), jnp.float32)
        return weights[jnp.maximum(labels, 0)] * (labels != UNLABELLED)

    def sums(self, apply, params, batch):
        """With `right`, the labelled bases whose class is the most probable, and `bases`, the labelled ones."""
        labels, strands = batch["labels"], (batch["inputs"], batch["reverse"], batch["lengths"])

        def hidden(ids):
            return apply.hidden(params, {"inputs": ids}, final_norm=self.head.layer is None)

        logits = prediction.logits(hidden, params["head"], *strands, self.k)
        nll = jax.nn.logsumexp(logits, axis=-1) - kmers.picked(logits, jnp.maximum(labels, 0))
        labelled = labels != UNLABELLED
        right = (logits.argmax(-1) == labels) & labelled
        return {"objective": jnp.sum(nll * self._weights(labels)), "right": right.sum(), "bases": labelled.sum()}

    def metrics(self, sums, weight):
        """`accuracy`, over bases."""
        return {"accuracy": sums["right"] / jnp.maximum(sums["bases"], 1)}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Predictions of all labelled bases of a split, in the order of the bases.

    Attributes:
      targets: the class of each, int32 [N].
      probabilities: float32 [N, classes].
      windows: the number of the window of each, int32 [N]: bases of one window are not independent.
    """

    targets: np.ndarray
    probabilities: np.ndarray
    windows: np.ndarray

    def take(self, chosen: np.ndarray) -> "Labelled":
        """Some of them, by number or as bool [N]."""
        return Labelled(self.targets[chosen], self.probabilities[chosen], self.windows[chosen])


class Annotation:
    """The task: how well the labels of a split are predicted, each base by the window in which it is furthest from an
    end, at phase 0.

    Attributes:
      rows: the windows that label a base: the number of a contig, and a window of it.
    """

    name, metrics = "finetune", metrics_of("token")

    def __init__(self, split: Annotated, config: Config, head: Head):
        """`finetune.metric` is the main one."""
        self.split, self.metric, self._head = split, config.finetune.metric, head
        self._tokenizer = config.tokenizer.make()
        self._dataset = Dataset(", ".join(config.finetune.train), split.digest, split.name)
        self.rows, k, tokens = [], self._tokenizer.k, head.context - 1
        for i, contig in enumerate(split.contigs):
            count = windows.number(len(contig.codes), tokens, k)
            cut = [windows.cut(0, len(contig.codes), tokens, k, count, j) for j in range(count)]
            self.rows += [(i, x) for x in cut if (contig.labels[x.first : x.last] != UNLABELLED).any()]
        _check_rows(self.rows, split, config, k)

    def predict(self, spec: ModelSpec, mesh: jax.sharding.Mesh, params, progress: Progress = silent) -> Labelled:
        """Predictions of the labelled bases by a model with this tree of parameters."""
        model, contigs = Decoder(kernels.for_any_mask(spec.model)), self.split.contigs
        rows = [(contigs[i].codes, window) for i, window in self.rows]
        labels = [contigs[i].labels[window.first : window.last] for i, window in self.rows]
        found = [None] * len(rows)
        each = prediction.probabilities(model, params, self._head, mesh, self._tokenizer, rows)
        for done, (i, values) in enumerate(each, 1):
            found[i] = values[labels[i] != UNLABELLED]
            progress(done, len(rows))
        return Labelled(
            np.concatenate([x[x != UNLABELLED] for x in labels]).astype(np.int32),
            np.concatenate(found),
            np.repeat(np.arange(len(rows), dtype=np.int32), [len(x) for x in found]),
        )

    def sample(self, number: int) -> tuple[Examples, np.ndarray]:
        """Up to `number` labelled bases, the first in a fixed random order, as sequences of their neighbours on both
        sides, N beyond the contig; and which they are, int64 [number], of those of `predict`.
        """
        at = [
            np.stack([np.full(window.last - window.first, i), np.arange(window.first, window.last)], 1)
            for i, window in self.rows
        ]
        at = np.concatenate([x[self.split.contigs[x[0, 0]].labels[x[:, 1]] != UNLABELLED] for x in at])
        chosen = np.sort(permute(np.arange(min(number, len(at))), len(at), 0))
        padded = [np.pad(x.codes, NEIGHBOURS, constant_values=bases.N) for x in self.split.contigs]
        codes = [padded[i][base : base + 2 * NEIGHBOURS + 1] for i, base in at[chosen]]
        targets = np.array([self.split.contigs[i].labels[base] for i, base in at[chosen]], np.int32)
        return _examples(self.split.name, codes, targets), chosen

    def result(self, found: Labelled) -> Result:
        """The metrics of predictions, in all and by class."""
        by_class = breakdown("token", found.targets, found.probabilities, self.split.classes)
        by_class = {name: {"bases": row.pop("rows"), **row} for name, row in by_class.items()}
        counts = {"contigs": len(self.split.contigs), "windows": len(self.rows), "bases": len(found.targets)}
        values = evaluate("token", found.targets, found.probabilities)
        return Result(values, counts, breakdown={"class": by_class}, dataset=self._dataset)

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `tasks.base.Task`."""
        return lambda params, progress=silent: self.result(self.predict(spec, mesh, params, progress))


@dataclasses.dataclass(frozen=True)
class Report:
    """What the best checkpoint is worth on whole contigs: `Plan.results`."""

    config: Config
    workdir: Path
    splits: AnnotatedSplits
    head: Head
    task: Annotation  # of the validation contigs

    def __call__(self, params, mesh: jax.sharding.Mesh) -> tuple[list[Result], Head]:
        """See `Plan.results`. Predictions of test contigs are written as GFF3."""
        of_validation = self.task.predict(self.config.spec, mesh, params)
        with np.errstate(divide="ignore"):
            logits = np.maximum(np.log(of_validation.probabilities), -80)
        head = dataclasses.replace(self.head, temperature=temperature(logits, of_validation.targets))
        scaled = dataclasses.replace(of_validation, probabilities=_scaled(logits, head.temperature))
        found, measured = [self._result(self.task, scaled)], (self.task, scaled)
        if self.splits.test is not None:
            began, task = time.perf_counter(), Annotation(self.splits.test, self.config, head)
            of_test = task.predict(self.config.spec, mesh, params)
            seconds = time.perf_counter() - began
            result = self._result(task, of_test)
            result.seconds = seconds
            self._audit(task, of_test, result)
            write_text(self.workdir / PREDICTIONS, "".join(_gff3(task, of_test)))
            with atomic(self.workdir / BASES) as partial, partial.open("wb") as file:
                classes = {"targets": of_test.targets, "predicted": of_test.probabilities.argmax(1)}
                classes = {name: x.astype(np.int8) for name, x in classes.items()}
                np.savez_compressed(file, **classes, windows=of_test.windows)
            found.insert(0, result)
            measured = task, of_test
        if self.config.finetune.baselines:
            log("fitting the baselines")
            found[0].baselines |= self._baselines(*measured)
        return found, head

    def _baselines(self, task: Annotation, found: Labelled) -> dict[str, dict]:
        """The metrics of each baseline on a sample of the bases, each seen with its neighbours as a short sequence; of
        the main one also what the model gains over it on the same bases.
        """
        from gener_jax.baselines import fitting  # scikit-learn, which takes seconds to import

        config, main = self.config, task.metric
        train, validation = Annotation(self.splits.train, config, self.head), self.task
        samples = [each.sample(number)[0] for each, number in ((train, SAMPLE), (validation, SAMPLE // 2))]
        problem, rows = Problem("single_label", self.splits.train.classes), {}
        measured, chosen = task.sample(4 * SAMPLE)
        ours = found.take(chosen)
        for each in fitting.fit(*samples, problem, metric=main, seed=config.train.seed):
            theirs = each.predict(measured.sequences)
            gain = paired("token", main, ours.targets, ours.probabilities, theirs, ours.windows)
            row = {**evaluate("token", ours.targets, theirs), "bases": len(ours.targets), f"{main}_gain": gain.gain}
            rows[each.name] = {**row, f"{main}_gain_low": gain.low, f"{main}_gain_high": gain.high}
        return rows

    def _result(self, task: Annotation, found: Labelled) -> Result:
        result, counts = task.result(found), self.splits.train.counts
        constant = np.zeros((len(found.targets), len(counts)))
        constant[:, counts.argmax()] = 1
        result.baselines = {"majority": evaluate("token", found.targets, constant)}
        result.intervals = {task.metric: interval_of(task.metric, found)}
        return result

    def _audit(self, task: Annotation, found: Labelled, result: Result) -> None:
        """Adds the metrics without windows that are copies of training contigs, if there are any."""
        contigs = task.split.contigs
        train = _examples("train", [contig.codes for contig in self.splits.train.contigs])
        of_test = _examples("test", [contigs[i].codes[window.start : window.stop] for i, window in task.rows])
        copies = leaks(train, of_test)
        number = int((~copies.clean).sum())
        log(f"test: {counted(len(task.rows), 'window')}: {number:,} are copies of training contigs, or nearly")
        result.counts = {"copied_windows": number, **result.counts}
        if 0 < number < len(task.rows):
            clean = found.take(copies.clean[found.windows])
            values = evaluate("token", clean.targets, clean.probabilities)
            result.breakdown["windows"] = {
                "all": {**result.metrics, "bases": len(found.targets)},
                "without copies of training": {**values, "bases": len(clean.targets)},
            }


def _scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
    odds = np.exp(logits / temperature)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def _examples(name: str, sequences: Sequence[np.ndarray], targets: np.ndarray | None = None) -> Examples:
    """Base codes as the rows of audits and baselines, with a class each or without."""
    texts = [bases.decode(codes) for codes in sequences]
    targets = np.zeros((len(texts), 0), np.float32) if targets is None else targets
    return Examples(name, texts, targets, [""] * len(texts))


def interval_of(metric: str, found: Labelled) -> tuple[float, float] | None:
    """The 95 % interval of a metric, by a bootstrap over windows; None under 30 bases of a class, or 30 windows.

    A metric of the most probable class needs only how often each pair of classes occurs in each window.
    """
    classes = found.probabilities.shape[1]
    if metric not in ("mcc", "accuracy", "f1", "f1_macro"):
        return bootstrap("token", metric, found.targets, found.probabilities, found.windows)
    if np.bincount(found.targets, minlength=classes).min() < LEAST:
        return None
    pairs = found.targets * np.int64(classes) + found.probabilities.argmax(1)
    cells, numbers = np.unique(found.windows * np.int64(classes**2) + pairs, return_counts=True)
    of_windows, of_pairs = np.divmod(cells, classes**2)
    targets, predicted = np.divmod(of_pairs, classes)
    statistic = METRICS["token"][metric].prepare(targets, np.eye(classes)[predicted])
    return interval(lambda weights: statistic(weights * numbers), (len(cells),), of_windows)


def _gff3(task: Annotation, found: Labelled) -> Iterator[str]:
    """The text of the predictions of labelled bases."""
    yield annotation.GFF3
    at, rows = 0, dict.fromkeys(range(len(task.split.contigs)), ())
    for i, window in task.rows:
        rows[i] = (*rows[i], window)
    for i, contig in enumerate(task.split.contigs):
        values = np.full((len(contig.codes), len(task.split.classes)), np.nan, np.float32)
        for window in rows[i]:
            labelled = window.first + np.flatnonzero(contig.labels[window.first : window.last] != UNLABELLED)
            values[labelled] = found.probabilities[at : at + len(labelled)]
            at += len(labelled)
        yield annotation.gff3(contig.name, values, task.split.classes)
