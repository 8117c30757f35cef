"""The report on an installation: what it finds here and on a GPU, on one screen."""

import json
import shutil

import pytest

from gener_jax import __version__, doctor
from gener_jax.training import speed


@pytest.fixture
def quick(monkeypatch):
    """Replaces the training of the benchmark, which compiles for seconds."""
    monkeypatch.setattr(speed, "measure", lambda *_: {"parameters": 1000, "tokens_per_s": 12.4})
    monkeypatch.setattr(doctor.benchmark, "__defaults__", (0.01,))


def test_the_report_is_one_screen_and_its_last_line_the_facts(quick, capsys):
    doctor.main([])
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    facts = json.loads(last)
    assert facts["versions"]["gener_jax"] == __version__
    assert facts["devices"]["platform"] == "cpu"
    assert facts["devices"]["number"] == 8
    assert facts["benchmark"]["train_tokens_per_s"] == 12
    assert facts["benchmark"]["matmul_tflops"] > 0
    assert "parity" not in facts["extras"] or "transformers" not in "\n".join(lines)
    doctor.main(["--skip_benchmark", "--json"])
    [line] = capsys.readouterr().out.splitlines()
    del facts["benchmark"]
    assert json.loads(line) == facts


def test_what_attention_kernels_compute(gpu):
    found = doctor.attention()
    assert found["cudnn"]["runs"] == ["bfloat16 64", "bfloat16 96", "bfloat16 128", "sliding windows"]
    assert found["triton"]["runs"] == ["bfloat16 64", "bfloat16 128", "document masks"]
    assert found["splash"]["runs"] == []
    assert len(found["splash"]["refused"]) == 1
    [calls] = found["splash"]["refused"].values()
    for row in found.values():
        refused = [call for those in row["refused"].values() for call in those]
        assert sorted(row["runs"] + refused) == sorted(calls)


def test_on_cpu_no_kernel_runs():
    assert not any(row["runs"] for row in doctor.attention().values())


def test_hints(monkeypatch):
    device = {"platform": "cpu", "kind": "cpu", "peak_bfloat16_tflops": None}
    facts = {"devices": device, "folders": {"free_gib_here": 100}}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert len(doctor.hints(facts)) == 1
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert any("[cuda]" in hint for hint in doctor.hints(facts))
    facts["devices"] = {"platform": "gpu", "kind": "NVIDIA H100", "peak_bfloat16_tflops": 989}
    assert doctor.hints(facts) == []
    facts["folders"] = {"free_gib_here": 1}
    assert len(doctor.hints(facts)) == 1
