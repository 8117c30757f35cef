"""Finds real genomes for the tests: small committed fixtures, and a larger folder that may be missing."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.sequence import bases

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(os.environ.get("GENER_JAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
PEERS = DATA.parent / "peers"


def data_path(*parts: str) -> Path:
    """A file of the larger folder; skips the test if it is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)}: set GENER_JAX_TEST_DATA to the folder that contains it")
    return path


def peer_path(name: str) -> Path:
    """A program to compare with, next to the larger folder; skips the test if it is missing."""
    path = PEERS / name
    if not path.exists():
        pytest.skip(f"needs the peer program {name} next to the test data")
    return path


def random_codes(lengths, seed: int, unknown: bool = True) -> list[np.ndarray]:
    """Random bases with runs of N."""
    generator = np.random.default_rng(seed)
    found = []
    for length in lengths:
        codes = generator.integers(0, 4, length).astype(np.uint8)
        if unknown and length > 20:
            for start in generator.integers(0, length, 2):
                codes[start : start + generator.integers(1, 15)] = bases.N
        found.append(codes)
    return found
