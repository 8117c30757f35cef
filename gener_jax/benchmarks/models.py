"""Shared by the benchmarks of models: random weights, the bandwidth of memory, and the machine."""

import sys

import jax
import jax.numpy as jnp

from gener_jax.benchmarks.measuring import model_of, seconds
from gener_jax.config import ModelSpec
from gener_jax.inference import weights as weights_of
from gener_jax.inference.lm import LM, random_weights
from gener_jax.model.sharding import make_mesh
from gener_jax.storage import pretrained


def random_lm(size: str, dtype: str, weights: str | None = None) -> LM:
    """A model of a size with random weights, on the first device. `weights`: see `lm.load`; they decide `dtype` too."""
    spec = weights_of.computed(ModelSpec(name=size, model=model_of(size, dtype)), weights)
    lm = random_weights(spec, make_mesh(1, 1, 1, jax.devices()[:1]))
    lm.params, lm.weights = pretrained.kept(lm.params, weights_of.keep(spec.model, weights)), weights
    return lm


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


def machine() -> dict:
    """The device, the versions, and the memory bandwidth."""
    device = jax.devices()[0]
    return {
        "platform": device.platform, "card": device.device_kind, "devices": len(jax.devices()),
        "jax": jax.__version__, "python": sys.version.split()[0], **bandwidth(),
    }  # fmt: skip
