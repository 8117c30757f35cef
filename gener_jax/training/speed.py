"""How fast a configuration trains on this machine, on random tokens."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipeline.sequence.tokenizer import NUM_SPECIAL
from gener_jax.config import Config
from gener_jax.data.loader import to_devices
from gener_jax.model import decoder, flops, memory, sharding
from gener_jax.model.sharding import TOKENS, batch_sharding, mesh_of
from gener_jax.model.trainable import everything, split
from gener_jax.runtime import errors
from gener_jax.runtime.devices import device_of
from gener_jax.training import objectives
from gener_jax.training.objectives import Objective
from gener_jax.training.step import init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step does: its batch, arrays [rows, …], its objective, and the parts of `step.make_train_step`."""

    batch: dict[str, np.ndarray]
    objective: Objective
    axes: Mapping[str, tuple]
    trains: Callable[[str], bool] = everything
    init: Callable | None = None


def pretraining(config: Config) -> Work:
    """That of pre-training, on random tokens."""
    tokenizer = config.tokenizer.make()
    shape = (config.train.batch_size, config.data.context_length + 1)
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, tokenizer.vocab_size, shape, dtype=np.int32)
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    if config.data.mask_documents:  # four regions per sequence
        batch["segment_ids"] = np.repeat(np.arange(4), -(-shape[1] // 4))[None, : shape[1] - 1].repeat(shape[0], 0)
        starts = np.searchsorted(batch["segment_ids"][0], batch["segment_ids"][0])
        batch["positions"] = (np.arange(shape[1] - 1) - starts)[None].repeat(shape[0], 0)
        batch = {name: x.astype(np.int32) for name, x in batch.items()}
    return Work(batch, objectives.of_config(config, tokenizer)(0), dict.fromkeys(batch, TOKENS))


def measure(config: Config, repeats: int, devices=None, work: Work | None = None) -> dict:
    """Measures the training step of a configuration, by default of pre-training; returns the figures as plain values.

    Frozen parameters are 0, in the compute dtype.
    """
    work, peak_before = work or pretraining(config), memory.peak()
    with errors.user_errors():
        mesh = mesh_of(config, devices)
    parts = {"trains": work.trains, "init": work.init}
    with sharding.on(mesh):
        state = init_state(config, mesh, **parts)
        shapes = split(nn.unbox(decoder.abstract(config.model, work.init)), work.trains)[1]
        frozen = jax.tree.map(lambda x: jnp.zeros(x.shape, config.model.dtype), shapes)
        placed = to_devices(work.batch, {name: batch_sharding(mesh, axes) for name, axes in work.axes.items()})
        began = time.perf_counter()
        step = make_train_step(config, mesh, work.objective, work.axes, **parts)
        program = step.lower(state, frozen, placed).compile()
        compiled = time.perf_counter() - began
        needs = program.memory_analysis()
        # As in the training loop, a step is dispatched before the metrics of the previous one are read.
        read, before = [], None
        for _ in range(repeats + 3):
            state, metrics = program(state, frozen, placed)
            if before is not None:
                jax.block_until_ready(before)
                read.append(time.perf_counter())
            before = metrics
        jax.block_until_ready(state)
    median = statistics.median(np.diff(read)[1:])
    tokens = config.train.batch_size * config.data.context_length
    speed = flops.training(config, **parts) * tokens / median / mesh.size / 1e12
    device = device_of(jax.devices()[0].device_kind) if config.model.dtype == "bfloat16" else None
    return {
        "name": config.name,
        "parameters": decoder.num_parameters(config.model),
        "batch": config.train.batch_size,
        "context": config.data.context_length,
        "dtype": config.model.dtype,
        "attention": config.model.attention,
        "remat": config.model.remat,
        "unroll": config.model.scan_unroll,
        "mesh": dict(mesh.shape),
        "device": jax.devices()[0].device_kind,
        "seconds": median,
        "tokens_per_s": tokens / median,
        "bases_per_s": tokens / median * int(config.tokenizer.make().token_bases.max()),
        "tflops_per_device": speed,
        "mfu": device and speed / device.tflops,
        "peak_gib": peak if (peak := memory.peak()) > peak_before else None,
        "compiled_gib": needs and (needs.argument_size_in_bytes + needs.temp_size_in_bytes) / memory.GIB,
        "planned_gib": sum(memory.training_needs(config, mesh.size, **parts).values()),
        "compile_s": compiled,
    }
