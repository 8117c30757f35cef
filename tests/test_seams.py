"""What plugs in from outside the packages: toys of a few lines each, which touch no file of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from gener_jax.inference.generate import programs
from tests.test_generate import make_lm


@pytest.fixture(scope="module")
def lm():
    return make_lm(2)


@struct.dataclass
class MinP:
    """Among the tokens that are at least `fraction` as likely as the most likely one."""

    fraction: float

    def draw(self, logits, keys):
        kept = logits >= logits.max(-1, keepdims=True) + jnp.log(self.fraction)
        return jax.vmap(jax.random.categorical)(keys, jnp.where(kept, logits, -jnp.inf)).astype(jnp.int32)


def test_a_sampler(lm):
    prompts = ["", "A", "ACG", "<cds>TTGAC"]
    greedy = lm.generate(prompts, 12, temperature=0)
    assert lm.generate(prompts, 12, sampler=MinP(1.0)) == greedy
    compiled = [program._cache_size() for program in programs()]
    assert lm.generate(prompts, 12, sampler=MinP(0.999), seed=1) == greedy
    assert lm.generate(prompts, 12, sampler=MinP(1e-30), seed=1) == lm.generate(prompts, 12, seed=1) != greedy
    assert [program._cache_size() for program in programs()] == [compiled[0], compiled[1] + 1]  # that of `Tokens`
