import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax.model import projection


@pytest.mark.parametrize("outputs", [3, 40])  # so that each factor of the weight's gradient is the smaller one once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_has_the_gradients_of_a_matrix_product(outputs, dtype):
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(jnp.dtype(dtype)) for shape in ((2, 5, 16), (16, outputs)))
    ct = rng.normal(size=(2, 5, outputs)).astype(np.float32)

    @jax.jit
    def both(x, w, ct):
        ways = (
            (lambda x, w: projection.linear(x, w, jnp.float32)),
            (lambda x, w: x.astype("float32") @ w.astype("float32")),
        )
        return [(out, backward(ct)) for out, backward in (jax.vjp(way, x, w) for way in ways)]

    (out, found), (plain, expected) = jax.device_get(both(x, w, ct))
    np.testing.assert_allclose(out, plain, atol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        atol = 1e-5 if dtype == "float32" else 0.03 * np.abs(theirs).max().astype(np.float32)
        np.testing.assert_allclose(ours.astype("float32"), theirs.astype("float32"), atol=atol)
