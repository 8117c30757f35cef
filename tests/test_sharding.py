import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from data_pipeline.sequence.tokenizer import PAD, KmerTokenizer
from gener_jax import config
from gener_jax.config import resolve, to_config_dict
from gener_jax.model import decoder
from gener_jax.model.sharding import (
    AXES,
    LOGICAL_TO_MESH,
    TOKENS,
    axis_sizes,
    batch_sharding,
    check_divides,
    constrain,
    make_mesh,
    remedy,
    spec,
    tree_shardings,
)
from gener_jax.runtime import errors
from gener_jax.training.objectives import CrossEntropy
from gener_jax.training.step import abstract_state, init_state, make_train_step
from tests.raised import raises

VOCAB, BATCH, CONTEXT, STEPS = 48, 8, 12, 20
TINY = config.Config(
    model=config.Model(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention="reference", attention_block=8,
    ),
    tokenizer=config.Tokenizer(k=2),
    data=config.Data(context_length=CONTEXT),
    optimizer=config.Optimizer(peak_learning_rate=3e-3, warmup_steps=5),
    train=config.Train(num_steps=50, batch_size=BATCH),
)  # fmt: skip
OBJECTIVE, BATCH_AXES = CrossEntropy(KmerTokenizer(2)), dict.fromkeys(("inputs", "targets"), TOKENS)


def mesh_of(data, fsdp, tensor):
    return make_mesh(data, fsdp, tensor, jax.devices()[: data * fsdp * tensor])


def batches(count):
    """Four random batches, repeated, so that the loss can decrease."""
    rng = np.random.default_rng(0)
    ids = rng.integers(32, VOCAB, (4, BATCH, CONTEXT + 1), dtype=np.int32)
    targets = np.where(rng.random((4, BATCH, CONTEXT)) < 0.2, PAD, ids[:, :, 1:])
    return [{"inputs": ids[i % 4, :, :-1], "targets": targets[i % 4]} for i in range(count)]


@functools.cache
def first_state():
    """A new state, initialised on one device, as numpy arrays."""
    alone = mesh_of(1, 1, 1)
    with jax.set_mesh(alone):
        return jax.device_get(init_state(TINY, alone))


@functools.cache
def step_of(sizes):
    """A mesh, its jitted training step, and the shardings of its state."""
    mesh = mesh_of(*sizes)
    with jax.set_mesh(mesh):
        step = make_train_step(TINY, mesh, OBJECTIVE, BATCH_AXES)
        return mesh, step, jax.tree.map(lambda x: x.sharding, abstract_state(TINY, mesh))


@functools.cache
def train(sizes, steps):
    """The metrics of each step, the final state, and the number of compiled programs of the step."""
    mesh, step, shardings = step_of(sizes)
    with jax.set_mesh(mesh):
        state, metrics = jax.device_put(first_state(), shardings), []
        for batch in batches(steps):
            state, values = step(state, {}, jax.device_put(batch, batch_sharding(mesh)))
            metrics.append(jax.device_get(values))
    return metrics, state, step._cache_size()


def shard_shapes(tree):
    """Parameter path → the shape of a shard."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.sharding.shard_shape(x.shape) for path, x in leaves
    }


def test_simulated_devices():
    assert len(jax.devices()) == 8


def test_table_names_every_axis_of_the_model():
    boxed = jax.eval_shape(functools.partial(decoder.init, decoder.Decoder(TINY.model)), jax.random.key(0))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    assert all(isinstance(leaf, nn.LogicallyPartitioned) and len(leaf.names) == leaf.value.ndim for leaf in leaves)
    assert {name for leaf in leaves for name in leaf.names} <= set(LOGICAL_TO_MESH)


@pytest.mark.parametrize(
    ("logical", "expected"),
    [
        (("batch", "length", "hidden"), (("data", "fsdp"), None, None)),
        (("batch", "length", "heads", "head_dim"), (("data", "fsdp"), None, "tensor", None)),
        (("vocab", "embed"), ("tensor", "fsdp")),
        (("layers", "embed", "heads", "head_dim"), (None, "fsdp", "tensor", None)),
        (("layers", "mlp", "embed"), (None, "tensor", "fsdp")),
        ((None, "mlp"), (None, "tensor")),
    ],
)
def test_spec_table(logical, expected):
    assert spec(logical, mesh_of(2, 2, 2)) == PartitionSpec(*expected)


def test_key_value_heads_are_whole_where_tensor_exceeds_them():
    mesh = mesh_of(1, 2, 4)
    logical = ("embed", "kv_heads", "head_dim")
    assert spec(logical, mesh, (16, 2, 4)) == PartitionSpec("fsdp", None, None)
    assert spec(logical, mesh, (16, 4, 4)) == PartitionSpec("fsdp", "tensor", None)
    assert shard_shapes(abstract_state(TINY, mesh).params)["layers/k"] == (2, 8, 2, 4)


def test_sizes_that_do_not_divide_raise():
    mesh = mesh_of(1, 2, 4)
    with pytest.raises(ValueError, match=r"heads = 6 .* tensor = 4"):
        spec(("embed", "heads", "head_dim"), mesh, (16, 6, 4))
    with pytest.raises(ValueError, match=r"batch = 3 .* fsdp = 2"):
        spec(("batch",), mesh, (3,))
    odd = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, intermediate_size=34))
    with pytest.raises(ValueError, match="mlp = 34"):
        abstract_state(odd, mesh)


def test_the_remedy_of_a_mesh_that_does_not_fit_does_fit():
    """For many meshes, batches, models and numbers of devices; what fits is left as it is."""
    flags = re.compile(r"--config\.(\w+)\.(\w+)=(\d+)")
    rng, fitting = np.random.default_rng(0), 0
    for _ in range(300):
        number, sizes = int(rng.choice([1, 2, 3, 6, 8, 24, 64])), rng.choice([1, 1, 2, 3, 4, 8], 4).tolist()
        if rng.random() < 0.5:
            sizes[int(rng.integers(4))] = -1
        values = to_config_dict(TINY).to_dict()
        values["mesh"] = dict(zip(("data", "fsdp", "tensor", "context"), sizes, strict=True))
        values["train"] |= {"batch_size": int(rng.integers(1, 40)) * 2, "accumulate": int(rng.choice([1, 2]))}
        values["data"]["context_length"] = int(rng.choice([12, 15, 16]))
        values["model"]["hidden_size"] = int(rng.choice([16, 48]))

        def check(values, number=number):
            c = resolve(values)
            found = axis_sizes(number, **dataclasses.asdict(c.mesh))
            check_divides(c, found)
            tree_shardings(decoder.abstract(c.model), AbstractMesh(tuple(found.values()), tuple(found)))

        line = remedy(resolve(values), number)
        try:
            check(values)
        except ValueError:
            for section, field, value in flags.findall(line):
                values[section][field] = int(value)
            check(values)
        else:
            fitting += 1
            assert line == "set "
    assert fitting == 10


def test_two_dimensions_on_one_mesh_axis_raise():
    for logical in (("heads", "mlp"), ("batch", "embed"), ("embed", "embed")):
        with pytest.raises(ValueError, match="use a mesh axis twice"):
            spec(logical, mesh_of(2, 2, 2))
    with pytest.raises(KeyError):
        spec(("nonsense",), mesh_of(2, 2, 2))


def test_make_mesh():
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert dict(make_mesh(1, 1, -1).shape) == {"data": 1, "fsdp": 1, "context": 1, "tensor": 8}
    assert make_mesh(1, -1, 1).axis_names == AXES
    for sizes in ((1, 1, 1), (3, -1, 1), (4, 4, 1), (-1, -1, 1), (0, -1, 1), (-2, 1, 1)):
        axes = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True), context=1)
        with raises(errors.ConfigError, field="mesh", value=axes):
            make_mesh(*sizes)


def test_constrain_places_activations_on_the_mesh_that_is_set():
    x = jnp.zeros((4, 6, 16))
    assert constrain(x, "batch", "length", "hidden") is x  # no mesh
    mesh = mesh_of(2, 2, 2)
    with jax.set_mesh(mesh):
        placed = jax.jit(lambda x: constrain(x, "batch", "length", "mlp"))(x)
        odd = jax.jit(lambda x: constrain(x[:3], "batch", "length", "mlp"))(x)  # an activation may stay unsharded
    assert placed.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor")), 3)
    assert odd.addressable_shards[0].data.shape == (3, 6, 8)


def test_state_is_born_sharded():
    mesh = mesh_of(2, 2, 2)
    with jax.set_mesh(mesh):
        state = init_state(TINY, mesh)
    expected = {  # halves, except for layers, head size and norms
        "embed_tokens": (24, 8),
        "layers/input_norm/scale": (2, 16),
        "layers/post_attention_norm/scale": (2, 16),
        "layers/q": (2, 8, 2, 4),
        "layers/k": (2, 8, 1, 4),
        "layers/v": (2, 8, 1, 4),
        "layers/o": (2, 2, 4, 8),
        "layers/gate": (2, 8, 16),
        "layers/up": (2, 8, 16),
        "layers/down": (2, 16, 8),
        "norm/scale": (16,),
        "lm_head": (8, 24),
    }
    assert shard_shapes(state.params) == expected
    for leaf in jax.tree.leaves(state):
        assert {x.data.shape for x in leaf.addressable_shards} == {leaf.sharding.shard_shape(leaf.shape)}
    moments = [x for x in state.opt_state if hasattr(x, "mu")]
    assert len(moments) == 1
    assert shard_shapes(moments[0].mu) == shard_shapes(moments[0].nu) == expected
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(first_state()), strict=True):
        assert np.array_equal(x, y)  # the same initial values on any mesh
    assert shard_shapes(abstract_state(TINY, mesh)) == shard_shapes(state)


def test_tree_shardings_leave_plain_leaves_whole():
    mesh = mesh_of(2, 2, 2)
    shardings = tree_shardings({"step": jax.ShapeDtypeStruct((), jnp.int32)}, mesh)
    assert shardings["step"].spec == PartitionSpec()


# Other meshes are compared in test_parallel.py, in one process and in two.
def test_eight_devices_train_as_one():
    expected, alone, _ = train((1, 1, 1), STEPS)
    metrics, state, _ = train((2, 2, 2), STEPS)
    losses, wanted = ([m["loss"] for m in run] for run in (metrics, expected))
    assert wanted[0] == pytest.approx(np.log(VOCAB), abs=0.1)  # the mean excludes padding
    assert wanted[-1] < wanted[0] - 0.1  # it learns
    np.testing.assert_allclose(losses, wanted, atol=1e-5)
    np.testing.assert_allclose([m["grad_norm"] for m in metrics], [m["grad_norm"] for m in expected], rtol=1e-4)
    assert int(state.step) == STEPS
    # Adam divides by the size of the gradient, so rounding matters most where a gradient is near 0.
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)
    assert {x.sharding.num_devices for x in jax.tree.leaves(state)} == {8}


def test_fifty_steps_compile_once_and_reuse_the_old_state():
    mesh, step, shardings = step_of((1, 1, 1))
    with jax.set_mesh(mesh):
        state = jax.device_put(first_state(), shardings)
        for number, batch in enumerate(batches(50)):
            old, batch = state, jax.device_put(batch, batch_sharding(mesh))
            places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(old.params)]
            state, _ = step(old, {}, batch)
            assert all(x.is_deleted() for x in jax.tree.leaves(old))
            assert not any(x.is_deleted() for x in jax.tree.leaves(batch))
            if number:  # the first state is in numpy's memory
                assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.params)] == places
    assert step._cache_size() == 1
    assert int(state.step) == 50
    assert train((2, 2, 2), STEPS)[2] == 1  # a sharded state keeps its sharding too
