"""What a fine-tuned model predicts: probabilities of classes or labels, or values in the unit of the labels."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.config import Head
from gener_jax.inference.features import features
from gener_jax.inference.framing import Framing
from gener_jax.inference.prompt import Prompt, as_prompts
from gener_jax.model import heads
from gener_jax.runtime.errors import InputError
from gener_jax.runtime.transfer import fetch

THRESHOLD = 0.5  # probability from which a label of several is predicted


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for sequences, in their order.

    Attributes:
      problem: "single_label", "multi_label" or "regression".
      names: of the classes, labels or outputs, [C].
      probabilities: float32 [N, C]: of the classes, which add up to 1, or of each label; None for a regression.
      values: float32 [N, C], in the unit of the training labels; None but for a regression.
    """

    problem: str
    names: tuple[str, ...]
    probabilities: np.ndarray | None = None
    values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        what = "values" if self.values is not None else "probabilities"
        return f"Predictions({len(self)} sequences, {what} of {', '.join(self.names)})"

    @property
    def _numbers(self) -> np.ndarray:
        return self.probabilities if self.values is None else self.values

    @property
    def labels(self) -> list:
        """The name of the most probable class of each sequence; with several labels, a tuple of the names of those with
        a probability of at least a half. A regression has none: an AttributeError.
        """
        if self.values is not None:
            raise AttributeError("a regression predicts values, not labels")
        if self.problem == "multi_label":
            return [tuple(n for n, p in zip(self.names, row, strict=True) if p >= THRESHOLD) for row in self._numbers]
        return [self.names[i] for i in self._numbers.argmax(-1)]

    def rows(self) -> Iterator[tuple]:
        """Yields a row of a table for each sequence, under the names of `columns`."""
        labels = [()] * len(self)
        if self.values is None:
            labels = [(";".join(x) if isinstance(x, tuple) else x,) for x in self.labels]
        for label, numbers in zip(labels, self._numbers.tolist(), strict=True):
            yield *label, *numbers


def columns(head: Head) -> list[str]:
    """The columns of a table of predictions: the predicted "label" (of several, with ";" between them) and
    "p(NAME)", a probability, for each name; of a regression, the name of each output.
    """
    return list(head.names) if head.problem == "regression" else ["label", *(f"p({name})" for name in head.names)]


def of_outputs(head: Head, outputs: np.ndarray) -> Predictions:
    """The predictions that float32 outputs of a head, [N, C], stand for: logits, or values in units of `head.scale`.

    Logits are divided by `head.temperature` first (Guo et al. 2017). All is computed in float64.
    """
    outputs = np.asarray(outputs, np.float64)
    if head.problem == "regression":
        values = np.asarray(head.mean) + np.asarray(head.scale) * outputs
        return Predictions(head.problem, head.names, values=values.astype(np.float32))
    logits = outputs / head.temperature
    if head.problem == "multi_label":
        found = np.exp(-np.logaddexp(0, -logits))
    else:
        odds = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
        found = odds / odds.sum(-1, keepdims=True)
    return Predictions(head.problem, head.names, probabilities=found.astype(np.float32))


def framed_strands(framing: Framing, prompt: Prompt, argument: str) -> list[list[np.ndarray]]:
    """The framed rows of a sequence on each strand that its head reads: one, or both with `head.average_strands`.

    Raises:
      InputError: as `Framing.rows`.
    """
    strands = [prompt.codes, *([bases.reverse_complement(prompt.codes)] * framing.head.average_strands)]
    return [framing.rows(codes, prompt.special, argument) for codes in strands]


def framing_of(lm) -> Framing:
    """How a model's head reads sequences.

    Raises:
      InputError: if the model has no head that predicts a whole sequence.
    """
    if lm.head is None:
        problem = f"is missing: {lm.spec.name} is not fine-tuned; load the folder of a run of gener-jax finetune"
        raise InputError(problem, "head")
    if lm.head.problem == "token":
        problem = f"{lm.spec.name} predicts labels of bases: use LM.annotate, or gener-jax predict --output FILE.gff3"
        raise InputError(problem, "head", lm.head.problem)
    return Framing(lm.spec, lm.head)


def of_framed(lm, sequences: list[list[list[np.ndarray]]], batch_tokens: int) -> Predictions:
    """The predictions of a model's head for sequences of `framed_strands`."""
    strands = 1 + lm.head.average_strands
    rows = [row for sequence in sequences for strand in sequence for row in strand]
    outputs = fetch(heads.outputs(lm.head_params, features(lm, rows, lm.head, batch_tokens)))
    return of_outputs(lm.head, outputs.reshape(len(sequences), strands, len(lm.head.names)).mean(1))


def predict(lm, sequences: Iterable[str | Prompt], *, batch_tokens: int) -> Predictions:
    """See `LM.predict`."""
    framing, prompts = framing_of(lm), as_prompts(sequences, "sequences")
    framed = [framed_strands(framing, x, f"sequences[{i}]") for i, x in enumerate(prompts)]
    return of_framed(lm, framed, batch_tokens)
