"""What the benchmark of training prints: the figures it measures follow from each other; no speed is asserted."""

import json
import sys

import jax
import pytest

from gener_jax import flops
from gener_jax.benchmarks import train
from tests import tiny


def test_the_figures_of_training(tmp_path):
    config = tiny.config("absent", data__mask_documents="true", mesh__fsdp="2")
    found = train.measure(config, 2, jax.devices()[:2])
    assert found["tokens_per_s"] == pytest.approx(8 * 32 / found["seconds"])
    assert found["bases_per_s"] == pytest.approx(3 * found["tokens_per_s"])
    from gener_jax.tokenizer import for_config

    per_token = flops.training(for_config(config)[1].model, 32)
    assert found["tflops_a_device"] == pytest.approx(per_token * found["tokens_per_s"] / 2 / 1e12)
    assert found["mfu"] is None  # of a CPU the table says nothing
    assert found["compile_s"] > 0
    assert json.loads(json.dumps(found)) == found


def test_beside_a_peer_each_is_a_process(tmp_path, monkeypatch):
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
