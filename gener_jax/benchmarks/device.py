"""Runs all benchmarks that matter on a device, the most valuable first.

    gener-jax benchmark device --minutes 9 --peer hf_llama.py --out measured

Each job runs in its own process, with its own time limit. Results go to standard
output and OUT/results.jsonl, one JSON line each, other output to OUT/log.txt, and
a table to OUT/table.md. On a CPU all shapes are very small. The jobs:
"""

# A peer is a program for --peer of `benchmark train` and `benchmark inference` (see `peer`); with --compile it uses
# torch.compile. The table's `ratio` is our rate divided by the peer's, at the same context or generation batch, of the
# jobs with our default settings.
#
# The order: parity of kernels, without which no speed counts; our default settings, each followed by the peer's; then
# other settings, those never measured first.
#
# Two jobs compare how XLA uses CUDA graphs. By default the whole decoding loop is recorded as one graph;
# decode_graph_per_token records one graph per token instead, and decode_no_graph launches each kernel by itself.
#
# XLA splits most products of decoding along their sum into parts, which another kernel adds, and joins those of gate
# and up. decode_no_split_k, decode_many_no_split_k and decode_many_gate_apart measure what that gains.

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from data_pipeline import cli
from data_pipeline.files import write_text
from data_pipeline.ranges import Real

MACHINE = "import json; from gener_jax.benchmarks import models; print(json.dumps(models.machine()))"


class Job(NamedTuple):
    """A benchmark that runs in its own process."""

    name: str
    about: str
    seconds: float  # expected time; the limit is twice as much, and the job is skipped if less than half is left
    arguments: str  # of the Python interpreter, with the names of SCALES in braces
    xla_flags: str = ""


_TRAIN = "-m gener_jax.benchmarks.train {size} {dtype} --remat dots --repeats {repeats} "
_INFERENCE = "-m gener_jax.benchmarks.inference {size} {dtype} --repeats {fewer} "
_INT8 = _INFERENCE.replace("{dtype}", "--weights int8")
_PEER = "-m gener_jax.benchmarks.peer PEER "
_GENERATE = "--batch {small_batches} --prompt {prompt} --new {new} "
_MANY = "--batch {large_batch} --prompt {prompt} --new {less} --score 0 0"
JOBS = (
    Job("machine", "device, versions, memory bandwidth", 15, "-c MACHINE"),
    Job("parity", "attention kernels against the float32 reference", 60,
        "-m gener_jax.benchmarks.kernels {parity}",
        "--xla_gpu_autotune_level=0"),  # many small programs, whose time is mostly compilation
    Job("train", "training at short and long context", 40, _TRAIN + "{train}"),
    Job("peer_train", "the peer's training, by both kinds of attention", 45,
        _PEER + "train {size} {dtype} --repeats {fewer} {peer_train} {sdpa}"),
    Job("decode", "generation at small batches; a long prefill", 60,
        _INFERENCE + _GENERATE + "--prefill {prefill} --score 0 0"),
    Job("peer_generate", "the peer's generation", 60,
        _PEER + "generate {size} {dtype} --repeats 1 --batch {peer_batches} --prompt {prompt} --new {new}"),
    Job("variants", "scoring of sequences and of variants", 35,
        _INFERENCE + "--batch --score {score} --variants {variants}"),
    Job("peer_score", "the peer's scoring of sequences", 30,
        _PEER + "score {size} {dtype} --repeats {fewer} {peer_score}"),
    Job("decode_many", "generation at a large batch size", 40, _INFERENCE + _MANY),
    Job("decode_int8", "generation with int8 weights", 45, _INT8 + _GENERATE + "--score 0 0"),
    Job("train_zeros", "training with stacks that are zeroed first", 40, _TRAIN + "{first}",
        "--xla_gpu_enable_dus_accumulator_zero_init_elimination=false"),
    Job("peer_compile", "the peer's training with torch.compile", 60,
        _PEER + "train {size} {dtype} --repeats {fewer} {peer_first} {sdpa} --compile"),
    Job("train_unroll", "training with unrolled layers", 90, _TRAIN + "--unroll {first}"),
    Job("decode_graph_per_token", "generation with one CUDA graph per token", 45,
        _INFERENCE + _GENERATE + "--score 0 0",
        "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN"),
    Job("decode_no_graph", "generation without CUDA graphs", 45, _INFERENCE + _GENERATE + "--score 0 0",
        "--xla_gpu_enable_command_buffer="),
    Job("decode_no_split_k", "generation, no product split along its sum", 45, _INFERENCE + _GENERATE + "--score 0 0",
        "--xla_disable_hlo_passes=splitk-rewriter"),
    Job("decode_many_no_split_k", "the same at a large batch size", 40, _INFERENCE + _MANY,
        "--xla_disable_hlo_passes=splitk-rewriter"),
    Job("decode_many_gate_apart", "large batch size, gate and up in two products", 40,
        _INFERENCE + _MANY, "--xla_gpu_dot_merger_threshold_mb=24"),
    Job("train_more", "training at medium context", 45, _TRAIN + "{medium}"),
    Job("peer_more", "the peer's training at medium context", 45,
        _PEER + "train {size} {dtype} --repeats {fewer} {peer_medium} {sdpa}"),
    Job("train_dynamic_slice_fusion", "training with this flag of XLA", 40, _TRAIN + "{first}",
        "--xla_gpu_enable_dynamic_slice_fusion=true"),
    Job("train_cublas_only", "training without Triton's matrix products", 40, _TRAIN + "{first}",
        "--xla_gpu_enable_triton_gemm=false"),
    Job("peer_compile_more", "the peer with torch.compile, longer contexts", 160,
        _PEER + "train {size} {dtype} --repeats {fewer} {peer_longer} {sdpa} --compile"),
)  # fmt: skip
FULL = {
    "size": "--size 1.2b", "dtype": "--dtype bfloat16", "repeats": 5, "fewer": 3, "parity": "",
    "sdpa": "--sdpa default cudnn", "train": "--batch 16 2 --context 2048 16384",
    "first": "--batch 16 --context 2048", "medium": "--batch 4 --context 8192",
    "peer_train": "--batch 8 1 --context 2048 16384", "peer_first": "--batch 8 --context 2048",
    "peer_medium": "--batch 2 --context 8192", "peer_longer": "--batch 2 1 --context 8192 16384",
    "small_batches": "1 16", "large_batch": 256, "peer_batches": "16 1", "prompt": 64, "new": 256, "less": 128,
    "prefill": "1 8192", "score": "8 2048", "peer_score": "--batch 8 --context 2048", "variants": 192,
}  # fmt: skip
SMOKE = FULL | {"repeats": 2, "fewer": 1, "train": FULL["first"], "peer_train": FULL["peer_first"], "new": 64,
                "less": 32, "variants": 16}  # fmt: skip
TINY = {
    "size": "--size xs", "dtype": "--dtype float32", "repeats": 1, "fewer": 1,
    "parity": "--length 64 --heads 8 --head_dim 96", "sdpa": "", "train": "--batch 2 1 --context 32 64",
    "first": "--batch 2 --context 32", "medium": "--batch 1 --context 32", "peer_train": "--batch 1 --context 32",
    "peer_medium": "--batch 1 --context 32", "peer_longer": "--batch 1 1 --context 32 64",
    "peer_first": "--batch 1 --context 32", "small_batches": "1", "large_batch": 2, "peer_batches": "1", "prompt": 8,
    "new": 8, "less": 8, "prefill": "1 32", "score": "2 32", "peer_score": "--batch 2 --context 32", "variants": 2,
}  # fmt: skip
SMOKES = ("parity", "train", "decode", "decode_int8", "decode_graph_per_token", "variants")

__doc__ += "\n".join(f"  {job.name:26} {job.about}" for job in JOBS)


def run(name: str, command: list[str], limit: float, environment: dict[str, str], out: Path) -> tuple[str, list[dict]]:
    """Runs a Python program for at most `limit` seconds; returns how it ended, and its results.

    A result is a line of its standard output that is a JSON object. It is printed and added to results.jsonl as it
    arrives; all other output goes to log.txt.
    """
    rows = []
    with (out / "log.txt").open("a") as log, (out / "results.jsonl").open("a") as results:
        print(f"== {name}: {' '.join(command)}", file=log, flush=True)
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True, errors="replace",
            env=environment, start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            for text in process.stdout:
                try:
                    row = {**json.loads(text), "job": name}
                except (TypeError, ValueError):
                    print(text, end="", file=log, flush=True)
                    continue
                rows.append(row)
                for file in (results, sys.stdout):
                    print(json.dumps(row), file=file, flush=True)
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    killed = f"killed after {limit:.0f} s or for lack of memory"
    return {0: "done", -signal.SIGKILL: killed}.get(status, f"exit status {status}, see {out / 'log.txt'}"), rows


_FIGURES = (  # keys of what is measured; the others say of what
    "error", "refused", "cases", "output", "queries", "keys", "values", "tokens_per_s", "bases_per_s", "variants_per_s",
    "mfu", "ms_per_token", "gb_per_token", "share_of_bandwidth", "prefill_ms", "weights_gib", "peak_gib",
    "compiled_gib", "planned_gib", "compile_s", "read_gb_per_s", "copy_gb_per_s", "ratio",
)  # fmt: skip
_DEFAULTS = ("train", "train_more", "decode", "decode_many", "variants")  # jobs with our default settings
# Job of the peer → its command, which is also `what` our rows of the same kind measure.
_PEERS = {job.name: job.arguments.removeprefix(_PEER).split()[0] for job in JOBS if job.arguments.startswith(_PEER)}


def ratio(row: dict, rows: list[dict]) -> float | None:
    """Our rate divided by that of this result of the peer; None if there is no pair."""
    what = _PEERS.get(row["job"])
    rate, same = ("bases_per_s", "batch") if what == "generate" else ("tokens_per_s", "context")
    ours = [
        x[rate] for x in rows
        if x["job"] in _DEFAULTS and x.get("what") == what and rate in x and x.get(same) == row.get(same)
    ]  # fmt: skip
    return ours[0] / row[rate] if "peer" in row and ours and row.get(rate) else None


def _text(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: list[dict], ended: dict[str, str], commit: str | None) -> str:
    """The results as a Markdown table, then the jobs that were skipped or failed."""
    machine = next((row for row in rows if "card" in row), {})
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = commit or subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    about = f"{machine.get('card', 'no device found')}, jax {machine.get('jax')}, commit {commit}"
    lines = [f"{about}, {time.strftime('%Y-%m-%d')}", "", "| job | case | figures |", "|---|---|---|"]
    for row in rows:
        cells = {True: [], False: []}
        for name, value in {**row, "ratio": row.get("ratio", ratio(row, rows))}.items():
            if name != "job" and value not in (None, False):
                cells[name in _FIGURES].append(f"{name} {_text(value)}")
        lines.append(f"| {row['job']} | {', '.join(cells[False])} | {'; '.join(cells[True])} |")
    return "\n".join([*lines, *(f"| {name} | | **{how}** |" for name, how in ended.items() if how != "done")]) + "\n"


def main(argv=None) -> int:
    """Runs the jobs; returns 1 if one of them failed."""
    began = time.monotonic()
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("--minutes", type=Real(above=0), default=9, help="time limit for all jobs")
    add("--peer", metavar="FILE.py", help="a program to compare with, as of benchmark train and inference")
    add("--only", nargs="+", choices=[job.name for job in JOBS[1:]], metavar="JOB",
        help="run these, in this order, after machine [all]")  # fmt: skip
    add("--smoke", action="store_true", help="few repeats of few jobs, to see that they run")
    add("--tiny", action="store_true", help="use a very small model; the default on a CPU")
    add("--commit", help="commit named in the table [that of the checkout]")
    add("--out", type=Path, default=Path("measured"), metavar="DIR", help="output folder")
    args = parse.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(args.out.absolute() / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    jobs, scale, rows, ended, failed = {job.name: job for job in JOBS}, TINY, [], {}, False
    for name in ("machine", *(args.only or (SMOKES if args.smoke else list(jobs)[1:]))):
        job, left = jobs[name], 60 * args.minutes - (time.monotonic() - began)
        words = {"PEER": args.peer, "MACHINE": MACHINE}
        command = [words.get(word, word) for word in job.arguments.format(**scale).split()]
        if None in command:
            how = "skipped: no --peer"
        elif left < job.seconds / 2:
            how = f"skipped: needs about {job.seconds:.0f} s, {max(left, 0):.0f} s were left"
        else:
            flags = " ".join(filter(None, [environment.get("XLA_FLAGS"), job.xla_flags]))  # of two, the last counts
            given = environment | ({"XLA_FLAGS": flags} if flags else {})
            how, found = run(name, command, min(2 * job.seconds, left), given, args.out)
            rows += found
            failed |= how != "done"
        print(f"{name}: {how}", file=sys.stderr, flush=True)
        ended[name] = how
        write_text(args.out / "table.md", table(rows, ended, args.commit))
        if name == "machine":
            cpu = any(row.get("platform") == "cpu" for row in rows)
            scale = TINY if args.tiny or cpu else SMOKE if args.smoke else FULL
    print((args.out / "table.md").read_text())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
