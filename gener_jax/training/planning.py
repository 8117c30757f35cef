"""Whether a configuration can be trained on a machine, by formula, and which one should be fastest there."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax

from data_pipeline.errors import counted
from data_pipeline.ranges import Whole
from gener_jax.config import REMAT, Config, Mesh, Model
from gener_jax.model import decoder, flops, memory
from gener_jax.model.sharding import AXES, axis_sizes, check_divides
from gener_jax.model.trainable import everything, split
from gener_jax.runtime import targets
from gener_jax.runtime.devices import DEVICES, Device
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.training import compiling

# Fraction of a device's memory that a plan uses. By compilers' figures a step needs up to 3 % more than by the formula
# (README, Results); the rest is for fragmentation and the program.
ROOM = 0.92
# Share of the bandwidth of the data sheet at which a GPU copies: an H200 copied 3,784 of 4,800 GB/s (docs/results.md).
COPYING = 0.79
NUMBERS = Whole(1, 65536)  # of devices
TIE = 0.01  # fraction of the time by which one configuration must be faster than another: the formula is not better


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
    number, device = args.devices, DEVICES.get(args.device)
    if args.topology:
        kind, _, shape = args.topology.partition(":")
        sizes = shape.split("x")
        if args.devices or args.device:
            raise ConfigError("give --topology, or --devices and --device: not both")
        if kind not in DEVICES or kind[0] != "v" or not all(n.isdecimal() and int(n) for n in sizes):
            raise ConfigError("must be v4, v5e, v5p or v6e with a shape, as in v5p:4x4x4", "--topology", args.topology)
        number, device = math.prod(map(int, sizes)), DEVICES[kind]
        if number not in NUMBERS:
            raise ConfigError(f"its number of chips must be {NUMBERS}", "--topology", args.topology)
    elif number is None:
        raise ConfigError("is missing; give it with --device, or --topology v5p:4x4x4", "--devices")
    elif not (device or args.device_memory_gib):
        raise ConfigError("give --device NAME or --device_memory_gib G, the memory per device")
    return Machine(number, args.device_memory_gib or device.memory_gib, device, args.topology)


def needs(config: Config, machine: Machine, **parts) -> dict[str, float]:
    """The memory of a training step in GiB per device, by formula; `parts`, here and below: `trains` and `init` of
    `step.abstract_state`.
    """
    return memory.training_needs(config, machine.devices, lanes=128 if machine.topology else 1, **parts)


def counts(model: Model, trains=everything, init=None) -> tuple[int, int]:
    """The number of parameters that train, and of the others."""
    parts = split(decoder.abstract(model, init), trains)
    return tuple(sum(x.size for x in jax.tree.leaves(part)) for part in parts)


def collectives(config: Config, num_devices: int, *, trains=everything, init=None) -> dict[tuple[str, str], float]:
    """Data in GiB that a device sends in a step, by collective operation and mesh axis; `fsdp` means fsdp and context
    together, which shard the parameters.

    By formula for ring algorithms: an all-gather of x bytes over n devices sends x (n − 1) / n, an all-reduce twice
    that. Weights, and gradients of those that train, gathered and scattered for each microbatch; gradients summed over
    data; keys and values over context, and queries and outputs if a kernel computes attention (see `parallel`); the
    residual stream over tensor, twice per layer and direction.
    """
    m, t, mesh = config.model, config.train, config.mesh
    sizes = axis_sizes(num_devices, mesh.data, mesh.fsdp, mesh.tensor, mesh.context)
    cut, tensor = sizes["fsdp"] * sizes["context"], sizes["tensor"]
    itemsize = 2 if m.dtype == "bfloat16" else 4
    trained, frozen = (number / tensor for number in counts(m, trains, init))
    tokens = t.batch_size * config.data.context_length / (sizes["data"] * cut)  # of a device, in a step
    passes = 1 if m.remat in ("none", "dots") else 2  # forward
    exchanges = 1 if m.remat == "none" else 2  # forward, of queries and outputs, which are no products that dots keeps
    summed = itemsize if t.gradient_dtype == "compute" else 4
    heads = m.num_key_value_heads / (1 if m.num_key_value_heads % tensor else tensor)
    keys = 2 * heads * m.head_dim * itemsize * tokens * sizes["context"] * m.num_hidden_layers
    residual = tokens * m.hidden_size * itemsize * m.num_hidden_layers
    exchanged = m.num_attention_heads // tensor % sizes["context"] == 0

    def sent(number, size):
        return size * (number - 1) / number / memory.GIB

    return {
        ("all-gather", "fsdp"): sent(cut, (1 + passes) * t.accumulate * (trained + frozen) * itemsize),
        ("reduce-scatter", "fsdp"): sent(cut, t.accumulate * trained * summed),
        ("all-gather", "context"): sent(sizes["context"], passes * keys),
        ("reduce-scatter", "context"): sent(sizes["context"], keys),
        ("all-to-all", "context"): sent(sizes["context"], 2 * (1 + exchanges) * residual if exchanged else 0),
        ("all-reduce", "data"): sent(sizes["data"], t.accumulate * 2 * summed * trained / cut),
        ("all-reduce", "tensor"): sent(tensor, 2 * 2 * (1 + passes) * residual),
    }


def scan_bytes(config: Config, machine: Machine, **parts) -> float:
    """Bytes of memory that a scan over the layers writes and reads per device and step, and unrolled layers do not.

    What a layer saves for the backward pass goes into stacks of all layers: it is written once more, and read for that.
    Without the flag of XLA that `train` sets on GPUs (`runtime.flags`), the stacks are zeroed before: three times the
    bytes. For 1.2b, 16 × 2,048 tokens and an H200 these are 102 GB, or 27 ms; there zeros and copies took 26 ms of a
    step of 510, and unrolled layers saved 27 (docs/results.md). With the flag nothing was measured.
    """
    scanned = dataclasses.replace(config, model=dataclasses.replace(config.model, scan_unroll=1))
    passes = 2 if config.train.xla_flags else 3
    return passes * config.train.accumulate * memory.kept_by_layers(scanned, machine.devices, **parts)


def unrolling_is_known(machine: Machine) -> bool:
    """Whether `scan_bytes` tells what unrolled layers gain; on TPUs nobody measured it, and on CPUs they are slower."""
    return machine.device is not None and machine.device.bandwidth is not None


def sending(config: Config, machine: Machine, **parts) -> float:
    """Seconds in which a device sends what it sends in a step, as if it did nothing else."""
    device, mesh, total = machine.device, config.mesh, 0.0
    reach = {"tensor": mesh.tensor, "context": mesh.tensor * mesh.context, "fsdp": machine.devices // mesh.data}
    for (_, axis), gib in collectives(config, machine.devices, **parts).items():
        link = device.link if not device.near or reach.get(axis, machine.devices) <= device.near else device.far
        total += gib * memory.GIB / (link * 1e9)
    return total


def seconds(config: Config, machine: Machine, mfu: float, **parts) -> float:
    """Time of a step: its operations, repeated ones included, at `mfu` of the peak, then what a scan over the layers
    copies on a GPU, and then its communication, as if none of it overlapped with computation. Only for comparing
    candidates.
    """
    m, length, device = config.model, config.data.context_length, machine.device
    # `dots` repeats elementwise operations alone, `block` the layers' products of weights, `full` the forward pass.
    repeated = {"block": 2 * flops.matrix_parameters(m), "full": flops.forward(m, length)}.get(m.remat, 0)
    operations = (flops.training(config, **parts) + repeated) * config.train.batch_size * length / machine.devices
    waiting = sending(config, machine, **parts)
    if unrolling_is_known(machine) and not m.layers_unrolled:
        waiting += scan_bytes(config, machine, **parts) / (COPYING * device.bandwidth * 1e9)
    return operations / (device.tflops * 1e12 * mfu) + waiting


def candidates(config: Config, machine: Machine):
    """Every mesh, remat policy and number of microbatches that divides the model, the batch and the machine; on GPUs
    with the layers in a scan and unrolled.

    Without remat `none`, which repeats no fewer operations of `seconds` than `dots` and needs more memory, without
    unrolled layers for `block` and `full`, which then save no memory, and without a context axis that does not divide
    the heads of a device, over which no kernel computes attention.
    """
    m, t, length = config.model, config.train, config.data.context_length
    known = unrolling_is_known(machine)
    policies = [(remat, 1 if known else m.scan_unroll) for remat in REMAT if remat != "none"]
    policies += [("dots", m.num_hidden_layers)] if known and m.num_hidden_layers > 1 else []
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
        for accumulate, (remat, unroll) in itertools.product(microbatches, policies):
            yield dataclasses.replace(
                config, mesh=mesh, model=dataclasses.replace(m, remat=remat, scan_unroll=unroll),
                train=dataclasses.replace(t, accumulate=accumulate),
            )  # fmt: skip


def suggest(config: Config, machine: Machine, mfu: float, **parts) -> Config | None:
    """The configuration of `candidates` that fits and takes the least time; None: none fits.

    Among those whose times differ by less than `TIE`, the given one; else that of fewest mesh axes and microbatches,
    then with the layers in a scan, and then of least memory. If the kind of device is unknown, times are those of an
    H100.
    """
    room = ROOM * machine.memory_gib
    memories = ((one, sum(needs(one, machine, **parts).values())) for one in candidates(config, machine))
    fitting = [(one, gib, _seconds(one, machine, mfu, **parts)) for one, gib in memories if gib <= room]
    if not fitting:
        return None
    most = min(time for *_, time in fitting) / (1 - TIE)
    given = with_sizes(config, machine)
    fits = given is not None and sum(needs(given, machine, **parts).values()) <= room
    if fits and _seconds(given, machine, mfu, **parts) < most:
        return given

    def cost(candidate):
        one, gib, _ = candidate
        axes = sum(size > 1 for size in dataclasses.asdict(one.mesh).values())
        return axes + math.log2(one.train.accumulate), one.model.layers_unrolled, gib

    return min((candidate for candidate in fitting if candidate[2] < most), key=cost)[0]


def with_sizes(config: Config, machine: Machine) -> Config | None:
    """The same with the size of each mesh axis; None if the mesh does not fit machine, model or batch."""
    try:
        sizes = axis_sizes(machine.devices, **dataclasses.asdict(config.mesh))
        check_divides(config, sizes)
    except ConfigError:
        return None
    return dataclasses.replace(config, mesh=Mesh(**sizes))


def _seconds(config: Config, machine: Machine, mfu: float, **parts) -> float:
    return seconds(config, _with_device(machine), mfu, **parts)


def _with_device(machine: Machine) -> Machine:
    return machine if machine.device else machine._replace(device=DEVICES["h100"])


def described(config: Config, machine: Machine, mfu: float, **parts) -> dict:
    """A configuration's figures on a machine, as plain numbers."""
    sizes = axis_sizes(machine.devices, config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.context)
    check_divides(config, sizes)
    need, sent = needs(config, machine, **parts), collectives(config, machine.devices, **parts)
    tokens = config.train.batch_size * config.data.context_length
    out = {
        "mesh": {name: sizes[name] for name in AXES},
        "remat": config.model.remat,
        "layers_unrolled": config.model.layers_unrolled,
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
    if unrolling_is_known(machine):
        out["scan_gib_per_step"] = round(scan_bytes(config, machine, **parts) / memory.GIB, 3)
    if machine.device:
        operations = flops.training(config, **parts)
        speed = machine.devices * machine.device.tflops * 1e12 * mfu / operations
        out |= {"tokens_per_s": round(speed), "days": round(tokens * config.train.num_steps / speed / 86400, 2)}
    return out


def text(name: str, row: dict) -> str:
    """A described configuration as text."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1) or "one device"
    gib = ", ".join(f"{part} {value:.2f}" for part, value in row["gib"].items() if value)
    sent = ", ".join(f"{kind} {value:.2f}" for kind, value in row["sent_gib_per_step"].items() if value) or "nothing"
    rows = row["rows_per_device"]
    sequences = counted(rows if rows % 1 else int(rows), "sequence")
    unrolled = "; layers unrolled" if row["layers_unrolled"] else ""
    lines = [
        f"{name}: {mesh}; remat {row['remat']}{unrolled}; {sequences} per device and microbatch"
        + (f", {row['accumulate']} microbatches per step" if row["accumulate"] > 1 else ""),
        f"  per device  {row['peak_gib']:.2f} GiB: {gib}",
        f"  memory      {'fits' if row['fits'] else 'does not fit'}",
        f"  sends       GiB per step: {sent}",
    ]
    if row["layers_unrolled"] and "scan_gib_per_step" in row:
        lines.append(
            f"  layers      unrolled: a scan over them would write and read {row['scan_gib_per_step']:.1f} GiB per step"
        )
    if "days" in row:
        lines.append(f"  takes       {row['days']:.1f} days at {row['tokens_per_s']:,} tokens/s")
    return "\n".join(lines)


def reasons(given: Config, best: Config, machine: Machine, mfu: float, **parts) -> str:
    """Why the second configuration, which is suggested, is better than the first, as a line."""
    own, other = (described(one, machine, mfu, **parts) for one in (best, given))
    if not other["fits"]:
        return f"the given one needs {other['peak_gib']:.2f} GiB per device and does not fit"
    if best == with_sizes(given, machine):
        return f"by these formulas no other takes at least {TIE:.0%} less time than the given one"
    both = best, with_sizes(given, machine)
    times = [_seconds(one, machine, mfu, **parts) for one in both]
    links = [sending(one, _with_device(machine), **parts) for one in both]
    saved = 1 - times[0] / times[1]
    sent, other_sent = (sum(row["sent_gib_per_step"].values()) for row in (own, other))
    better = [
        line
        for line, less in (
            (f"recomputes less (remat {own['remat']}, not {other['remat']})",
             REMAT.index(own["remat"]) < REMAT.index(other["remat"])),
            ("unrolls the layers", own["layers_unrolled"] and not other["layers_unrolled"]),
            ("has the layers in a scan", other["layers_unrolled"] and not own["layers_unrolled"]),
            (f"sends {sent:.1f} GiB per step, not {other_sent:.1f}", sent < 0.999 * other_sent),
            (f"sends over faster links, for {links[0]:.2g} s per step, not {links[1]:.2g}",
             links[0] < 0.999 * links[1] and sent >= 0.999 * other_sent),
            (f"has {own['accumulate']} microbatches per step, not {other['accumulate']}",
             own["accumulate"] < other["accumulate"]),
            (f"needs {own['peak_gib']:.2f} GiB, not {other['peak_gib']:.2f}", own["peak_gib"] < other["peak_gib"]),
        )
        if less
    ]  # fmt: skip
    why = "; ".join(better) or "has fewer mesh axes"
    return f"a step should take {saved:.1%} less time, which the days do not count: it {why}"


def report(config: Config, machine: Machine, args, **parts) -> dict:
    """Prints the plan; returns its figures as plain values."""
    m, length = config.model, config.data.context_length
    tokens = config.train.batch_size * length
    kind = machine.topology or f"{machine.devices} × {args.device or 'device'}"
    trained, frozen = counts(m, **parts)
    operations = flops.training(config, **parts)
    parameters = f"{trained + frozen:,} parameters" + (f", {trained:,} of them trained" if frozen else "")
    print(
        f"{config.name} on {kind}, {machine.memory_gib:g} GiB each\n"
        f"{parameters}; {config.train.num_steps:,} steps of {config.train.batch_size} × "
        f"{length:,} = {tokens:,} tokens; {operations / 1e9:,.3g} GFLOP per token, "
        f"{operations * tokens * config.train.num_steps:.3g} in all\n"
        f"days rest on {args.mfu:.0%} MFU, which is assumed: gener-jax benchmark train measures yours, --mfu takes it; "
        "docs/results.md has those of GPUs"
    )
    result = {
        "name": config.name,
        "devices": machine.devices,
        "device_memory_gib": machine.memory_gib,
        "flops_per_token": operations,
    }
    try:
        result["given"] = described(config, machine, args.mfu, **parts)
        print(text("given", result["given"]))
    except ValueError as error:
        print(f"given: {error}")
    best = suggest(config, machine, args.mfu, **parts)
    if best is None:
        print(f"nothing fits: more devices, or a smaller train.batch_size than {config.train.batch_size}")
    else:
        result["suggested"] = described(best, machine, args.mfu, **parts)
        print(text("suggested", result["suggested"]))
        if "given" in result:
            result["suggested"]["why"] = reasons(config, best, machine, args.mfu, **parts)
            print(f"  why         {result['suggested']['why']}")
        mesh = {f"mesh.{name}": size for name, size in dataclasses.asdict(best.mesh).items()}
        fields = {**mesh, "model.remat": best.model.remat, "train.accumulate": best.train.accumulate}
        fields["model.scan_unroll"] = best.model.scan_unroll
        print("  set         " + " ".join(f"--config.{name}={value}" for name, value in fields.items()))
    result["inference_gib"] = {
        f"{rows} × {n}": sum(memory.inference_needs(config.model, dict.fromkeys(AXES, 1), rows, n).values())
        for rows, n in itertools.product((1, 16), (length // 8, length))
    }
    listed = ", ".join(f"{name} tokens {gib:.1f}" for name, gib in result["inference_gib"].items())
    print(f"inference on one device, weights + cache in {m.dtype}, GiB: {listed}")
    if args.compile == "suggested" and best is None:
        print("not compiled, since none is suggested: --compile given takes the given one")
    elif args.compile:
        chosen = config if args.compile == "given" else best
        devices = targets.tpus(machine.topology) if machine.topology else targets.gpus(args.device, machine.devices)
        log(f"compiling the {args.compile} configuration for {kind}: minutes")
        result["compiled"] = {"configuration": args.compile, **compiling.figures(chosen, devices)}
        print(compiling.described(result["compiled"], chosen, result[args.compile], f"{kind} ({args.compile})"))
    return result
