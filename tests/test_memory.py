"""The compiled training step's memory grows with the length of the context, not with its square."""

import jax
import numpy as np
import pytest

from gener_jax import config as configuration
from gener_jax import memory
from gener_jax.model.sharding import batch_sharding, make_mesh
from gener_jax.tokenizer import for_config
from gener_jax.training.step import abstract_state, make_train_step


def compiled_step(length: int, **model):
    values = configuration.base()
    values.model.update(num_hidden_layers=2, **model)
    values.data.context_length = length
    values.train.batch_size = 1
    tokenizer, config = for_config(configuration.resolve(values))
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    row = jax.ShapeDtypeStruct((1, length), np.int32, sharding=batch_sharding(mesh))
    step = make_train_step(config, mesh, tokenizer.token_bases)
    with jax.set_mesh(mesh):
        return step.lower(abstract_state(config, mesh), {"inputs": row, "targets": row}).compile(), config


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_step_memory_is_linear_in_length(remat):
    """The 1.2b width with two layers: 16 384 tokens against 4096."""
    short, _ = compiled_step(4096, remat=remat)
    long, config = compiled_step(16384, remat=remat)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (short, long)]
    print(f"remat {remat}: temporary memory {sizes[0] / 2**30:.2f} GiB at 4096, {sizes[1] / 2**30:.2f} at 16384 tokens")
    assert sizes[1] < 4.5 * sizes[0]
    # The formula that refuses runs is of the same size as what the compiler plans.
    assert 0.5 < memory.training_needs(config, 1)["activations"] / (sizes[1] / 2**30) < 2


@pytest.mark.slow
def test_materialised_attention_is_not_linear():
    """The comparison above can fail."""
    sizes = [compiled_step(n, attention="reference")[0].memory_analysis().temp_size_in_bytes for n in (2048, 8192)]
    assert sizes[1] > 8 * sizes[0]
