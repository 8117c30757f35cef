"""Whether a configuration fits a machine, and which one would; needs no device.

    gener-jax plan --config=experiments/unified_7b.py --devices 64 --device h100
    gener-jax plan --config=experiments/euk_1b.py --topology v5p:4x4x4 --compile

By formula, per device: memory, data sent, operations. Then the mesh, remat and
microbatches that fit and should be fastest, with tokens/s and days at a given
share of the peak (--mfu); and weights and KV cache for inference. --compile
compares with the compiler's own figure (pip install -e '.[plan]').
"""

import dataclasses
import itertools
import json

from gener_jax.cli import command
from gener_jax.runtime.devices import DEVICES
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=False)
    add = program.parser.add_argument_group("machine").add_argument
    add("--devices", type=int, help="how many")
    add("--device", choices=sorted(DEVICES), help="their kind, which gives memory and speed")
    add("--device_memory_gib", type=float, metavar="GIB", help="memory per device [that of --device]")
    add("--topology", metavar="SLICE", help="a TPU slice such as v5p:4x4x4, instead of --devices")
    add("--mfu", type=float, default=0.4, help="share of the peak that useful operations reach: an assumption")
    add("--compile", action="store_true", help="also compile the step for --topology, with libtpu")
    args, config, _ = program.parse(argv)

    from gener_jax.model import decoder, flops, memory
    from gener_jax.model.sharding import AXES
    from gener_jax.training.planning import compile_for, described, machine_of, suggest, text

    machine = machine_of(args)
    if not 0 < args.mfu <= 1:
        raise ConfigError("must be above 0 and at most 1", "--mfu", args.mfu)
    if args.compile and not machine.topology:
        raise ConfigError("needs --topology, since only TPU programs compile without the device", "--compile", True)
    m, length = config.model, config.data.context_length
    tokens = config.train.batch_size * length
    kind = machine.topology or f"{machine.devices} × {args.device or 'device'}"
    print(
        f"{config.name} on {kind}, {machine.memory_gib:g} GiB each\n"
        f"{decoder.num_parameters(m):,} parameters; {config.train.num_steps:,} steps of {config.train.batch_size} × "
        f"{length:,} = {tokens:,} tokens; {flops.training(m, length) / 1e9:,.3g} GFLOP per token, "
        f"{flops.training(m, length) * tokens * config.train.num_steps:.3g} in all; {args.mfu:.0%} MFU assumed"
    )
    result = {
        "name": config.name,
        "devices": machine.devices,
        "device_memory_gib": machine.memory_gib,
        "flops_per_token": flops.training(m, length),
    }
    try:
        result["given"] = described(config, machine, args.mfu)
        print(text("given", result["given"]))
    except ValueError as error:
        print(f"given: {error}")
    best = suggest(config, machine, args.mfu)
    if best is None:
        print(f"nothing fits: more devices, or a smaller train.batch_size than {config.train.batch_size}")
    else:
        result["suggested"] = described(best, machine, args.mfu)
        print(text("suggested", result["suggested"]))
        mesh = {f"mesh.{name}": size for name, size in dataclasses.asdict(best.mesh).items()}
        fields = {**mesh, "model.remat": best.model.remat, "train.accumulate": best.train.accumulate}
        print("  set         " + " ".join(f"--config.{name}={value}" for name, value in fields.items()))
    result["inference_gib"] = {
        f"{rows} × {n}": sum(memory.inference_needs(config.model, dict.fromkeys(AXES, 1), rows, n).values())
        for rows, n in itertools.product((1, 16), (length // 8, length))
    }
    listed = ", ".join(f"{name} tokens {gib:.1f}" for name, gib in result["inference_gib"].items())
    print(f"inference on one device, weights + cache in {m.dtype}, GiB: {listed}")
    if args.compile and best is not None:
        log(f"compiling for {machine.topology}: minutes")
        found = result["compiled"] = compile_for(best, machine)
        peak, formula = found["peak_gib"], result["suggested"]["peak_gib"]
        kernels = "with its attention kernel" if found["kernels"] else "without a kernel"
        print(
            f"compiled for {machine.topology} ({kernels}) in {found['seconds']:.0f} s, not run: peak {peak:.2f} GiB "
            f"per device, by formula {formula:.2f} ({formula / peak - 1:+.0%})"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    command.run(main)
