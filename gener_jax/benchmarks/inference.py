"""How fast a model of random weights generates and scores, on any machine, beside a peer if one is given.

    python -m gener_jax.benchmarks.inference --size s --batch 1 8 --peer hf_llama.py
    python -m gener_jax.benchmarks.inference --size 1.2b --dtype bfloat16 --batch 1 16 256 --variants 256

One JSON line at the end. For each batch size: bases a second of greedy generation (`--prompt` and `--new` tokens, the
prompt's reading included) and the share of the memory's bandwidth that reading weights and cache takes; tokens a second
of scoring; variants a second of 8 kb by both protocols. Bandwidth is measured by adding up an array: no device reads
faster. Everything is the median of `--repeats`. The peer is a program with the options of ours, `generate` or
`score` first, that prints a JSON line last; it is run in turns with ours, and each ratio is the median of those of the
rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from data_pipeline import bases, cli
from gener_jax import command, memory
from gener_jax.config import Config, Model
from gener_jax.inference.lm import LM
from gener_jax.inference.variants import CONTEXT
from gener_jax.model import decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.progress import say
from gener_jax.tokenizer import for_config

SIZES = {  # layers, hidden, feed-forward, heads, key/value heads
    "xs": (2, 64, 160, 4, 2),
    "s": (6, 256, 704, 8, 2),
    "m": (12, 512, 1408, 8, 4),
    "l": (12, 1024, 2816, 16, 4),
    "1.2b": (26, 2048, 5632, 32, 4),
    "3b": (30, 3072, 8448, 32, 4),
}


def model_of(size: str, dtype: str, **fields) -> Model:
    """A published shape, or a smaller one."""
    layers, hidden, feed_forward, heads, kv_heads = SIZES[size]
    return Model(
        hidden_size=hidden, intermediate_size=feed_forward, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, dtype=dtype, **fields,
    )  # fmt: skip


def random_lm(size: str, dtype: str) -> LM:
    """A model of a size, with random weights."""
    tokenizer, config = for_config(Config(name=size, model=model_of(size, dtype)))

    def init(key):
        params = nn.unbox(decoder.init(decoder.Decoder(config.model), key))
        return traverse_util.path_aware_map(lambda path, x: x if path[-1] == "scale" else x.astype(dtype), params)

    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    return LM(config, decoder.unstack(jax.jit(init)(jax.random.key(0)), donate=True), tokenizer, mesh)


def seconds(run, repeats: int) -> list[float]:
    """Of each of `repeats` runs, behind one that compiles."""
    run()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def bandwidth(megabytes: int = 400) -> float:
    """Gigabytes a second that the first device reads."""
    array = jnp.ones((megabytes * 250_000,), jnp.float32)
    total = jax.jit(jnp.sum)
    return megabytes / 1000 / min(seconds(lambda: total(array).block_until_ready(), 5))


def peer(path: str, job: str, args, **options) -> dict:
    """The peer's JSON line."""
    given = [str(x) for name, value in options.items() for x in (f"--{name}", value)]
    command = [sys.executable, path, job, "--size", args.size, "--dtype", args.dtype, "--repeats", "1", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise SystemExit(f"benchmarks.inference: error: {path} {job}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def beside(args, job: str, run, amount: float, unit: str, **options) -> dict:
    """Our rate and, in turns with it, the peer's."""
    ours, theirs = [], []
    run()
    for _ in range(args.repeats):
        began = time.perf_counter()
        run()
        ours.append(amount / (time.perf_counter() - began))
        if args.peer:
            theirs.append(peer(args.peer, job, args, **options)[unit])
    found = {unit: round(statistics.median(ours))}
    if args.peer:
        found[f"peer_{unit}"] = round(statistics.median(theirs))
        found["ratio"] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
    say(f"{args.size} {job} {options}: {found}")
    return found


def main() -> None:
    """Prints one JSON line."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--size", default="s", choices=SIZES, help="the model's shape")
    parse.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parse.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows of generation")
    parse.add_argument("--prompt", type=int, default=64, help="tokens, <s> among them")
    parse.add_argument("--new", type=int, default=256, help="tokens")
    parse.add_argument("--score", type=int, nargs=2, default=(4, 1024), metavar=("ROWS", "TOKENS"))
    parse.add_argument("--variants", type=int, default=0, help="so many variants, by both protocols [none]")
    parse.add_argument("--repeats", type=int, default=3)
    parse.add_argument("--peer", metavar="FILE.py", help="a program to run in turns with ours")
    args = parse.parse_args()
    lm = random_lm(args.size, args.dtype)
    k, rng, config = lm.tokenizer.k, np.random.default_rng(0), lm.config.model
    read = bandwidth()
    device = jax.devices()[0]
    result = {
        "size": args.size, "parameters": decoder.num_parameters(config), "dtype": args.dtype,
        "device": f"{device.platform} {device.device_kind}", "read_gb_per_s": round(read, 1), "generate": [],
    }  # fmt: skip
    item = jnp.dtype(args.dtype).itemsize
    weights = item * (result["parameters"] - config.vocab_size * config.hidden_size)  # embeddings are looked up
    for rows in args.batch:
        prompts = [bases.decode(rng.integers(0, 4, (args.prompt - 1) * k).astype(np.uint8)) for _ in range(rows)]

        def generate(prompts=prompts, rows=rows):
            lm.generate(prompts, args.new * k, temperature=0, batch_size=rows)

        found = beside(args, "generate", generate, args.new * k * rows, "bases_per_s", batch=rows, prompt=args.prompt,
                       new=args.new)  # fmt: skip
        filled = args.prompt + args.new / 2  # on average
        cache = 2 * item * config.num_hidden_layers * rows * filled * config.num_key_value_heads * config.head_dim
        per_token = rows * k / found["bases_per_s"]
        share = (weights + cache) / per_token / 1e9 / read
        result["generate"].append({"batch": rows, **found, "share_of_bandwidth": round(share, 3)})
    rows, tokens = args.score
    sequences = [bases.decode(rng.integers(0, 4, tokens * k).astype(np.uint8)) for _ in range(rows)]
    result["score"] = {
        "batch": rows, "context": tokens,
        **beside(args, "score", lambda: lm.log_likelihood(sequences, batch_tokens=rows * tokens), rows * tokens,
                 "tokens_per_s", batch=rows, context=tokens),
    }  # fmt: skip
    if args.variants:
        genome = rng.integers(0, 4, 2 * CONTEXT + 3 * args.variants).astype(np.uint8)
        letters = bases.decode(genome)
        variants = [
            ("1", CONTEXT + 3 * i, letters[CONTEXT + 3 * i], bases.decode(genome[[CONTEXT + 3 * i]] ^ 1))
            for i in range(args.variants)
        ]
        for protocol in ("right_edge", "centred"):
            took = seconds(
                lambda p=protocol: list(lm.score_variants(variants, {"1": letters}, protocol=p)), args.repeats
            )
            result[f"{protocol}_variants_per_s"] = round(args.variants / statistics.median(took), 1)
    print(json.dumps({**result, "peak_memory_gib": round(memory.peak(), 2)}))


if __name__ == "__main__":
    command.run(main)
