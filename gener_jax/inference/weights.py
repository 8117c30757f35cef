"""The types that a loaded model's weights are held in: float32, bfloat16, or int8 in the layers and bfloat16 elsewhere.

The embedding and the output head, 1.5 % of the weights of 1.2b, stay bfloat16: the embedding is not multiplied, and an
error of the head is an error of the logits.

On an accelerator, which is bound by reading weights when it decodes, bfloat16 and int8 compute in bfloat16. A CPU
widens the rounded weights to float32 when it loads them: its products of int8 or bfloat16 are slower.
"""

import re
from collections.abc import Callable

import jax
from flax import traverse_util

from gener_jax.config import Model, ModelSpec, with_model
from gener_jax.inference.options import WEIGHTS
from gener_jax.model import decoder, kernels
from gener_jax.model.projection import Matrix
from gener_jax.model.quantization import Int8, quantize
from gener_jax.runtime.errors import InputError


def computed(spec: ModelSpec, weights: str | None) -> ModelSpec:
    """The spec with the compute dtype of its weights on this platform; None: unchanged.

    Raises:
      InputError: if they are unknown.
    """
    if weights is None:
        return spec
    if weights not in WEIGHTS:
        raise InputError(f"must be one of {', '.join(WEIGHTS)}", "weights", weights)
    return with_model(spec, dtype="float32" if weights == "float32" or kernels.platform() == "cpu" else "bfloat16")


def are_widened(model: Model, weights: str | None) -> bool:
    """Whether rounded weights are held in float32, the compute dtype, as on a CPU; `model`: that of `computed`."""
    return weights in ("bfloat16", "int8") and model.dtype == "float32"


def are_int8(model: Model, weights: str | None) -> bool:
    """Whether weights are held as int8, and not widened to a compute dtype of float32."""
    return weights == "int8" and not are_widened(model, weights)


def keep(model: Model, weights: str | None) -> Callable[[str, jax.Array], jax.Array | Int8] | None:
    """What is kept of a parameter, given its path by layer ("layers_0/q") and its values; None: all as it is.

    `model`: that of `computed`.
    """
    if weights in (None, "float32"):
        return None
    boxed = traverse_util.flatten_dict(decoder.abstract(model), sep="/")
    inputs = {path: box.num_inputs for path, box in boxed.items() if isinstance(box, Matrix)}

    def kept(path: str, w: jax.Array) -> jax.Array | Int8:
        name = re.sub(r"layers_\d+/", "layers/", path)
        if name not in inputs:
            return w
        if weights == "int8" and name.startswith("layers/"):
            found = quantize(w, inputs[name])
            return found if are_int8(model, weights) else found.astype(model.dtype)
        return w.astype("bfloat16").astype(model.dtype)

    return kept
