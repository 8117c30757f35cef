"""Samplers and constraints from outside the package: toys of a few lines each, which touch no file of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from data_pipeline.sequence import bases
from gener_jax.inference.constraints import Constraints
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
    drawn = lm.generate(prompts, 12, sampler=MinP(1e-30), seed=1)
    assert [program._cache_size() for program in programs()] == compiled
    assert drawn == lm.generate(prompts, 12, seed=1) != greedy


class NoDinucleotide:
    """The two bases never follow each other; the first base `last`, if given, ends a row."""

    end = "last base"

    def __init__(self, pair, last="none"):
        self.pair, self.last = pair, last

    def prepare(self, tokenizer, num_bases, prompts):
        first, second = self.pair
        inside = np.array([self.pair in token for token in tokenizer.tokens])
        begins, ends = (np.array([t[i] == x for t in tokenizer.tokens]) for i, x in ((0, second), (-1, first)))
        final = np.array([token.find(self.last) + 1 for token in tokenizer.tokens], np.int32)
        before = [bases.decode(p.whole)[-1:] == first and not len(p.left_over) for p in prompts]
        return (inside, begins, ends, final), np.array(before)

    @staticmethod
    def allowed(tables, state, made, wanted):
        inside, begins, *_ = tables
        return ~(inside | state[:, None] & begins)

    @staticmethod
    def ends(tables, state):
        *_, final = tables
        return jnp.broadcast_to(final, (len(state), len(final)))

    @staticmethod
    def advance(tables, state, token):
        *_, ends, _ = tables
        return ends[token]


def test_a_constraint(lm):
    prompts, compiled = ["", "AC", "TTGC", "<cds>TTGACC", "GAT"] * 3, []
    for pair, last in (("CG", "none"), ("TA", "none"), ("GA", "C")):
        found = lm.generate(prompts, 21, seed=1, constraints=[NoDinucleotide(pair, last)], details=True)
        compiled.append([program._cache_size() for program in programs()])
        for prompt, c in zip(prompts, found, strict=True):
            assert pair not in prompt[-1:] + c.text
            assert c.text.find(last) == (len(c.text) - 1 if c.end == "last base" else -1)
            assert c.end == "last base" or len(c.text) == 21
    assert "last base" in {c.end for c in found}
    assert compiled[0] == compiled[1] == compiled[2]
    free = lm.generate(prompts, 21, seed=1)
    assert all(pair in "".join(free) for pair in ("CG", "TA", "GA"))


def test_other_numbers_compile_nothing(lm):
    """Of constraints of the same classes: other motifs, ranges, codes."""
    counts = []
    for constraints in (
        Constraints(3, ("GATC", "CCWGG"), gc=(0.4, 0.6), min_orf_length=6, stop_codon=True),
        Constraints(5, ("GAATTC",), gc=(0.3, 0.6), min_orf_length=12, genetic_code=4),
        Constraints(4, ("TCGA", "GANTC"), gc=(0.2, 0.7), stop_codon=True, genetic_code=11),
    ):
        lm.generate(["", "ACG", "TTGAC"], 24, seed=1, constraints=constraints)
        counts.append([program._cache_size() for program in programs()])
    assert counts[0] == counts[1] == counts[2]
    lm.generate(["", "ACG", "TTGAC"], 24, seed=1, constraints=[*Constraints(4), NoDinucleotide("CG")])
    assert [program._cache_size() for program in programs()] != counts[0]
