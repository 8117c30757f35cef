"""A matrix of the decoder: how it is declared, multiplied and adapted.

    q_BTNH = declare(self, normal, "q", {"embed": D}, {"heads": N, "head_dim": H})(y_BTD)

If the collection "adapters" holds matrices A and B under the same path (see `lora`), the product is x·W + (x·A)·B.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from gener_jax.model import kernels
from gener_jax.model.attention import matmul_precision
from gener_jax.model.quantization import Int8
from gener_jax.model.sharding import constrain

PRODUCT = "product"  # the checkpoint name of a product; remat policies do not see inside a custom_vjp function


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x: Float[Array, "... I"], w: Float[Array, "I O"], dtype=None) -> Float[Array, "... O"]:
    """x @ w in `dtype` (default: theirs), with a gradient of w that transposes the smaller factor.

    JAX's own rule always transposes the gradient of the output. On CPU, XLA does so with a copy, and fuses into it the
    computation of that gradient, which takes 5 % of a training step. The backward pass first rounds the gradient of the
    output to the dtype of x.
    """
    return jnp.matmul(x, w, preferred_element_type=dtype)


def _linear_backward(_, saved, dy):
    x, w = saved
    dy = dy.astype(x.dtype)
    tokens = tuple(range(x.ndim - 1))
    a, b = (x, dy) if x.shape[-1] <= dy.shape[-1] else (dy, x)
    with matmul_precision(x.dtype):  # traced separately, outside the model's context
        # On CPU, jax 0.11 and 0.12 accumulate a product whose result is transposed in the type of that result. In
        # bfloat16 the gradient of the head was 7 % off after 4096 tokens. GPUs and TPUs accumulate in float32.
        accumulator = jnp.float32 if kernels.platform() == "cpu" else None
        dw = jax.lax.dot_general(a, b, ((tokens, tokens), ((), ())), preferred_element_type=accumulator).astype(w.dtype)
        return dy @ w.T, dw if a is x else dw.T


linear.defvjp(lambda x, w, dtype: (linear(x, w, dtype), (x, w)), _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def mixed(x: Float[Array, "..."], w: Float[Array, "..."], num_inputs: int, dtype=None) -> Float[Array, "..."]:
    """x times w [inputs..., outputs...] in the lower precision of x, with a float32 gradient of w.

    The products of the backward pass are accumulated and returned in float32, so that the gradient of w is summed over
    devices before anything rounds it. The gradient of float32 logits is not rounded to the dtype of x either: a GPU
    multiplies it in TF32.
    """
    return _plain(x, w.astype(x.dtype), num_inputs, dtype)


def _mixed_forward(x, w, num_inputs, dtype):
    low = w.astype(x.dtype)  # as the backward pass needs it; w itself would be cast, and gathered, once more
    return _plain(x, low, num_inputs, dtype), (x, low, jnp.zeros((), w.dtype))


def _mixed_backward(num_inputs, dtype, saved, dy):
    x, low, like_w = saved
    tokens, outputs = tuple(range(x.ndim - num_inputs)), tuple(range(num_inputs - low.ndim, 0))
    with matmul_precision(x.dtype):  # traced separately, outside the model's context
        dw = jnp.tensordot(x, dy, (tokens, tokens), preferred_element_type=jnp.float32)
        dx = jnp.tensordot(dy, low, (outputs, outputs))
    return dx.astype(x.dtype), dw.astype(like_w.dtype)


mixed.defvjp(_mixed_forward, _mixed_backward)


class Matrix(nn.LogicallyPartitioned):
    """The box of a matrix: its logical axes, those of the inputs first."""

    num_inputs: int = struct.field(default=1, pytree_node=False)  # of the axes, without "layers"


@dataclasses.dataclass(frozen=True)
class Projection:
    """A matrix [inputs..., outputs...] and its adapter, {"a": [inputs..., rank], "b": [rank, outputs...]} or None."""

    w: jax.Array | Int8
    num_inputs: int
    adapter: Mapping[str, jax.Array] | None
    gradient_dtype: str = "float32"

    def __call__(self, x: Float[Array, "..."], dtype=None) -> Float[Array, "..."]:
        """x [..., inputs...] times the matrix, [..., outputs...]: computed in the dtype of x, returned in `dtype`."""
        product = functools.partial(_product, gradient_dtype=self.gradient_dtype)
        y = product(x, self.w, self.num_inputs, dtype)
        if self.adapter is not None:
            y += product(product(x, self.adapter["a"], self.num_inputs), self.adapter["b"], 1, dtype)
        return checkpoint_name(y, PRODUCT)

    def rows(self, ids: Int[Array, "..."], dtype) -> Float[Array, "... O"]:
        """The rows of a table at `ids`, in `dtype`: its product with one-hot vectors."""
        # The table is small and is gathered over fsdp first; indexing a sharded table would replicate the result.
        # The rows are cast after indexing, so that the gradients of all tokens with one id are summed in float32. In
        # bfloat16 a sum stops growing once its terms are below 1/256 of it.
        rows = jnp.take(constrain(self.w, "vocab", "hidden"), ids, axis=0).astype(dtype)
        if self.adapter is not None:
            a = jnp.take(self.adapter["a"], ids, axis=0).astype(dtype)
            rows += _product(a, self.adapter["b"], 1, gradient_dtype=self.gradient_dtype)
        return rows


def declare(
    module: nn.Module, initializer: Callable, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> Projection:
    """Declares a matrix as a parameter of a module; `inputs` and `outputs` give the sizes of its logical axes.

    The module's `gradient_dtype` is that of `train.gradient_dtype`.
    """
    shape, axes = (*inputs.values(), *outputs.values()), (*inputs, *outputs)
    w = module.param(name, lambda key: Matrix(initializer(key, shape, jnp.float32), axes, num_inputs=len(inputs)))
    return Projection(w, len(inputs), module.get_variable("adapters", name), module.gradient_dtype)


def _product(x, w, num_inputs: int, dtype=None, *, gradient_dtype: str = "float32"):
    if isinstance(w, Int8):  # scaled after the product, so that only int8 is read where the conversion fuses into it
        y = _plain(x, w.values.astype(x.dtype), num_inputs, jnp.float32) * w.scale
        return y.astype(x.dtype if dtype is None else dtype)
    if gradient_dtype == "float32" and x.dtype != jnp.float32:
        return mixed(x, w, num_inputs, dtype)
    return _plain(x, w.astype(x.dtype), num_inputs, dtype)


def _plain(x, w, num_inputs: int, dtype):
    with matmul_precision(x.dtype):
        if w.ndim - num_inputs > 1:
            return jnp.tensordot(x, w, num_inputs, preferred_element_type=dtype)
        # Heads and head_dim are merged first: for a sum over two dimensions XLA transposes the weights every time.
        return linear(x.reshape(*x.shape[: x.ndim - num_inputs], -1), w.reshape(-1, w.shape[-1]), dtype)
