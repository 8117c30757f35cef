"""Samplers: how the next token of each row is drawn."""

import dataclasses
import math
import numbers
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from data_pipeline.ranges import Whole
from data_pipeline.sequence.tokenizer import NUM_SPECIAL
from gener_jax.config.schema import TEMPERATURE, TOP_P
from gener_jax.inference.options import MODES
from gener_jax.model import kmers
from gener_jax.runtime.errors import InputError, whole, within

_POSITIVE = dataclasses.replace(TEMPERATURE, zero=False)


class Sampler(Protocol):
    """A dataclass of `flax.struct`: its class is compiled into the decode loop, its numbers are arguments of it.

    So another sampler of the same class compiles nothing.
    """

    def draw(self, logits: Float[Array, "B V"], keys: jax.Array) -> Int[Array, " B"]:
        """Draws one index per row, int32; `keys` are its random keys [B], new at every token.

        Logits of what must not be drawn are minus infinity. At least one per row is not, unless the row has ended.
        """


@struct.dataclass
class Greedy:
    """The most likely token. A class of its own, since a branch in the loop would make a GPU wait for the host."""

    def draw(self, logits, keys):
        """See `Sampler`."""
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@struct.dataclass
class Tokens:
    """Tokens by their probability: temperature is applied first, then top-k, then top-p; None compiles no filter.

    The temperature is from 0.001 to 1000: above, float32 draws uniformly anyway; below, the draw is greedy, which is
    the sampler `Greedy`. A top-p at or below the largest probability keeps that token alone, and those equal to it.

    Raises:
      InputError: if a number is out of range.
    """

    temperature: Float[Array, ""] | float = 1.0
    top_k: Int[Array, ""] | int | None = None  # 0: all
    top_p: Float[Array, ""] | float | None = None  # keeps the fewest most likely tokens with at least this probability

    def __post_init__(self):
        for name, accepted in (("temperature", _POSITIVE), ("top_k", Whole()), ("top_p", TOP_P)):
            value = getattr(self, name)
            if isinstance(value, numbers.Real | str):  # inside a program it is unknown
                within(value, name, accepted)

    def draw(self, logits, keys):
        """See `Sampler`."""
        logits = logits / self.temperature
        if self.top_k is not None or self.top_p is not None:
            logits = filter_logits(
                logits, 0 if self.top_k is None else self.top_k, 1 if self.top_p is None else self.top_p
            )
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


@struct.dataclass
class Bases:
    """Each base of a k-mer from its own marginal under the distribution of k-mers.

    GENERator's v2 helper and Carbon's report do this. It gives k-mers another distribution than `Tokens`.
    """

    base: Sampler = Tokens()  # draws each of the k bases
    token: Sampler = Tokens()  # draws before that, among the stop tokens and k-mers as a whole

    def draw(self, logits, keys):
        """See `Sampler`."""
        k = round(math.log(logits.shape[-1] - NUM_SPECIAL, 4))
        of_kmers = kmers.of(logits, k)
        mass = jax.nn.logsumexp(of_kmers, axis=-1, keepdims=True)
        token = self.token.draw(jnp.concatenate([logits[:, :NUM_SPECIAL], mass], axis=-1), keys)
        marginals = kmers.marginals(jnp.exp(of_kmers - jnp.where(jnp.isfinite(mass), mass, 0)), k)
        possible = of_kmers > -jnp.inf
        rank = jnp.zeros_like(token)
        for j in range(k):
            marginal = jnp.log(marginals[:, j])
            # Only bases that, after those already drawn, are a prefix of an allowed token.
            possible = possible.reshape(len(logits), 4, -1)
            marginal = jnp.where(possible.any(-1), jnp.maximum(marginal, jnp.finfo(jnp.float32).min), -jnp.inf)
            base = self.base.draw(marginal, jax.vmap(jax.random.fold_in, (0, None))(keys, j + 1))
            possible = jnp.take_along_axis(possible, base[:, None, None], axis=1)[:, 0]
            rank = 4 * rank + base
        return jnp.where(token < NUM_SPECIAL, token, NUM_SPECIAL + rank)


def filter_logits(logits: Float[Array, "B V"], top_k: Int[Array, ""], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Applies top-k, then top-p: sets all other logits to minus infinity and keeps ties at the threshold."""
    ranked = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.where((top_k > 0) & (top_k < logits.shape[-1]), top_k, logits.shape[-1]) - 1
    kth = jnp.take_along_axis(ranked, last[None, None], axis=-1)
    ranked = jnp.where(ranked >= kth, ranked, -jnp.inf)
    before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1) - jax.nn.softmax(ranked, axis=-1)
    # A sum of probabilities may round to slightly less or more than 1, so masked tokens and top_p = 1 must not depend
    # on it.
    kept = (ranked > -jnp.inf) & ((before < top_p) | (top_p >= 1))
    least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def of_options(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, mode: str = "token", sampler: Sampler | None = None
) -> Sampler:
    """The sampler of a temperature (0: greedy), top-k (0: all), top-p and mode, "token" or "base"; or the one given.

    In mode "base", temperature, top-k and top-p apply to the four bases.

    Raises:
      InputError: if a value is out of range, or a sampler is given besides other options.
    """
    temperature, top_k = within(temperature, "temperature", TEMPERATURE), whole(top_k, "top_k")
    top_p = within(top_p, "top_p", TOP_P)
    if sampler is not None:
        if (temperature, top_k, top_p, mode) != (1.0, 0, 1.0, "token"):
            raise InputError("replaces temperature, top_k, top_p and mode; give either", "sampler", sampler)
        return sampler
    if mode not in MODES:
        raise InputError(f"must be one of {', '.join(MODES)}", "mode", mode)
    plain = Tokens(temperature) if temperature else Greedy()
    sampler = Tokens(temperature, top_k, top_p) if temperature and (top_k or top_p < 1) else plain
    return Bases(sampler, plain) if mode == "base" else sampler
