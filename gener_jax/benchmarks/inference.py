"""Measures how fast a model with random weights generates and scores.

    gener-jax benchmark inference --size 1.2b --dtype bfloat16 --batch 1 16 256

One JSON line per result, the first of the model with the size of its weights
(weights_gib); times are medians of --repeats. For each batch size:
  bases_per_s         greedy generation of --new tokens after --prompt tokens
  ms_per_token        of a decoding step: the time between two lengths
  gb_per_token        weights, as they are held, and filled cache read per step
  share_of_bandwidth  of the memory bandwidth measured here
  prefill_ms          the rest of the time
A CPU widens bfloat16 and int8 --weights to float32, which "widened" says.

A --peer takes "generate" or "score" and the same options, prints a JSON line
last and alternates with ours; ratios are medians of the rounds.
"""

import functools
import json

from data_pipeline import cli
from data_pipeline.ranges import Whole
from gener_jax.benchmarks.measuring import SIZES, line
from gener_jax.cli import command
from gener_jax.inference.options import WEIGHTS
from gener_jax.runtime.progress import log

_PROTOCOLS = ("next_kmer", "window")  # the third one scores substitutions as `window` does


def main() -> int:
    """Prints one JSON line per result; returns 1 if one of them failed."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("--size", default="s", choices=SIZES, help="the model's shape")
    add("--dtype", choices=("float32", "bfloat16"), help="of weights and computation [float32]")
    add("--weights", choices=WEIGHTS, help="type that they are held in, which decides the dtype too [the dtype]")
    add("--batch", type=Whole(1), nargs="*", default=[1, 8], metavar="N", help="batch sizes of generation")
    add("--prompt", type=Whole(1), default=64, help="tokens per prompt, including <s>")
    add("--new", type=Whole(8), default=256, help="new tokens, a power of two of at least 8")
    add("--prefill", type=Whole(1), nargs=2, metavar=("ROWS", "TOKENS"), help="also prefill of such prompts [none]")
    add("--score", type=Whole(), nargs=2, default=(4, 1024), metavar=("ROWS", "TOKENS"), help="0 0: none")
    add("--variants", type=Whole(), default=0, help="variants to score by both protocols, with 8 kb of context")
    add("--repeats", type=Whole(1), default=3, help="runs of each measurement")
    add("--peer", metavar="FILE.py", help="a program to compare with, alternating with ours")
    args = parse.parse_args()
    if args.new & (args.new - 1):
        parse.error(f"--new is {args.new}: must be a power of two of at least 8")
    if args.weights and args.dtype:
        parse.error(f"--weights {args.weights} decides the dtype too; leave --dtype out")

    import jax

    from gener_jax.benchmarks.models import bandwidth, random_lm
    from gener_jax.benchmarks.rates import generation, prefill, scoring, stored, variants
    from gener_jax.inference.weights import are_widened
    from gener_jax.model import decoder

    lm = random_lm(args.size, args.dtype or "float32", args.weights)
    args.dtype = lm.spec.model.dtype  # the peer's too
    widened, device = are_widened(lm.spec.model, args.weights), jax.devices()[0]
    if widened:
        log(f"--weights {args.weights}: a CPU widens the rounded weights; speed and memory are those of float32")
    model = {"size": args.size, "dtype": args.dtype, "weights": args.weights or args.dtype, "widened": widened}
    measured = bandwidth() if args.batch else {}
    about = {
        "parameters": decoder.num_parameters(lm.spec.model), "weights_gib": float(f"{stored(lm) / 2**30:.4g}"),
        "device": device.device_kind, **measured,
    }  # fmt: skip
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
    for protocol in _PROTOCOLS if args.variants else ():
        case = {"what": protocol, **model, "variants": args.variants}
        fine &= line(case, functools.partial(variants, lm, args.variants, protocol, args.repeats))
    return 0 if fine else 1


if __name__ == "__main__":
    command.run(main)
