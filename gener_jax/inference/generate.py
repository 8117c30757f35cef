"""Autoregressive generation: prefill and the whole decode loop in one jit, over a KV cache.

Prompts of a batch are padded on the left, so that all rows write the same cache slot; padding is its own document, and
rotary positions count from each row's first token. Shapes are rounded up to powers of two and the number of new tokens
is a traced value, so few programs are compiled.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from data_pipeline import bases
from data_pipeline.tokenizer import PAD, Tokenizer
from gener_jax.model.decoder import Decoder, empty_cache

_NEVER = -jnp.inf
BATCH_SIZE = 32  # rows decoded together, unless another number is asked for


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its distribution: temperature first, then top-k, then top-p."""

    temperature: float = 1.0  # 0 takes the most likely
    top_k: int = 0  # 0: all
    top_p: float = 1.0  # the smallest set of most likely tokens that holds this mass

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: it cannot be negative; 0 is greedy")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: it cannot be negative; 0 takes all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it has to be above 0 and at most 1")


def filter_logits(logits: Float[Array, "B V"], top_k: Int[Array, ""], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Logits with all but the top k, and of those all but the top p, at minus infinity; ties at the edge stay."""
    ranked = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.where((top_k > 0) & (top_k < logits.shape[-1]), top_k, logits.shape[-1]) - 1
    kth = jnp.take_along_axis(ranked, last[None, None], axis=-1)
    ranked = jnp.where(ranked >= kth, ranked, _NEVER)
    before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1) - jax.nn.softmax(ranked, axis=-1)
    # A sum of shares rounds to a little under or over 1, so neither a masked token nor top_p = 1 may rest on it.
    kept = (ranked > _NEVER) & ((before < top_p) | (top_p >= 1))
    least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, _NEVER)


@functools.partial(jax.jit, static_argnames=("model", "room", "filtered"))
def decode(
    model: Decoder,
    params,
    prompts: Int[Array, "B P"],
    lengths: Int[Array, " B"],
    keys: jax.Array,
    first_allowed: Bool[Array, "B V"],
    allowed: Bool[Array, " V"],
    stops: Bool[Array, " V"],
    token_bases: Int[Array, " V"],
    wanted: Int[Array, " B"],
    temperature: Float[Array, ""],
    top_k: Int[Array, ""],
    top_p: Float[Array, ""],
    *,
    room: int,
    filtered: bool,
) -> tuple[Int[Array, "B room"], Int[Array, " B"]]:
    """New token ids, right-padded with <pad>, and how many each row has.

    Args:
      prompts: token ids, padded on the left; `lengths` of them count.
      keys: a random key a row; a row's draws depend on its key and prompt alone.
      first_allowed: the tokens that may come first, by row; `allowed` those that may come at all.
      stops: tokens that end a row (they are returned).
      token_bases: bases each id holds.
      wanted: bases a row needs; it ends with the token that reaches them.
      room: the largest number of new tokens; a static bound of the loop's buffers.
      filtered: whether top_k and top_p are applied (they cost a sort).
    """
    B, P = prompts.shape
    slots = jnp.arange(P)
    pad = P - lengths
    segments = (slots >= pad[:, None]).astype(jnp.int32)
    cache = empty_cache(model.config, B, P + room)
    hidden, cache = model.apply(
        {"params": params},
        prompts,
        positions_BT=jnp.maximum(slots - pad[:, None], 0),
        segment_ids_BT=segments,
        cache=cache,
    )

    def draw(hidden_BD, step, mask):
        logits = model.apply({"params": params}, hidden_BD, method="logits")
        logits = jnp.where(mask, logits, _NEVER)
        greedy = jnp.argmax(logits, axis=-1)
        logits = logits / jnp.where(temperature > 0, temperature, 1)
        if filtered:
            logits = filter_logits(logits, top_k, top_p)
        row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return jnp.where(temperature > 0, jax.vmap(jax.random.categorical)(row_keys, logits), greedy).astype(jnp.int32)

    def proceed(carry):
        step, _, done, *_ = carry
        return (step < room) & ~done.all()

    def advance(carry):
        step, token, done, have, count, out, cache = carry
        out = out.at[:, step].set(jnp.where(done, PAD, token))
        count += ~done
        have += jnp.where(done, 0, token_bases[token])
        done |= stops[token] | (have >= wanted)
        hidden, cache = model.apply(
            {"params": params}, token[:, None], positions_BT=(lengths + step)[:, None], cache=cache
        )
        return step + 1, draw(hidden[:, 0], step + 1, allowed), done, have, count, out, cache

    zeros = jnp.zeros((B,), jnp.int32)
    token = draw(hidden[:, -1], 0, first_allowed)
    start = (0, token, wanted <= 0, zeros, zeros, jnp.full((B, room), PAD, jnp.int32), cache)
    *_, count, out, _ = jax.lax.while_loop(proceed, advance, start)
    return out, count


def split_prompt(tokenizer: Tokenizer, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the prompt's whole tokens behind <s>, and the codes of the bases left over at its end.

    Raises:
      ValueError: for what is no DNA or special token, and for bases left over before a special token.
    """
    over = 0
    if tokenizer.kind == "kmer":
        over = len(prompt[prompt.rfind(">") + 1 :]) % tokenizer.k
    whole = prompt[: len(prompt) - over]
    tokenizer.encode(prompt, remainder="oov")  # refuses what is no base, and says where in the prompt
    return tokenizer.encode(whole, add_bos=True), bases.encode(prompt[len(whole) :])


def round_up(n: int, least: int = 8, steps: int = 1) -> int:
    """The next power of two, or the next of so many equal steps from one to the next; and at least `least`."""
    power = 1 << (max(int(n), 1) - 1).bit_length()
    step = max(power // (2 * steps), 1) if steps > 1 else power
    return max(-(-int(n) // step) * step, least)


def cache_size(prompts: list[np.ndarray], num_bases: int, tokenizer: Tokenizer, batch_size: int) -> tuple[int, int]:
    """Rows and slots of the largest cache for continuing the prompts' ids by so many bases, `batch_size` at a time."""
    shortest = tokenizer.token_bases[tokenizer.token_bases > 0].min()
    longest = max(map(len, prompts), default=0)
    rows = round_up(min(len(prompts), batch_size), least=1)
    return rows, round_up(longest) + round_up(-(-num_bases // shortest) + 1)


def right_pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Rows of ids as int32 [rows, length], padded on the right."""
    padded = np.full((len(rows), length), PAD, np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def left_pad(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Rows of ids as int32 [rows, length], padded on the left."""
    padded = np.full((len(rows), length), PAD, np.int32)
    for i, row in enumerate(rows):
        padded[i, length - len(row) :] = row
    return padded
