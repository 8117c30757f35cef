"""Whether a configuration can be trained on a machine, by formula, and which one should be fastest there."""

import dataclasses
import itertools
import math
import os
import time
from typing import NamedTuple

import jax
import numpy as np

from data_pipeline.errors import one_line
from gener_jax.config import REMAT, Config, Mesh
from gener_jax.model import decoder, flops, memory
from gener_jax.model.sharding import AXES, TOKENS, axis_sizes, batch_sharding, check_divides, mesh_of
from gener_jax.runtime.devices import DEVICES, Device
from gener_jax.runtime.errors import ConfigError
from gener_jax.training import objectives
from gener_jax.training.step import abstract_state, make_train_step

# Fraction of a device's memory that a plan uses. By compilers' figures a step needs up to 2 % more than by the formula
# (README, Results); the rest is for fragmentation and the program.
ROOM = 0.92


class Machine(NamedTuple):
    """The machine of a plan."""

    devices: int
    memory_gib: float  # per device
    device: Device | None  # None: of unknown kind, so the plan has no times
    topology: str | None  # of a TPU slice, such as v5p:4x4x4


def machine_of(args) -> Machine:
    """The machine that the command line names.

    Raises:
      ConfigError: if it names none, or one that is not in the table.
    """
    if args.device_memory_gib is not None and not 0 < args.device_memory_gib < math.inf:
        raise ConfigError("must be positive and finite", "--device_memory_gib", args.device_memory_gib)
    number, device = args.devices, DEVICES.get(args.device)
    if args.topology:
        kind, _, shape = args.topology.partition(":")
        sizes = shape.split("x")
        if args.devices or args.device:
            raise ConfigError("give --topology, or --devices and --device: not both")
        if kind not in DEVICES or kind[0] != "v" or not all(n.isdecimal() and int(n) for n in sizes):
            raise ConfigError("must be v4, v5e, v5p or v6e with a shape, as in v5p:4x4x4", "--topology", args.topology)
        number, device = math.prod(map(int, sizes)), DEVICES[kind]
    elif number is None or number < 1:
        raise ConfigError("give their number, at least 1, or --topology v5p:4x4x4", "--devices", number)
    elif not (device or args.device_memory_gib):
        raise ConfigError("give --device NAME or --device_memory_gib G, the memory per device")
    return Machine(number, args.device_memory_gib or device.memory_gib, device, args.topology)


def needs(config: Config, machine: Machine) -> dict[str, float]:
    """The memory of a training step in GiB per device, by formula."""
    return memory.training_needs(config, machine.devices, lanes=128 if machine.topology else 1)


def collectives(config: Config, num_devices: int) -> dict[tuple[str, str], float]:
    """Data in GiB that a device sends in a step, by collective operation and mesh axis; `fsdp` means fsdp and context
    together, which shard the parameters.

    By formula for ring algorithms: an all-gather of x bytes over n devices sends x (n − 1) / n, an all-reduce twice
    that. Weights and gradients of layers, gathered and scattered for each microbatch; gradients summed over data; keys
    and values over context, and queries and outputs if a kernel computes attention (see `parallel`); the residual
    stream over tensor, twice per layer and direction.
    """
    m, t, mesh = config.model, config.train, config.mesh
    sizes = axis_sizes(num_devices, mesh.data, mesh.fsdp, mesh.tensor, mesh.context)
    cut, tensor = sizes["fsdp"] * sizes["context"], sizes["tensor"]
    itemsize = 2 if m.dtype == "bfloat16" else 4
    parameters = decoder.num_parameters(m) / tensor
    tokens = t.batch_size * config.data.context_length / (sizes["data"] * cut)  # of a device, in a step
    passes = 1 if m.remat in ("none", "dots") else 2  # forward
    heads = m.num_key_value_heads / (1 if m.num_key_value_heads % tensor else tensor)
    keys = 2 * heads * m.head_dim * itemsize * tokens * sizes["context"] * m.num_hidden_layers
    residual = tokens * m.hidden_size * itemsize * m.num_hidden_layers
    exchanged = m.num_attention_heads // tensor % sizes["context"] == 0

    def sent(number, size):
        return size * (number - 1) / number / memory.GIB

    return {
        ("all-gather", "fsdp"): sent(cut, (1 + passes) * t.accumulate * parameters * itemsize),
        ("reduce-scatter", "fsdp"): sent(cut, t.accumulate * parameters * 4),
        ("all-gather", "context"): sent(sizes["context"], passes * keys),
        ("reduce-scatter", "context"): sent(sizes["context"], keys),
        ("all-to-all", "context"): sent(sizes["context"], 2 * (1 + passes) * residual if exchanged else 0),
        ("all-reduce", "data"): sent(sizes["data"], t.accumulate * 2 * 4 * parameters / cut),
        ("all-reduce", "tensor"): sent(tensor, 2 * 2 * (1 + passes) * residual),
    }


def seconds(config: Config, machine: Machine, mfu: float) -> float:
    """Time of a step: its operations, repeated ones included, at `mfu` of the peak, and then its communication, as if
    none of it overlapped with computation. Only for comparing candidates.
    """
    m, length, device, mesh = config.model, config.data.context_length, machine.device, config.mesh
    # `dots` repeats elementwise operations alone, `block` the layers' products of weights, `full` the forward pass.
    repeated = {"dots": 0, "block": 2 * flops.matrix_parameters(m), "full": flops.forward(m, length)}[m.remat]
    operations = (flops.training(m, length) + repeated) * config.train.batch_size * length / machine.devices
    reach = {"tensor": mesh.tensor, "context": mesh.tensor * mesh.context, "fsdp": machine.devices // mesh.data}
    waiting = 0.0
    for (_, axis), gib in collectives(config, machine.devices).items():
        link = device.link if not device.near or reach.get(axis, machine.devices) <= device.near else device.far
        waiting += gib * memory.GIB / (link * 1e9)
    return operations / (device.tflops * 1e12 * mfu) + waiting


def candidates(config: Config, machine: Machine):
    """Every mesh, remat policy and number of microbatches that divides the model, the batch and the machine.

    Without remat `none`, which repeats no fewer operations of `seconds` than `dots` and needs more memory, and without
    a context axis that does not divide the heads of a device, over which no kernel computes attention.
    """
    m, t, length = config.model, config.train, config.data.context_length
    divisors = [n for n in range(1, machine.devices + 1) if machine.devices % n == 0]
    for tensor, context, fsdp in itertools.product(divisors, repeat=3):
        if machine.devices % (tensor * context * fsdp) or tensor > 8:  # a tensor axis above 8 leaves the fast links
            continue
        data = machine.devices // (tensor * context * fsdp)
        rows, left_over = divmod(t.batch_size, data * fsdp)
        by_tensor = (m.num_attention_heads, m.intermediate_size, m.vocab_size)
        if left_over or any(size % tensor for size in by_tensor) or m.hidden_size % (fsdp * context):
            continue
        if context > 1 and (length % (2 * context) or m.num_attention_heads // tensor % context):
            continue
        mesh = Mesh(data=data, fsdp=fsdp, tensor=tensor, context=context)
        microbatches = [n for n in range(1, rows + 1) if rows % n == 0]
        for accumulate, remat in itertools.product(microbatches, [policy for policy in REMAT if policy != "none"]):
            yield dataclasses.replace(
                config, mesh=mesh, model=dataclasses.replace(m, remat=remat),
                train=dataclasses.replace(t, accumulate=accumulate),
            )  # fmt: skip


def suggest(config: Config, machine: Machine, mfu: float) -> Config | None:
    """The configuration with the mesh, remat policy and microbatches that fit and take the least time; None: none fits.

    If the kind of device is unknown, times are those of an H100.
    """
    timed = machine if machine.device else machine._replace(device=DEVICES["h100"])

    def cost(candidate):
        # Differences of a tenth of a per cent do not count: then fewer axes and microbatches are better.
        axes = sum(size > 1 for size in dataclasses.asdict(candidate.mesh).values())
        return seconds(candidate, timed, mfu) * (1 + 1e-3 * (axes + math.log2(candidate.train.accumulate)))

    room = ROOM * machine.memory_gib
    fitting = (one for one in candidates(config, machine) if sum(needs(one, machine).values()) <= room)
    return min(fitting, key=cost, default=None)


def described(config: Config, machine: Machine, mfu: float) -> dict:
    """A configuration's figures on a machine, as plain numbers."""
    sizes = axis_sizes(machine.devices, config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.context)
    check_divides(config, sizes)
    need, sent = needs(config, machine), collectives(config, machine.devices)
    tokens = config.train.batch_size * config.data.context_length
    out = {
        "mesh": {name: sizes[name] for name in AXES},
        "remat": config.model.remat,
        "accumulate": config.train.accumulate,
        "rows_per_device": config.train.batch_size / config.train.accumulate / (sizes["data"] * sizes["fsdp"]),
        "gib": {name: round(value, 3) for name, value in need.items()},
        "peak_gib": round(sum(need.values()), 3),
        "fits": sum(need.values()) <= ROOM * machine.memory_gib,
        "sent_gib_per_step": {
            kind: round(sum(gib for (name, _), gib in sent.items() if name == kind), 3)
            for kind in ("all-gather", "reduce-scatter", "all-to-all", "all-reduce")
        },
    }
    if machine.device:
        operations = flops.training(config.model, config.data.context_length)
        speed = machine.devices * machine.device.tflops * 1e12 * mfu / operations
        out |= {"tokens_per_s": round(speed), "days": round(tokens * config.train.num_steps / speed / 86400, 2)}
    return out


def text(name: str, row: dict) -> str:
    """A described configuration as text."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1) or "one device"
    gib = ", ".join(f"{part} {value:.2f}" for part, value in row["gib"].items() if value)
    sent = ", ".join(f"{kind} {value:.2f}" for kind, value in row["sent_gib_per_step"].items() if value) or "nothing"
    lines = [
        f"{name}: {mesh}; remat {row['remat']}; {row['rows_per_device']:g} sequences per device and microbatch"
        + (f", {row['accumulate']} microbatches per step" if row["accumulate"] > 1 else ""),
        f"  per device  {row['peak_gib']:.2f} GiB: {gib}",
        f"  memory      {'fits' if row['fits'] else 'does not fit'}",
        f"  sends       GiB per step: {sent}",
    ]
    if "days" in row:
        lines.append(f"  takes       {row['days']:.1f} days at {row['tokens_per_s']:,} tokens/s")
    return "\n".join(lines)


def compile_for(config: Config, machine: Machine) -> dict:
    """The compiler's own figures for the real training step on a TPU topology, GiB per device.

    Raises:
      ConfigError: without libtpu, for a topology that it does not know, or if the step does not fit.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not query a metadata server
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=machine.topology).devices
    except Exception as error:  # of many kinds: the library is absent, or does not know the topology
        raise ConfigError(f"--compile {machine.topology}: {one_line(error)}; pip install -e '.[plan]'") from error
    mesh = mesh_of(config, devices)
    row = jax.ShapeDtypeStruct(
        (config.train.batch_size, config.data.context_length), np.int32, sharding=batch_sharding(mesh)
    )
    batch = {"inputs": row, "targets": row}
    if config.data.mask_documents:
        batch |= {"segment_ids": row, "positions": row}
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        objective = objectives.of_config(config, config.tokenizer.make())(config.train.num_steps)
        step = make_train_step(config, mesh, objective, dict.fromkeys(batch, TOKENS))
        lowered = step.lower(abstract_state(config, mesh), {}, batch)
        try:
            stats = lowered.compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            line = next((x for x in str(error).splitlines() if "memory" in x), str(error).splitlines()[0])
            raise ConfigError(f"{machine.topology}: does not compile: {line.strip()[:300]}") from error
    return {
        "peak_gib": stats.peak_memory_in_bytes / memory.GIB,
        "arguments_gib": stats.argument_size_in_bytes / memory.GIB,
        "temporary_gib": stats.temp_size_in_bytes / memory.GIB,
        "kernels": "tpu_custom_call" in lowered.as_text(),
        "seconds": round(time.perf_counter() - began, 1),
    }
