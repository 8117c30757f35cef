"""safetensors ↔ our parameters by layer, a tensor at a time, from and to any mesh.

A published matrix is [out, in] with its heads joined; ours is [in, out] with separate heads. Every tensor must be used
and every parameter found: none stays random. When reading, each tensor is sent to its devices before the next is read,
and each file is closed before the next is opened; when writing, one tensor at a time is fetched. The devices transpose.
"""

import json
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from gener_jax.model import decoder
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import heads
from gener_jax.storage.files import read_json

SHARD_BYTES = 5 * 10**9  # of the files that are written, as published
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_INDEX_BYTES = 64 << 20
LAYER = {  # our parameter of a layer → the published tensor
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "input_norm/scale": "input_layernorm.weight",
    "post_attention_norm/scale": "post_attention_layernorm.weight",
}
_EMBEDDING, _HEAD, _SCORE = "model.embed_tokens.weight", "lm_head.weight", "score.weight"
_LEFT_OVER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")  # buffers of old versions
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def _tensor_error(path: str | Path, name: str, problem: str, value=None) -> CheckpointError:
    return CheckpointError(path, f"tensor {name!r} {problem}", name=name, value=value)


class _Tensor(NamedTuple):
    """One published tensor, and the parameter that holds its numbers."""

    name: str
    parameter: str
    shape: tuple[int, ...]  # of the parameter
    inputs: int  # its leading dimensions that are summed over; in the published tensor they come last

    @property
    def published(self) -> tuple[int, ...]:
        """The published shape."""
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def _tensors(flat: dict) -> list[_Tensor]:
    """All published tensors, in the published order, for parameters by layer: arrays or shapes by their path."""
    names = {"embed_tokens": _EMBEDDING}
    for layer in range(sum(path.endswith("/q") for path in flat)):
        names |= {f"layers_{layer}/{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in LAYER.items()}
    names |= {"norm/scale": "model.norm.weight", "lm_head": _HEAD}
    names |= {"score": _SCORE} if "score" in flat else {}
    tensors = []
    for path, name in names.items():
        shape = flat[path].shape
        inputs = 0 if path == "embed_tokens" or len(shape) == 1 else 2 if path.endswith("/o") else 1
        tensors.append(_Tensor(name, path, shape, inputs))
    return tensors


# ---------------------------------------------------------------------------------------------------------- reading


class _Stored(NamedTuple):
    """A tensor as the header of its file describes it."""

    path: Path
    name: str
    shape: list[int]
    dtype: str


def read(folder: Path, target, keep: Callable[[str, jax.Array], Any] | None = None):
    """The parameters of a folder by layer, placed and typed like `target`, stacked shapes with shardings.

    Tensors may be float32, float16 or bfloat16, in one model.safetensors or in the shards of an index. The head may be
    tied to the embedding (`tie_word_embeddings` of config.json). Both may be padded to its `vocab_size` rows: those
    after the target's are dropped.

    `keep`: of each parameter's path ("layers_0/q") and values, what stays, before the next is read.

    Raises:
      CheckpointError: naming the file and the tensor that is missing, left over, damaged, of another shape or type, or
        not finite; before anything is allocated where the files' headers show it.
    """
    stored = _stored(folder)
    if (folder / heads.PARAMETERS).exists():  # which holds the same in float32
        stored.pop(_SCORE, None)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if config.get("tie_word_embeddings") and _EMBEDDING in stored:
        stored.setdefault(_HEAD, stored[_EMBEDDING])
    layers = target["layers"]["q"].shape[0]
    if layers > len(stored):  # checked before the tree has that number of branches
        raise _tensor_error(folder, f"model.layers.{layers - 1}.{LAYER['q']}", "is missing")
    params = traverse_util.flatten_dict(decoder.unstack(target), sep="/")
    wanted = {tensor.name: tensor for tensor in _tensors(params)}
    _check(stored, wanted, config.get("vocab_size"))
    total = sum(math.prod(tensor.shape) for tensor in wanted.values())
    with tqdm(total=total, unit="", unit_scale=True, desc=folder.name, leave=False, disable=None) as progress:
        for name, (path, source, _, _) in stored.items():
            tensor = wanted[name]
            leaf = params[tensor.parameter]
            with _open(path) as file:  # per tensor, since the mapped pages of an open file count as memory
                array = file.get_tensor(source)[: tensor.published[0]].astype(leaf.dtype, copy=False)
            if not np.isfinite(array).all():
                raise _tensor_error(path, name, f"holds NaN or infinity in {array.dtype}")
            placed = _place(array, tensor, leaf.sharding)
            placed = placed if keep is None else keep(tensor.parameter, placed)
            params[tensor.parameter] = jax.block_until_ready(placed)  # else many transfers would be pending
            progress.update(array.size)
    if config.get("tie_word_embeddings") and not jnp.array_equal(params["lm_head"], params["embed_tokens"].T):
        problem = f"is not {_EMBEDDING}, although tie_word_embeddings is true"
        raise _tensor_error(stored[_HEAD].path, _HEAD, problem)
    return traverse_util.unflatten_dict(params, sep="/")


def _stored(folder: Path) -> dict[str, _Stored]:
    """The tensors in the safetensors files of a folder, file by file; those of several must be as their index says."""
    single, index = folder / _SINGLE, folder / _INDEX
    weight_map, paths = {}, [single]
    if single.exists() and index.exists():
        raise CheckpointError(folder, f"holds both {_SINGLE} and {_INDEX}: remove one of them", name=_SINGLE)
    if index.exists():
        weight_map = read_json(index, _MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(index, "has no weight_map", name="weight_map")
        for name, file in weight_map.items():
            if not (isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")):
                raise _tensor_error(index, name, f"is in {file!r}, not a safetensors file in this folder", file)
        weight_map = {name: file for name, file in weight_map.items() if not _LEFT_OVER.fullmatch(name)}
        paths = [folder / file for file in sorted(set(weight_map.values()))]
    elif not os.path.lexists(single):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        raise CheckpointError(
            folder,
            f"holds no {_SINGLE} and no {_INDEX}"
            + (f"; {pickles[0]} is a pickle, which can run code: save it as safetensors first" if pickles else ""),
            value=pickles[0] if pickles else None,
        )
    stored = {}
    for path in paths:
        with _open(path) as file:
            for name in (name for name in file.keys() if not _LEFT_OVER.fullmatch(name)):  # noqa: SIM118 (not a mapping)
                if weight_map and weight_map.get(name) != path.name:
                    raise _tensor_error(path, name, f"is not in {_INDEX}, or there in another file")
                header = file.get_slice(name)
                stored[name] = _Stored(path, name, header.get_shape(), header.get_dtype())
    if missing := sorted(weight_map.keys() - stored.keys()):
        path = folder / weight_map[missing[0]]
        raise _tensor_error(path, missing[0], f"is missing, although {_INDEX} names it")
    return stored


def _open(path: Path) -> safe_open:
    """A safetensors file. The library checks its header against the file's size: no gap, no overlap."""
    try:
        if not path.is_file():  # opening a pipe would block
            raise OSError("no such file")
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is not a complete safetensors file: {error}") from None


def stored_dtype(folder: Path) -> str | None:
    """The type of all tensors of a folder; None if they have several types, or one that we do not write."""
    found = {tensor.dtype for tensor in _stored(folder).values()}
    return _DTYPES[found.pop()].name if len(found) == 1 and found <= _DTYPES.keys() else None


def _check(stored: dict[str, _Stored], wanted: dict[str, _Tensor], vocab_size) -> None:
    if missing := [name for name in wanted if name not in stored]:
        raise _tensor_error(next(iter(stored.values())).path, missing[0], "is missing")
    for name, (path, _, found, dtype) in sorted(stored.items()):
        if name not in wanted:
            raise _tensor_error(path, name, "is not part of the model")
        shape = list(wanted[name].published)
        if name in (_EMBEDDING, _HEAD) and isinstance(vocab_size, int):
            shape[0] = max(shape[0], vocab_size)
        if found != shape:
            raise _tensor_error(path, name, f"has shape {found}; the model's is {shape}", found)
        if dtype not in _DTYPES:
            raise _tensor_error(path, name, f"has type {dtype}; {', '.join(_DTYPES)} are supported", dtype)


def _place(array: np.ndarray, tensor: _Tensor, sharding: NamedSharding) -> jax.Array:
    """The parameter of one tensor. Each device is sent its own shard."""
    inputs, shape = tensor.inputs, tensor.shape
    axes = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
    apart = NamedSharding(sharding.mesh, PartitionSpec(*axes[inputs:], *axes[:inputs]))
    array = array.reshape(shape[inputs:] + shape[:inputs])  # the heads separate
    on_devices = jax.make_array_from_callback(array.shape, apart, lambda index: array[index])
    return jax.device_put(jnp.moveaxis(on_devices, range(-inputs, 0), range(inputs)), sharding)


# ---------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, params, dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes parameters by layer into a folder as safetensors: one file, or shards of up to `shard_bytes` and an index.

    A parameter "score" [D, outputs] is that of transformers' classifiers.

    Raises:
      CheckpointError: if a parameter is not finite, which nobody could load.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    itemsize = jnp.dtype(dtype).itemsize
    shards, room = [], 0
    for tensor in _tensors(flat):
        size = math.prod(tensor.shape) * itemsize
        if size > room:
            shards.append([])
            room = max(shard_bytes, size)
        shards[-1].append(tensor)
        room -= size
    total = sum(math.prod(tensor.shape) for shard in shards for tensor in shard)
    weight_map = {}
    with tqdm(total=total, unit="", unit_scale=True, desc=folder.name, leave=False, disable=None) as progress:
        for i, shard in enumerate(shards, 1):
            name = _SINGLE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
            weight_map |= {tensor.name: name for tensor in shard}
            _write_file(folder / name, sorted(shard), flat, jnp.dtype(dtype), progress)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total * itemsize}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(path: Path, shard: list[_Tensor], flat: dict, dtype: np.dtype, progress) -> None:
    """One file, byte for byte as the library writes it; the library needs all tensors in memory at once."""
    code = next(code for code, known in _DTYPES.items() if known == dtype)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in shard:
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": code, "shape": list(tensor.published), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in shard:
            apart = jnp.moveaxis(flat[tensor.parameter], range(tensor.inputs), range(-tensor.inputs, 0))
            array = np.asarray(apart.astype(dtype))
            if not np.isfinite(array).all():
                raise _tensor_error(path.name, tensor.name, f"holds NaN or infinity in {dtype}")
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
            progress.update(array.size)
