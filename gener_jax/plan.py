"""Whether a configuration fits a machine, and which one would; needs no device.

    gener-jax plan --config=experiments/unified_7b.py --devices 64 --device h100
    gener-jax plan --config=experiments/euk_1b.py --device h100 --devices 8 \\
        --compile given

By formula, per device: memory, data sent, operations. Then the mesh, remat and
microbatches that fit and should be fastest, with tokens/s and days at a given
share of the peak (--mfu); and weights and KV cache for inference.

--compile compiles the training step for those devices, which this machine need not
have, and prints what the compiler made of it: attention kernels, memory and
collectives. That needs pip install -e '.[cuda]' for GPUs, '.[tpu]' for TPUs.

With --config.finetune.problem it is fine-tuning: of all parameters, adapters or a
head, by --config.finetune.method (full, lora, frozen).
"""

import argparse

from data_pipeline import cli
from data_pipeline.ranges import Real, Whole
from gener_jax.cli import command
from gener_jax.config import Config, Head
from gener_jax.runtime import flags, targets
from gener_jax.runtime.devices import DEVICES
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


def _device(text: str) -> str:
    """A name of the table, in any case; none is proposed for another, since a similar name is another device."""
    if text.lower() not in DEVICES:
        raise argparse.ArgumentTypeError(
            f"there are no figures of {text!r}; give one of {', '.join(sorted(DEVICES))}, or only --device_memory_gib"
        )
    return text.lower()


def parts(config: Config) -> dict:
    """What fine-tuning trains, and its tree, as `training.planning.report` takes them; nothing for pre-training."""
    f = config.finetune
    if f.problem is None:
        return {}
    from gener_jax.finetuning import method

    # The number of outputs, which the rows decide, hardly matters.
    problem, context = ("token", config.data.context_length) if f.problem == "token" else ("single_label", None)
    head = Head(problem, ("a", "b"), context=context) if f.has_head else None
    return {"trains": method.trains(f.method), "init": method.init(config, head)}


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=False)
    add = program.parser.add_argument_group("machine").add_argument
    add("--devices", type=Whole(1, 65536), help="how many")
    add("--device", type=_device, metavar="KIND", help=f"which gives memory and speed: {', '.join(sorted(DEVICES))}")
    add("--device_memory_gib", type=Real(above=0), metavar="GIB", help="memory per device [that of --device]")
    add("--topology", metavar="SLICE", help="a TPU slice such as v5p:4x4x4, instead of --devices")
    add("--mfu", type=Real(above=0, most=1), default=0.4, help="share of the peak that useful operations reach")
    what = "compile the step of this configuration too, by default the suggested one"
    add("--compile", nargs="?", choices=("suggested", "given"), const="suggested", help=what)
    args, config, _ = program.parse(argv)
    chips = args.topology.partition(":")[2].split("x") if args.topology else [str(args.devices or 1)]
    several = any(number != "1" for number in chips)
    if args.compile and config.train.xla_flags and (line := flags.add("tpu" if args.topology else "gpu", several)):
        log(line)

    import jax

    # Nothing runs on this machine's devices, which JAX would start, and whose memory it would take.
    jax.config.update("jax_platforms", "cpu")
    from gener_jax.training.planning import machine_of, report

    machine = machine_of(args)
    if args.compile and not machine.topology and args.device not in targets.GPUS:
        kinds = ", ".join(sorted(targets.GPUS))
        raise ConfigError(
            f"needs --topology or one of --device {kinds}: others have no description to compile for",
            "--compile",
            args.compile,
        )
    if args.compile and config.finetune.problem:
        raise ConfigError("compiles the step of pre-training, not that of finetune.problem", "--compile", args.compile)
    with cli.text(args.json):
        result = report(config, machine, args, **parts(config))
    cli.finish(result, args.json, listed=False)


if __name__ == "__main__":
    command.run(main)
