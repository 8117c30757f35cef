"""Generation on a GPU, tested without one: programs lowered for CUDA, and both attentions of one query on CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax import config
from gener_jax.inference import generate
from gener_jax.inference.generate import Request
from gener_jax.inference.lm import LM
from gener_jax.inference.samplers import Bases, Greedy
from gener_jax.model import attention, kernels
from gener_jax.model.attention import Segments
from gener_jax.model.decoder import Decoder, unstack
from tests.conftest import random_params
from tests.test_generate import PROMPTS, make_lm

MODEL = config.Model(
    vocab_size=32 + 4**2, hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, dtype="bfloat16",
)  # fmt: skip
B, V, ROOM = 2, MODEL.vocab_size, 16


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("offset", [0, 3, 130, 299])
def test_one_query_by_blocks_equals_one_product(offset, window):
    keys = jax.random.split(jax.random.key(offset), 3)
    q, k, v = (jax.random.normal(key, shape) for key, shape in
               zip(keys, [(3, 1, 8, 16), (3, 2, 16, 300), (3, 2, 300, 16)], strict=True))  # fmt: skip
    begin = np.minimum([[0], [2], [200]], offset)
    segments = Segments(jnp.ones((3, 1), int), jnp.asarray(np.arange(300) >= begin, int))
    args = q, k, v, jnp.int32(offset), segments, window
    np.testing.assert_allclose(attention._one_query(*args), attention._one_query_by_blocks(*args), atol=1e-5)


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def lowered(tokens=64, sampler=Greedy()):  # noqa: B008 (it has no state)
    """The prefill of prompts of `tokens` tokens and the decode loop, lowered to text for CUDA."""
    model, params = Decoder(MODEL), abstract(unstack(random_params(MODEL)))
    anything, ones = np.ones(V, bool), np.ones(B, np.int32)
    request = Request(
        keys=jax.random.split(jax.random.key(0), B), first_allowed=np.ones((B, V), bool), allowed=anything,
        stops=~anything, token_bases=np.ones(V, np.int32), left_over=0 * ones, num_bases=ROOM * ones,
        sampler=sampler,
    )  # fmt: skip
    # A new function each time, since jax would reuse what it traced for another platform.
    prefill = jax.jit(functools.partial(generate._prefill, model, room=ROOM, slots=tokens + ROOM, log_probs=0))
    prompts = np.ones((B, tokens), np.int32)
    prefilled = prefill.trace(params, prompts, tokens * ones, None, 0 * ones, ROOM * ones)
    advance = jax.jit(functools.partial(generate._advance, model))
    decoded = advance.trace(params, request, abstract(prefilled.out_info), jnp.int32(8))
    return (x.lower(lowering_platforms=("cuda",)).as_text() for x in (prefilled, decoded))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("sampler", [Greedy(), Bases(Greedy(), Greedy())])
def test_a_token_is_decoded_without_a_loop_or_a_branch(sampler):
    _, text = lowered(sampler=sampler)
    assert text.count("stablehlo.while") == 1  # over tokens
    assert not re.search(r"stablehlo\.(case|if)", text)


@pytest.mark.usefixtures("gpu")
def test_prefill_uses_the_platforms_kernel():
    text, _ = lowered(tokens=4096)
    assert len(re.findall(r"custom_call @__cudnn\$fmha", text)) == MODEL.num_hidden_layers
    assert "stablehlo.while" not in text


def test_on_cpu_a_token_visits_the_filled_blocks():
    _, text = lowered()
    assert text.count("stablehlo.while") == 1 + MODEL.num_hidden_layers


def test_programs_of_a_gpu_give_the_same(monkeypatch):
    """On CPU with the choices of a GPU, where one row is padded to two."""
    lm = make_lm(2)
    expected = [lm.generate([prompt], 12, seed=3) for prompt in PROMPTS]
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    jax.clear_caches()
    assert generate.cache_size(1, 5, 12, lm.tokenizer)[0] == 2
    assert [lm.generate([prompt], 12, seed=3) for prompt in PROMPTS] == expected
    monkeypatch.undo()
    jax.clear_caches()


def test_a_long_cache_grows(monkeypatch):
    """The same sequences, and a cache that is never more than half empty nor larger than needed."""
    lm = make_lm(2)
    whole, log_probs = lm.generate(PROMPTS, 60, seed=3), lm.generate(PROMPTS[:2], 60, seed=3, log_probs=True)
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    jax.clear_caches()
    monkeypatch.setattr(generate, "_UNGROWN", 16)
    sizes, grown = [], generate._grown

    def grow(cache, slots):
        assert cache.index == cache.segment_ids.shape[1]  # it is full
        sizes.append((cache.segment_ids.shape[1], slots))
        new = grown(cache, slots)
        assert {x.shape[-1] for x in new.k} == {x.shape[2] for x in new.v} == {slots}
        return new

    monkeypatch.setattr(generate, "_grown", grow)
    assert lm.generate(PROMPTS, 60, seed=3) == whole  # 8 slots for the prompts, 32 for 31 tokens
    assert sizes == [(16, 32), (32, 40)]
    for a, b in zip(lm.generate(PROMPTS[:2], 60, seed=3, log_probs=True), log_probs, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    assert "".join(lm.stream(PROMPTS[0], 60, seed=3)) == lm.generate(PROMPTS[:1], 60, seed=3)[0]
    sizes.clear()
    assert lm.generate(PROMPTS, 12, seed=3) == [text[:12] for text in whole]
    assert sizes == []
    monkeypatch.undo()
    jax.clear_caches()


def test_a_large_cache_has_few_empty_slots(monkeypatch):
    small = make_lm(2)
    lm = LM(config.with_model(small.spec, max_position_embeddings=128), small.params, small.mesh)
    sizes = lambda rows: [generate.new_slots(rows, tokens) for tokens in range(1, 1025)]  # noqa: E731
    assert set(sizes(256)) == {8 << i for i in range(8)}  # on CPU
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    assert sizes(16) == [max(8, 1 << tokens.bit_length()) for tokens in range(1024)]  # the cache is small
    assert set(sizes(256)) == {8, 16, 32, 64} | {i * step for step in (16, 32, 64, 128) for i in (5, 6, 7, 8)}
    assert all(tokens <= slots for tokens, slots in enumerate(sizes(256), 1))
    few = []
    for limit in (generate._LARGE, 0):
        monkeypatch.setattr(generate, "_LARGE", limit)
        jax.clear_caches()
        few.append((generate.cache_size(8, 9, 132, lm.tokenizer), lm.generate(PROMPTS, 132, seed=3, batch_size=8)))
    assert [slots for slots, _ in few] == [(8, 16 + 128), (8, 16 + 80)]
    assert few[0][1] == few[1][1]
    monkeypatch.undo()
    jax.clear_caches()


def test_unknown_compiler_options_are_reported_and_omitted(monkeypatch):
    monkeypatch.setattr(generate, "_AS_ONE_GRAPH", {"xla_no_such_option": 1})
    with pytest.warns(UserWarning, match="cannot run the decode loop as one CUDA graph"):
        generate._programs.__wrapped__("gpu", True)


@pytest.mark.parametrize(("flags", "graphs"), [("", True), ("--xla_gpu_enable_command_buffer=", False)])
def test_the_users_own_flags_disable_graphs(flags, graphs, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(generate, "_programs", lambda platform, graphs: graphs)
    assert generate.programs() == graphs
