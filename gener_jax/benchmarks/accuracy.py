"""Errors of each attention implementation, and of its gradients, against the float32 reference."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gener_jax.model.attention import Segments, attention, matmul_precision
from gener_jax.model.kernels import KERNELS
from gener_jax.runtime.errors import ConfigError

BOUNDS = {"bfloat16": 1e-2, "float32": 1e-5}
_ARRAYS = ("output", "queries", "keys", "values")


class Case(NamedTuple):
    """One comparison."""

    kernel: str
    dtype: str
    head_dim: int
    length: int
    window: int | None
    documents: bool


def cases(length: int) -> list[Case]:
    """All cases; lengths are `length` tokens, about two thirds of it, and an odd one of about half."""
    shapes = [
        (64, length, None, False), (64, length, None, True), (64, length, length // 4, False),
        (64, length, length // 4, True), (64, length * 43 // 64, None, False), (64, length // 2 - 23, None, False),
        (96, length, None, False), (96, length, None, True), (128, length, None, False), (128, length, None, True),
    ]  # fmt: skip
    kernels = [(name, dtype) for dtype in BOUNDS for name in (*KERNELS, "blockwise")]
    return [
        Case(*kernel, *shape) for kernel in kernels for shape in (shapes if kernel[1] == "bfloat16" else shapes[:4])
    ]


def _program(case: Case, heads: int):
    """The lowered program of a case, and its arrays; the loss is the output's inner product with random weights."""
    keys = jax.random.split(jax.random.key(0), 4)
    dtype = jnp.dtype(case.dtype)
    counts = heads, heads // 8, heads // 8, heads
    shape = lambda n: (2, case.length, n, case.head_dim)  # noqa: E731
    arrays = [jax.random.normal(key, shape(n)) for key, n in zip(keys, counts, strict=True)]
    q, k, v, weights = (x.astype(dtype).astype(jnp.float32) for x in arrays)
    ids = jnp.arange(case.length)[None].repeat(2, 0) * 4 // case.length
    dtype = jnp.float32 if case.kernel == "reference" else dtype

    def loss(q, k, v, weights, ids):
        segments = Segments(ids, ids) if case.documents else None
        out = attention(q, k, v, implementation=case.kernel, segments=segments, window=case.window)
        return (out.astype(jnp.float32) * weights).sum(), out

    given = *(x.astype(dtype) for x in (q, k, v)), weights, ids
    with matmul_precision(dtype):
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True)).lower(*given), given


def _error(error: Exception) -> dict:
    return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}


def compare(wanted: list[Case], heads: int = 32) -> Iterator[tuple[Case, dict]]:
    """Yields each case with its errors by array; `refused` holds the reason of a refusal, `error` that of a failure.

    An error above its bound counts as a failure. `heads` is the number of query heads; eight share one key head. All
    programs are lowered first and compiled in parallel, as compilation takes most of the time.
    """

    def start(case):
        try:
            lowered, given = _program(case, heads)
        except ConfigError as refusal:
            return {"refused": str(refusal).split(", which ")[-1].split(": use")[0]}
        except Exception as error:  # the kernels' libraries raise various classes
            return _error(error)
        return pool.submit(lowered.compile), given

    def run(started):
        program, given = started
        (_, out), gradients = program.result()(*given)
        return [x.astype(jnp.float32) for x in (out, *gradients)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started, references, reference_of = {}, {}, {}
        for case in wanted:  # each reference is queued right after its case, so that results arrive from the start
            started[case] = start(case)
            if isinstance(started[case], tuple):
                reference_of[case] = case._replace(kernel="reference")
                if reference_of[case] not in references:
                    references[reference_of[case]] = start(reference_of[case])
        for case in wanted:
            if case not in reference_of:
                yield case, started[case]
                continue
            try:
                if isinstance(references[reference_of[case]], tuple):
                    references[reference_of[case]] = run(references[reference_of[case]])
                pairs = zip(_ARRAYS, references[reference_of[case]], run(started.pop(case)), strict=True)
                found = {name: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)) for name, a, b in pairs}
            except Exception as error:  # likewise, and XLA's errors
                yield case, _error(error)
                continue
            found = {name: float(f"{value:.2g}") for name, value in found.items()}
            if not max(found.values()) <= BOUNDS[case.dtype]:  # NaN fails too
                found["error"] = f"exceeds {BOUNDS[case.dtype]:.0e}"
            yield case, found
