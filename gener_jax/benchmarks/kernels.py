"""Compares attention kernels with the float32 reference, on this device.

    gener-jax benchmark kernels --length 2048

One JSON line per case: relative norms of the errors of the output and of the
gradients by queries, keys and values, for random arrays rounded to the dtype.
The cases vary head size, document masks, sliding window and length. Cases that
a kernel refuses are counted, with the reason. The exit status is 1 if an error
exceeds its bound (1e-2 in bfloat16, 1e-5 in float32) or a case fails.
"""

import json

from data_pipeline import cli
from data_pipeline.ranges import Whole
from gener_jax.cli import command


def main() -> int:
    """Prints one JSON line per case; returns 1 if one of them failed."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("--length", type=Whole(1), default=2048, help="tokens")
    add("--heads", type=Whole(1), default=32, help="query heads; eight share one key head")
    add("--head_dim", type=Whole(1), nargs="+", default=[64, 96, 128], metavar="N", help="head sizes")
    args = parse.parse_args()

    from gener_jax.benchmarks.accuracy import cases, compare

    fine, refused = True, {}
    wanted = [case for case in cases(args.length) if case.head_dim in args.head_dim]
    for case, found in compare(wanted, args.heads):
        if "refused" in found:
            refused.setdefault((case.kernel, found["refused"]), []).append(case)
            continue
        fine &= "error" not in found
        print(json.dumps({"what": "parity", **case._asdict(), **found}), flush=True)
    for (kernel, reason), those in refused.items():  # one line per reason
        print(json.dumps({"what": "parity", "kernel": kernel, "cases": len(those), "refused": reason}), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    command.run(main)
