"""Predictions of fine-tuned models, and how their folders are loaded."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gener_jax
from gener_jax.config import Head
from gener_jax.inference.prediction import Predictions, columns, of_outputs
from gener_jax.model import decoder, heads, lora
from gener_jax.runtime.errors import CheckpointError, InputError
from gener_jax.storage import run_folder
from tests import finetuned
from tests.raised import raises
from tests.test_convert import make_lm, published, same

pytestmark = pytest.mark.usefixtures("one_device")

SINGLE = Head("single_label", ("other", "promoter", "10"), temperature=2.0)
MULTI = Head("multi_label", ("a", "b"), pooling="mean", layer=1, bias=False)
REGRESSION = Head("regression", ("dev", "hk"), mean=(5.0, -1.0), scale=(2.0, 0.5))
DNA = ["ACG", "TTGACCGTAC", "ACGTNACGTACC", "CATCATCAT" * 5]


def outputs(lm, head, texts, params=None):
    """The outputs of a head for each sequence, computed alone from the embeddings."""
    trimmed = [text[: len(text) // 3 * 3] for text in texts]
    inputs = lm.embed(trimmed, pooling=head.pooling, layer=head.layer)
    return np.asarray(heads.outputs(params or finetuned.head_params(lm, head), inputs))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("head", [SINGLE, MULTI, REGRESSION])
def test_a_loaded_folder_predicts(head, tmp_path):
    lm = make_lm()
    loaded = gener_jax.load(finetuned.write(tmp_path / "run", lm, head))
    assert loaded.head == head
    assert same(loaded.params, lm.params)
    expected = outputs(lm, head, DNA)
    found = loaded.predict(DNA, batch_tokens=64)
    assert found.names == head.names
    if head is REGRESSION:
        assert found.probabilities is None
        np.testing.assert_allclose(found.values, [5, -1] + expected * [2, 0.5], atol=1e-4)
        assert columns(head) == ["dev", "hk"]
        np.testing.assert_allclose(list(found.rows()), found.values)
        assert not hasattr(found, "labels")
    elif head is SINGLE:
        np.testing.assert_allclose(found.probabilities, softmax(expected / 2), atol=1e-5)
        assert found.labels == [head.names[i] for i in expected.argmax(-1)]
        assert columns(head) == ["label", "p(other)", "p(promoter)", "p(10)"]
    else:
        np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-expected)), atol=1e-5)
        assert [label[0] for label in found.rows()] == [
            ";".join(np.array(head.names)[row >= 0.5]) for row in found.probabilities
        ]
    assert len(found) == len(DNA)
    assert len(loaded.predict([])) == 0


def test_both_strands_are_averaged():
    lm = make_lm()
    lm.head = dataclasses.replace(SINGLE, average_strands=True)
    lm.head_params = finetuned.head_params(lm, SINGLE)
    one, other = (outputs(lm, SINGLE, [text]) for text in ("TTGACCGTAC", "GTACGGTCAA"))
    assert np.abs(one - other).max() > 0.1
    found = lm.predict(["TTGACCGTAC", "GTACGGTCAA"]).probabilities
    np.testing.assert_allclose(found, softmax(np.concatenate([one + other] * 2) / 4), atol=1e-5)


def test_extreme_logits_are_probabilities():
    for head in (SINGLE, MULTI):
        found = of_outputs(head, np.float32([[1e4, -1e4, 0][: len(head.names)]])).probabilities
        assert np.isfinite(found).all()
        assert found[0, 0] == 1
    assert Predictions("single_label", ("a",), np.ones((0, 1), np.float32)).labels == []


def test_a_run_with_adapters_is_merged_at_loading(tmp_path):
    lm, added = make_lm(), finetuned.adapters(make_lm())
    base = published(tmp_path / "base", lm)
    loaded = gener_jax.load(finetuned.write(tmp_path / "run", lm, SINGLE, base, adapters=added))
    merged = decoder.unstack(lora.merge(decoder.stack(lm.params), added))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), loaded.params, merged)
    ids = np.random.default_rng(0).integers(32, 96, (2, 12)).astype(np.int32)
    model = decoder.Decoder(lm.spec.model)
    hidden, _ = model.apply({"params": lm.params, "adapters": decoder.unstack(added)}, ids)
    unmerged = model.apply({"params": lm.params}, hidden, method="logits")
    np.testing.assert_allclose(loaded.logits(ids), unmerged, atol=1e-4)
    assert np.abs(loaded.logits(ids) - lm.logits(ids)).max() > 0.1
    assert len(loaded.generate(["ACG"], 6)[0]) == 6
    texts = [lm.tokenizer.decode(row) for row in ids]
    lm.params, lm.head, lm.head_params = merged, SINGLE, finetuned.head_params(lm, SINGLE)
    np.testing.assert_allclose(loaded.predict(texts).probabilities, lm.predict(texts).probabilities, atol=1e-5)


def test_a_frozen_run_reads_the_first_layers_of_its_base(tmp_path):
    lm = make_lm()
    base = published(tmp_path / "base", lm)
    fewer = make_lm(num_hidden_layers=1)
    fewer.params = {name: x for name, x in lm.params.items() if name != "layers_1"}
    head = dataclasses.replace(SINGLE, layer=1)
    loaded = gener_jax.load(finetuned.write(tmp_path / "run", fewer, head, base))
    assert same(loaded.params, fewer.params)
    expected = outputs(lm, head, DNA)
    np.testing.assert_allclose(loaded.predict(DNA).probabilities, softmax(expected / 2), atol=1e-5)


def test_another_base_is_refused(tmp_path):
    lm = make_lm()
    base = published(tmp_path / "base", lm)
    folder = finetuned.write(tmp_path / "run", lm, SINGLE, base)
    lm.params["norm"]["scale"] = lm.params["norm"]["scale"] * 1.5
    for name in ("model.safetensors", "config.json"):
        (base / name).unlink()
    published(tmp_path / "other", lm)
    (base / "model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    (base / "config.json").write_bytes((tmp_path / "other/config.json").read_bytes())
    with raises(CheckpointError, path=folder / run_folder.BASE, name="checksum"):
        gener_jax.load(folder)


def test_a_head_that_does_not_fit_is_refused(tmp_path):
    lm = make_lm()
    folder = finetuned.write(tmp_path / "run", lm, SINGLE)
    values = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**values, "names": ["a", "b"]}))
    with raises(CheckpointError, path=folder / "head.json", name="kernel", value=(16, 3)):
        gener_jax.load(folder)


def test_what_cannot_be_predicted(tmp_path):
    lm = make_lm()
    with raises(InputError, argument="head"):
        lm.predict(DNA)
    lm.head = Head("token", ("coding", "other"), context=64)
    with raises(InputError, argument="head", value="token"):
        lm.predict(DNA)
    lm.head, lm.head_params = SINGLE, finetuned.head_params(lm, SINGLE)
    for texts, argument, value in ((["ACG", "AC"], "sequences[1]", "AC"), (["ACG" * 63], "sequences[0]", "ACG" * 63),
                                   ("ACG", "sequences", "ACG"), (["AXG"], "sequences[0]", "AXG")):  # fmt: skip
        with raises(InputError, argument=argument, value=value):
            lm.predict(texts)
    assert "head" in repr(lm)


def test_any_mesh_gives_the_same(tmp_path, eight_devices):
    folder = finetuned.write(tmp_path / "run", make_lm(), SINGLE)
    eight, one = gener_jax.load(folder), gener_jax.load(folder, mesh=make_lm().mesh)
    assert eight.mesh.size == len(jax.devices()) > 1
    np.testing.assert_allclose(eight.predict(DNA).probabilities, one.predict(DNA).probabilities, atol=1e-5)
