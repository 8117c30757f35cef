"""Low-rank adapters (LoRA, Hu et al. 2021): matrices A and B for chosen matrices W, which then stay as they are.

    adapters = init(key, decoder.abstract(config), lambda path: path.endswith(("/q", "/v")), rank=8, alpha=16)
    hidden, _ = model.apply({"params": params, "adapters": nn.unbox(adapters)}, ids)     # x·W + (x·A)·B
    params = merge(params, nn.unbox(adapters))                                            # W + A·B

The paper's scale alpha / rank is a factor of A's initial values, so that an adapter is its two matrices and nothing
else: no number must be stored, kept from the optimizer or passed to the decoder. As B starts at 0, the gradient of B is
that of the paper; Adam then moves A by the same amounts whatever the scale. Scale the A of adapters made elsewhere.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import traverse_util

from gener_jax.model.projection import Matrix
from gener_jax.runtime.errors import real, whole


def init(key: jax.Array, boxed, targets: Callable[[str], bool], *, rank: int, alpha: float):
    """Adapters of the stacked parameters whose paths ("layers/q") `targets` chooses, boxed with their logical axes.

    A, float32 [inputs..., rank], is drawn from a normal distribution with standard deviation alpha / rank / √(number of
    inputs); B, [rank, outputs...], is 0. Those of one matrix do not depend on which others are chosen.

    Args:
      boxed: the parameters' shapes with their logical axes, as `decoder.abstract` returns them.

    Raises:
      InputError: if the rank is not a positive whole number, or alpha not a positive number.
      ValueError: if a parameter is chosen that is not a matrix, or none.
    """
    rank, alpha = whole(rank, "rank", 1), real(alpha, "alpha", above=0)
    numbered = enumerate(sorted(traverse_util.flatten_dict(boxed, sep="/").items()))
    chosen = {path: (number, box) for number, (path, box) in numbered if targets(path)}
    if not chosen or not all(isinstance(box, Matrix) for _, box in chosen.values()):
        raise ValueError(f"{', '.join(chosen) or 'no path'} chosen for adapters, which are of matrices")
    adapters = {}
    for path, (number, box) in chosen.items():
        shape, names, first = box.value.shape, box.names, int(box.names[0] == "layers")
        last = first + box.num_inputs
        deviation = alpha / rank / math.sqrt(math.prod(shape[first:last]))
        a = deviation * jax.random.normal(jax.random.fold_in(key, number), (*shape[:last], rank), jnp.float32)
        b = jnp.zeros((*shape[:first], rank, *shape[last:]), jnp.float32)
        adapters[path] = {
            "a": Matrix(a, (*names[:last], "rank"), num_inputs=box.num_inputs),
            "b": Matrix(b, (*names[:first], "rank", *names[last:])),
        }
    return traverse_util.unflatten_dict(adapters, sep="/")


def merge(params, adapters):
    """The parameters with W + A·B for each W that has an adapter, in the dtype and sharding of W.

    Both trees are stacked, or both by layer.

    Raises:
      KeyError: if the parameters lack the matrix of an adapter.
    """
    merged = traverse_util.flatten_dict(params, sep="/")
    pairs = traverse_util.flatten_dict(adapters, sep="/", is_leaf=lambda _, node: "a" in node)
    for path, adapter in pairs.items():
        merged[path] = _sum(merged[path].sharding, path.startswith("layers/"))(merged[path], adapter["a"], adapter["b"])
    return traverse_util.unflatten_dict(merged, sep="/")


@functools.cache
def _sum(sharding, stacked: bool):
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")
    product = jax.vmap(product) if stacked else product
    return jax.jit(lambda w, a, b: (w + product(a, b)).astype(w.dtype), out_shardings=sharding)
