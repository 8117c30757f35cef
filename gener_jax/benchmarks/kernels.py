"""How far each implementation of attention is from the float32 reference, outputs and gradients, on this device.

    python -m gener_jax.benchmarks.kernels

A JSON line a case: the relative norms of the errors of the output and of the gradients of queries, keys and values, of
random arrays rounded to the type; head sizes 64, 96 and 128, with and without documents and a window, even and odd
lengths. What an implementation refuses is listed with its reason. Exit status 1 where an error is over its bound, 1e-2
in bfloat16 and 1e-5 in float32, or a case fails.
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_pipeline import cli
from gener_jax.cli import command
from gener_jax.model.attention import Segments, attention, matmul_precision
from gener_jax.model.kernels import KERNELS
from gener_jax.runtime.errors import ConfigError

BOUNDS = {"bfloat16": 1e-2, "float32": 1e-5}
_PARTS = ("output", "queries", "keys", "values")


class Case(NamedTuple):
    """One comparison."""

    kernel: str
    dtype: str
    head_dim: int
    length: int
    window: int | None
    documents: bool


def cases(length: int) -> list[Case]:
    """All that is compared, the lengths about `length` tokens."""
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
    """The case lowered, and its arrays; the loss is linear in the output, with random weights."""
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


def compare(asked: list[Case], heads: int = 32) -> Iterator[tuple[Case, dict]]:
    """Each case with its errors by part; or `refused`, the reason; or `error`, of what fails or is over its bound.

    `heads` of queries, eight to one of keys. All are lowered first and compiled beside each other, which is most of the
    time.
    """

    def start(case):
        try:
            lowered, given = _program(case, heads)
        except ConfigError as refusal:
            return {"refused": str(refusal).split(", which ")[-1].split(": use")[0]}
        except Exception as error:  # of kinds that a kernel's library chooses
            return _error(error)
        return pool.submit(lowered.compile), given

    def run(started):
        program, given = started
        (_, out), gradients = program.result()(*given)
        return [x.astype(jnp.float32) for x in (out, *gradients)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started, wanted, reference = {}, {}, {}
        for case in asked:  # a case's own reference is compiled next to it, so that results come from the first on
            started[case] = start(case)
            if isinstance(started[case], tuple):
                reference[case] = case._replace(kernel="reference")
                if reference[case] not in wanted:
                    wanted[reference[case]] = start(reference[case])
        for case in asked:
            if case not in reference:
                yield case, started[case]
                continue
            try:
                if isinstance(wanted[reference[case]], tuple):
                    wanted[reference[case]] = run(wanted[reference[case]])
                pairs = zip(_PARTS, wanted[reference[case]], run(started.pop(case)), strict=True)
                found = {part: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)) for part, a, b in pairs}
            except Exception as error:  # likewise, and of XLA's
                yield case, _error(error)
                continue
            found = {part: float(f"{value:.2g}") for part, value in found.items()}
            if not max(found.values()) <= BOUNDS[case.dtype]:  # a NaN is over every bound
                found["error"] = f"over {BOUNDS[case.dtype]:.0e}"
            yield case, found


def main() -> int:
    """Prints a JSON line a case; 1 where one of them failed."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--length", type=int, default=2048, help="tokens [2048]")
    parse.add_argument("--heads", type=int, default=32, help="of queries, eight to one of keys [32]")
    parse.add_argument("--head_dim", type=int, nargs="+", default=[64, 96, 128], help="head sizes [64 96 128]")
    args = parse.parse_args()
    fine, refused = True, {}
    asked = [case for case in cases(args.length) if case.head_dim in args.head_dim]
    for case, found in compare(asked, args.heads):
        if "refused" in found:
            refused.setdefault((case.kernel, found["refused"]), []).append(case)
            continue
        fine &= "error" not in found
        print(json.dumps({"what": "parity", **case._asdict(), **found}), flush=True)
    for (kernel, reason), those in refused.items():  # one line a reason
        print(json.dumps({"what": "parity", "kernel": kernel, "cases": len(those), "refused": reason}), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    command.run(main)
