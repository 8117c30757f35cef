"""Embeddings, the conventions of v1 and v2, and inputs longer than the context."""

import dataclasses
import functools
import warnings

import jax
import numpy as np
import pytest

from data_pipeline.sequence.tokenizer import BOS
from gener_jax.inference.embeddings import pooled
from gener_jax.inference.lm import LM
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_convert import make_lm

DNA = ["ACG", "TTGACCGTA", "<cds>ATGGCC", "ACGTNACGTACC", "GATTACA", "CATCATCAT" * 5]


def with_convention(lm, convention):
    return LM(dataclasses.replace(lm.spec, prompt_convention=convention), lm.params, lm.mesh)


@pytest.fixture(scope="module", params=["v1", "v2"])
def lm(request):
    return with_convention(make_lm(), request.param)


@functools.partial(jax.jit, static_argnums=0)
def full_pass(model, params, ids):
    hidden, _ = model.apply({"params": params}, ids)
    return hidden[0], model.apply({"params": params}, hidden, method="logits")[0]


def states(lm, ids, which=0):
    """Hidden states (or logits) of one row by the plain pass, right-padded to one shape; nothing attends to padding."""
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(ids)] = ids
    return np.array(full_pass(lm.model, lm.params, padded)[which])[: len(ids)]


def framed(lm, ids):
    return [BOS, *ids, *([BOS] if lm.spec.prompt_convention == "v2" else [])]


def test_pooling_by_the_models_convention(lm):
    rows = [framed(lm, lm.tokenizer.encode(text, remainder="oov")) for text in DNA]
    last, mean = lm.embed(DNA), lm.embed(DNA, pooling="mean")
    assert last.shape == mean.shape == (len(DNA), 16)
    assert last.dtype == np.float32
    for i, ids in enumerate(rows):
        hidden = states(lm, ids)
        np.testing.assert_allclose(last[i], hidden[-1], atol=1e-5)
        np.testing.assert_allclose(mean[i], hidden.mean(0), atol=1e-5)
    assert lm.frame(np.array([40, 41])).tolist() == framed(lm, [40, 41])


def test_the_conventions_differ():
    lm = make_lm()
    one, two = (with_convention(lm, name).embed(DNA) for name in ("v1", "v2"))
    assert (np.abs(one - two).max(-1) > 1e-2).all()
    assert lm.spec.prompt_convention == "v2"


def test_rows_do_not_depend_on_their_batch(lm):
    together = lm.embed(DNA)
    for i, text in enumerate(DNA):
        np.testing.assert_allclose(lm.embed([text])[0], together[i], atol=1e-5)
    order = [3, 1, 5, 0, 4, 2]
    np.testing.assert_allclose(lm.embed([DNA[i] for i in order], batch_tokens=64), together[order], atol=1e-5)
    assert lm.embed([]).shape == (0, 16)


def test_chunks_are_embedded_alone_and_concatenated(lm):
    long = "".join(np.random.default_rng(0).choice(list("ACGT"), 3 * 100))  # 100 tokens in a context of 64
    with raises(InputError, argument="sequences[0]", value=long):
        lm.embed([long])
    found = lm.embed([long, long[:120]], chunks=3)
    assert found.shape == (2, 48)
    for row, text in zip(found, (long, long[:120]), strict=True):
        chunks = np.array_split(lm.tokenizer.encode(text), 3)
        assert sum(map(len, chunks)) == len(text) // 3  # every token is in one of them
        expected = np.concatenate([states(lm, framed(lm, chunk))[-1] for chunk in chunks])
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_any_mesh_gives_the_same():
    lm, mesh = make_lm(), make_mesh(2, 2, 2)
    params = jax.device_put(lm.params, jax.sharding.NamedSharding(mesh, jax.P()))
    np.testing.assert_allclose(LM(lm.spec, params, mesh).embed(DNA), lm.embed(DNA), atol=1e-5)


def test_few_programs_are_compiled():
    lm = make_lm()
    before = pooled._cache_size()
    lengths = np.random.default_rng(1).integers(1, 62, 60)
    for length in lengths.tolist():
        lm.embed(["ACG" * length])
    assert pooled._cache_size() - before <= 14


def test_left_over_bases(lm):
    with raises(InputError, argument="sequences[0]", value="ACGT"):
        lm.embed(["ACGT"], remainder="error")
    np.testing.assert_allclose(lm.embed(["ACGT"], remainder="trim_left"), lm.embed(["CGT"]), atol=1e-6)
    np.testing.assert_allclose(lm.embed(["ACGT"]), lm.embed(["ACGNNN"]), atol=1e-6)  # <oov>, as published


def test_an_embedding_without_a_known_base_gives_a_warning(lm):
    """`AC`, `GT` and `NNN` are each encoded as one <oov>."""
    for texts, options in ((["ACG", "AC"], {}), (["<cds>GT"], {}), (["NNN"], {}), (["ACGTT"], {"chunks": 2})):
        with pytest.warns(UserWarning, match="<oov>"):
            lm.embed(texts, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.embed(["ACGT", "ACGNNN", "<cds>ACG"])
        assert np.abs(np.subtract(*lm.embed(["AC", "GT"], remainder="pad_left"))).max() > 1e-3


def test_errors(lm):
    for sequences, options, argument, value in [
        ("ACG", {}, "sequences", "ACG"),
        (["ACG", "ACX"], {}, "sequences[1]", "ACX"),
        (["ACG"], {"pooling": "first"}, "pooling", "first"),
        (["ACG"], {"remainder": "constrain"}, "remainder", "constrain"),
        (["ACG"], {"layer": 9}, "layer", 9),
        (["ACG"], {"chunks": 0}, "chunks", 0),
        (["ACG"], {"batch_tokens": 0}, "batch_tokens", 0),
        (["ACGACG"], {"chunks": 3}, "sequences[0]", "ACGACG"),
        ([""], {}, "sequences[0]", ""),
    ]:
        with raises(InputError, argument=argument, value=value):
            lm.embed(sequences, **options)
    with raises(InputError, argument="pooling", value="separator"):
        with_convention(lm, "v1").embed(["ACG"], pooling="separator")
    with raises(InputError, argument="prompt_convention", value="unknown"):
        with_convention(lm, "unknown").embed(["ACG"])


# ------------------------------------------------------------------------------------------------ long contexts


def test_a_sliding_window_allows_any_length_and_yarn_longer_ones():
    long = ["ACG" * 200]
    assert make_lm(sliding_window=32).embed(long).shape == (1, 16)
    stretched = make_lm(yarn_factor=4.0)
    assert stretched.embed(long).shape == (1, 16)
    with raises(InputError, argument="sequences[0]", value="ACG" * 300):  # 256 positions
        stretched.embed(["ACG" * 300])
    with raises(InputError, argument="sequences[0]", value=long[0]):  # a window larger than the trained context
        make_lm(sliding_window=100).embed(long)


@pytest.mark.parametrize(
    "change", [{"sliding_window": 5}, {"yarn_factor": 3.0}, {"sliding_window": 7, "yarn_factor": 2.0}]
)
def test_cached_decoding_equals_the_full_pass(change):
    lm = make_lm(**change)
    text = "ACGTTGACC" + lm.generate(["ACGTTGACC"], 150, temperature=0)[0]
    ids = lm.tokenizer.encode(text, add_bos=True)
    logits = states(lm, ids, which=1)
    logits[:, :32] = -np.inf
    assert logits[3:-1].argmax(-1).tolist() == ids[4:].tolist()
    unchanged = make_lm()
    assert unchanged.generate(["ACGTTGACC"], 150, temperature=0) != [text[9:]]


def temporary_bytes(tokens, window, implementation="auto"):
    lm = make_lm(sliding_window=window, attention=implementation, attention_block=64)
    model = Decoder(lm.spec.model)
    row = jax.ShapeDtypeStruct((1, tokens), np.int32)
    program = jax.jit(lambda params, ids: model.apply({"params": params}, ids)[0].mean(1))
    compiled = program.lower(lm.params, row).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("compiled_in_full")
def test_memory_of_a_window_is_linear_in_length():
    short, long = (temporary_bytes(n, window=32) for n in (4096, 8192))
    assert long < 2.2 * short  # the square would be 4 times as much
    assert temporary_bytes(8192, 32, "reference") > 5 * long  # the comparison can fail
