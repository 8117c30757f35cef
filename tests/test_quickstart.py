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
    result = json.loads(last)
    assert result["bits_per_base"] < result["markov_0"] - 0.01
    assert (
        result["bits_by_codon_position"][2] < result["bits_by_codon_position"][0]
    )  # AT-rich: the third letter is A or T
    assert result["open_frame_codons"]["generated"] > result["open_frame_codons"]["the same bases shuffled"]
    assert sum(line.startswith("  python -m gener_jax.") for line in text) == 3
