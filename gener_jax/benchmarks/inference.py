"""How fast a model of random weights generates and scores, on any machine, beside a peer if one is given.

    python -m gener_jax.benchmarks.inference --size s --batch 1 8 --peer hf_llama.py
    python -m gener_jax.benchmarks.inference --size 1.2b --dtype bfloat16 --batch 1 16 256 --variants 96

A JSON line a result, everything the median of `--repeats`. For each batch size: bases a second of greedy generation
(`--prompt` and `--new` tokens, the prompt's reading included); milliseconds a token of decoding alone, from the
difference of two lengths that the same programs make, and the share of the memory's bandwidth that reading weights and
cache then takes; what is left is the prompts' reading. With `--prefill`, the reading of long prompts (and one token).
Tokens a second of scoring; with `--variants`, variants a second of 8 kb by both protocols. The peer is a program
with the options of ours, `generate` or `score` first, that prints a JSON line last; it is run in turns with ours, and
each ratio is the median of those of the rounds.
"""

import argparse
import functools
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import cli
from data_pipeline.sequence import bases
from gener_jax.benchmarks.measuring import SIZES, bandwidth, last_json, line, median, random_lm, seconds
from gener_jax.cli import command
from gener_jax.inference.lm import LM
from gener_jax.inference.variants.protocols import CONTEXT, PROTOCOLS
from gener_jax.model import decoder, flops, memory
from gener_jax.runtime.progress import log


def sequences(rows: int, tokens: int, k: int) -> list[str]:
    """Random DNA, so many tokens a row."""
    rng = np.random.default_rng(0)
    return [bases.decode(rng.integers(0, 4, tokens * k).astype(np.uint8)) for _ in range(rows)]


def peer(args, job: str, **options) -> dict:
    """The peer's JSON line."""
    given = [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    return last_json([sys.executable, args.peer, job, "--size", args.size, "--dtype", args.dtype, "--repeats", "1",
                      *given])  # fmt: skip


def beside(args, job: str, run, amount: float, unit: str, **options) -> dict:
    """Our rate and, in turns with it, the peer's."""
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


def generation(lm: LM, rows: int, args, read: float) -> dict:
    """Greedy generation as a whole, then decoding and the prompts' reading apart; `read` in gigabytes a second."""
    k, model = lm.tokenizer.k, lm.config.model
    prompts = sequences(rows, args.prompt - 1, k)

    def generate(new):
        lm.generate(prompts, new * k, temperature=0, batch_size=rows)

    found = beside(args, "generate", lambda: generate(args.new), args.new * k * rows, "bases_per_s", batch=rows,
                   prompt=args.prompt, new=args.new)  # fmt: skip
    # Numbers of tokens are rounded up to powers of two: more than half of one takes the same programs and cache.
    short = args.new // 2 + 1
    took = args.new * k * rows / found["bases_per_s"]
    per_token = (took - median(seconds(lambda: generate(short), args.repeats))) / (args.new - short)
    item = jnp.dtype(model.dtype).itemsize
    weights = item * (decoder.num_parameters(model) - model.vocab_size * model.hidden_size)  # embeddings: looked up
    filled = args.prompt + (args.new + short) / 2  # on average
    cache = 2 * item * model.num_hidden_layers * rows * filled * model.num_key_value_heads * model.head_dim
    return {
        **found,
        "ms_per_token": round(1e3 * per_token, 3),
        "share_of_bandwidth": round((weights + cache) / per_token / 1e9 / read, 3),
        "prefill_ms": round(1e3 * (took - args.new * per_token), 1),
        "peak_gib": round(memory.peak(), 2),
    }


def prefill(lm: LM, rows: int, tokens: int, repeats: int) -> dict:
    """Prompts read, and one token decoded."""
    prompts = sequences(rows, tokens - 1, lm.tokenizer.k)
    took = median(seconds(lambda: lm.generate(prompts, lm.tokenizer.k, temperature=0, batch_size=rows), repeats))
    return {"seconds": took, **rate(lm, rows * tokens / took, tokens), "peak_gib": round(memory.peak(), 2)}


def rate(lm: LM, tokens_per_s: float, length: int) -> dict:
    """Tokens a second of forward passes, and the share of what the device can compute."""
    model = lm.config.model
    device = flops.device_of(jax.devices()[0].device_kind) if model.dtype == "bfloat16" else None
    mfu = device and round(flops.forward(model, length) * tokens_per_s / 1e12 / device.tflops, 3)
    return {"tokens_per_s": round(tokens_per_s), "mfu": mfu}


def scoring(lm: LM, rows: int, tokens: int, args) -> dict:
    """The log-likelihood of sequences."""
    texts = sequences(rows, tokens, lm.tokenizer.k)
    found = beside(args, "score", lambda: lm.log_likelihood(texts, batch_tokens=rows * tokens), rows * tokens,
                   "tokens_per_s", batch=rows, context=tokens)  # fmt: skip
    return rate(lm, found["tokens_per_s"], tokens) | found


def variants(lm: LM, number: int, protocol: str, repeats: int) -> dict:
    """Variants of 8 kb, each scored by one protocol."""
    genome = np.random.default_rng(0).integers(0, 4, 2 * CONTEXT + 3 * number).astype(np.uint8)
    letters = bases.decode(genome)
    asked = [
        ("1", CONTEXT + 3 * i, letters[CONTEXT + 3 * i], bases.decode(genome[[CONTEXT + 3 * i]] ^ 1))
        for i in range(number)
    ]
    took = seconds(lambda: list(lm.score_variants(asked, {"1": letters}, protocol=protocol)), repeats)
    return {"variants_per_s": round(number / statistics.median(took), 1)}


def main() -> int:
    """Prints a JSON line a result; 1 where one of them failed."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--size", default="s", choices=SIZES, help="the model's shape")
    parse.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parse.add_argument("--batch", type=int, nargs="*", default=[1, 8], help="rows of generation [1 8]")
    parse.add_argument("--prompt", type=int, default=64, help="tokens, <s> among them")
    parse.add_argument("--new", type=int, default=256, help="tokens, a power of two and at least 8")
    parse.add_argument("--prefill", type=int, nargs=2, metavar=("ROWS", "TOKENS"), help="prompts to read [none]")
    parse.add_argument("--score", type=int, nargs=2, default=(4, 1024), metavar=("ROWS", "TOKENS"),
                       help="sequences to score [4 1024]; 0 0: none")  # fmt: skip
    parse.add_argument("--variants", type=int, default=0, help="so many variants, by both protocols [none]")
    parse.add_argument("--repeats", type=int, default=3)
    parse.add_argument("--peer", metavar="FILE.py", help="a program to run in turns with ours")
    args = parse.parse_args()
    if args.new < 8 or args.new & (args.new - 1):
        parse.error(f"--new is {args.new}: it must be a power of two and at least 8")
    lm = random_lm(args.size, args.dtype)
    model, device = {"size": args.size, "dtype": args.dtype}, jax.devices()[0]
    read = bandwidth() if args.batch else {}
    about = {"parameters": decoder.num_parameters(lm.config.model), "device": device.device_kind, **read}
    print(json.dumps({"what": "model", **model, **about}), flush=True)
    fine = True
    for rows in args.batch:
        case = {"what": "generate", **model, "batch": rows, "prompt": args.prompt, "new": args.new}
        fine &= line(case, functools.partial(generation, lm, rows, args, max(read.values())))
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
