"""Batches rows of unequal length in few shapes: lengths and numbers of rows are rounded up to compile few programs.

An accelerator gets larger batches and coarser numbers of rows, because compiling a program there costs more than
computing the padding. The host also dispatches batches to it before it reads the results of earlier ones.
"""

import collections
from collections.abc import Callable, Iterator

import jax
import numpy as np

from data_pipeline.sequence.tokenizer import PAD
from gener_jax.inference.options import TOKENS, TOKENS_ACCELERATED
from gener_jax.model import sharding
from gener_jax.runtime.errors import whole
from gener_jax.runtime.transfer import fetch

_AHEAD = 4  # batches dispatched to an accelerator before the result of an earlier one is read


def accelerated() -> bool:
    """Whether programs run on an accelerator instead of the host's CPU."""
    return jax.default_backend() != "cpu"


def tokens_per_batch(requested: int | None = None) -> int:
    """Tokens per batch, including padding: the requested number, or the platform's default for None.

    Raises:
      InputError: of `batch_tokens`, if it is no positive number.
    """
    if requested is None:
        return TOKENS_ACCELERATED if accelerated() else TOKENS
    return whole(requested, "batch_tokens", 1)


def round_up(n: int, least: int = 8, steps: int = 1) -> int:
    """The smallest of the allowed sizes that is at least `n` and `least`.

    The allowed sizes are the powers of two, and `steps` - 1 others at equal distances between two of them.
    """
    power = 1 << (max(int(n), 1) - 1).bit_length()
    step = max(power // (2 * steps), 1) if steps > 1 else power
    return max(-(-int(n) // step) * step, least)


def by_length(lengths: list[int], tokens: int, usual: int = 0, mesh=None) -> Iterator[tuple[list[int], int, int]]:
    """Yields batches of rows of similar length: the rows' indices, and the batch's rows and tokens per row, rounded up.

    There are four sizes of length per power of two, and 32 near the `usual` length, so that these get little padding.
    The length determines the number of rows: the largest power of two whose batch has at most `tokens` tokens, but at
    least one. So each length has one shape, except that the last rows use a half of that number, a quarter and so on
    (on an accelerator a quarter, a sixteenth). The rest of a batch is padding. The longest rows come first, so that
    running out of memory happens at the start. With a `mesh`, its devices divide rows and length evenly.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    usual, divisor = round_up(usual, steps=32), 4 if accelerated() else 2
    shards, chunks = (1, 1) if mesh is None else (mesh.shape["data"] * mesh.shape["fsdp"], 2 * mesh.shape["context"])
    first = 0
    while first < len(order):
        remaining, longest = len(order) - first, lengths[order[first]]
        length = round_up(longest, steps=4)
        if longest <= usual < length:
            length = usual
        length = -(-length // chunks) * chunks
        rows = 1 << max(tokens // (length * shards), 1).bit_length() - 1
        while rows > 1 and max(rows // divisor, 1) * shards >= remaining:
            rows = max(rows // divisor, 1)
        rows *= shards
        yield order[first : first + rows], rows, length
        first += rows


def batched(
    compute: Callable[[list[int], int, int], jax.Array],
    mesh: jax.sharding.Mesh,
    lengths: list[int],
    tokens: int,
    usual: int = 0,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields the rows of each batch of `by_length`, and what `compute` finds for them; padding follows.

    `compute` gets the indices of the rows, and the batch's rows and tokens per row; its result may be on the devices.
    On an accelerator a few batches are dispatched before the first result is read, so that it computes while the host
    reads; their number is fixed, so memory does not grow with that of the batches. On a CPU this gains nothing, so each
    batch is read before the next one is made.
    """
    waiting, ahead = collections.deque(), _AHEAD if accelerated() else 0
    for chosen, number, length in by_length(lengths, tokens, usual, mesh):
        with sharding.on(mesh):
            values = compute(chosen, number, length)
        waiting.append((chosen, values))
        if ahead:
            with jax.transfer_guard_device_to_host("allow"):  # it is as explicit as `fetch`
                values.copy_to_host_async()
        if len(waiting) > ahead:
            yield fetch(waiting.popleft())
    while waiting:
        yield fetch(waiting.popleft())


def by_row(*batches) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index and result of each row of `batched`, which has the same arguments."""
    for chosen, values in batched(*batches):
        yield from zip(chosen, values, strict=False)


def right_pad(rows: list[np.ndarray], length: int, number: int = 0) -> np.ndarray:
    """Rows of ids as int32 [rows, length], padded on the right; at least `number` of them."""
    padded = np.full((max(len(rows), number), length), PAD, np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded
