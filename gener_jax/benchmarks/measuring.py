"""Shared by the benchmarks of models: sizes, random weights, timers, bandwidth, and JSON lines of results."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from gener_jax.config import Model, ModelSpec
from gener_jax.inference.lm import LM
from gener_jax.model import decoder, memory
from gener_jax.model.sharding import make_mesh

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


def random_lm(size: str, dtype: str) -> LM:
    """A model of a size with random weights, on the first device."""
    spec = ModelSpec(name=size, model=model_of(size, dtype))

    def init(key):
        params = nn.unbox(decoder.init(decoder.Decoder(spec.model), key))
        return traverse_util.path_aware_map(lambda path, x: x if path[-1] == "scale" else x.astype(dtype), params)

    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    return LM(spec, decoder.unstack(jax.jit(init)(jax.random.key(0)), donate=True), mesh)


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """The seconds of each of `repeats` calls, after one call that compiles."""
    run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def bandwidth(megabytes: int | None = None) -> dict[str, float]:
    """The memory bandwidth of the first device in GB/s, the best of 5 runs each.

    Reading sums an array; copying adds 1 to it, and both bytes read and bytes written count. The array of `megabytes`
    is far larger than any cache: 4 GB by default, on a CPU 0.4 GB.
    """
    megabytes = megabytes or (400 if jax.default_backend() == "cpu" else 4000)
    array = jnp.ones((megabytes * 250_000,), jnp.float32)
    total, more = jax.jit(jnp.sum), jax.jit(lambda x: x + 1)
    read = min(seconds(lambda: total(array).block_until_ready(), 5))
    copy = min(seconds(lambda: more(array).block_until_ready(), 5))
    return {"read_gb_per_s": round(megabytes / 1000 / read, 1), "copy_gb_per_s": round(megabytes / 500 / copy, 1)}


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


def machine() -> dict:
    """The device, the versions, and the memory bandwidth."""
    device = jax.devices()[0]
    return {
        "platform": device.platform, "card": device.device_kind, "devices": len(jax.devices()),
        "jax": jax.__version__, "python": sys.version.split()[0], **bandwidth(),
    }  # fmt: skip


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
    return json.loads(out.strip().splitlines()[-1]), usage.ru_maxrss * 1024 / memory.GIB
