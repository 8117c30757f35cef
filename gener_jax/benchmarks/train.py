"""Measures how fast a configuration trains on this machine, on random tokens, and optionally a peer program.

    python -m gener_jax.benchmarks.train --config=experiments/euk_1b.py --config.train.batch_size=8
    python -m gener_jax.benchmarks.train --size s --batch 4 --context 1024 --peer hf_llama.py
    python -m gener_jax.benchmarks.train --size 1.2b --dtype bfloat16 --batch 16 2 --context 2048 16384

One JSON line per shape: tokens and bases per second, TFLOP/s and MFU (useful operations: causal attention halved,
recomputation not counted; the peak performance is from a table of devices), memory (by the compiler, by formula, and
the device's peak if this shape raised it), seconds of compilation. The step is that of the training loop and is
dispatched in the same way; its time is the median of `--repeats` steps. `--peer` names a program that takes `train` and
then --size, --batch, --context, --dtype and --repeats, and prints a JSON line last. It alternates with ours `--rounds`
times, each run in its own process; ratios are medians over the rounds, memory is the largest of each side's processes.
"""

import dataclasses
import functools
import json
import statistics
import time

import jax
import numpy as np

from data_pipeline.ranges import Whole
from data_pipeline.sequence.tokenizer import NUM_SPECIAL
from gener_jax.benchmarks.measuring import SIZES, child, line, model_of
from gener_jax.cli import command
from gener_jax.config import Config, Data, Mesh, Model, Optimizer, Train
from gener_jax.data.loader import to_devices
from gener_jax.model import decoder, flops, memory, sharding
from gener_jax.model.sharding import TOKENS, batch_sharding, mesh_of
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.training import objectives
from gener_jax.training.step import init_state, make_train_step


def config_of(args, batch: int, context: int) -> Config:
    """The configuration of a named size, for one device."""
    model = model_of(args.size, args.dtype, remat=args.remat)
    if args.unroll:
        model = dataclasses.replace(model, scan_unroll=model.num_hidden_layers)
    return Config(
        name=args.size, model=model, data=Data(context_length=context),
        train=Train(batch_size=batch, num_steps=10**6), optimizer=Optimizer(), mesh=Mesh(1, 1, 1),
    )  # fmt: skip


def measure(config: Config, repeats: int, devices=None) -> dict:
    """Measures the training step of a configuration; returns the object that the command prints."""
    tokenizer = config.tokenizer.make()
    peak_before = memory.peak()
    with errors.user_errors():
        mesh = mesh_of(config, devices)
    shape = (config.train.batch_size, config.data.context_length + 1)
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, tokenizer.vocab_size, shape, dtype=np.int32)
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    if config.data.mask_documents:  # four regions per sequence
        batch["segment_ids"] = np.repeat(np.arange(4), -(-shape[1] // 4))[None, : shape[1] - 1].repeat(shape[0], 0)
        starts = np.searchsorted(batch["segment_ids"][0], batch["segment_ids"][0])
        batch["positions"] = (np.arange(shape[1] - 1) - starts)[None].repeat(shape[0], 0)
        batch = {name: x.astype(np.int32) for name, x in batch.items()}
    with sharding.on(mesh):
        state = init_state(config, mesh)
        placed = to_devices(batch, batch_sharding(mesh))
        began = time.perf_counter()
        objective = objectives.of_config(config, tokenizer)(0)
        step = make_train_step(config, mesh, objective, dict.fromkeys(batch, TOKENS))
        program = step.lower(state, {}, placed).compile()
        compiled = time.perf_counter() - began
        needs = program.memory_analysis()
        # As in the training loop, a step is dispatched before the metrics of the previous one are read.
        read, before = [], None
        for _ in range(repeats + 3):
            state, metrics = program(state, {}, placed)
            if before is not None:
                jax.block_until_ready(before)
                read.append(time.perf_counter())
            before = metrics
        jax.block_until_ready(state)
    median = statistics.median(np.diff(read)[1:])
    tokens = config.train.batch_size * config.data.context_length
    speed = flops.training(config.model, config.data.context_length) * tokens / median / mesh.size / 1e12
    device = flops.device_of(jax.devices()[0].device_kind) if config.model.dtype == "bfloat16" else None
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
        "bases_per_s": tokens / median * int(tokenizer.token_bases.max()),
        "tflops_per_device": speed,
        "mfu": device and speed / device.tflops,
        "peak_gib": peak if (peak := memory.peak()) > peak_before else None,
        "compiled_gib": needs and (needs.argument_size_in_bytes + needs.temp_size_in_bytes) / memory.GIB,
        "planned_gib": sum(memory.training_needs(config, mesh.size).values()),
        "compile_s": compiled,
    }


def compare(args) -> dict:
    """Runs ours and the peer alternately; returns our last result with the median rates and ratios."""
    (batch,), (context,) = args.batch, args.context
    common = ["--size", args.size, "--batch", batch, "--context", context, "--dtype", args.dtype]
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
    add = program.parser.add_argument
    add("--size", choices=SIZES, help="the model's size, instead of --config")
    add("--batch", type=Whole(1), nargs="+", default=[4], help="with --size: batch size, one per shape [4]")
    add(
        "--context",
        type=Whole(1),
        nargs="+",
        default=[1024],
        help="with --size: tokens per sequence, one per shape [1024]",
    )
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="with --size [float32]")
    add("--remat", default=Model.remat, help=f"with --size [{Model.remat}]; block and full also checkpoint the peer")
    add("--unroll", action="store_true", help="with --size: unroll all layers instead of scanning them")
    add("--repeats", type=Whole(1), default=3, help="steps to measure [3]")
    add("--rounds", type=Whole(1), default=3, help="rounds with the peer [3]")
    add("--peer", metavar="hf_llama.py", help="with --size and one shape: a program to compare with")
    args, _ = program.parser.parse_known_args()
    if not args.size:
        if args.peer:
            raise ConfigError("goes with --size", "--peer", args.peer)
        args, config, _ = program.parse(None)
        print(json.dumps(measure(config, args.repeats)))
        return
    args = program.parser.parse_args()
    if len(args.batch) != len(args.context):
        raise ConfigError(f"takes one value per value of --batch {args.batch}", "--context", args.context)
    if args.peer and len(args.batch) > 1:
        raise ConfigError("takes one value with --peer", "--batch", args.batch)
    if args.peer:
        print(json.dumps(compare(args)))
        return
    fine = True
    for batch, context in zip(args.batch, args.context, strict=True):
        case = {"what": "train", "size": args.size, "batch": batch, "context": context}
        fine &= line(case, functools.partial(measure, config_of(args, batch, context), args.repeats, jax.devices()[:1]))
    if not fine:
        raise SystemExit(1)


if __name__ == "__main__":
    command.run(main)
