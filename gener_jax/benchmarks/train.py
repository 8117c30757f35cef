"""Measures how fast a configuration trains on this machine, on random tokens.

    gener-jax benchmark train --config=experiments/euk_1b.py
    gener-jax benchmark train --size s --batch 4 --context 1024
    gener-jax benchmark train --size s --batch 16 --context 52 --finetune lora

With --finetune, the step of fine-tuning such rows of one of two classes.

One JSON line per shape: tokens/s, TFLOP/s, MFU (causal attention halved, nothing
counted twice), memory by the compiler, by formula and at its peak. The step is
that of training; its time is the median of --repeats. A --peer takes "train" and
--size, --batch, --context, --dtype and --repeats, and prints a JSON line; it
alternates with ours, each run in its own process. Ratios are medians of rounds.
"""

import dataclasses
import functools
import json
import statistics
import sys

import numpy as np

from data_pipeline.ranges import Whole
from data_pipeline.sequence.tokenizer import NUM_SPECIAL
from gener_jax.benchmarks.measuring import SIZES, child, line, model_of
from gener_jax.cli import command
from gener_jax.config import Config, Data, Finetune, Head, Mesh, Model, Optimizer, Train
from gener_jax.runtime import flags
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


def config_of(args, batch: int, context: int) -> Config:
    """The configuration of a named size, for one device."""
    model = model_of(args.size, args.dtype, remat=args.remat)
    if args.unroll:
        model = dataclasses.replace(model, scan_unroll=model.num_hidden_layers)
    finetune = Finetune(problem="single_label", method=args.finetune) if args.finetune else Finetune()
    return Config(
        name=args.size, model=model, data=Data(context_length=context),
        train=Train(batch_size=batch, num_steps=10**6), optimizer=Optimizer(), mesh=Mesh(1, 1, 1), finetune=finetune,
    )  # fmt: skip


def fine_tuning(config: Config):
    """The step of fine-tuning on rows of random tokens, as `finetune.method` says; None if there is no problem."""
    f, rows = config.finetune, config.train.batch_size
    if f.problem is None:
        return None
    from gener_jax.finetuning import method, objectives
    from gener_jax.model.sharding import ROWS, TOKENS
    from gener_jax.training.speed import Work

    head, random = Head("single_label", ("a", "b"), bias=False), np.random.default_rng(0)
    shape = rows, config.data.context_length
    batch = {
        "inputs": random.integers(NUM_SPECIAL, config.model.vocab_size, shape, dtype=np.int32),
        "lengths": np.full(rows, shape[1], np.int32),
        "labels": random.integers(0, 2, rows, dtype=np.int32),
        "weights": np.ones(rows, np.float32),
    }
    axes = dict.fromkeys(batch, ROWS) | {"inputs": TOKENS}
    return Work(batch, objectives.of_config(config, head), axes, method.trains(f.method), method.init(config, head))


def for_these_devices(config: Config) -> Config:
    """The same; with all devices along fsdp, which is logged, if its mesh does not fit them."""
    from gener_jax.model.sharding import mesh_of

    try:
        mesh_of(config)
    except ConfigError as error:
        log(f"{error}; measuring without this mesh")
        return dataclasses.replace(config, mesh=Mesh())
    return config


def compare(args) -> dict:
    """Runs ours and the peer alternately; returns our last result with the median rates and ratios."""
    (batch,), (context,) = args.batch, args.context
    common = ["--size", args.size, "--batch", batch, "--context", context, "--dtype", args.dtype]
    common += ["--finetune", args.finetune] if args.finetune else []
    common = [str(x) for x in [*common, "--repeats", args.repeats]]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(child(["-m", "gener_jax.benchmarks.train", *common, "--remat", args.remat]))
        theirs.append(child([args.peer, "train", *common, *(["--remat"] if args.remat in ("block", "full") else [])]))
        log(f"{ours[-1][0]['tokens_per_s']:,.0f} tokens/s, peer {theirs[-1][0]['tokens_per_s']:,.0f}")
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for (a, _), (b, _) in zip(ours, theirs, strict=True)]
    return {
        **ours[-1][0],
        "tokens_per_s": statistics.median(a["tokens_per_s"] for a, _ in ours),
        "peer_tokens_per_s": statistics.median(b["tokens_per_s"] for b, _ in theirs),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "process_gib": round(max(gib for _, gib in ours), 3),
        "peer_process_gib": round(max(gib for _, gib in theirs), 3),
    }


def main() -> None:
    """Prints one JSON line per shape."""
    program = command.Command(__doc__, checkpoint=False)
    add = program.parser.add_argument_group("or a named size").add_argument
    add("--size", choices=SIZES, help="the model's size, instead of --config")
    add("--batch", type=Whole(1), nargs="+", default=[4], metavar="N", help="batch size, one per shape")
    add("--context", type=Whole(1), nargs="+", default=[1024], metavar="N", help="tokens per sequence, one per shape")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="what it computes in")
    add("--remat", default=Model.remat, help="what is recomputed; block and full also checkpoint the peer")
    add("--finetune", choices=("full", "lora"), help="fine-tune a classifier, the whole model or adapters")
    add("--unroll", action="store_true", help="unroll all layers instead of scanning them")
    add("--peer", metavar="FILE.py", help="a program to compare with, at one shape")
    add = program.parser.add_argument
    add("--repeats", type=Whole(1), default=3, help="steps to measure")
    add("--rounds", type=Whole(1), default=3, help="rounds with the peer")
    args = program.parser.parse_args(command.split_overrides(sys.argv[1:])[0])
    if not args.size:
        if args.peer:
            raise ConfigError("goes with --size", "--peer", args.peer)
        args, config, _ = program.parse(None)
        if text := flags.apply(config.train.xla_flags):
            log(text)
        from gener_jax.training.speed import measure

        config = for_these_devices(config)
        print(json.dumps(measure(config, args.repeats, work=fine_tuning(config))))
        return
    program.parser.parse_args()  # a size has no configuration to override
    name, _ = flags.platform()
    if name in flags.FLAGS and (text := flags.add(name, several=False)):  # as `train` does
        log(text)
    if len(args.batch) != len(args.context):
        raise ConfigError(f"takes one value per value of --batch {args.batch}", "--context", args.context)
    if args.peer and len(args.batch) > 1:
        raise ConfigError("takes one value with --peer", "--batch", args.batch)
    if args.peer:
        print(json.dumps(compare(args)))
        return

    import jax

    from gener_jax.training.speed import measure

    fine = True
    for batch, context in zip(args.batch, args.context, strict=True):
        case = {"what": "train", "size": args.size, "batch": batch, "context": context}
        config = config_of(args, batch, context)
        work = fine_tuning(config)
        fine &= line(case, functools.partial(measure, config, args.repeats, jax.devices()[:1], work))
    if not fine:
        raise SystemExit(1)


if __name__ == "__main__":
    command.run(main)
