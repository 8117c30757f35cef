"""PEFT's folders of LoRA adapters ↔ our adapters by layer: `adapter_config.json` and `adapter_model.safetensors`.

PEFT multiplies A and B by lora_alpha / r; in our adapters A includes that factor (see `model.lora`). A published A is
[rank, in] and B [out, rank], one of each per layer and matrix.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gener_jax.config import Model
from gener_jax.model import decoder
from gener_jax.model.projection import Matrix
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.files import read_json
from gener_jax.storage.huggingface.weights import LAYER

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_MODULES = {theirs.removesuffix(".weight"): ours for ours, theirs in LAYER.items() if theirs.endswith("_proj.weight")}
_NAME = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d+)\.(.+)\.lora_([AB])\.weight")
_ONLY = {  # other values of PEFT's options change the product or the base (PiSSA, OLoRA, …), or add parameters
    "bias": ("none",), "fan_in_fan_out": (False,), "use_dora": (False,), "modules_to_save": (None, []),
    "alpha_pattern": ({},), "lora_bias": (False,), "layer_replication": (None,), "target_parameters": (None, []),
    "trainable_token_indices": (None,), "use_qalora": (False,),
    "alora_invocation_tokens": (None,), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # fmt: skip


def is_folder(folder: Path) -> bool:
    """Whether a folder holds adapters alone, in PEFT's layout."""
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def base_of(folder: Path) -> str:
    """The folder or name of the model that the adapters are for.

    Raises:
      CheckpointError: if adapter_config.json cannot be read or does not name it, or is of adapters that are not LoRA's.
    """
    path = folder / CONFIG
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise CheckpointError(path, "peft_type must be LORA", name="peft_type", value=fields.get("peft_type"))
    for name, values in _ONLY.items():
        if name in fields and fields[name] not in values:
            problem = f"{name} is {fields[name]!r}; only {values[0]!r} is supported: merge it with PEFT"
            raise CheckpointError(path, problem, name=name, value=fields[name])
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        problem = "base_model_name_or_path must name the folder of the base model"
        raise CheckpointError(path, problem, name="base_model_name_or_path", value=base)
    return base


def _matrices(model: Model) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Matrix of a layer → the shapes of its inputs and of its outputs."""
    boxes = {name: box for name, box in decoder.abstract(model)["layers"].items() if isinstance(box, Matrix)}
    shapes = {name: (box.value.shape[1:], box.num_inputs) for name, box in boxes.items()}
    return {name: (shape[:inputs], shape[inputs:]) for name, (shape, inputs) in shapes.items()}


def read(folder: Path, model: Model) -> dict:
    """The adapters of a folder by layer ("layers_0/q/a", …), float32.

    Raises:
      CheckpointError: naming the tensor that is missing, of another shape, not finite, or of no matrix of the model.
    """
    path, fields, matrices = folder / TENSORS, read_json(folder / CONFIG), _matrices(model)
    base_of(folder)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(path, f"is not a complete safetensors file of floats: {error}") from None

    def refuse(name, problem):
        raise CheckpointError(path, f"tensor {name!r} {problem}", name=name)

    found = {}
    for name, x in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in _MODULES or int(match[1]) >= model.num_hidden_layers:
            refuse(name, "is not an adapter of a matrix of the model's layers")
        if not np.isfinite(x).all():
            refuse(name, "holds NaN or infinity")
        inputs, outputs = matrices[_MODULES[match[2]]]
        joined, axis = (inputs, 1) if match[3] == "A" else (outputs, 0)
        if x.ndim != 2 or x.shape[axis] != math.prod(joined):
            refuse(
                name, f"has shape {list(x.shape)}; the matrix has {math.prod(joined)} {'inputs' if axis else 'outputs'}"
            )
        other = name.replace("lora_A", "lora_B") if axis else name.replace("lora_B", "lora_A")
        if other not in tensors or tensors[other].ndim != 2 or tensors[other].shape[axis] != x.shape[1 - axis]:
            refuse(other, f"is missing or does not have the rank {x.shape[1 - axis]} of {name!r}")
        rank, at = x.shape[1 - axis], f"layers_{match[1]}/{_MODULES[match[2]]}"
        if axis:
            alpha = fields.get("lora_alpha")
            if type(alpha) not in (int, float) or not math.isfinite(alpha):
                raise CheckpointError(folder / CONFIG, "lora_alpha must be a number", name="lora_alpha", value=alpha)
            scale = alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank)
            found[f"{at}/a"] = (x.T * np.float32(scale)).reshape(*inputs, rank)
        else:
            found[f"{at}/b"] = x.T.reshape(rank, *outputs)
    if not found:
        raise CheckpointError(path, "holds no adapters")
    return traverse_util.unflatten_dict(found, sep="/")


def write(folder: Path, adapters, base: str, num_layers: int) -> None:
    """Writes stacked adapters of matrices of layers into a folder, with lora_alpha equal to their rank.

    `base` names the model that they are for, of which they may be for the first layers alone: it has `num_layers`.
    """
    tensors, targets, rank, layers = {}, [], 0, 0
    for ours, pair in adapters["layers"].items():
        a, b = np.asarray(pair["a"], np.float32), np.asarray(pair["b"], np.float32)
        module = next(theirs for theirs, name in _MODULES.items() if name == ours)
        layers, rank = a.shape[0], a.shape[-1]
        targets.append(module.rpartition(".")[2])
        for i in range(layers):
            name = f"base_model.model.model.layers.{i}.{module}"
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[i].reshape(-1, rank).T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[i].reshape(rank, -1).T)
    fields = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "layers_to_transform": None if layers == num_layers else list(range(layers)),
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")
    save_file(tensors, folder / TENSORS, {"format": "pt"})
