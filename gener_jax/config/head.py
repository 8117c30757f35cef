"""What the output of a fine-tuned model means: the problem, the names of its outputs, and how a sequence is read."""

import dataclasses
import typing

from gener_jax.config.schema import LONG, PROBLEMS
from gener_jax.runtime.errors import ConfigError

_TYPES = {
    str: (str,), bool: (bool,), int: (int,), float: (float, int), int | None: (int, type(None)),
    tuple[str, ...]: (str,), tuple[float, ...]: (float, int),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Head:
    """Everything that predictions need in addition to the model's `ModelSpec` and the parameters "head".

    Attributes:
      problem: "single_label", "multi_label", "regression" or "token".
      names: of the classes, labels or outputs, in the order of the outputs.
      pooling: the hidden state of a row: of its "last" token, of the "separator", or the "mean".
      layer: None, after the final norm; i, the output of layer i before the final norm.
      bias: whether the head adds one.
      mean, scale: (regression) of each output over the training rows; a prediction is mean + scale · output.
      temperature: (classes) logits are divided by it.
      long: what is done with rows that exceed the context, as `finetune.long`.
      chunks: (long "chunks") chunks of a row, whose hidden states are concatenated.
      context: (token) tokens of a window, with <s>.
      average_strands: predictions are the mean over both strands.
      standardized: the head has the mean and deviation of each of its inputs, by which it standardizes them.
      untrimmed, pool_at_end: as in `config.Finetune`.
    """

    problem: str
    names: tuple[str, ...]
    pooling: str = "last"
    layer: int | None = None
    bias: bool = True
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    temperature: float = 1.0
    long: str = "refuse"
    chunks: int = 1
    context: int | None = None
    average_strands: bool = False
    standardized: bool = False
    untrimmed: bool = False
    pool_at_end: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, expected = getattr(self, field.name), _TYPES[field.type]
            items = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) != (typing.get_origin(field.type) is tuple) or not all(
                type(x) in expected for x in items
            ):
                raise ConfigError(f"must be {field.type}", field.name, value)
        if self.problem not in PROBLEMS[:-1]:
            raise ConfigError(f"must be one of {', '.join(PROBLEMS[:-1])}", "problem", self.problem)
        if self.long not in LONG:
            raise ConfigError(f"must be one of {', '.join(LONG)}", "long", self.long)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError("must be different names, at least one", "names", self.names)
        if self.problem == "regression" and not len(self.mean) == len(self.scale) == len(self.names):
            raise ConfigError("must have a value for each name", "mean and scale", (self.mean, self.scale))
        if self.problem == "token" and (self.context or 0) < 2:
            raise ConfigError("must be at least 2", "context", self.context)
        if not self.temperature > 0:
            raise ConfigError("must be above 0", "temperature", self.temperature)

    def num_outputs(self, k: int) -> int:
        """Outputs per row, or per token of k bases."""
        return len(self.names) * (k if self.problem == "token" else 1)

    def num_inputs(self, hidden_size: int) -> int:
        """Values that the head reads per row, or per token: those of both strands, or of all chunks."""
        return hidden_size * (2 if self.problem == "token" else self.chunks)
