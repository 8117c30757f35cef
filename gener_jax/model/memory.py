"""The memory that training and inference need per device, by formula, and the memory that a device has."""

import contextlib
import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh

from gener_jax.config import Config, Model, ModelSpec
from gener_jax.model import decoder
from gener_jax.model.sharding import axis_sizes, tree_shardings
from gener_jax.model.trainable import everything, split

GIB = 2**30
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage's ru_maxrss


def _widths(m: Model, tensor: int) -> tuple[float, float, float]:
    """Elements per token and device of the queries, the keys and the feed-forward layer."""
    kv = m.num_key_value_heads / (tensor if m.num_key_value_heads % tensor == 0 else 1)
    return m.num_attention_heads / tensor * m.head_dim, kv * m.head_dim, m.intermediate_size / tensor


def kept_by_a_layer(m: Model, tensor: int = 1, *, padded: float = 1) -> float:
    """Bytes per token and device that a layer's forward pass saves for its backward pass, by `m.remat`.

    The same with adapters of a frozen layer, but for remat `none`, which then saves up to a seventh less.

    `padded` is the factor by which padding widens arrays with a head dimension. If the layers are unrolled, XLA merges
    recomputation with the first computation and saves silu(gate) · up too, whatever the policy: `dots` on an H200
    (1.2b, 16 × 2048) takes 64.1 GiB in all by the compiler, 62.7 by this formula.
    """
    heads, key_heads, width = _widths(m, tensor)
    itemsize, sums = jnp.dtype(m.dtype).itemsize, 4 * m.num_attention_heads / tensor  # the softmax denominators
    by_head = padded * (2 * heads + 2 * key_heads)  # queries, keys, values, attention output
    dots = (2 * m.hidden_size + by_head + 2 * width) * itemsize + sums
    if m.remat != "none" and m.layers_unrolled:
        return dots + width * itemsize
    match m.remat:
        case "full":
            return m.hidden_size * itemsize
        case "block":
            return (m.hidden_size + padded * heads) * itemsize + sums
        case "dots":
            return dots
    # Both norms save two float32 arrays and their result; silu(gate) · up saves six arrays.
    return 4 * 4 * m.hidden_size + (2 * m.hidden_size + by_head + heads + 6 * width) * itemsize + sums


def kept_by_layers(config: Config, num_devices: int, *, lanes: int = 1, trains=everything, init=None) -> float:
    """Bytes per device that the layers save for their backward pass in a microbatch; 0 if nothing of them trains.

    The arguments and errors are those of `training_needs`.
    """
    m = config.model
    if not split(decoder.abstract(m, init), trains)[0].keys() - {"head"}:
        return 0.0
    each = kept_by_a_layer(m, _sizes(config, num_devices)["tensor"], padded=_padded(m, lanes))
    return _tokens(config, num_devices) * m.num_hidden_layers * each


def _sizes(config: Config, num_devices: int) -> dict[str, int]:
    mesh = config.mesh
    return axis_sizes(num_devices, mesh.data, mesh.fsdp, mesh.tensor, mesh.context)


def _tokens(config: Config, num_devices: int) -> float:
    """Of a device in a microbatch; rows with labels of bases are read on both strands."""
    sizes = _sizes(config, num_devices)
    rows = config.train.batch_size / config.train.accumulate / (sizes["data"] * sizes["fsdp"])
    return (2 if config.finetune.problem == "token" else 1) * rows * config.data.context_length / sizes["context"]


def _padded(m: Model, lanes: int) -> float:
    return -(-m.head_dim // lanes) * lanes / m.head_dim


def training_needs(
    config: Config, num_devices: int, *, lanes: int = 1, trains=everything, init=None
) -> dict[str, float]:
    """The memory of a training step in GiB per device, by formula.

    Returns, of the parameters that are trained, the float32 `parameters` and `gradients` (twice with accumulation), the
    two moments of the `optimizer`, and the weights `cast` to the compute dtype; the `frozen` parameters, in the compute
    dtype; all sharded over fsdp, context and tensor; the `gathered` weights of one layer and the next; and
    `activations`: what is saved of each layer for the backward pass, if anything of the decoder trains, plus the larger
    of one layer's scratch memory and the logits, which rows with labels do not have, for the tokens of a device in a
    microbatch. Rows with labels of bases are read on both strands.

    This is an estimate of whether a run fits; the compiler's schedule may need more or less. A TPU pads the head
    dimension to a multiple of 128 `lanes`. `trains` and `init` are those of `training.step.abstract_state`.

    Raises:
      ConfigError: if the mesh does not fit `num_devices` devices.
      ValueError: if it does not divide the parameters.
    """
    m, t, sizes = config.model, config.train, _sizes(config, num_devices)
    tensor, shards = sizes["tensor"], sizes["fsdp"] * sizes["context"]
    heads, key_heads, width = _widths(m, tensor)
    padded, tokens = _padded(m, lanes), _tokens(config, num_devices)
    layer = m.hidden_size * (2 * heads + 2 * key_heads + 3 * width)
    parts = split(decoder.abstract(m, init), trains)
    parameters, frozen = (_elements(tree, sizes) for tree in parts)
    itemsize, moment = jnp.dtype(m.dtype).itemsize, jnp.dtype(config.optimizer.state_dtype).itemsize
    # The scratch memory of a layer's backward pass, including the gathered keys and values of the whole context and
    # their float32 gradients; or the logits and their gradient, with FNS also the probabilities.
    scratch = (4 * m.hidden_size + padded * 2 * (2 * heads + 2 * key_heads) + 4 * width) * itemsize
    scratch += sizes["context"] * 2 * key_heads * (itemsize + 4)
    logits = (3 if config.objective.fns_from_step is None else 5) * 4 * m.vocab_size / tensor
    logits = 0 if config.finetune.has_head else logits
    kept = kept_by_layers(config, num_devices, lanes=lanes, trains=trains, init=init)
    return {
        "parameters": 4 * parameters / GIB,
        "gradients": (4 if t.accumulate == 1 else 8) * parameters / GIB,
        "optimizer": 2 * moment * parameters / GIB,
        "cast": (parameters * itemsize if itemsize < 4 else 0) / GIB,
        "frozen": frozen * itemsize / GIB,
        "gathered": (2 * layer * itemsize if shards > 1 else 0) / GIB,
        "activations": (kept + tokens * max(scratch, logits)) / GIB,
    }


def _elements(boxed, sizes: Mapping[str, int]) -> int:
    """Elements per device of parameters boxed with their logical axes, on a mesh of these sizes."""
    shardings = tree_shardings(boxed, AbstractMesh(tuple(sizes.values()), tuple(sizes)))
    shapes = zip(jax.tree.leaves(nn.unbox(boxed)), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(sharding.shard_shape(x.shape)) for x, sharding in shapes)


def available() -> float:
    """The memory of each device in GiB; on CPU the machine's memory divided by the number of devices."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] / GIB
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" if there is none
        machine = min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine / len(jax.local_devices()) / GIB


def peak() -> float:
    """The peak memory so far in GiB: of this process on CPU, else of the local device with the largest peak."""
    stats = [d.memory_stats() for d in jax.local_devices() if d.platform != "cpu"]
    if stats and all(stats):
        return max(s["peak_bytes_in_use"] for s in stats) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / GIB


def training_shortage(config: Config, trains=everything, init=None, flags: str = "--config=FILE.py") -> str | None:
    """One line if a training step will not fit, else None, with the command that finds what would.

    `flags`: those that give a command the configuration; the others are those of `training_needs`.
    """
    try:
        need, have = training_needs(config, len(jax.devices()), trains=trains, init=init), available()
    except ValueError:
        return None  # make_mesh raises for a mesh that does not fit
    total = sum(need.values())
    state = total - need["activations"]
    if total <= have:
        return None
    return (
        f"{config.name} needs about {total:.0f} GiB per device ({state:.0f} for parameters, gradients and AdamW, "
        f"{need['activations']:.0f} for activations), but there are {have:.0f} GiB on each of {len(jax.devices())} "
        f"{jax.devices()[0].platform} device(s). For a mesh, remat policy and number of microbatches that fit: "
        f"gener-jax plan {flags} --devices {len(jax.devices())} --device_memory_gib {have:.3g}. If none "
        "does, use more devices, or a smaller train.batch_size or data.context_length; train.check_memory=false skips "
        "this check"
    )


def inference_needs(
    m: Model, sizes: Mapping[str, int], batch: int, tokens: int, *, int8: bool = False
) -> dict[str, float]:
    """The memory of inference in GiB per device, on a mesh of these `sizes`.

    Returns the `weights` in the compute dtype (with `int8`, those of the layers in a byte each), sharded over fsdp and
    tensor, and the `cache`: the keys and values of `batch` rows of `tokens` tokens, the rows sharded over data and
    fsdp, the heads over tensor if it divides them.
    """
    bytes_, tensor = jnp.dtype(m.dtype).itemsize, sizes["tensor"]
    rows = -(-batch // (sizes["data"] * sizes["fsdp"]))
    heads = m.num_key_value_heads // (1 if m.num_key_value_heads % tensor else tensor)
    weights = bytes_ * decoder.num_parameters(m)
    if int8:
        weights -= (bytes_ - 1) * decoder.num_parameters(m, lambda path: path.startswith("layers/"))
    return {
        "weights": weights / (sizes["fsdp"] * tensor) / GIB,
        "cache": 2 * bytes_ * m.num_hidden_layers * rows * tokens * heads * m.head_dim / GIB,
    }


def inference_shortage(
    spec: ModelSpec, mesh: Mesh, batch: int = 1, tokens: int = 0, *, int8: bool = False
) -> str | None:
    """One line if the weights and a KV cache of `batch` rows of `tokens` tokens will not fit, else None.

    The line gives the memory of the weights, and that of the cache by batch and length.
    """
    need, have = inference_needs(spec.model, mesh.shape, batch, tokens, int8=int8), available()
    if sum(need.values()) <= have:
        return None
    longest = spec.model.max_length or spec.model.max_position_embeddings
    table = "; ".join(
        f"{rows} × {length:,} tokens {inference_needs(spec.model, mesh.shape, rows, length)['cache']:.2f}"
        for rows, length in sorted({(b, t) for b in (1, 16, batch) for t in (longest // 8, longest, tokens) if t})
    )
    return (
        f"{spec.name} needs on each of {mesh.size} {jax.devices()[0].platform} device(s) {need['weights']:.2f} GiB "
        f"for its weights in {'int8' if int8 else spec.model.dtype}, and for its KV cache, in GiB by batch and length: "
        f"{table}; but there are {have:.2f} GiB; use "
        + ("" if spec.model.dtype == "bfloat16" else "dtype bfloat16, ")
        + "more devices, a smaller batch or fewer tokens"
    )
