"""safetensors ↔ our parameter tree, a tensor at a time, from and to any mesh.

A published matrix is [out, in] with its heads joined; ours is [in, out] with separate heads, its layers stacked or
separate. Every tensor must be used and every parameter found: none stays random. When reading, each tensor is sent to
its devices before the next is read, and each file is closed before the next is opened; when writing, one tensor at a
time is fetched. The devices transpose.
"""

import contextlib
import functools
import json
import math
import os
import re
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

from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.files import read_json

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
_EMBEDDING, _HEAD = _PUBLISHED["embed_tokens"], _PUBLISHED["lm_head"]
_LEFT_OVER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")  # buffers, which config.json gives
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def _tensor_error(path: str | Path, name: str, problem: str, value=None) -> CheckpointError:
    return CheckpointError(path, f"tensor {name!r} {problem}", name=name, value=value)


class _Tensor(NamedTuple):
    """One published tensor, and where its numbers are in our tree."""

    name: str
    parameter: str
    layer: int | None  # None: the parameter is not stacked
    inputs: int  # our leading dimensions, without layers, that are summed over; in the published tensor they come last
    shape: tuple[int, ...]  # ours, without layers

    @property
    def apart(self) -> tuple[int, ...]:
        """The published shape with separate heads."""
        return self.shape[self.inputs :] + self.shape[: self.inputs]

    @property
    def published(self) -> tuple[int, ...]:
        """The published shape."""
        if len(self.shape) == 1 or not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def tensors(params) -> list[_Tensor]:
    """All published tensors of a tree of arrays or shapes, in the published order."""
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
    """The parameters of a folder, placed and typed like `target`, a tree of shapes with shardings.

    Tensors may be float32, float16 or bfloat16, in one model.safetensors or in the shards of an index. The head may be
    tied to the embedding (`tie_word_embeddings` of config.json). Both may be padded to `vocab_size` rows: those after
    the target's are dropped.

    Raises:
      CheckpointError: naming the file and the tensor that is missing, left over, damaged, of another shape or type, or
        not finite; before anything is allocated where the files' headers show it.
    """
    files = _files(folder)
    layers = num_layers(target)
    if layers > sum(map(len, files.values())):  # checked before a list of that length is made
        raise _tensor_error(folder, _PUBLISHED["layers/q"].format(layers - 1), "is missing")
    wanted = {tensor.name: [tensor] for tensor in tensors(target)}
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    tied = config.get("tie_word_embeddings")
    if tied and not any(_HEAD in names for names in files.values()):
        wanted[_EMBEDDING] += wanted.pop(_HEAD)
    _check_headers(files, wanted, config.get("vocab_size"))
    leaves = traverse_util.flatten_dict(target, sep="/")
    params = {name: _zeros(leaf) if name.startswith("layers/") else leaf for name, leaf in leaves.items()}
    total = sum(math.prod(places[0].shape) for places in wanted.values())
    with tqdm(total=total, unit="", unit_scale=True, desc=folder.name, leave=False, disable=None) as progress:
        for path, names in files.items():
            for name in names:
                rows = wanted[name][0].published[0]
                with _opened(path) as file:  # per tensor, since the mapped pages of an open file count as memory
                    array = file.get_tensor(name)[:rows]
                for tensor in wanted[name]:
                    array = array.astype(params[tensor.parameter].dtype, copy=False)
                    if not np.isfinite(array).all():
                        raise _tensor_error(path, name, f"holds NaN or infinity in {array.dtype}")
                    placed = _place(params[tensor.parameter], array, tensor)
                    params[tensor.parameter] = jax.block_until_ready(placed)  # else many transfers would be pending
                progress.update(array.size)
    if tied and not jnp.array_equal(params["lm_head"], params["embed_tokens"].T):
        path = next(path for path, names in files.items() if _HEAD in names)
        raise _tensor_error(path, _HEAD, f"is not {_EMBEDDING}, although tie_word_embeddings is true")
    return traverse_util.unflatten_dict(params, sep="/")


def _tensor_names(file) -> set[str]:
    """The names of a file's tensors, without those of buffers."""
    return {name for name in file.keys() if not _LEFT_OVER.fullmatch(name)}  # noqa: SIM118 (the library's object is no mapping)


def _files(folder: Path) -> dict[Path, list[str]]:
    """The safetensors files of a folder, and the tensors in each by its index."""
    single, index = folder / _SINGLE, folder / _INDEX
    if single.exists() and index.exists():
        raise CheckpointError(folder, f"holds both {_SINGLE} and {_INDEX}: remove one of them", name=_SINGLE)
    if os.path.lexists(single):
        with _opened(single) as file:
            return {single: sorted(_tensor_names(file))}
    if not index.exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        raise CheckpointError(
            folder,
            f"holds no {_SINGLE} and no {_INDEX}"
            + (f"; {pickles[0]} is a pickle, which can run code: save it as safetensors first" if pickles else ""),
            value=pickles[0] if pickles else None,
        )
    files: dict[Path, list[str]] = {}
    weight_map = read_json(index, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(index, "has no weight_map", name="weight_map")
    for name, file_name in weight_map.items():
        is_name = isinstance(file_name, str) and Path(file_name).name == file_name
        if not is_name or not file_name.endswith(".safetensors"):
            raise _tensor_error(index, name, f"is in {file_name!r}, not a safetensors file in this folder", file_name)
        if not _LEFT_OVER.fullmatch(name):
            files.setdefault(folder / file_name, []).append(name)
    if absent := sorted(path.name for path in files if not _is_file(path)):
        raise CheckpointError(folder, f"file {absent[0]!r} is missing, which {_INDEX} names", name=absent[0])
    for path, names in files.items():
        with _opened(path) as file:
            found = _tensor_names(file)
        if missing := sorted(set(names) - found):
            raise _tensor_error(path, missing[0], f"is missing, although {_INDEX} names it")
        if extra := sorted(found - set(names)):
            raise _tensor_error(path, extra[0], f"is not in {_INDEX}")
    return dict(sorted(files.items()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


@contextlib.contextmanager
def _opened(path: Path):
    """A safetensors file. The library checks its header against the file's size: no gap, no overlap."""
    try:
        if not path.is_file():
            raise OSError("no such file")
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is not a complete safetensors file: {error}") from None
    with file:
        yield file


def stored_dtype(folder: Path) -> str | None:
    """The type of all tensors of a folder; None if they have several types, or one that we do not write."""
    found = set()
    for path, names in _files(folder).items():
        with _opened(path) as file:
            found |= {file.get_slice(name).get_dtype() for name in names}
    return _DTYPES[found.pop()].name if len(found) == 1 and found <= _DTYPES.keys() else None


def _check_headers(files: dict[Path, list[str]], wanted: dict[str, list[_Tensor]], vocab_size) -> None:
    where = {name: path for path, names in files.items() for name in names}
    for name in wanted:
        if name not in where:
            raise _tensor_error(next(iter(files)), name, "is missing")
    for path, names in files.items():
        with _opened(path) as file:
            for name in sorted(names):
                if name not in wanted:
                    raise _tensor_error(path, name, "is not part of the model")
                tensor, shape = file.get_slice(name), list(wanted[name][0].published)
                if name in (_EMBEDDING, _HEAD) and isinstance(vocab_size, int):
                    shape[0] = max(shape[0], vocab_size)
                found, dtype = list(tensor.get_shape()), tensor.get_dtype()
                if found != shape:
                    raise _tensor_error(path, name, f"has shape {found}; the model's is {shape}", found)
                if dtype not in _DTYPES:
                    raise _tensor_error(path, name, f"has type {dtype}; {', '.join(_DTYPES)} are supported", dtype)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)


@functools.cache
def _place_program(sharding, inputs: int):
    """The program that transposes a published tensor with separate heads into ours, and writes it into a layer."""

    def place(tensor, parameter=None, layer=None):
        tensor = jnp.transpose(tensor, [*range(tensor.ndim - inputs, tensor.ndim), *range(tensor.ndim - inputs)])
        return tensor if parameter is None else jax.lax.dynamic_update_index_in_dim(parameter, tensor, layer, 0)

    return jax.jit(place, out_shardings=sharding, donate_argnums=1)


def _place(parameter, array: np.ndarray, tensor: _Tensor) -> jax.Array:
    """The parameter (an array if it is stacked, else its shape) with one tensor written into it.

    Each device is sent its own shard.
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
            array = np.asarray(_take(flat[tensor.parameter], tensor.layer, inputs=tensor.inputs, dtype=dtype))
            if not np.isfinite(array).all():
                raise _tensor_error(path.name, tensor.name, f"holds NaN or infinity in {dtype}")
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
            progress.update(array.size)


@functools.partial(jax.jit, static_argnames=("inputs", "dtype"))
def _take(parameter, layer, *, inputs: int, dtype):
    """One tensor of a parameter as published, with separate heads."""
    tensor = parameter if layer is None else jax.lax.dynamic_index_in_dim(parameter, layer, 0, keepdims=False)
    return jnp.transpose(tensor, [*range(inputs, tensor.ndim), *range(inputs)]).astype(dtype)
