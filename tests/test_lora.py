import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from gener_jax.model import decoder, lora
from gener_jax.model.sharding import make_mesh, tree_shardings
from tests.conftest import random_params
from tests.test_decoder import TINY

IDS = np.random.default_rng(0).integers(0, TINY.vocab_size, (8, 16), dtype=np.int32)
TWO = ("layers/q", "layers/down")
ALL = ("embed_tokens", "lm_head", *(f"layers/{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")))


def new(*paths):
    """New adapters of rank 3, boxed."""
    return lora.init(jax.random.key(1), decoder.abstract(TINY), lambda path: path in paths, rank=3, alpha=6)


def trained(*paths):
    """Adapters of rank 3 with random A and B."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: nn.unbox(new(*paths)))
    return jax.device_put(jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32), shapes))


@jax.jit
def logits(tree):
    model, collections = decoder.Decoder(TINY), decoder.variables(tree)
    hidden, _ = model.apply(collections, IDS)
    return model.apply(collections, hidden, method="logits")


@pytest.mark.parametrize("paths", [TWO, ALL])
def test_merged_is_unmerged_in_both_forms(paths):
    params, adapters = random_params(TINY), trained(*paths)
    expected = logits(lora.merge(params, adapters))
    assert np.abs(logits(params) - expected).max() > 0.1
    by_layer = decoder.unstack(params), decoder.unstack(adapters)
    found = [logits({**params, "adapters": adapters}), logits({**by_layer[0], "adapters": by_layer[1]})]
    for each in (*found, logits(lora.merge(*by_layer))):
        np.testing.assert_allclose(each, expected, atol=1e-4)


def test_new_adapters_change_no_bit_and_have_the_stated_size():
    params, adapters = random_params(TINY), nn.unbox(new(*ALL))
    assert np.array_equal(logits({**params, "adapters": adapters}), logits(params))
    for path, inputs in (("q", TINY.hidden_size), ("o", TINY.hidden_size), ("down", TINY.intermediate_size)):
        assert np.std(adapters["layers"][path]["a"]) == pytest.approx(6 / 3 / np.sqrt(inputs), rel=0.15)
        assert not adapters["layers"][path]["b"].any()
    fewer = nn.unbox(new(*TWO))  # the values do not depend on which other matrices are chosen
    assert np.array_equal(fewer["layers"]["q"]["a"], adapters["layers"]["q"]["a"])


def test_only_adapters_have_a_gradient():
    params = random_params(TINY)
    gradient = jax.jit(jax.grad(lambda adapters: jnp.square(logits({**params, "adapters": adapters})).mean()))
    at_first, later = gradient(nn.unbox(new(*TWO))), gradient(trained(*TWO))
    assert set(at_first["layers"]) == {"q", "down"}
    for name in at_first["layers"]:
        assert not at_first["layers"][name]["a"].any()  # as B is 0
        for moved in (at_first["layers"][name]["b"], later["layers"][name]["a"]):
            assert np.abs(moved).reshape(TINY.num_hidden_layers, -1).max(1).min() > 1e-5


def test_stack_inverts_unstack():
    tree = {**random_params(TINY), "adapters": trained(*ALL)}
    for each in (tree, tree["adapters"]):
        again = decoder.stack(decoder.unstack(each))
        assert jax.tree.structure(again) == jax.tree.structure(each)
        assert jax.tree.all(jax.tree.map(np.array_equal, again, each))
    assert set(decoder.unstack(tree)["adapters"]) == {"embed_tokens", "lm_head", "layers_0", "layers_1", "layers_2"}


def test_eight_devices_give_what_one_gives():
    mesh = make_mesh(2, 2, 2, jax.devices())
    tree, boxed = {**random_params(TINY), "adapters": trained(*ALL)}, {**decoder.abstract(TINY), "adapters": new(*ALL)}
    shardings = tree_shardings(jax.eval_shape(lambda: boxed), mesh)
    placed = jax.device_put(tree, shardings)
    o = placed["adapters"]["layers"]["o"]
    assert o["a"].sharding.spec == PartitionSpec(None, "tensor", None, None)
    assert o["b"].sharding.spec == PartitionSpec(None, None, "fsdp")
    params, adapters = decoder.variables(placed).values()
    merged = lora.merge(params, adapters)
    assert merged["layers"]["o"].sharding == params["layers"]["o"].sharding
    with jax.set_mesh(mesh):
        found = logits(placed), logits(merged)
    for each in found:
        np.testing.assert_allclose(each, logits(tree), atol=1e-4)


def test_what_has_no_adapter():
    for paths in ((), ("norm/scale",), ("layers/qq",)):
        with pytest.raises(ValueError, match=r"(norm/scale|no path) chosen"):
            new(*paths)
    params, adapters = random_params(TINY), trained(*TWO)
    with pytest.raises(ValueError, match="the other form"):
        logits({**params, "adapters": decoder.unstack(adapters)})
    with pytest.raises(KeyError):
        lora.merge(params, decoder.unstack(adapters))
