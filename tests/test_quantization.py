import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax.model.projection import Projection
from gener_jax.model.quantization import LARGEST, quantize
from gener_jax.model.sharding import batch_sharding, make_mesh


@pytest.mark.parametrize(("shape", "num_inputs"), [((40, 24), 1), ((40, 4, 6), 1), ((4, 10, 24), 2)])
def test_no_weight_is_off_by_more_than_half_a_step(shape, num_inputs):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    w[..., 3] = 0
    w[..., 4] *= 1e-4  # a scale of its own
    found = quantize(jnp.asarray(w), num_inputs)
    values, scale = np.asarray(found.values, np.float64), np.asarray(found.scale, np.float64)
    assert found.values.dtype == np.int8
    assert found.scale.shape == shape[num_inputs:]
    # Of the quotient, the product and the scale float32 rounds each by 2^-24 of values up to 127.
    error = np.abs(values * scale - w) / scale
    assert error.max() <= 0.5 + 3 * LARGEST * 2**-24
    assert error.max() > 0.45
    largest = np.abs(values).max(tuple(range(num_inputs)))
    assert (largest[..., 3] == 0).all()
    assert (np.delete(largest, 3, axis=-1) == LARGEST).all()
    assert (found.scale[..., 3] == 1).all()
    np.testing.assert_array_equal(np.asarray(found.values.astype(jnp.bfloat16), np.float64), values)
    np.testing.assert_allclose(found.astype(jnp.float32), values * scale, rtol=1e-7)


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize(("shape", "num_inputs"), [((40, 24), 1), ((40, 4, 6), 1), ((4, 10, 24), 2)])
def test_the_product_is_that_of_the_widened_matrix(shape, num_inputs, dtype):
    rng = np.random.default_rng(1)
    w = quantize(jnp.asarray(rng.normal(size=shape), jnp.float32), num_inputs)
    x = jnp.asarray(rng.normal(size=(2, 3, *shape[:num_inputs])), jnp.float32)
    found, expected = (Projection(each, num_inputs, None)(x, dtype) for each in (w, w.astype(jnp.float32)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    low = Projection(w, num_inputs, None)(x.astype(jnp.bfloat16), dtype)
    assert low.dtype == (dtype or jnp.bfloat16)
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.02 * np.abs(expected).max())


def test_its_scale_is_sharded_as_the_outputs():
    mesh = make_mesh(1, 4, 2)
    w = jax.device_put(
        jnp.ones((8, 4, 6)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor"))
    )
    found = quantize(w, 1)
    assert found.values.sharding == w.sharding
    assert found.scale.sharding.spec == jax.sharding.PartitionSpec("tensor", None)
    assert quantize(jax.device_put(w, batch_sharding(mesh)), 2).scale.sharding.is_fully_replicated
