"""Scored bases that occur in the training data."""

import re

import numpy as np

from data_pipeline.dataset.reader import read_info
from data_pipeline.sequence import bases
from gener_jax.inference.variants import overlap as overlaps
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.overlap import ScoredBases, overlap
from gener_jax.storage import run_folder
from tests import tiny


def test_overlap_with_the_training_data_is_reported(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    seen, new = (rng.integers(0, 4, 3000).astype(np.uint8) for _ in range(2))
    dataset = tiny.synthetic(tmp_path / "set", {"train": [seen, seen[::-1]], "validation": [new]})
    config, folder = tiny.config(dataset), tmp_path / "run"
    state = {"dataset": read_info(dataset)["digest"]}
    monkeypatch.setattr(run_folder, "read_loader_state", lambda *_: state)
    windows = ScoredBases(Genome.of({"1": bases.decode(bases.reverse_complement(seen)), "2": bases.decode(new)}), 24)
    windows.add("2", 1500)
    line = overlap(config.data.path, folder, 3, list(windows), "auto")
    assert line == "no 32-mer of the scored bases occurs in the model's training data (6,000 bases)"
    windows.add("chr1", 30)  # on the other strand
    line = overlap(config.data.path, folder, 3, list(windows), "auto")
    assert re.match(r"warning: 993 of the [\d,]+ distinct 32-mers of the scored bases occur in the model's", line)
    assert line.endswith("the longest shared run has 1024 bases")
    assert "were not compared" in overlap(config.data.path, folder, 3, [new], "never")
    assert "does not record its training data" in overlap(config.data.path, folder, None, [new], "auto")
    monkeypatch.setattr(overlaps, "_LARGEST", 100)
    assert "give --check_overlap always" in overlap(config.data.path, folder, 3, [new], "auto")
    assert overlap(config.data.path, folder, 3, [seen], "always").startswith("warning: 2,969 of the 2,969")
    state["dataset"] = "another"
    assert "is not the dataset that the model was trained on" in overlap(config.data.path, folder, 3, [new], "auto")
