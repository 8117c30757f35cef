"""Matrices as int8 with a float32 scale per output, for inference: x · W ≈ (x · values) · scale.

The scale of an output is the largest absolute value of its column / 127, so that the rounded values are whole numbers
from −127 to 127, which bfloat16 holds exactly. Only weights are rounded; activations keep the compute dtype.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from jaxtyping import Int8 as Int8s

LARGEST = 127


@struct.dataclass
class Int8:
    """A matrix [inputs..., outputs...]: `values` · `scale`. In a tree of parameters it stands for the array."""

    values: Int8s[Array, "..."]
    scale: Float[Array, "..."]  # float32 [outputs...]

    def astype(self, dtype) -> jax.Array:
        """The matrix as an array, widened: rounded to `dtype` once."""
        return (self.values * self.scale).astype(dtype)


def quantize(w: Float[Array, "..."], num_inputs: int) -> Int8:
    """A matrix whose first `num_inputs` axes are summed over, sharded as it is; an output whose weights are all 0 has
    scale 1.

    No weight is off by more than scale / 2, apart from float32's own rounding of values up to 127.
    """
    sharding = None
    if isinstance(w.sharding, NamedSharding):
        outputs = PartitionSpec(*[*w.sharding.spec, *[None] * w.ndim][num_inputs : w.ndim])
        sharding = Int8(w.sharding, NamedSharding(w.sharding.mesh, outputs))
    return _program(num_inputs, sharding)(w)


@functools.cache
def _program(num_inputs: int, sharding):
    def quantized(w):
        w = w.astype(jnp.float32)
        largest = jnp.abs(w).max(range(num_inputs))
        scale = jnp.where(largest > 0, largest / LARGEST, 1)
        return Int8(jnp.round(w / scale).astype(jnp.int8), scale)

    return jax.jit(quantized, out_shardings=sharding)
