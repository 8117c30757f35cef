"""Rates of generation, scoring and variants of a model, optionally beside a peer program."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sequence import bases
from gener_jax.benchmarks.measuring import child, median, seconds
from gener_jax.inference.generate import new_slots
from gener_jax.inference.lm import LM
from gener_jax.inference.options import CONTEXT
from gener_jax.model import flops, memory
from gener_jax.runtime.devices import device_of
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


def stored(lm: LM) -> int:
    """The bytes of the weights as they are held: of int8 matrices with their scales, of others in their own dtypes."""
    return sum(x.nbytes for x in jax.tree.leaves(lm.params))


def read_per_step(lm: LM, rows: int, filled: float) -> float:
    """The bytes that a decoding step of `rows` rows reads: all weights but the embedding table, as they are held, and
    the cache, of which `filled` tokens per row are filled.
    """
    model = lm.spec.model
    cached = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * jnp.dtype(model.dtype).itemsize
    return stored(lm) - lm.params["embed_tokens"].nbytes + rows * filled * cached


def generation(lm: LM, rows: int, args, gb_per_s: float) -> dict:
    """Measures greedy generation as a whole, then decoding and prefill separately.

    `gb_per_s` is the measured memory bandwidth. A decoding step is counted as in `read_per_step`, with the part of the
    cache that is filled on average.
    """
    k = lm.tokenizer.k
    prompts = sequences(rows, args.prompt - 1, k)

    def generate(new):
        lm.generate(prompts, new * k, temperature=0, batch_size=rows)

    found = rates(args, "generate", lambda: generate(args.new), args.new * k * rows, "bases_per_s", batch=rows,
                   prompt=args.prompt, new=args.new)  # fmt: skip
    # Of half the length or more, the first that has the same room: the same programs and size of the cache.
    short = next(n for n in range(args.new // 2 + 1, args.new) if new_slots(rows, n) == new_slots(rows, args.new))
    took = args.new * k * rows / found["bases_per_s"]
    per_token = (took - median(seconds(lambda: generate(short), args.repeats))) / (args.new - short)
    gb_per_token = read_per_step(lm, rows, args.prompt + (args.new + short) / 2) / 1e9
    return {
        **found,
        "ms_per_token": round(1e3 * per_token, 3),
        "gb_per_token": float(f"{gb_per_token:.4g}"),
        "share_of_bandwidth": round(gb_per_token / per_token / gb_per_s, 3),
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
    device = device_of(jax.devices()[0].device_kind) if model.dtype == "bfloat16" else None
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
