"""Causal fine-tuning: sequences as rows <s>, special tokens, DNA, </s>; and how a model predicts held-out ones.

A row is one whole sequence, so the model learns where sequences of the kind begin and end. Bases left over at the end
are padded with A to a k-mer, or trimmed. The padding is part of the input, but no target: the loss of a padded k-mer is
that of its known bases alone, −log of the sum over the k-mers that begin with them (with FNS, the marginals of the
known bases). With `finetune.padded_loss` it is a target like any other, as in the published script.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, EOS, NUM_SPECIAL, SPECIAL_TOKENS, Tokenizer, kmer_codes
from gener_jax.config import Config, Finetune, ModelSpec
from gener_jax.data.permutation import permute, subkey
from gener_jax.inference.batches import batched, right_pad, round_up, tokens_per_batch
from gener_jax.inference.likelihood import Framed, scorer
from gener_jax.inference.prompt import parse_prefix
from gener_jax.labelled.examples import Examples
from gener_jax.model import kernels
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import TOKENS
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.statistics.metrics import auroc
from gener_jax.storage.results import Dataset
from gener_jax.tasks.base import Metric, Progress, Result, silent

_IDENTITIES = {"not related": 0, "up to 30 %": 0.3, "up to 50 %": 0.5, "up to 90 %": 0.9, "up to 100 %": 1}


@dataclasses.dataclass(frozen=True)
class Row:
    """A sequence as tokens.

    Attributes:
      ids: <s>, special tokens, DNA and </s>, int32 [tokens].
      first: the index of the first token of DNA.
      padded: bases A added at the end to complete the last k-mer.
      trimmed, truncated: bases left out at the end, because they made no whole k-mer or exceeded the context.
    """

    ids: np.ndarray
    first: int
    padded: int = 0
    trimmed: int = 0
    truncated: int = 0

    @property
    def ends(self) -> bool:
        """Whether the row has </s> where the sequence ends."""
        return self.ids[-1] == EOS and not self.truncated

    def known_bases(self, tokenizer: Tokenizer) -> np.ndarray:
        """How many bases of each token are the sequence's own, int32 [tokens]; 0 of a special token."""
        known = tokenizer.token_bases[self.ids]
        last = len(known) - 1 - int(self.ids[-1] == EOS)
        known[last] = max(known[last] - self.padded, 0)  # a padded k-mer with an N is <oov>
        return known


def frame(codes: np.ndarray, special: np.ndarray, tokenizer: Tokenizer, finetune: Finetune, length: int) -> Row:
    """The row of base codes, uint8 [bases], after <s> and the ids of special tokens, int32.

    Of a row with more than `length` inputs DNA is left out at its end, before </s>; with `finetune.untrimmed` the row
    is cut off there, as in the published script.
    """
    padded = trimmed = truncated = 0
    if tokenizer.kind == "kmer" and (left_over := len(codes) % tokenizer.k):
        if finetune.remainder == "pad":
            padded = tokenizer.k - left_over
            codes = np.append(codes, np.full(padded, bases.A, np.uint8))
        else:
            trimmed = left_over
    dna, end = tokenizer.encode_bases(codes), [EOS]
    excess = 1 + len(special) + len(dna) - length  # </s> is no input
    if excess > 0 and finetune.untrimmed:
        excess, end = excess - 1, []
    if excess > 0:
        kept = len(dna) - excess
        dna, truncated, padded = dna[:kept], len(tokenizer.decode(dna[kept:])) - padded, 0
    ids = np.concatenate([[BOS], special, dna, end]).astype(np.int32)
    return Row(ids, 1 + len(special), padded, trimmed, truncated)


class Rows:
    """Batches of rows, in a new random order in each epoch: a `DataSource` whose examples are a function of the seed.

    `inputs` and `targets`, int32 [rows, length], with <pad> after each row; the length is that of the longest row,
    rounded up to one of few. Unless there is no padding of bases, or it has a loss, also `known_bases`, int32 likewise.

    Attributes:
      rows: the framed sequences.
      split, path: their split, and its files.
      conditions: the special tokens of each, as text; None: all have those of the prefix.
    """

    def __init__(self, examples: Examples, config: Config):
        """Sequences, framed by `config.finetune` for a context of `data.context_length`; the seed is `train.seed`.

        Raises:
          ConfigError: if `finetune.prefix` is not special tokens or fills the context, or `finetune.long` is chunks.
          DataError: with the place of a sequence that exceeds the context, or has no whole token.
        """
        self.tokenizer, finetune = config.tokenizer.make(), config.finetune
        self._examples, self._config, self._length = examples, config, config.data.context_length
        self.split, self.conditions = examples.name, examples.conditions
        self.path = ", ".join(getattr(finetune, examples.name) or finetune.train)
        try:
            special = {text: parse_prefix(text) for text in examples.conditions or [finetune.prefix]}
        except ConfigError as error:
            raise ConfigError("must be special tokens without DNA", "finetune.prefix", finetune.prefix) from error
        if max(map(len, special.values())) + 2 > self._length:
            raise ConfigError("leaves no room for DNA", "data.context_length", self._length)
        if finetune.long == "chunks":
            raise ConfigError("has no meaning for finetune.problem causal; use truncate", "finetune.long", "chunks")
        self.rows = []
        before = examples.conditions or [finetune.prefix] * len(examples)
        for i, sequence in enumerate(examples.sequences):
            row = frame(bases.encode(sequence), special[before[i]], self.tokenizer, finetune, self._length)
            if row.truncated and finetune.long != "truncate":
                raise DataError(
                    f"has {len(sequence):,} bases, more than fit into {self._length:,} tokens", field="sequence",
                    file=examples.where(i),
                    remedy="raise data.context_length, or set finetune.long=truncate",
                )  # fmt: skip
            if len(row.ids) < row.first + 2:
                raise DataError(
                    f"has no whole k-mer to train on: {len(sequence)} bases", field="sequence",
                    file=examples.where(i), remedy="leave it out, or set finetune.remainder=pad",
                )  # fmt: skip
            self.rows.append(row)
        if cut := sum(row.truncated > 0 for row in self.rows):
            end = "no </s>" if finetune.untrimmed else "</s> where they do not end"
            log(f"warning: {cut:,} of {len(self.rows):,} sequences were truncated, and have {end}")
        self.axes = {"inputs": TOKENS, "targets": TOKENS}
        if self.tokenizer.kind == "kmer" and finetune.remainder == "pad" and not finetune.padded_loss:
            self.axes["known_bases"] = TOKENS
        self.dataset = examples.digest
        settings = {
            "sequences": self.dataset,
            "tokenizer": self.tokenizer.digest,
            "context_length": self._length,
            "mesh_context": config.mesh.context != 1,
            "padded_loss": "known_bases" not in self.axes,
            "framing": [finetune.prefix, finetune.remainder, finetune.long, finetune.untrimmed],
        }
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def stats(self) -> dict[str, int]:
        """Counts of an epoch: `sequences`, `bases` = `kept` + `trimmed` + `truncated`; bases A `padded`.

        `tokens` are those of rows of one context, as steps are counted.
        """
        bases_left_out = {name: sum(getattr(row, name) for row in self.rows) for name in ("trimmed", "truncated")}
        total = sum(map(len, self._examples.sequences))
        return {
            "sequences": len(self.rows),
            "bases": total,
            "kept": total - sum(bases_left_out.values()),
            **bases_left_out,
            "padded": sum(row.padded for row in self.rows),
            "tokens": len(self.rows) * self._length,
        }

    @property
    def provenance(self) -> dict:
        """What `storage.provenance` records, as that of `TokenStream`; the special tokens are those of the rows."""
        special = np.unique(np.concatenate([row.ids[row.ids < NUM_SPECIAL] for row in self.rows]))
        return {
            "dataset": self.dataset,
            "regions": len(self.rows),
            **{name: self.stats[name] for name in ("bases", "padded", "trimmed", "truncated")},
            "special_tokens": [SPECIAL_TOKENS[i] for i in special.tolist()],
            "context_length": max(len(row.ids) - 1 for row in self.rows),
            "mask_documents": True,
        }

    def order(self, numbers: np.ndarray) -> np.ndarray:
        """The row that each example of the run is, int64, by the examples' numbers."""
        found, epochs = np.empty(len(numbers), np.int64), numbers // len(self.rows)
        for epoch in np.unique(epochs).tolist():
            here, key = epochs == epoch, subkey(self._config.train.seed, epoch)
            found[here] = permute(numbers[here] % len(self.rows), len(self.rows), key)
        return found

    def batches(self, position: int, batch_size: int, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """Batches of consecutive examples, as `DataSource` describes."""
        for start in itertools.count(position, batch_size):
            chosen = [self.rows[i] for i in self.order(np.arange(start, start + batch_size)).tolist()]
            length = self._length  # a context axis must divide it
            if self._config.mesh.context == 1:
                length = min(round_up(max(len(row.ids) for row in chosen) - 1, steps=4), length)
            own = [chosen[i] for i in rows]
            batch = {
                "inputs": right_pad([row.ids[:-1] for row in own], length),
                "targets": right_pad([row.ids[1:] for row in own], length),
            }
            if "known_bases" in self.axes:
                known = batch["known_bases"] = np.zeros((len(own), length), np.int32)
                for i, row in enumerate(own):
                    known[i, : len(row.ids) - 1] = row.known_bases(self.tokenizer)[1:]
            yield batch


class HeldOutSequences:
    """The task: how well whole sequences are predicted, and their ends.

    `bits_per_base` is exact, over all known bases; `end_log_p` the mean of log p(</s>) at the ends. `end_auroc`
    compares p(</s>) at the ends with that after each earlier token of the same sequences: the probability that an end
    has the higher one. If sequences are coding and k is a multiple of 3, the earlier positions are in frame.

    With the identities of the closest training proteins, the breakdown has groups of rows by them, and the number of
    those that are related to any (`proteins.RELATED_BITS`) is counted. With conditions it has a group for each.
    """

    name = "finetune"
    metrics: ClassVar = {
        "bits_per_base": Metric("bits per base", higher_is_better=False),
        "end_log_p": Metric("nats", higher_is_better=True),
        "end_auroc": Metric("", higher_is_better=True),
    }

    def __init__(self, rows: Rows, metric: str = "bits_per_base", closest: np.ndarray | None = None):
        """`metric`: the main one. `closest`: of `proteins.closest`, float32 [rows]."""
        self.rows, self.metric, self.closest = rows, metric, closest
        self.groups, self.related = {}, {}
        if rows.conditions is not None:
            self.groups["condition"] = np.array(rows.conditions)
        if closest is not None:
            self.groups["closest_training_protein"] = np.array(list(_IDENTITIES))[
                np.searchsorted(list(_IDENTITIES.values()), closest)
            ]
            self.related = {"related_to_training": int((closest > 0).sum())}

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `tasks.base.Task`."""
        rows, tokenizer, model = self.rows.rows, self.rows.tokenizer, Decoder(kernels.for_any_mask(spec.model))
        lengths, known = [len(row.ids) - 1 for row in rows], [row.known_bases(tokenizer)[1:] for row in rows]
        kmer = tokenizer.kind == "kmer"

        def targets(i):
            ids = rows[i].ids[1:]
            if not kmer:
                return ids
            codes = kmer_codes(tokenizer.k)[np.maximum(ids - NUM_SPECIAL, 0)].astype(np.uint8)
            codes[np.arange(tokenizer.k) >= known[i][:, None]] = bases.N
            return codes

        def dna(i):
            return Framed(rows[i].ids[:-1], targets(i))

        def end(i):
            return Framed(rows[i].ids[:-1], np.full(lengths[i], EOS, np.int32))

        def run(params, progress: Progress = silent) -> Result:
            nll, ends, before, done = np.zeros(len(rows)), np.full(len(rows), np.nan), [], 0
            for row in (dna, end):
                compute = scorer(model, params, mesh, row)
                for chosen, values in batched(compute, mesh, lengths, tokens_per_batch()):
                    for i, value in zip(chosen, values, strict=False):
                        value = value[: lengths[i]].astype(np.float64)
                        if row is dna:
                            nll[i] = -value[known[i] > 0].sum()
                        else:
                            after_dna = value[rows[i].first :]
                            before.append(after_dna[: len(after_dna) - rows[i].ends])
                            ends[i] = after_dna[-1] if rows[i].ends else np.nan
                        done += lengths[i]
                    progress(done, 2 * sum(lengths))
            at_ends = ends[~np.isnan(ends)]
            scores = np.concatenate([at_ends, *before])
            of_ends = auroc(np.arange(len(scores)) < len(at_ends), scores)
            number = np.array([x.sum() for x in known])

            def means(chosen):
                found = ends[chosen & ~np.isnan(ends)]
                return {
                    "bits_per_base": float(nll[chosen].sum() / number[chosen].sum() / math.log(2)),
                    "end_log_p": float(found.mean()) if len(found) else math.nan,
                }

            counts = {"bases": int(number.sum()), "ends": len(at_ends), "inner_positions": len(scores) - len(at_ends)}
            return Result(
                {**means(np.full(len(rows), True)), "end_auroc": float(of_ends(np.ones((1, len(scores))))[0])},
                {**counts, **self.related, "sequences": len(rows)},
                breakdown={
                    column: {
                        str(group): {**means(of == group), "sequences": int((of == group).sum())}
                        for group in dict.fromkeys(_IDENTITIES) | dict.fromkeys(sorted(set(of)))
                        if group in of
                    }
                    for column, of in self.groups.items()
                },
                dataset=Dataset(self.rows.path, self.rows.dataset, self.rows.split),
            )

        return run
