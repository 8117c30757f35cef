"""safetensors ↔ our parameter tree, a tensor at a time, from and to any mesh.

A published matrix is [out, in] with heads joined; ours is [in, out] with heads apart, layers stacked or apart. Every
tensor has to be used and every parameter found: none stays random. On the way in, each tensor goes to its devices
before the next is read, and each file is closed before the next is opened; on the way out, one tensor at a time is
fetched. The transposing is the devices' work.
"""

import contextlib
import functools
import json
import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from gener_jax.errors import CheckpointError
from gener_jax.files import read_json

SHARD_BYTES = 5 * 10**9  # of the files that are written, as published
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_INDEX_BYTES = 64 << 20
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
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


class _Tensor(NamedTuple):
    """One published tensor and the place of its numbers in our tree."""

    name: str
    parameter: str
    layer: int | None  # None: the parameter is not stacked
    inputs: int  # leading dimensions of ours, without layers, that are summed over: they come last in the published one
    shape: tuple[int, ...]  # ours, without layers

    @property
    def apart(self) -> tuple[int, ...]:
        """The published shape with its heads apart."""
        return self.shape[self.inputs :] + self.shape[: self.inputs]

    @property
    def published(self) -> tuple[int, ...]:
        """The published shape."""
        if len(self.shape) == 1 or not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def tensors(params) -> list[_Tensor]:
    """All published tensors of a tree of arrays or shapes, in the order of the published shards."""
    flat = {name: leaf.shape for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}
    layered = [name for name in _PUBLISHED if name.startswith("layers/")]
    stacked = "layers/q" in flat
    order = [("embed_tokens", None)]
    order += [(name, layer) for layer in range(num_layers(params)) for name in layered]
    order += [("norm/scale", None), ("lm_head", None)]
    found = []
    for name, layer in order:
        parameter = name if layer is None or stacked else name.replace("layers", f"layers_{layer}", 1)
        shape = flat[parameter][1:] if layer is not None and stacked else flat[parameter]
        inputs = 0 if name == "embed_tokens" or len(shape) == 1 else 2 if name == "layers/o" else 1
        found.append(_Tensor(_PUBLISHED[name].format(layer), parameter, layer if stacked else None, inputs, shape))
    return found


def num_layers(params) -> int:
    """Layers of a tree, stacked or by layer."""
    return params["layers"]["q"].shape[0] if "layers" in params else sum(name.startswith("layers_") for name in params)


# ---------------------------------------------------------------------------------------------------------- reading


def read(folder: Path, target):
    """The parameters of a folder, placed and typed as `target`, a tree of shapes with shardings, says.

    Tensors may be float32, float16 or bfloat16, in one model.safetensors or in the shards of an index.

    Raises:
      CheckpointError: one line naming the file and the tensor that is missing, left over, damaged, of another shape or
        type, or not finite; before anything is allocated where the files' headers tell.
    """
    files = _files(folder)
    layers = num_layers(target)
    if layers > sum(map(len, files.values())):  # said before a list of so many is made
        raise CheckpointError(f"{folder}: tensor {_PUBLISHED['layers/q'].format(layers - 1)!r} is missing")
    wanted = {tensor.name: tensor for tensor in tensors(target)}
    _check_headers(files, wanted)
    leaves = traverse_util.flatten_dict(target, sep="/")
    params = {name: _zeros(leaf) if name.startswith("layers/") else leaf for name, leaf in leaves.items()}
    total = sum(math.prod(tensor.shape) for tensor in wanted.values())
    with tqdm(total=total, unit="", unit_scale=True, desc=folder.name, leave=False, disable=None) as progress:
        for path, names in files.items():
            for name in names:
                tensor = wanted[name]
                with _opened(path) as file:  # for each: what is mapped of an open file counts as memory
                    array = file.get_tensor(name)
                array = array.astype(params[tensor.parameter].dtype, copy=False)
                if not np.isfinite(array).all():
                    raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity in {array.dtype}")
                placed = _place(params[tensor.parameter], array, tensor)
                params[tensor.parameter] = jax.block_until_ready(placed)  # or many would be on their way at once
                progress.update(array.size)
    return traverse_util.unflatten_dict(params, sep="/")


def _files(folder: Path) -> dict[Path, list[str]]:
    """The safetensors files of a folder and the tensors that its index says are in each."""
    single, index = folder / _SINGLE, folder / _INDEX
    if single.exists() and index.exists():
        raise CheckpointError(f"{folder}: holds both {_SINGLE} and {_INDEX}: remove the one that is not meant")
    if os.path.lexists(single):
        with _opened(single) as file:
            return {single: list(file.keys())}
    if not index.exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        raise CheckpointError(
            f"{folder}: holds no {_SINGLE} and no {_INDEX}"
            + (f"; {pickles[0]} is a pickle, which can run code: save it as safetensors first" if pickles else "")
        )
    files: dict[Path, list[str]] = {}
    weight_map = read_json(index, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    for name, file_name in weight_map.items():
        beside = isinstance(file_name, str) and Path(file_name).name == file_name
        if not beside or not file_name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: tensor {name!r} is in {file_name!r}: that is no safetensors file beside it"
            )
        files.setdefault(folder / file_name, []).append(name)
    if absent := sorted(path.name for path in files if not _is_file(path)):
        raise CheckpointError(f"{folder}: file {absent[0]!r} is missing, which {_INDEX} names")
    for path, names in files.items():
        with _opened(path) as file:
            there = set(file.keys())
        if missing := sorted(set(names) - there):
            raise CheckpointError(f"{path}: tensor {missing[0]!r} is missing, which {_INDEX} says is there")
        if extra := sorted(there - set(names)):
            raise CheckpointError(f"{path}: tensor {extra[0]!r} is not in {_INDEX}")
    return dict(sorted(files.items()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a name that no file can have
        return False


@contextlib.contextmanager
def _opened(path: Path):
    """A safetensors file, whose header the library has checked against the file's size: no gap, no overlap."""
    try:
        if not path.is_file():
            raise OSError("no such file")
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is no whole safetensors file: {error}") from None
    with file:
        yield file


def stored_dtype(folder: Path) -> str | None:
    """The type that all tensors of a folder have; None where they have several, or one that we do not write."""
    found = set()
    for path, names in _files(folder).items():
        with _opened(path) as file:
            found |= {file.get_slice(name).get_dtype() for name in names}
    return _DTYPES[found.pop()].name if len(found) == 1 and found <= _DTYPES.keys() else None


def _check_headers(files: dict[Path, list[str]], wanted: dict[str, _Tensor]) -> None:
    where = {name: path for path, names in files.items() for name in names}
    for name in wanted:
        if name not in where:
            raise CheckpointError(f"{next(iter(files))}: tensor {name!r} is missing")
    for path, names in files.items():
        with _opened(path) as file:
            for name in sorted(names):
                if name not in wanted:
                    raise CheckpointError(f"{path}: tensor {name!r} is not part of the model")
                part, shape = file.get_slice(name), wanted[name].published
                if tuple(part.get_shape()) != shape:
                    raise CheckpointError(
                        f"{path}: tensor {name!r} is {part.get_shape()}: the model's is {list(shape)}"
                    )
                if part.get_dtype() not in _DTYPES:
                    raise CheckpointError(
                        f"{path}: tensor {name!r} is {part.get_dtype()}: {', '.join(_DTYPES)} are supported"
                    )


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)


@functools.cache
def _place_program(sharding, inputs: int):
    """The program that turns a tensor as published, heads apart, into ours, and puts it at a layer of a parameter."""

    def place(tensor, parameter=None, layer=None):
        tensor = jnp.transpose(tensor, [*range(tensor.ndim - inputs, tensor.ndim), *range(tensor.ndim - inputs)])
        return tensor if parameter is None else jax.lax.dynamic_update_index_in_dim(parameter, tensor, layer, 0)

    return jax.jit(place, out_shardings=sharding, donate_argnums=1)


def _place(parameter, array: np.ndarray, tensor: _Tensor) -> jax.Array:
    """The parameter (an array where it is stacked, else its shape) with one tensor in its place.

    Each device is sent its own part.
    """
    sharding = parameter.sharding
    axes = [*sharding.spec, *[None] * (parameter.ndim - len(sharding.spec))][int(tensor.layer is not None) :]
    apart = NamedSharding(sharding.mesh, PartitionSpec(*axes[tensor.inputs :], *axes[: tensor.inputs]))
    array = array.reshape(tensor.apart)
    on_devices = jax.make_array_from_callback(array.shape, apart, lambda index: array[index])
    program = _place_program(sharding, tensor.inputs)
    return program(on_devices) if tensor.layer is None else program(on_devices, parameter, np.int32(tensor.layer))


# ---------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, params, dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes the parameters into a folder as safetensors: one file, or shards of up to `shard_bytes` and their index.

    Raises:
      CheckpointError: if a parameter is not finite, which nobody could load.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    itemsize = jnp.dtype(dtype).itemsize
    shards, room = [], 0
    for tensor in tensors(params):
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
    """One file, as the library would write it, which wants all tensors in memory at once."""
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
            array = np.asarray(_take(flat[tensor.parameter], tensor.layer, inputs=tensor.inputs, dtype=dtype))
            if not np.isfinite(array).all():
                raise CheckpointError(f"{path.name}: tensor {tensor.name!r} holds NaN or infinity in {dtype}")
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
            progress.update(array.size)


@functools.partial(jax.jit, static_argnames=("inputs", "dtype"))
def _take(parameter, layer, *, inputs: int, dtype):
    """One tensor of a parameter as published, heads apart."""
    tensor = parameter if layer is None else jax.lax.dynamic_index_in_dim(parameter, layer, 0, keepdims=False)
    return jnp.transpose(tensor, [*range(inputs, tensor.ndim), *range(inputs)]).astype(dtype)
