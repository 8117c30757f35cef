"""Everything that is worth measuring on a device, in order of value, within a time.

    python -m gener_jax.benchmarks.device --minutes 9 --peer hf_llama.py --out measured

Each job is a process of its own with a limit of its own: one that crashes or hangs costs only itself. What no longer
fits is skipped and named. Each result is a JSON line, printed as it comes and kept in `--out`/results.jsonl;
what the jobs say is in log.txt; table.md is written anew after each job. On a CPU everything is very small.

The peer is a program with the commands `train` (--batch and --context, one of each a shape; --sdpa default cudnn;
--compile) and `generate` (--batch, one or more; --prompt; --new), with --size, --dtype and --repeats, that prints a
JSON line a result, "peer" in it. Its rates stand beside ours of the same context or rows.

Jobs, unless `--only` names some, which then run in the order given:

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

# By default the whole decode loop is one CUDA graph. What it is compared with (a process's environment): a graph per
# token, and none; and flags for training that are worth a try.
GRAPHS = {
    "graph_per_token": "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN",
    "no_graph": "--xla_gpu_enable_command_buffer=",
}
FLAGS = {
    "dynamic_slice_fusion": "--xla_gpu_enable_dynamic_slice_fusion=true",
    "cublas_only": "--xla_gpu_enable_triton_gemm=false",
}

NO_AUTOTUNING = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}  # for many small programs: compiling is most of their time


@dataclasses.dataclass(frozen=True)
class Job:
    """One process."""

    name: str
    about: str
    seconds: float  # that it takes, about; it may take twice as many, and does not begin where half of them are left
    arguments: tuple[str, ...]  # of Python
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    needs_peer: bool = False


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the jobs are. Shapes are rows × tokens."""

    size: str
    dtype: str
    repeats: int
    parity: tuple[str, ...]  # the length, heads and head sizes
    train: tuple[tuple[int, int], ...]  # the first is measured again for each flag, and without the layers' scan
    train_more: tuple[tuple[int, int], ...]
    peer_train: tuple[tuple[int, int], ...]
    few_rows: tuple[int, ...]  # of generation
    many_rows: tuple[int, ...]
    peer_rows: tuple[int, ...]
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
    few = max(scale.repeats - 2, 1)
    inference = ["-m", "gener_jax.benchmarks.inference", *ours, "--repeats", few]
    generate = ["--prompt", scale.prompt, "--new", scale.new]
    nothing = ["--score", 0, 0]
    peer_train = [peer, "train", *ours, "--repeats", few, *_shapes(scale.peer_train)]
    peer_short = [peer, "train", *ours, "--repeats", few, *_shapes(scale.peer_train[:1])]
    both = [] if scale is TINY else ["--sdpa", "default", "cudnn"]
    found = [
        Job("machine", "card, versions, bandwidth", 15, ("-m", "gener_jax.benchmarks.measuring")),
        Job("train", "training steps, short and long context", 40, (*train, *_shapes(scale.train))),
        Job("peer_train", "the peer's, its attention by default and by cuDNN", 45, (*peer_train, *both),
            needs_peer=True),
        Job("train_unroll", "a training step of unrolled layers", 90,
            (*train, "--unroll", *_shapes(scale.train[:1]))),
        Job("decode", "generation of few rows, and a long prompt read", 60,
            (*inference, "--batch", *scale.few_rows, *generate, "--prefill", *scale.prefill, *nothing)),
        Job("variants", "scoring, and variants by both protocols", 35,
            (*inference, "--batch", "--score", *scale.score, "--variants", scale.variants)),
        Job("parity", "each kernel beside the float32 reference", 60,
            ("-m", "gener_jax.benchmarks.kernels", *scale.parity), NO_AUTOTUNING),
        Job("decode_many", "generation of many rows", 40,
            (*inference, "--batch", *scale.many_rows, "--prompt", scale.prompt, "--new", scale.new // 2, *nothing)),
        Job("peer_compile", "the peer's training with torch.compile", 60, (*peer_short, *both, "--compile"),
            needs_peer=True),
        Job("peer_generate", "the peer's generation", 45,
            (peer, "generate", *ours, "--repeats", 1, "--batch", *scale.peer_rows, *generate), needs_peer=True),
        *(Job(f"decode_{name}", f"generation of few rows with {flags}", 45,
              (*inference, "--batch", *scale.few_rows, *generate, *nothing), {"XLA_FLAGS": flags})
          for name, flags in GRAPHS.items()),
        Job("train_more", "training steps, between short and long", 45, (*train, *_shapes(scale.train_more))),
        *(Job(f"train_{name}", f"a training step with {flags}", 40, (*train, *_shapes(scale.train[:1])),
              {"XLA_FLAGS": flags}) for name, flags in FLAGS.items()),
    ]  # fmt: skip
    return [dataclasses.replace(job, arguments=tuple(map(str, job.arguments))) for job in found]


__doc__ += "\n".join(f"    {job.name:21} {job.about}" for job in jobs(FULL, None))


def run(job: Job, limit: float, environment: dict[str, str], log: Path, result: Callable[[dict], None]) -> str | None:
    """A job's JSON lines to `result` as they come, all else to the log; None, or what went wrong."""
    with log.open("a") as sink:
        sink.write(f"== {job.name}: {' '.join(job.arguments)} {job.environment or ''}\n")
        sink.flush()
        said = sink.tell()
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
                    result({"job": job.name} | found | {"job": job.name})  # a peer may have a word of its own there
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
            f.seek(said)
            lines = f.read().strip().splitlines() or ["it says nothing"]
        return f"exit status {status}: {lines[-1][:300]}"
    return None


_CASE = (  # what tells results apart, then what they are, in the table's order
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


def ratio(row: dict, rows: list[dict]) -> float | None:
    """How much faster ours is than this result of the peer's, by the rate of the same context or rows."""
    if "peer" not in row or row["job"] == "machine":
        return None
    rate, same = ("tokens_per_s", "context") if row.get("context") else ("bases_per_s", "batch")
    ours = [x[rate] for x in rows if "peer" not in x and rate in x and x.get(same) == row[same] and
            x.get("what") == ("train" if same == "context" else "generate")]  # fmt: skip
    return ours[0] / row[rate] if ours and row.get(rate) else None


def table(rows: list[dict], ended: dict[str, str], about: str) -> str:
    """The results as Markdown, then what was skipped or went wrong."""
    lines = [about, "", "| job | case | figures |", "|---|---|---|"]
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
    """The commit of the code, where it is a checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main(argv=None) -> int:
    """Runs the jobs; 1 where one of them went wrong."""
    began = time.monotonic()
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--minutes", type=float, default=9, help="for everything [9]")
    parse.add_argument("--peer", metavar="hf_llama.py", help="a program to measure beside ours")
    parse.add_argument("--only", nargs="+", choices=[job.name for job in jobs(FULL, None)[1:]],
                       metavar="JOB", help="these, in this order (machine comes first anyhow)")  # fmt: skip
    parse.add_argument("--smoke", action="store_true", help="few repeats of few jobs: does everything run?")
    parse.add_argument("--tiny", action="store_true", help="a very small model; the default on a CPU")
    parse.add_argument("--out", type=Path, default=Path("measured"), help="a folder [measured]")
    parse.add_argument("--commit", help="of the code, for the table [git's]")
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

    def begin(job):  # with the scale as it is then
        if job.needs_peer and not args.peer:
            ended[job.name] = "skipped: no --peer"
        elif left() < job.seconds / 2:
            ended[job.name] = f"skipped: {max(left(), 0):.0f} s were left, it takes about {job.seconds:.0f}"
        else:
            started = time.monotonic()
            if wrong := run(job, min(2 * job.seconds, left()), environment, log, result):
                ended[job.name] = wrong
            print(f"{job.name}: {wrong or 'done'}, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        card = next((f"{x['card']}, jax {x['jax']}" for x in rows if x["job"] == "machine" and "card" in x), "")
        about = f"{card or 'no device was found'}, {scale.size} in {scale.dtype}, commit {args.commit or commit()}"
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
