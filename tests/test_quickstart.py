"""Tests that the quickstart learns what the README promises, in a fifth of its steps."""

import json
from pathlib import Path

import pytest

from gener_jax import train

pytestmark = pytest.mark.usefixtures("compiled_in_full")

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "quickstart.py"


@pytest.mark.slow
def test_quickstart_beats_order_0(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(
        [
            f"--config={EXPERIMENT}",
            "--config.train.num_steps=90",
            "--config.eval.every_steps=90",
            "--config.checkpoint.every_steps=90",
            "--config.mesh.fsdp=1",
            "--config.mesh.data=-1",
        ]
    )
    *text, last = capsys.readouterr().out.splitlines()
    held_out, samples = json.loads(last)["evaluations"]
    markov = held_out["baselines"]["markov_0"]["bits_per_base"]
    assert held_out["metrics"]["bits_per_base"]["value"] < markov - 0.01
    positions = held_out["breakdown"]["codon_position"]
    assert positions["3"]["bits_per_base"] < positions["1"]["bits_per_base"]  # AT-rich: the third letter is A or T
    shuffled = samples["baselines"]["shuffled"]["open_frame_codons"]
    assert samples["metrics"]["open_frame_codons"]["value"] > shuffled
    assert sum(line.startswith("  gener-jax ") for line in text) == 2
