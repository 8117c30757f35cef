"""Benchmarks of models: the printed figures agree with each other. No speed is asserted."""

import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from gener_jax.benchmarks import accuracy, device, inference, models, peer, rates, train
from gener_jax.config import Mesh
from gener_jax.model import flops, kernels
from gener_jax.training.speed import measure
from tests import tiny


def test_the_figures_of_training(tmp_path):
    config = tiny.config("absent", data__mask_documents="true", mesh__fsdp="2")
    found = measure(config, 2, jax.devices()[:2])
    assert found["tokens_per_s"] == pytest.approx(8 * 32 / found["seconds"])
    assert found["bases_per_s"] == pytest.approx(3 * found["tokens_per_s"])

    per_token = flops.training(config)
    assert found["tflops_per_device"] == pytest.approx(per_token * found["tokens_per_s"] / 2 / 1e12)
    assert found["mfu"] is None  # the table of devices has no CPU
    assert found["compile_s"] > 0
    assert found["compiled_gib"] > 0
    assert json.loads(json.dumps(found)) == found


def test_a_mesh_of_another_machine_is_not_used(capsys):
    fits, other = tiny.config("absent", mesh__fsdp="8"), tiny.config("absent", mesh__fsdp="16")
    assert train.for_these_devices(fits) is fits
    assert capsys.readouterr().err == ""
    assert train.for_these_devices(other).mesh == Mesh()
    assert "measuring without this mesh" in capsys.readouterr().err


def test_ours_and_the_peer_each_run_in_their_own_process(tmp_path, monkeypatch):
    peer = tmp_path / "peer.py"
    peer.write_text("import json, sys; print(json.dumps({'tokens_per_s': 10.0, 'given': sys.argv[1:]}))")
    ours = tmp_path / "ours.py"
    ours.write_text("import json; print('a line'); print(json.dumps({'tokens_per_s': 15.0}))")
    child = train.child
    monkeypatch.setattr(train, "child", lambda arguments: child([str(ours)] if arguments[0] == "-m" else arguments))
    monkeypatch.setattr(sys, "argv", ["x", "--size=xs", f"--peer={peer}", "--rounds=2", "--remat=dots"])
    printed = []
    monkeypatch.setattr("builtins.print", lambda *x, **_: printed.append(x[0]))
    train.main()
    found = json.loads(printed[-1])
    assert found["ratio"] == 1.5
    assert found["peer_tokens_per_s"] == 10
    assert found["process_gib"] > 0.001


def test_variants_are_scored_by_both_protocols_once(monkeypatch, capsys):
    lm = types.SimpleNamespace(params={}, spec=types.SimpleNamespace(model=tiny.config("absent").model))
    monkeypatch.setattr(models, "random_lm", lambda size, dtype, weights: lm)
    monkeypatch.setattr(rates, "variants", lambda lm, number, protocol, repeats: {"variants_per_s": number})
    monkeypatch.setattr(sys, "argv", ["x", "--size=xs", "--batch", "--score", "0", "0", "--variants=2"])
    assert inference.main() == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["what"] for row in rows] == ["model", "next_kmer", "window"]


CASE = accuracy.Case("blockwise", "float32", 64, 32, None, False)


def test_a_kernels_errors_and_refusals_are_reported(monkeypatch):
    refused, wrong = CASE._replace(kernel="splash"), CASE._replace(window=5)
    attention = accuracy.attention

    def planted(*arrays, implementation, window, **options):
        factor = 1 if implementation == "reference" or window is None else 1.001
        return attention(*arrays, implementation=implementation, window=window, **options) * jnp.float32(factor)

    monkeypatch.setattr(accuracy, "attention", planted)
    found = dict(accuracy.compare([CASE, refused, wrong], heads=8))
    assert list(found) == [CASE, refused, wrong]
    assert "error" not in found[CASE]
    assert 0 <= found[CASE]["keys"] < 1e-5
    assert list(found[refused]) == ["refused"]
    assert found[wrong]["error"]
    assert found[wrong]["output"] == pytest.approx(1e-3, rel=0.1)


def test_a_job_that_fails_or_hangs_does_not_affect_the_others(tmp_path, monkeypatch, capsys):
    programs = {
        "machine": ('print(\'{"platform": "gpu", "card": "H1", "jax": "0"}\')', 10),
        "fails": ("print('{\"what\": \"before\"}', flush=True); print('a word'); 1 / 0", 10),
        "hangs": ('import time; print(\'{"what": "early"}\', flush=True); time.sleep(60)', 0.5),
        "peer": ("", 1),
        "long": ("", 1000),
        "last": (
            "import json, os, sys; names = 'XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR'\n"
            "print(json.dumps({'job': 'x', 'what': [*map(os.environ.get, names), sys.argv[1]]}))",
            1,
        ),
    }
    jobs = []
    for name, (text, seconds) in programs.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        jobs.append(device.Job(name, "", seconds, "PEER" if name == "peer" else f"{path} {{new}}", "--f"))
    monkeypatch.setattr(device, "JOBS", tuple(jobs))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--users")
    out = tmp_path / "out"
    assert device.main(["--out", str(out), "--minutes", "1", "--commit", "abc"]) == 1
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    table = (out / "table.md").read_text()
    assert printed.out == "".join(json.dumps(row) + "\n" for row in rows) + table + "\n"
    assert table.startswith("H1, jax 0, commit abc, ")
    assert [row["job"] for row in rows] == ["machine", "fails", "hangs", "last"]
    assert rows[1]["what"] == "before"
    assert rows[3]["what"] == ["--users --f", str(out / "compiled"), str(device.FULL["new"])]  # this is no CPU
    ended = dict(line.split(": ", 1) for line in printed.err.splitlines())
    assert list(ended) == list(programs)
    assert [name for name, how in ended.items() if how == "done"] == ["machine", "last"]
    assert [name for name, how in ended.items() if "skipped" in how] == ["peer", "long"]
    assert "status 1" in ended["fails"]
    told = dict(line.strip("| ").split(" | | ") for line in table.splitlines() if "| |" in line)
    assert told == {name: f"**{how}**" for name, how in ended.items() if how != "done"}
    log = (out / "log.txt").read_text()  # the output of both streams, whose order is not defined
    assert "a word" in log
    assert "ZeroDivisionError" in log


def test_the_peer_is_compared_with_our_default_settings_of_the_same_shape():
    ours = [{"job": "decode", "what": "prefill", "context": 8, "tokens_per_s": 70.0},
            {"job": "train_unroll", "what": "train", "context": 8, "tokens_per_s": 50.0},
            {"job": "train", "what": "train", "context": 8, "tokens_per_s": 30.0},
            {"job": "decode_int8", "what": "generate", "batch": 1, "bases_per_s": 2.0},
            {"job": "decode", "what": "generate", "batch": 1, "bases_per_s": 8.0},
            {"job": "variants", "what": "score", "context": 8, "tokens_per_s": 60.0}]  # fmt: skip
    peers = [{"job": "peer_train", "peer": "x", "context": 8, "tokens_per_s": 10.0},
             {"job": "peer_generate", "peer": "x", "batch": 1, "bases_per_s": 4.0},
             {"job": "peer_generate", "peer": "x", "batch": 2, "bases_per_s": 4.0},
             {"job": "peer_compile", "peer": "x", "context": 8, "error": "out of memory"},
             {"job": "peer_score", "peer": "x", "context": 8, "batch": 1, "tokens_per_s": 10.0}]  # fmt: skip
    assert [device.ratio(row, peers + ours) for row in ours] == [None] * 6
    assert [device.ratio(row, peers + ours) for row in peers] == [3.0, 2.0, None, None, 6.0]


def test_numbers_of_the_table():
    rows = [{"job": "train", "context": 8, "tokens_per_s": 64237.4, "mfu": 0.49213, "seconds": None}]
    assert "| train | context 8 | tokens_per_s 64237; mfu 0.4921 |" in device.table(rows, {}, "abc").splitlines()


def test_all_jobs_have_their_arguments_at_each_scale():
    for scale in (device.FULL, device.SMOKE, device.TINY):
        for job in device.JOBS:
            assert "{" not in job.arguments.format(**scale)
    assert set(device.SMOKES) < {job.name for job in device.JOBS}


PEER = """
import argparse, json
add = (parser := argparse.ArgumentParser()).add_argument
add("job", choices=["train", "generate", "score"])
add("--compile", action="store_true")
for name in ("batch", "context", "prompt", "new", "repeats"):
    add(f"--{name}", type=int)
for name in ("size", "dtype"):
    add(f"--{name}")
args = parser.parse_args()
if args.batch == 13:
    raise RuntimeError("out of memory")
print("a line")
print(json.dumps({**vars(args), "bases_per_s" if args.job == "generate" else "tokens_per_s": 10.0}))
"""


@pytest.fixture
def program(tmp_path):
    """A program to compare with; as those of torch it takes one shape at a time."""
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    return path


def test_a_peer_runs_once_per_kernel_and_shape(program, monkeypatch, capsys):
    prepared, shapes = [], ["--batch", "8", "13", "1", "--context", "32", "64", "96"]
    monkeypatch.setattr(peer, "prepare", prepared.append)
    monkeypatch.setattr(
        sys, "argv", ["x", str(program), "train", "--size=xs", *shapes, "--sdpa", "default", "cudnn", "--compile"]
    )
    assert peer.main() == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert prepared == [row["sdpa"] for row in rows] == ["default"] * 3 + ["cudnn"] * 3
    assert [(row["batch"], row["context"]) for row in rows] == [(8, 32), (13, 64), (1, 96)] * 2
    assert [row.get("error") for row in rows] == [None, "RuntimeError: out of memory", None] * 2
    assert all(row["peer"] == "peer" and row["compile"] for row in rows)
    assert rows[2]["tokens_per_s"] == 10
    assert rows[2]["prompt"] is None  # the program's own default
    monkeypatch.setattr(sys, "argv", ["x", str(program), "generate", "--size=xs", "--batch", "1", "2", "--new", "8"])
    assert peer.main() == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["batch"], row["new"], row["bases_per_s"]) for row in rows] == [(1, 8, 10.0), (2, 8, 10.0)]


def test_cudnn_alone_and_all_kernels_again(monkeypatch):
    on, names = {}, ("flash", "mem_efficient", "math")
    enable = {f"enable_{name}_sdp": functools.partial(on.__setitem__, name) for name in names}
    cuda = types.SimpleNamespace(is_available=lambda: False)
    fake = types.SimpleNamespace(
        compiler=types.SimpleNamespace(reset=lambda: None), cuda=cuda,
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(**enable)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", fake)
    peer.prepare("cudnn")
    assert on == dict.fromkeys(names, False)
    peer.prepare("default")
    assert on == dict.fromkeys(names, True)


@pytest.mark.slow
def test_every_job_in_miniature(tmp_path, program, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert device.main(["--out", str(tmp_path), "--minutes", "60", "--peer", str(program)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["job"] for row in rows} == {job.name for job in device.JOBS}
    assert not any("error" in row for row in rows)
    table = (tmp_path / "table.md").read_text().splitlines()
    assert all("ratio" in line for line in table if line.startswith("| peer"))
    assert not any("**" in line for line in table)


def test_all_default_settings_and_the_peers_fit_into_the_default_time():
    """A device took a sixth longer than expected."""
    names = [job.name for job in device.JOBS]
    last = max(map(names.index, (*(set(device._DEFAULTS) - {"train_more"}), "peer_score", "decode_int8")))
    assert names.index("peer_generate") < names.index("decode_int8")
    assert sum(job.seconds for job in device.JOBS[: last + 1]) * 7 / 6 < 9 * 60


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_token_reads_the_bytes_that_are_stored(weights, monkeypatch):
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    lm = models.random_lm("xs", "bfloat16", weights)
    m = lm.spec.model
    assert lm.weights == weights
    assert m.dtype == ("float32" if weights == "float32" else "bfloat16")
    layers, hidden, width = m.num_hidden_layers, m.hidden_size, m.intermediate_size
    keys = m.num_key_value_heads * m.head_dim
    matrices = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * width)
    outputs = layers * (2 * hidden + 2 * keys + 2 * width + hidden)
    item = 4 if weights == "float32" else 2
    table, norms = item * m.vocab_size * hidden, 4 * (2 * layers + 1) * hidden
    expected = norms + table + (matrices + 4 * outputs if weights == "int8" else item * matrices)  # head and layers
    assert rates.stored(lm) == table + expected
    assert rates.read_per_step(lm, 3, 10.5) == expected + 3 * 10.5 * 2 * layers * keys * item


def test_weights_decide_the_dtype_of_a_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--dtype=float32", "--weights=int8"])
    with pytest.raises(SystemExit):
        inference.main()
    assert "--weights int8 decides the dtype too; leave --dtype out" in capsys.readouterr().err


def test_a_cpu_says_that_it_widens_int8(monkeypatch, capsys):
    """By the job's own arguments, but without measuring anything."""
    (job,) = (job for job in device.JOBS if job.name == "decode_int8")
    monkeypatch.setattr(sys, "argv", job.arguments.format(**device.TINY).split()[1:])
    monkeypatch.setattr(models, "bandwidth", lambda: {"read_gb_per_s": 1.0})
    monkeypatch.setattr(rates, "generation", lambda lm, *_: {"stored": rates.stored(lm)})
    assert inference.main() == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["what"] for row in rows] == ["model", "generate"]
    assert {(row["dtype"], row["weights"], row["widened"]) for row in rows} == {("float32", "int8", True)}
    assert rows[1]["stored"] == 4 * rows[0]["parameters"]
    assert rows[0]["weights_gib"] == pytest.approx(rows[1]["stored"] / 2**30, rel=1e-3)
    assert "--weights int8: a CPU widens the rounded weights" in err


def test_the_whole_command_in_miniature(tmp_path, monkeypatch):
    """Runs the machine job and a few others as on an accelerator, but with a tiny model and a peer that computes
    nothing.
    """
    peer = tmp_path / "peer.py"
    peer.write_text(
        "import json, sys\n"
        "command, *rest = sys.argv[1:]\n"
        "given = dict(zip(rest[::2], rest[1::2]))\n"
        "print(json.dumps({'peer': 'x', 'batch': int(given['--batch']), 'bases_per_s': 1.0, 'command': command}))\n"
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    only = ["decode", "peer_generate", "peer_score"]
    assert device.main(["--out", str(tmp_path), "--minutes", "10", "--peer", str(peer), "--only", *only]) == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    by = {(row["job"], row.get("what")): row for row in rows}
    assert by["machine", None]["read_gb_per_s"] > 0
    assert by["decode", "generate"]["bases_per_s"] > 0
    assert by["decode", "prefill"]["tokens_per_s"] > 0

    assert [by[job, None]["command"] for job in only[1:]] == ["generate", "score"]
    table = (tmp_path / "table.md").read_text()
    assert f"ratio {device._text(float(by['decode', 'generate']['bases_per_s']))} |" in table
    assert f"weights_gib {by['decode', 'model']['weights_gib']:.4g}" in table
    assert (by["decode", "generate"]["weights"], by["decode", "generate"]["widened"]) == ("float32", False)
    assert by["decode", "generate"]["gb_per_token"] > 0
