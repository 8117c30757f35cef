"""Hugging Face folders of a `LlamaForCausalLM`, the published form of GENERator, read into our parameter tree.

`config.json` gives the shape, one `model.safetensors` the tensors. A published matrix is [out, in]; ours is [in, out]
with heads apart and layers stacked. Every tensor has to be used and every parameter found: none stays random.
"""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from gener_jax.config import ConfigError, Model
from gener_jax.model import decoder

_PUBLISHED = {  # our parameter → the published tensor, {} its layer
    "embed_tokens": "model.embed_tokens.weight",
    "layers/q": "model.layers.{}.self_attn.q_proj.weight",
    "layers/k": "model.layers.{}.self_attn.k_proj.weight",
    "layers/v": "model.layers.{}.self_attn.v_proj.weight",
    "layers/o": "model.layers.{}.self_attn.o_proj.weight",
    "layers/gate": "model.layers.{}.mlp.gate_proj.weight",
    "layers/up": "model.layers.{}.mlp.up_proj.weight",
    "layers/down": "model.layers.{}.mlp.down_proj.weight",
    "layers/input_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/post_attention_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "norm/scale": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
_FIELDS = {  # taken over as they are
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "head_dim": int, "max_position_embeddings": int,
    "rms_norm_eps": float, "rope_theta": float, "initializer_range": float,
}  # fmt: skip
_ONLY = {  # what our decoder is; other Llamas are refused
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False, "rope_scaling": None,
}  # fmt: skip


def is_folder(folder: Path) -> bool:
    """Whether a folder's config.json is a Hugging Face model's, and not a run's of ours."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def read(folder: str | Path) -> tuple[Model, dict]:
    """The model of a Hugging Face folder: its configuration, and its parameters as float32 numpy arrays.

    The tree is `Decoder`'s, layers stacked: layers.q [L, D, N, H] and so on. Tensors may be float32, float16, bfloat16.

    Raises:
      ValueError: one line naming the file and the field or tensor that is missing, left over, damaged, or not ours.
    """
    config = _read_config(Path(folder) / "config.json")
    return config, _read_tensors(Path(folder) / "model.safetensors", config)


def _read_config(path: Path) -> Model:
    try:
        fields = json.loads(path.read_bytes())
        rope = fields.get("rope_parameters") or {}  # of transformers 5; 4 writes rope_theta beside the others
        found = {**fields, **rope}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: is no configuration in JSON: {error}") from None
    for name, value in _ONLY.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {fields[name]!r}: only {value!r} is supported")
    if set(rope) - {"rope_type", "rope_theta"} or rope.get("rope_type", "default") != "default":
        raise ValueError(f"{path}: rope_parameters is {rope}: only rope_theta with rope_type 'default' is supported")
    values = {}
    for name, type_ in _FIELDS.items():
        value = found.get(name)
        if value is None and name in ("head_dim", "initializer_range"):
            continue
        if type(value) not in (int, type_) or not 0 < value < math.inf:
            raise ValueError(f"{path}: {name} is {value!r}: it has to be a positive {type_.__name__}")
        values[name] = type_(value)
    try:
        return Model(**values)
    except ConfigError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_tensors(path: Path, config: Model) -> dict:
    from safetensors import SafetensorError, safe_open

    ours = nn.unbox(jax.eval_shape(functools.partial(decoder.init, decoder.Decoder(config)), jax.random.key(0)))
    ours = {name: leaf.shape for name, leaf in traverse_util.flatten_dict(ours, sep="/").items()}
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is no whole safetensors file (several shards are not read yet): {error}") from None
    with file:
        left = set(file.keys())
        for name, shape in ours.items():  # all is checked before anything is allocated
            for layer in range(config.num_hidden_layers if name.startswith("layers/") else 1):
                tensor = _PUBLISHED[name].format(layer)
                if tensor not in left:
                    raise ValueError(f"{path}: tensor {tensor} is missing")
                part, wanted = file.get_slice(tensor), _published_shape(name, shape)
                if tuple(part.get_shape()) != wanted:
                    raise ValueError(f"{path}: tensor {tensor} is {part.get_shape()}: by config.json {list(wanted)}")
                if part.get_dtype() not in ("F32", "F16", "BF16"):
                    raise ValueError(f"{path}: tensor {tensor} is {part.get_dtype()}: F32, F16 and BF16 are supported")
                left.remove(tensor)
        if left:
            raise ValueError(f"{path}: tensor {min(left)} is not part of the model")
        params = {name: np.empty(shape, np.float32) for name, shape in ours.items()}
        for name, array in params.items():
            for layer, target in enumerate(array if name.startswith("layers/") else array[None]):
                tensor = file.get_tensor(_PUBLISHED[name].format(layer))
                target[...] = (tensor if name == "embed_tokens" else tensor.T).reshape(target.shape)
    return traverse_util.unflatten_dict(params, sep="/")


def _published_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = shape[1:] if name.startswith("layers/") else shape
    if name == "embed_tokens" or len(shape) == 1:
        return shape
    inputs = 2 if name == "layers/o" else 1  # leading dimensions that are summed over
    return math.prod(shape[inputs:]), math.prod(shape[:inputs])
