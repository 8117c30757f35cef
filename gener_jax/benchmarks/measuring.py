"""Shared by the benchmarks: sizes of models, timers, programs beside this one, and JSON lines of results."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from gener_jax.config import Model

SIZES = {  # layers, hidden, feed-forward, heads, key/value heads
    "xs": (2, 64, 160, 4, 2),
    "s": (6, 256, 704, 8, 2),
    "m": (12, 512, 1408, 8, 4),
    "l": (12, 1024, 2816, 16, 4),
    "1.2b": (26, 2048, 5632, 32, 4),
    "3b": (30, 3072, 8448, 32, 4),
}


def model_of(size: str, dtype: str, **fields) -> Model:
    """The model of a size: a published shape (1.2b, 3b), or a smaller one."""
    layers, hidden, feed_forward, heads, kv_heads = SIZES[size]
    return Model(
        hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, dtype=dtype, **fields,
    )  # fmt: skip


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """The seconds of each of `repeats` calls, after one call that compiles."""
    run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def median(values: list[float]) -> float:
    """The median, rounded to four significant digits."""
    return float(f"{statistics.median(values):.4g}")


def line(case: dict, measure: Callable[[], dict]) -> bool:
    """Prints `case` and the result of `measure` as one JSON line; returns whether it succeeded.

    If it fails, the line holds `error` instead, so that later cases still run, as when one does not fit in memory.
    """
    try:
        found = measure()
    except (RuntimeError, MemoryError) as error:  # jax's errors are RuntimeErrors
        found = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
    print(json.dumps(case | found), flush=True)
    return "error" not in found


def child(arguments: list[str]) -> tuple[dict, float]:
    """Runs a Python program; returns the JSON object that it prints last, and its peak memory on the host in GiB.

    Raises:
      SystemExit: if it fails.
    """
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: {' '.join(arguments[:2])} failed")
    return json.loads(out.strip().splitlines()[-1]), usage.ru_maxrss / 2**20
