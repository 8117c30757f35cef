"""Fine-tuning on labels per base: windows of contigs on both strands, the objective, and the evaluation.

The head reads, for each k-mer, its hidden state and that of its reverse complement in the reverse complement of the
window, so that what it predicts depends on the bases of both sides. The layers below are one model, called twice.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sequence.tokenizer import BOS, OOV, PAD, SPECIAL_TOKENS, KmerTokenizer
from gener_jax.config import Config, Head, ModelSpec
from gener_jax.data.loader import read_batches
from gener_jax.data.permutation import mix, permute, subkey
from gener_jax.inference import annotation
from gener_jax.inference.batches import round_up
from gener_jax.labelled import windows
from gener_jax.labelled.annotation import UNLABELLED, Annotated, AnnotatedSplits
from gener_jax.model import kernels, kmers
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import ROWS, TOKENS
from gener_jax.runtime.errors import ConfigError
from gener_jax.statistics import metrics
from gener_jax.tasks.base import Progress, Result, silent

_ORDER, _START, _END = range(3)  # the purpose of a key


def head_of(config: Config, splits: AnnotatedSplits) -> Head:
    """The head of a token problem.

    Raises:
      ConfigError: if the tokenizer is not of k-mers, or the mesh has a context axis.
    """
    if config.tokenizer.kind != "kmer":
        raise ConfigError("labels per base need k-mers", "tokenizer.kind", config.tokenizer.kind)
    if config.mesh.context != 1:
        raise ConfigError("must be 1 for finetune.problem token; use mesh.fsdp", "mesh.context", config.mesh.context)
    f = config.finetune
    layer = int(f.layer) if f.layer.isdecimal() else None
    return Head("token", splits.train.classes, layer=layer, bias=f.head_bias, context=config.data.context_length)


class Windows:
    """Windows of contigs with their labels, in a new random order in each epoch: a `DataSource`.

    An example is `inputs` and `reverse`, int32 [length], <s> and the k-mers of the window and of its reverse
    complement, padded; `lengths`, int32, their tokens with <s>; and `labels`, int32 [length, k], the class of each base
    of `inputs`, or -1 without a label or where another window labels the base. With `data.random_phase` each contig is
    read in each epoch without up to k - 1 bases at each end, so that its k-mers begin elsewhere. Windows that label no
    base are left out.
    """

    axes: ClassVar = {"inputs": TOKENS, "reverse": TOKENS, "lengths": ROWS, "labels": ("batch", "length", None)}

    def __init__(self, split: Annotated, config: Config):
        """Windows of `data.context_length` tokens; the seed is `train.seed`."""
        self.split, self.data, self.seed = split, config.data, config.train.seed
        self.tokenizer = config.tokenizer.make()
        k, tokens = self.tokenizer.k, self.data.context_length - 1
        self._slack, self._counts, windows_ = [], [], []
        for i, contig in enumerate(split.contigs):
            bases = len(contig.codes)
            slack = max(min(k - 1, (bases - k) // 2), 0) * self.data.random_phase
            count = max(windows.number(bases - left_out, tokens, k) for left_out in range(2 * slack + 1))
            self._slack.append(slack)
            self._counts.append(count)
            for j in range(count):
                window = windows.cut(0, bases, tokens, k, count, j)
                if (contig.labels[window.first : window.last] != UNLABELLED).any():
                    windows_.append((i, j, window.stop - window.start))
        self.rows = [(i, j) for i, j, _ in windows_]
        if not self.rows:
            raise ConfigError(f"has no labelled base in a whole {k}-mer", f"finetune.{split.name}")
        longest = 1 + max(size for *_, size in windows_) // k
        self.length = min(round_up(longest, steps=4), self.data.context_length)
        self.dataset = split.digest
        settings = {
            "labels": self.dataset,
            "tokenizer": self.tokenizer.digest,
            "context_length": self.data.context_length,
            "random_phase": self.data.random_phase,
        }
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.stats = {
            "windows": len(self.rows),
            "bases": sum(len(contig.codes) for contig in split.contigs),
            "labelled": int(split.counts.sum()),
            "kept": sum(size for *_, size in windows_),
            "tokens": sum(1 + size // k for *_, size in windows_),
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
        options = {} if self.head.layer is None else {"final_norm": False}
        logits = annotation.logits(
            lambda ids: apply.hidden(params, {"inputs": ids}, **options), params["head"], *strands, self.k
        )
        nll = jax.nn.logsumexp(logits, axis=-1) - kmers.picked(logits, jnp.maximum(labels, 0))
        labelled = labels != UNLABELLED
        right = (logits.argmax(-1) == labels) & labelled
        return {"objective": jnp.sum(nll * self._weights(labels)), "right": right.sum(), "bases": labelled.sum()}

    def metrics(self, sums, weight):
        """`accuracy`, over bases."""
        return {"accuracy": sums["right"] / jnp.maximum(sums["bases"], 1)}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Predictions of all labelled bases of a split.

    Attributes:
      targets: the class of each, int32 [N].
      probabilities: float32 [N, classes].
      groups: the number of the window of each, int32 [N]: bases of one window are not independent.
      contigs: the number of the contig of each window, int32 [windows].
    """

    targets: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    contigs: np.ndarray


class Annotation:
    """The task: how well the labels of a split are predicted, each base by the window in which it is furthest from an
    end, at phase 0.
    """

    name, metrics = "finetune", metrics.METRICS["token"]
    metric = next(iter(metrics))

    def __init__(self, split: Annotated, config: Config, head: Head):
        """`finetune.metric`, or the first of the problem, is the main one.

        Raises:
          ConfigError: if there is no such metric.
        """
        self.split, self._head, self._tokenizer = split, head, config.tokenizer.make()
        self._batch_tokens = config.eval.batch_size * config.data.context_length
        self.metric = config.finetune.metric or self.metric
        if self.metric not in self.metrics:
            raise ConfigError(f"must be one of {', '.join(self.metrics)}", "finetune.metric", self.metric)
        k, tokens = self._tokenizer.k, head.context - 1
        self._rows = []  # the number of a contig, and a window of it
        for i, contig in enumerate(split.contigs):
            count = windows.number(len(contig.codes), tokens, k)
            cut = [windows.cut(0, len(contig.codes), tokens, k, count, j) for j in range(count)]
            self._rows += [(i, x) for x in cut if (contig.labels[x.first : x.last] != UNLABELLED).any()]

    def predict(self, spec: ModelSpec, mesh: jax.sharding.Mesh, params, progress: Progress = silent) -> Labelled:
        """Predictions of the labelled bases by a model with these parameters, in the order of the bases."""
        model, contigs = Decoder(kernels.for_any_mask(spec.model)), self.split.contigs
        rows = [(contigs[i].codes, window) for i, window in self._rows]
        labels = [contigs[i].labels[window.first : window.last] for i, window in self._rows]
        found = [None] * len(rows)
        each = annotation.probabilities(model, params, self._head, mesh, self._tokenizer, rows, self._batch_tokens)
        for done, (i, values) in enumerate(each, 1):
            found[i] = values[labels[i] != UNLABELLED]
            progress(done, len(rows))
        return Labelled(
            np.concatenate([x[x != UNLABELLED] for x in labels]).astype(np.int32),
            np.concatenate(found),
            np.repeat(np.arange(len(rows), dtype=np.int32), [len(x) for x in found]),
            np.array([i for i, _ in self._rows], np.int32),
        )

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `tasks.base.Task`."""

        def run(params, progress: Progress = silent) -> Result:
            found = self.predict(spec, mesh, params, progress)
            values = metrics.evaluate("token", found.targets, found.probabilities)
            by_class = metrics.breakdown("token", found.targets, found.probabilities, self.split.classes)
            by_class = {name: {"bases": row.pop("rows"), **row} for name, row in by_class.items()}
            counts = {"contigs": len(self.split.contigs), "windows": len(self._rows), "bases": len(found.targets)}
            return Result(values, counts, breakdown={"class": by_class})

        return run
