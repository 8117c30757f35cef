"""Heads of fine-tuned models, and the file that describes them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from gener_jax.config import Head
from gener_jax.model import heads
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import heads as stored
from tests.raised import raises

HEAD = Head("regression", ("dev", "hk"), pooling="mean", layer=3, mean=(0.5, 1.0), scale=(2.0, 1), chunks=2)


def test_a_head_of_two_outputs():
    params = nn.unbox(heads.init(jax.random.key(0), HEAD, 8, 6, deviation=0.02))
    assert {name: x.shape for name, x in params.items()} == {"kernel": (16, 2), "bias": (2,)}
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    params["bias"] = params["bias"] + np.float32([1, -1])
    found = heads.outputs(params, x)
    np.testing.assert_allclose(found, x @ np.asarray(params["kernel"]) + [1, -1], atol=1e-6)
    without = nn.unbox(heads.init(jax.random.key(0), dataclasses.replace(HEAD, bias=False), 8, 6, deviation=0.02))
    assert without.keys() == {"kernel"}
    token = Head("token", ("coding", "other"), context=16)
    assert (token.num_inputs(8), token.num_outputs(6)) == (16, 12)


@pytest.mark.parametrize("pooling", ["last", "separator", "mean"])
def test_pooling_is_that_of_each_row_alone(pooling):
    hidden = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    found = heads.pool(hidden, np.array([5, 3]), pooling)
    rows = [hidden[0], hidden[1, :3]]
    expected = [row.mean(0) if pooling == "mean" else row[-1] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    at_end = heads.pool(hidden, np.array([5, 3]), "last", at_end=True)
    np.testing.assert_array_equal(at_end, hidden[:, -1])


def test_what_is_stored_is_read_back(tmp_path):
    assert stored.read(tmp_path) is None
    for head in (HEAD, Head("single_label", ("0", "1"), temperature=1.5)):
        stored.write(tmp_path, head)
        assert stored.read(tmp_path) == head


@pytest.mark.parametrize(
    ("field", "value"),
    [("problem", "causal"), ("names", ["a", "a"]), ("names", []), ("names", "ab"), ("mean", [1]), ("layer", "2"),
     ("temperature", 0), ("chunks", None), ("pooled", 1), ("mean", ["1", "2"])],
)  # fmt: skip
def test_a_damaged_head_is_refused(tmp_path, field, value):
    path = tmp_path / stored.FILE
    path.write_text(json.dumps({**dataclasses.asdict(HEAD), field: value}))
    with raises(CheckpointError, path=path):
        stored.read(tmp_path)


def test_a_regression_has_its_units():
    with raises(ConfigError, field="mean and scale"):
        Head("regression", ("dev",))
