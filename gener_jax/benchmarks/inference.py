"""Measures how fast a model with random weights generates and scores, and optionally a peer program.

    python -m gener_jax.benchmarks.inference --size s --batch 1 8 --peer hf_llama.py
    python -m gener_jax.benchmarks.inference --size 1.2b --dtype bfloat16 --batch 1 16 256 --variants 96

Prints one JSON line per result; every time is the median of `--repeats`. For each batch size:

  bases_per_s         of greedy generation of `--new` tokens after `--prompt` tokens, prefill included
  ms_per_token        per decoding step of the batch: the difference in time of generating two lengths with the same
                      compiled programs, divided by the difference in tokens
  share_of_bandwidth  the bytes of weights and filled cache read per step, divided by that time, as a share of the
                      memory bandwidth measured in this process (the larger of read and copy)
  prefill_ms          the rest of the time

`--prefill` measures the prefill of long prompts, with one decoded token; `--score` measures tokens per second of
log-likelihoods; `--variants` measures variants per second by both protocols, with a context of 8 kb. The peer is a
program that takes `generate` or `score` and then the same options, and prints a JSON line last. It alternates with
ours, and each ratio is the median over the rounds.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import cli
from data_pipeline.ranges import Whole
from data_pipeline.sequence import bases
from gener_jax.benchmarks.measuring import SIZES, bandwidth, child, line, median, random_lm, seconds
from gener_jax.cli import command
from gener_jax.inference.lm import LM
from gener_jax.inference.variants.scoring import CONTEXT, PROTOCOLS
from gener_jax.model import decoder, flops, memory
from gener_jax.runtime.progress import log


def sequences(rows: int, tokens: int, k: int) -> list[str]:
    """Random DNA sequences of `tokens` k-mers each."""
    rng = np.random.default_rng(0)
    return [bases.decode(rng.integers(0, 4, tokens * k).astype(np.uint8)) for _ in range(rows)]


def peer(args, job: str, **options) -> dict:
    """Runs the peer once; returns its last JSON line."""
    given = [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    return child([args.peer, job, "--size", args.size, "--dtype", args.dtype, "--repeats", "1", *given])[0]


def rates(args, job: str, run, amount: float, unit: str, **options) -> dict:
    """The median rate of `run`, which processes `amount` of `unit`, and the peer's and the ratio if one is given.

    The peer alternates with ours; `options` are its flags.
    """
    ours, theirs = [], []
    run()
    for _ in range(args.repeats):
        began = time.perf_counter()
        run()
        ours.append(amount / (time.perf_counter() - began))
        if args.peer:
            theirs.append(peer(args, job, **options)[unit])
    found = {unit: round(statistics.median(ours))}
    if args.peer:
        found[f"peer_{unit}"] = round(statistics.median(theirs))
        found["ratio"] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
    log(f"{args.size} {job} {options}: {found}")
    return found


def generation(lm: LM, rows: int, args, gb_per_s: float) -> dict:
    """Measures greedy generation as a whole, then decoding and prefill separately.

    `gb_per_s` is the measured memory bandwidth. A decoding step is counted as reading all weights but the embedding
    table, and the part of the cache that is filled, on average.
    """
    k, model = lm.tokenizer.k, lm.spec.model
    prompts = sequences(rows, args.prompt - 1, k)

    def generate(new):
        lm.generate(prompts, new * k, temperature=0, batch_size=rows)

    found = rates(args, "generate", lambda: generate(args.new), args.new * k * rows, "bases_per_s", batch=rows,
                   prompt=args.prompt, new=args.new)  # fmt: skip
    # The number of new tokens is rounded up to a power of two, so both lengths use the same programs and cache size.
    short = args.new // 2 + 1
    took = args.new * k * rows / found["bases_per_s"]
    per_token = (took - median(seconds(lambda: generate(short), args.repeats))) / (args.new - short)
    item = jnp.dtype(model.dtype).itemsize
    weights = item * (decoder.num_parameters(model) - model.vocab_size * model.hidden_size)  # without the embedding
    filled = args.prompt + (args.new + short) / 2  # on average
    cache = 2 * item * model.num_hidden_layers * rows * filled * model.num_key_value_heads * model.head_dim
    return {
        **found,
        "ms_per_token": round(1e3 * per_token, 3),
        "share_of_bandwidth": round((weights + cache) / per_token / 1e9 / gb_per_s, 3),
        "prefill_ms": round(1e3 * (took - args.new * per_token), 1),
        "peak_gib": round(memory.peak(), 2),
    }


def prefill(lm: LM, rows: int, tokens: int, repeats: int) -> dict:
    """Measures prefill of `rows` prompts of `tokens` tokens, and one decoded token."""
    prompts = sequences(rows, tokens - 1, lm.tokenizer.k)
    took = median(seconds(lambda: lm.generate(prompts, lm.tokenizer.k, temperature=0, batch_size=rows), repeats))
    return {"seconds": took, **rate(lm, rows * tokens / took, tokens), "peak_gib": round(memory.peak(), 2)}


def rate(lm: LM, tokens_per_s: float, length: int) -> dict:
    """The rate of forward passes, and MFU: its useful operations as a share of the device's peak (None: unknown)."""
    model = lm.spec.model
    device = flops.device_of(jax.devices()[0].device_kind) if model.dtype == "bfloat16" else None
    mfu = device and round(flops.forward(model, length) * tokens_per_s / 1e12 / device.tflops, 3)
    return {"tokens_per_s": round(tokens_per_s), "mfu": mfu}


def scoring(lm: LM, rows: int, tokens: int, args) -> dict:
    """Measures the log-likelihood of `rows` sequences of `tokens` tokens."""
    texts = sequences(rows, tokens, lm.tokenizer.k)
    found = rates(args, "score", lambda: lm.log_likelihood(texts, batch_tokens=rows * tokens), rows * tokens,
                   "tokens_per_s", batch=rows, context=tokens)  # fmt: skip
    return rate(lm, found["tokens_per_s"], tokens) | found


def variants(lm: LM, number: int, protocol: str, repeats: int) -> dict:
    """Measures the scoring of `number` substitutions, 3 bases apart, by one protocol with a context of 8 kb."""
    genome = np.random.default_rng(0).integers(0, 4, 2 * CONTEXT + 3 * number).astype(np.uint8)
    letters = bases.decode(genome)
    substitutions = [
        ("1", CONTEXT + 3 * i, letters[CONTEXT + 3 * i], bases.decode(genome[[CONTEXT + 3 * i]] ^ 1))
        for i in range(number)
    ]
    took = seconds(lambda: list(lm.score_variants(substitutions, {"1": letters}, protocol=protocol)), repeats)
    return {"variants_per_s": round(number / statistics.median(took), 1)}


def main() -> int:
    """Prints one JSON line per result; returns 1 if one of them failed."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--size", default="s", choices=SIZES, help="the model's shape")
    parse.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parse.add_argument("--batch", type=Whole(1), nargs="*", default=[1, 8], help="batch sizes of generation [1 8]")
    parse.add_argument("--prompt", type=Whole(1), default=64, help="tokens per prompt, including <s> [64]")
    parse.add_argument("--new", type=Whole(8), default=256, help="new tokens, a power of two of at least 8 [256]")
    parse.add_argument(
        "--prefill", type=Whole(1), nargs=2, metavar=("ROWS", "TOKENS"), help="measure prefill of such prompts [none]"
    )
    parse.add_argument("--score", type=Whole(), nargs=2, default=(4, 1024), metavar=("ROWS", "TOKENS"),
                       help="score such sequences [4 1024]; 0 0 for none")  # fmt: skip
    parse.add_argument("--variants", type=Whole(), default=0, help="number of variants to score by both protocols [0]")
    parse.add_argument("--repeats", type=Whole(1), default=3, help="runs of each measurement [3]")
    parse.add_argument("--peer", metavar="FILE.py", help="a program to compare with, alternating with ours")
    args = parse.parse_args()
    if args.new & (args.new - 1):
        parse.error(f"--new is {args.new}: must be a power of two of at least 8")
    lm = random_lm(args.size, args.dtype)
    model, device = {"size": args.size, "dtype": args.dtype}, jax.devices()[0]
    measured = bandwidth() if args.batch else {}
    about = {"parameters": decoder.num_parameters(lm.spec.model), "device": device.device_kind, **measured}
    print(json.dumps({"what": "model", **model, **about}), flush=True)
    fine = True
    for rows in args.batch:
        case = {"what": "generate", **model, "batch": rows, "prompt": args.prompt, "new": args.new}
        fine &= line(case, functools.partial(generation, lm, rows, args, max(measured.values())))
    for what, given, measure in (
        ("prefill", args.prefill or (0, 0), lambda *shape: prefill(lm, *shape, args.repeats)),
        ("score", args.score, lambda *shape: scoring(lm, *shape, args)),
    ):
        if given[0]:
            case = {"what": what, **model, "batch": given[0], "context": given[1]}
            fine &= line(case, functools.partial(measure, *given))
    for protocol in PROTOCOLS if args.variants else ():
        case = {"what": protocol, **model, "variants": args.variants}
        fine &= line(case, functools.partial(variants, lm, args.variants, protocol, args.repeats))
    return 0 if fine else 1


if __name__ == "__main__":
    command.run(main)
