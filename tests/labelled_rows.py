"""Tables of labelled sequences in which a planted motif decides the label, and runs of seconds on them, for tests."""

import functools
from pathlib import Path

import numpy as np

from gener_jax.config import Config
from gener_jax.storage import run_folder
from tests import tiny
from tests.conftest import random_params

MOTIF = "TTAGGC"


def rows(number: int, seed: int, problem: str = "single_label", *, least: int = 30, most: int = 45) -> list[tuple]:
    """(sequence, label) pairs: a random half has the motif three times, in frame with 3-mers."""
    random, found = np.random.default_rng(seed), []
    for _ in range(number):
        letters = random.choice(list("ACGT"), random.integers(least, most + 1))
        planted = bool(random.integers(2))
        for at in (6, 15, 24) if planted else ():
            letters[at : at + 6] = list(MOTIF)
        noise = float(random.normal())
        label = {
            "single_label": ("no", "yes")[planted],
            "multi_label": "here;even" if planted else "even" if len(letters) % 2 == 0 else "",
            "regression": f"[{100 + 50 * planted + noise:.3f}, {noise - 3 * planted:.3f}]",
        }[problem]
        found.append(("".join(letters), label))
    return found


def write(path: Path, pairs: list[tuple]) -> Path:
    """A TSV file of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("sequence\tlabel\n" + "".join(f"{dna}\t{label}\n" for dna, label in pairs))
    return path


@functools.cache
def folder(path: Path, problem: str = "single_label") -> Path:
    """A folder with 96 rows of training, 32 of validation and 40 of test."""
    for seed, (name, number) in enumerate({"train": 96, "dev": 32, "test": 40}.items()):
        write(path / f"{name}.tsv", rows(number, seed, problem))
    return path


def base(path: Path, seed: int = 0, **changes: str) -> Path:
    """A folder of a random model of two layers."""
    config = tiny.config("absent", model__num_hidden_layers="2", **changes)
    run_folder.write_params(path, config.spec, random_params(config.model, seed=seed))
    return path


def config(base: Path, train: Path, **changes: str) -> Config:
    """The configuration of a run of seconds."""
    options = {
        "train__init_from": base, "finetune__train": train, "finetune__problem": "single_label",
        "finetune__pooling": "mean", "finetune__epochs": "2", "finetune__baselines": "False",
    }  # fmt: skip
    return tiny.config("absent", **{**options, **changes})
