"""Runs all benchmarks that matter on a device within a time limit, the most valuable first.

    python -m gener_jax.benchmarks.device --minutes 9 --peer hf_llama.py --out measured

Each job runs in its own process with its own time limit, so a job that crashes or hangs does not affect the others.
Jobs for which no time is left are skipped and listed. Each result is one JSON line, which is printed immediately and
appended to results.jsonl in the folder `--out`; all other output of the jobs goes to log.txt there; table.md is
rewritten after each job. On a CPU the model and all shapes are very small.

The peer is a program with the commands `train` (--batch and --context, one value of each per shape; --sdpa default
cudnn; --compile) and `generate` (--batch, one or more values; --prompt; --new), both with --size, --dtype and
--repeats. It prints one JSON line per result, with the key "peer". The table's `ratio` is our rate divided by the
peer's: in training our tokens/s at the same context (batch sizes may differ), in generation our bases/s at the same
batch size. Ours is the rate with default settings: layers in a scan, no extra XLA flags.

Two jobs compare how XLA uses CUDA graphs. By default the whole decoding loop is recorded as one graph;
decode_graph_per_token records one graph per token instead, and decode_no_graph launches each kernel by itself.

By default all of these jobs run; `--only` selects some and their order:

"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline import cli

# XLA_FLAGS of the jobs that compare with the default. By default the whole decoding loop is one CUDA graph.
GRAPHS = {
    "graph_per_token": "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN",
    "no_graph": "--xla_gpu_enable_command_buffer=",
}
FLAGS = {
    "dynamic_slice_fusion": "--xla_gpu_enable_dynamic_slice_fusion=true",
    "cublas_only": "--xla_gpu_enable_triton_gemm=false",
}

NO_AUTOTUNING = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}  # for many small programs, whose time is mostly compilation
MACHINE = "import json; from gener_jax.benchmarks import measuring; print(json.dumps(measuring.machine()))"
DEFAULT_SETTINGS = ("train", "train_more", "decode", "decode_many")  # the jobs that the peer is compared with


@dataclasses.dataclass(frozen=True)
class Job:
    """A benchmark that runs in its own process."""

    name: str
    about: str
    seconds: float  # expected time; the limit is twice as much, and the job is skipped if less than half is left
    arguments: tuple[str, ...]  # of the Python interpreter
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    needs_peer: bool = False


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the jobs. Shapes are rows × tokens."""

    size: str
    dtype: str
    repeats: int
    parity: tuple[str, ...]  # arguments that set the length, number of heads and head sizes
    train: tuple[tuple[int, int], ...]  # the first is also measured with each flag, and with unrolled layers
    train_more: tuple[tuple[int, int], ...]
    peer_train: tuple[tuple[int, int], ...]
    small_batches: tuple[int, ...]  # of generation
    large_batches: tuple[int, ...]
    peer_batches: tuple[int, ...]
    prompt: int
    new: int
    prefill: tuple[int, int]
    score: tuple[int, int]
    variants: int


FULL = Scale(
    "1.2b", "bfloat16", 5, (), ((16, 2048), (2, 16384)), ((4, 8192),), ((8, 2048), (1, 16384)), (1, 16), (256,),
    (16, 1), 64, 256, (1, 8192), (8, 2048), 192,
)  # fmt: skip
SMOKE = dataclasses.replace(FULL, repeats=2, train=((16, 2048),), peer_train=((8, 2048),), new=64, variants=16)
TINY = Scale(
    "xs", "float32", 1, ("--length", "64", "--heads", "8", "--head_dim", "96"), ((2, 32), (1, 64)), ((1, 32),),
    ((1, 32),), (1,), (2,), (1,), 8, 8, (1, 32), (2, 32), 2,
)  # fmt: skip
SMOKES = ("parity", "train", "decode", "decode_graph_per_token", "variants")


def _shapes(shapes) -> list:
    rows, tokens = zip(*shapes, strict=True)
    return ["--batch", *rows, "--context", *tokens]


def jobs(scale: Scale, peer: str | None) -> list[Job]:
    """All jobs, the most valuable first."""
    ours = ["--size", scale.size, "--dtype", scale.dtype]
    train = ["-m", "gener_jax.benchmarks.train", *ours, "--remat", "dots", "--repeats", scale.repeats]
    fewer = max(scale.repeats - 2, 1)
    inference = ["-m", "gener_jax.benchmarks.inference", *ours, "--repeats", fewer]
    generate = ["--prompt", scale.prompt, "--new", scale.new]
    no_scoring = ["--score", 0, 0]
    peer_train = [peer, "train", *ours, "--repeats", fewer, *_shapes(scale.peer_train)]
    peer_short = [peer, "train", *ours, "--repeats", fewer, *_shapes(scale.peer_train[:1])]
    sdpa = [] if scale is TINY else ["--sdpa", "default", "cudnn"]
    found = [
        Job("machine", "device, versions, memory bandwidth", 15, ("-c", MACHINE)),
        Job("train", "training at short and long context", 40, (*train, *_shapes(scale.train))),
        Job("peer_train", "the peer's training, with default and cuDNN attention", 45, (*peer_train, *sdpa),
            needs_peer=True),
        Job("train_unroll", "training with unrolled layers", 90,
            (*train, "--unroll", *_shapes(scale.train[:1]))),
        Job("decode", "generation at small batch sizes; prefill of a long prompt", 60,
            (*inference, "--batch", *scale.small_batches, *generate, "--prefill", *scale.prefill, *no_scoring)),
        Job("variants", "scoring of sequences, and of variants by both protocols", 35,
            (*inference, "--batch", "--score", *scale.score, "--variants", scale.variants)),
        Job("parity", "each attention kernel compared with the float32 reference", 60,
            ("-m", "gener_jax.benchmarks.kernels", *scale.parity), NO_AUTOTUNING),
        Job("decode_many", "generation at a large batch size", 40,
            (*inference, "--batch", *scale.large_batches, "--prompt", scale.prompt, "--new", scale.new // 2,
             *no_scoring)),
        Job("peer_compile", "the peer's training with torch.compile", 60, (*peer_short, *sdpa, "--compile"),
            needs_peer=True),
        Job("peer_generate", "the peer's generation", 45,
            (peer, "generate", *ours, "--repeats", 1, "--batch", *scale.peer_batches, *generate), needs_peer=True),
        *(Job(f"decode_{name}", f"generation at small batch sizes with {flags}", 45,
              (*inference, "--batch", *scale.small_batches, *generate, *no_scoring), {"XLA_FLAGS": flags})
          for name, flags in GRAPHS.items()),
        Job("train_more", "training at medium context", 45, (*train, *_shapes(scale.train_more))),
        *(Job(f"train_{name}", f"training with {flags}", 40, (*train, *_shapes(scale.train[:1])),
              {"XLA_FLAGS": flags}) for name, flags in FLAGS.items()),
    ]  # fmt: skip
    return [dataclasses.replace(job, arguments=tuple(map(str, job.arguments))) for job in found]


__doc__ += "\n".join(f"    {job.name:26} {job.about}" for job in jobs(FULL, None))


def run(job: Job, limit: float, environment: dict[str, str], log: Path, result: Callable[[dict], None]) -> str | None:
    """Runs a job for at most `limit` seconds; returns None, or one line that says how it failed.

    `result` is called with each JSON line of its standard output as it arrives; all other output goes to `log`.
    """
    with log.open("a") as sink:
        sink.write(f"== {job.name}: {' '.join(job.arguments)} {job.environment or ''}\n")
        sink.flush()
        start = sink.tell()
        process = subprocess.Popen(
            [sys.executable, *job.arguments], stdout=subprocess.PIPE, stderr=sink, text=True, errors="replace",
            env=environment | job.environment, start_new_session=True,
        )  # fmt: skip
        late = threading.Event()

        def stop():
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            for text in process.stdout:
                try:
                    found = json.loads(text)
                except ValueError:
                    found = None
                if isinstance(found, dict):
                    result({"job": job.name} | found | {"job": job.name})  # a peer may print its own "job"
                else:
                    sink.write(text)
                    sink.flush()
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if late.is_set():
        return f"stopped after {limit:.0f} s"
    if status:
        with log.open(errors="replace") as f:
            f.seek(start)
            lines = f.read().strip().splitlines() or ["no message"]
        return f"exit status {status}: {lines[-1][:300]}"
    return None


_CASE = (  # keys that identify a result, in the table's order; those of _FIGURES hold its values
    "what", "kernel", "dtype", "head_dim", "length", "window", "documents", "batch", "context", "prompt", "new",
    "variants", "sdpa", "compile", "platform", "card", "jax",
)  # fmt: skip
_FIGURES = {
    "error": "", "refused": "", "cases": "{}", "output": "{:.1e}", "queries": "{:.1e}", "keys": "{:.1e}",
    "values": "{:.1e}", "tokens_per_s": "{:,.0f}", "bases_per_s": "{:,.0f}", "variants_per_s": "{:,.1f}",
    "ratio": "{:.2f}", "mfu": "{:.3f}", "ms_per_token": "{:.3f}", "share_of_bandwidth": "{:.3f}",
    "prefill_ms": "{:.1f}", "peak_gib": "{:.2f}", "compiled_gib": "{:.2f}", "planned_gib": "{:.2f}",
    "compile_s": "{:.1f}", "read_gb_per_s": "{:,.0f}", "copy_gb_per_s": "{:,.0f}",
}  # fmt: skip
_LEGEND = (
    "share_of_bandwidth is relative to the bandwidth measured in the same process, the larger of read and copy. ratio "
    f"is our rate (jobs {', '.join(DEFAULT_SETTINGS)}) divided by the peer's, at the same context or generation batch."
)


def ratio(row: dict, rows: list[dict]) -> float | None:
    """Our rate divided by that of this result of the peer, as in the module's docstring; None if there is no pair."""
    if "peer" not in row:
        return None
    what, rate, same = (
        ("train", "tokens_per_s", "context") if row.get("context") else ("generate", "bases_per_s", "batch")
    )
    ours = [x[rate] for x in rows if x["job"] in DEFAULT_SETTINGS and x.get("what") == what and rate in x
            and x.get(same) == row.get(same)]  # fmt: skip
    return ours[0] / row[rate] if ours and row.get(rate) else None


def table(rows: list[dict], ended: dict[str, str], about: str) -> str:
    """The results as a Markdown table, then the jobs that were skipped or failed."""
    lines = [about, "", _LEGEND, "", "| job | case | figures |", "|---|---|---|"]
    for row in rows:
        case = ", ".join(str(row[name]) if name in ("what", "kernel", "dtype", "card", "platform") else
                         f"{name} {row[name]}" for name in _CASE if row.get(name) not in (None, False))  # fmt: skip
        shown = {**row, "ratio": row.get("ratio", ratio(row, rows))}
        figures = "; ".join(
            f"{name} {form.format(shown[name]) if form else shown[name]}"
            for name, form in _FIGURES.items()
            if shown.get(name) is not None
        )
        lines.append(f"| {row['job']} | {case} | {figures} |")
    for name, how in ended.items():
        lines.append(f"| {name} | | **{how}** |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit of the code, or "unknown" outside a git checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main(argv=None) -> int:
    """Runs the jobs; returns 1 if one of them failed."""
    began = time.monotonic()
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--minutes", type=float, default=9, help="time limit for all jobs [9]")
    parse.add_argument("--peer", metavar="hf_llama.py", help="a program to compare with")
    parse.add_argument("--only", nargs="+", choices=[job.name for job in jobs(FULL, None)[1:]],
                       metavar="JOB", help="run these, in this order (machine always runs first)")  # fmt: skip
    parse.add_argument("--smoke", action="store_true", help="few repeats of few jobs, to see that they run")
    parse.add_argument("--tiny", action="store_true", help="use a very small model; the default on a CPU")
    parse.add_argument("--out", type=Path, default=Path("measured"), help="output folder [measured]")
    parse.add_argument("--commit", help="commit named in the table [that of the checkout]")
    args = parse.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    log, results = args.out / "log.txt", args.out / "results.jsonl"
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(args.out.absolute() / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    rows, ended = [], {}

    def result(row):
        rows.append(row)
        text = json.dumps(row)
        print(text, flush=True)
        with results.open("a") as f:
            f.write(text + "\n")

    def left():
        return 60 * args.minutes - (time.monotonic() - began)

    def begin(job):  # reads the current `scale`
        if job.needs_peer and not args.peer:
            ended[job.name] = "skipped: no --peer"
        elif left() < job.seconds / 2:
            ended[job.name] = f"skipped: needs about {job.seconds:.0f} s, {max(left(), 0):.0f} s were left"
        else:
            started = time.monotonic()
            if failure := run(job, min(2 * job.seconds, left()), environment, log, result):
                ended[job.name] = failure
            print(f"{job.name}: {failure or 'done'}, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        card = next((f"{x['card']}, jax {x['jax']}" for x in rows if x["job"] == "machine" and "card" in x), "")
        about = f"{card or 'no device found'}, {scale.size} in {scale.dtype}, commit {args.commit or commit()}"
        about += time.strftime(", %Y-%m-%d")
        (args.out / "table.md").write_text(table(rows, ended, about))

    scale = TINY
    begin(jobs(scale, None)[0])
    cpu = any(row.get("platform") == "cpu" for row in rows)
    scale = TINY if args.tiny or cpu else SMOKE if args.smoke else FULL
    known = {job.name: job for job in jobs(scale, args.peer)[1:]}
    names = args.only or (SMOKES if args.smoke else list(known))
    for name in names:
        begin(known[name])
    print((args.out / "table.md").read_text())
    return int(any(not how.startswith("skipped") for how in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
