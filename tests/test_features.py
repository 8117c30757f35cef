"""Framing of sequences for a head, and the hidden states that it reads."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, PAD
from gener_jax.config import Head
from gener_jax.inference.features import all_layers, features
from gener_jax.inference.framing import Framing
from gener_jax.inference.lm import LM
from gener_jax.model.attention import Padded
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_convert import make_lm
from tests.test_embed import states, with_convention

HEAD = Head("single_label", ("a", "b"))
DNA = ["ACG", "TTGACCGTAC", "ACGTNACGTACC", "CATCATCAT" * 5]


def rows_of(lm, texts=DNA, head=HEAD, **options):
    framing = Framing(lm.spec, head, **options)
    return [row for text in texts for row in framing.rows(bases.encode(text))]


def test_bases_left_over_are_dropped_and_the_separator_stays():
    lm = make_lm()
    ids = lm.tokenizer.encode("ACGTTT").tolist()
    framing = Framing(lm.spec, HEAD, 6)
    assert framing.rows(bases.encode("ACGTTTGA"))[0].tolist() == [BOS, *ids, BOS]
    assert framing.rows(bases.encode("ACGTTT"), (17,))[0].tolist() == [BOS, 17, *ids, BOS]
    assert framing.tokens(8) == 4
    v1 = Framing(with_convention(lm, "v1").spec, HEAD)
    assert v1.rows(bases.encode("ACGTTTGA"))[0].tolist() == [BOS, *ids]


def test_untrimmed_as_in_the_published_script():
    lm = make_lm()
    head = dataclasses.replace(HEAD, untrimmed=True, long="truncate")
    ids = lm.tokenizer.encode("ACGTTT").tolist()
    framing = Framing(lm.spec, head, 5)
    assert framing.rows(bases.encode("ACGTTTGA"))[0].tolist() == [BOS, *ids, OOV, BOS]
    assert framing.rows(bases.encode("ACGTTT" * 2))[0].tolist() == [BOS, *ids, *ids]  # without the separator
    trimmed = Framing(lm.spec, dataclasses.replace(head, untrimmed=False), 5)
    assert trimmed.rows(bases.encode("ACGTTT" * 2))[0].tolist() == [BOS, *ids, ids[0], BOS]
    assert framing.tokens(8) == 5


def test_chunks_hold_every_token_once():
    lm = make_lm()
    framing = Framing(lm.spec, dataclasses.replace(HEAD, long="chunks", chunks=3), 12)
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 3 * 24))
    rows = framing.rows(bases.encode(text))
    assert [len(row) for row in rows] == [12, 12, 6]
    assert np.concatenate([row[1:-1] for row in rows]).tolist() == lm.tokenizer.encode(text).tolist()
    assert [len(row) for row in framing.rows(bases.encode(text[:30]))] == [12, 0, 0]
    assert [framing.chunks(n) for n in (12, 13, 22, 23)] == [1, 2, 2, 3]
    assert Framing(lm.spec, HEAD, 100).longest == lm.spec.model.max_length  # the model's limit holds
    assert Framing(lm.spec, HEAD, 20).chunks(21) == 1  # 1.05 times the context


def test_what_cannot_be_framed():
    lm = make_lm()
    framing = Framing(lm.spec, HEAD, 12)
    for text in ("", "AC", "ACG" * 11):
        with raises(InputError, argument="rows[3]", value=text or None):
            framing.rows(bases.encode(text), argument="rows[3]")
    with raises(InputError, argument="prompt_convention", value="unknown"):
        Framing(with_convention(lm, "unknown").spec, HEAD)
    with raises(InputError, argument="pooling", value="separator"):
        Framing(with_convention(lm, "v1").spec, dataclasses.replace(HEAD, pooling="separator"))


@pytest.mark.parametrize(("pooling", "layer"), [("last", None), ("separator", 1), ("mean", 2)])
def test_features_are_hidden_states(pooling, layer):
    lm = make_lm()
    head = dataclasses.replace(HEAD, pooling=pooling, layer=layer)
    rows = rows_of(lm)
    found = features(lm, rows, head, 64)
    assert found.shape == (len(DNA), 16)
    assert found.dtype == np.float32
    trimmed = [text[: len(text) // 3 * 3] for text in DNA]
    np.testing.assert_allclose(found, lm.embed(trimmed, pooling=pooling, layer=layer), atol=1e-5)
    swept = all_layers(lm, rows, head, 64)
    assert swept.shape == (3, len(DNA), 16)
    np.testing.assert_allclose(swept[(layer or 3) - 1], found, atol=1e-5)


def test_empty_chunks_are_zeros():
    lm = make_lm()
    head = dataclasses.replace(HEAD, long="chunks", chunks=2)
    rows = rows_of(lm, head=head, longest=12)
    found = features(lm, rows, head, 64)
    assert found.shape == (4, 32)
    assert not found[:3, 16:].any()
    np.testing.assert_allclose(found[3], np.concatenate([states(lm, row)[-1] for row in rows[-2:]]), atol=1e-5)
    np.testing.assert_allclose(all_layers(lm, rows, head, 64)[-1], found, atol=1e-5)


def test_pooling_at_the_rows_end():
    lm = make_lm()
    rows = rows_of(lm)
    found = features(lm, rows, dataclasses.replace(HEAD, pool_at_end=True), 64)
    longest = max(map(len, rows))
    ids = np.array([[*row, *[PAD] * (longest - len(row))] for row in rows])
    padding = Padded((ids != PAD).astype(np.int32))
    hidden, _ = jax.jit(lm.model.apply)({"params": lm.params}, ids, segment_ids_BT=padding)
    np.testing.assert_allclose(found, hidden[:, -1], atol=1e-5)
    short = ids[0] != PAD
    np.testing.assert_allclose(hidden[0, : short.sum()], states(lm, ids[0, short]), atol=1e-5)  # it sees no padding
    assert np.abs(found - features(lm, rows, HEAD, 64)).max(1)[:3].min() > 1e-3


def test_no_rows():
    lm: LM = make_lm()
    assert features(lm, [], HEAD, 64).shape == (0, 16)
    assert all_layers(lm, [], HEAD, 64).shape == (3, 0, 16)
