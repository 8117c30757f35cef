"""Parameters split by their paths, and put together again."""

import jax
import numpy as np

from gener_jax.config import Model
from gener_jax.model import decoder
from gener_jax.model.trainable import everything, merge, split


def test_split_and_merge():
    params = {"head": np.ones(2), "layers": {"q": np.zeros(3), "norm": {"scale": np.ones(1)}}}
    trained, frozen = split(params, lambda path: path in ("layers/q", "head"))
    assert jax.tree.structure(trained) == jax.tree.structure({"head": 0, "layers": {"q": 0}})
    assert jax.tree.structure(frozen) == jax.tree.structure({"layers": {"norm": {"scale": 0}}})
    together = merge(trained, frozen)
    assert jax.tree.structure(together) == jax.tree.structure(params)
    assert together["layers"]["norm"]["scale"] is params["layers"]["norm"]["scale"]
    assert split(params, everything)[1] == {}
    assert merge(params, {"head": 7})["head"] == 7


def test_boxes_keep_their_logical_axes():
    boxed = decoder.abstract(Model(vocab_size=48))
    trained, _ = split(boxed, lambda path: path == "layers/q")
    assert trained["layers"]["q"].names == boxed["layers"]["q"].names == ("layers", "embed", "heads", "head_dim")
