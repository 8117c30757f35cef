"""What training and inference need on each device, by formula, and what the device has."""

import contextlib
import os
import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gener_jax.config import Config
from gener_jax.model import decoder

GIB = 2**30
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in


def training_needs(config: Config, num_devices: int) -> dict[str, float]:
    """GiB a device: `state` (float32 parameters, gradients, two Adam moments, cut over fsdp and tensor) and
    `activations` (what the backward pass keeps of each layer, the logits, and one layer's scratch).

    An estimate for telling whether a run fits; the compiler's own schedule differs by some ten per cent.
    """
    m, c = config.model, config
    rest = {"data": c.mesh.data, "fsdp": c.mesh.fsdp, "tensor": c.mesh.tensor}
    known = 1
    for size in rest.values():
        known *= max(size, 1)
    sizes = {name: max(num_devices // known, 1) if size == -1 else size for name, size in rest.items()}
    bytes_ = jnp.dtype(m.dtype).itemsize
    tokens = c.train.batch_size * c.data.context_length / (sizes["data"] * sizes["fsdp"])
    attention = (2 * m.num_attention_heads + 2 * m.num_key_value_heads) * m.head_dim / sizes["tensor"]
    layer = {
        "full": m.hidden_size,
        "dots": 3 * m.hidden_size + attention + 2 * m.intermediate_size / sizes["tensor"],
        "none": 8 * m.hidden_size + 2 * attention + 4 * m.intermediate_size / sizes["tensor"],
    }
    kept = m.num_hidden_layers * layer[m.remat] + layer["none"]
    logits = 3 * 4 * m.vocab_size / sizes["tensor"]
    return {
        "state": 16 * decoder.num_parameters(m) / (sizes["fsdp"] * sizes["tensor"]) / GIB,
        "activations": tokens * (kept * bytes_ + logits) / GIB,
    }


def available() -> float:
    """GiB that each device has; on CPU an equal share of the machine's memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] / GIB
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" where there is none
        machine = min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine / len(jax.local_devices()) / GIB


def peak() -> float:
    """GiB at most in use so far: of this process on CPU, else of the fullest local device."""
    stats = [d.memory_stats() for d in jax.local_devices() if d.platform != "cpu"]
    if stats and all(stats):
        return max(s["peak_bytes_in_use"] for s in stats) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / GIB


def training_shortage(config: Config) -> str | None:
    """One line if a training step will not fit, else None."""
    need, have = training_needs(config, len(jax.devices())), available()
    total = sum(need.values())
    if total <= have:
        return None
    return (
        f"{config.name} needs about {total:.0f} GiB a device ({need['state']:.0f} for parameters, gradients and AdamW, "
        f"{need['activations']:.0f} for activations) and there are {have:.0f} GiB on each of {len(jax.devices())} "
        f"{jax.devices()[0].platform} device(s): use more devices, a smaller train.batch_size or data.context_length, "
        "or model.remat=full; train.check_memory=false tries anyway"
    )


def inference_needs(config: Config, mesh: Mesh, batch: int, tokens: int) -> dict[str, float]:
    """GiB a device: `weights` in the computation's type, cut over fsdp and tensor, and `cache`, the keys and values of
    `batch` rows of `tokens` tokens, rows cut over data and fsdp, heads over tensor where it divides them.
    """
    m = config.model
    bytes_, tensor = jnp.dtype(m.dtype).itemsize, mesh.shape["tensor"]
    rows = -(-batch // (mesh.shape["data"] * mesh.shape["fsdp"]))
    heads = m.num_key_value_heads // (1 if m.num_key_value_heads % tensor else tensor)
    return {
        "weights": bytes_ * decoder.num_parameters(m) / (mesh.shape["fsdp"] * tensor) / GIB,
        "cache": 2 * bytes_ * m.num_hidden_layers * rows * tokens * heads * m.head_dim / GIB,
    }


def inference_shortage(config: Config, mesh: Mesh, batch: int = 1, tokens: int = 0) -> str | None:
    """One line if the weights and a KV cache of `batch` rows of `tokens` tokens will not fit, else None.

    It says the weights, and the cache by batch and length.
    """
    need, have = inference_needs(config, mesh, batch, tokens), available()
    if sum(need.values()) <= have:
        return None
    longest = config.model.longest or config.model.max_position_embeddings
    table = "; ".join(
        f"{rows} × {length:,} tokens {inference_needs(config, mesh, rows, length)['cache']:.2f}"
        for rows, length in sorted({(b, t) for b in (1, 16, batch) for t in (longest // 8, longest, tokens) if t})
    )
    return (
        f"{config.name} needs on each of {mesh.size} {jax.devices()[0].platform} device(s) {need['weights']:.2f} GiB "
        f"for its weights in {config.model.dtype}, and for its KV cache, in GiB by batch and length: {table}; there "
        f"are {have:.2f} GiB: use "
        + ("" if config.model.dtype == "bfloat16" else "dtype bfloat16, ")
        + "more devices, a smaller batch or fewer tokens"
    )
