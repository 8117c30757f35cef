"""Runs a program to compare with, once for each of several shapes.

    gener-jax benchmark peer hf_llama.py train --size 1.2b \\
        --batch 8 1 --context 2048 16384 --sdpa default cudnn

The program is one for --peer of the other benchmarks: its command and the other
options are passed on, with one --batch and one --context at a time; the JSON
object that it prints last is printed with them. All runs share one process.
--sdpa cudnn turns off PyTorch's other kernels of attention.
"""

import contextlib
import functools
import gc
import io
import json
import runpy
import sys
from pathlib import Path

from data_pipeline import cli
from data_pipeline.ranges import Whole
from gener_jax.benchmarks.measuring import line
from gener_jax.cli import command
from gener_jax.runtime.errors import ConfigError


def prepare(sdpa: str) -> None:
    """Frees what an earlier run left on the GPU, and chooses PyTorch's kernels of attention."""
    if sdpa == "default" and "torch" not in sys.modules:
        return
    import torch

    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for name in ("flash", "mem_efficient", "math"):
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(sdpa == "default")


def run(program: Path, arguments: list[str], sdpa: str) -> dict:
    """The JSON object that the program prints last.

    Raises:
      RuntimeError: if it ends with another status than 0, or prints nothing.
    """
    prepare(sdpa)
    out, argv, path = io.StringIO(), sys.argv, sys.path
    sys.argv, sys.path = [str(program), *arguments], [str(program.resolve().parent), *path]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(str(program), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{program} ended with {end.code}") from end
    finally:
        sys.argv, sys.path = argv, path
    lines = out.getvalue().strip().splitlines()
    if not lines:
        raise RuntimeError(f"{program} printed nothing")
    return json.loads(lines[-1])


def main() -> int:
    """Prints one JSON line per shape and kernel; returns 1 if one of them failed."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("program", type=Path, metavar="FILE.py", help="what is run")
    add("job", choices=("train", "generate", "score"), help="its command")
    add("--size", required=True, help="the model's size")
    add("--dtype", default="float32", help="what it computes in")
    add("--repeats", type=Whole(1), default=3, help="of each measurement")
    add("--batch", type=Whole(1), nargs="+", required=True, metavar="N", help="batch sizes")
    add("--context", type=Whole(1), nargs="+", metavar="N", help="tokens per sequence, one per batch size [its own]")
    add("--prompt", type=Whole(1), help="tokens per prompt [its own]")
    add("--new", type=Whole(1), help="new tokens [its own]")
    add("--sdpa", nargs="+", choices=("default", "cudnn"), default=["default"], help="kernels of attention")
    add("--compile", action="store_true", help="with torch.compile")
    args = parse.parse_args()
    contexts = args.context or [None] * len(args.batch)
    if len(contexts) != len(args.batch):
        raise ConfigError(f"takes one value per value of --batch {args.batch}", "--context", args.context)
    fine = True
    for sdpa in args.sdpa:
        for batch, context in zip(args.batch, contexts, strict=True):
            given = {name: getattr(args, name) for name in ("size", "dtype", "repeats", "prompt", "new")}
            given |= {"batch": batch, "context": context}
            words = [word for name, x in given.items() if x is not None for word in (f"--{name}", str(x))]
            words += ["--compile"] * args.compile
            case = {"peer": args.program.stem, "batch": batch, "sdpa": sdpa, "compile": args.compile}
            case |= {} if context is None else {"context": context}
            fine &= line(case, functools.partial(run, args.program, [args.job, *words], sdpa))
    return 0 if fine else 1


if __name__ == "__main__":
    command.run(main)
