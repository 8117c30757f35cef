"""What is recorded of a model's training, and the warnings that follow from it."""

import contextlib
import json

import jax
import numpy as np
import pytest

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS, OOV, SPECIAL_IDS
from gener_jax.assets import TINY
from gener_jax.config import Data, Model, ModelSpec, Tokenizer, with_model
from gener_jax.data.loader import TokenStream
from gener_jax.inference.lm import LM
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import provenance
from gener_jax.storage.provenance import Provenance
from tests import tiny
from tests.conftest import random_params
from tests.data import FIXTURES
from tests.published import load, two_mers
from tests.raised import raises

ONE = {"dataset": "1", "special_tokens": ["<s>"]}
OTHER = {"dataset": "2", "special_tokens": ["<s>", "<mam>"]}
UNKNOWN = {"special_tokens": None}


@pytest.fixture
def lm():
    model = Model(
        vocab_size=32 + 4**3, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    spec, mesh = ModelSpec("random", model, Tokenizer(k=3)), make_mesh(1, 1, 1, jax.devices()[:1])
    return LM(spec, random_params(model), mesh, provenance=Provenance((ONE,)))


@pytest.mark.parametrize("storage", ["bases", "token_ids"])
@pytest.mark.parametrize("unknown", [False, True])
def test_special_tokens_of_a_stream(storage, unknown, tmp_path):
    codes = np.arange(60, dtype=np.uint8) % 4
    last = np.where(np.arange(60) == 30, 4, codes) if unknown else codes
    tokenizer = Tokenizer(k=3).make()
    options = {} if storage == "bases" else {"tokenizer": tokenizer}
    source = RegionSource(tiny.synthetic(tmp_path / "set", {"train": [codes, last]}, **options), "train")
    found = TokenStream(source, tokenizer, Data(context_length=8), 0).provenance
    ids = TokenStream(source, tokenizer, Data(context_length=8, random_phase=False), 0).read(0, 42)[0]
    assert {SPECIAL_IDS[name] for name in found["special_tokens"]} == set(ids[ids < 32].tolist())
    assert (OOV in ids) == unknown
    assert (found["bases"], found["taxa"]["bct"], found["context_length"]) == (120, 60, 8)
    assert json.loads(json.dumps(found)) == found


def test_a_run_adds_to_what_was_trained_before(tmp_path):
    def begun(data, init_from=None, *, resumes):
        found = provenance.begin(tmp_path, data, init_from, resumes=resumes)
        assert provenance.read(tmp_path) == found
        return found.data

    assert begun(ONE, resumes=True) == (UNKNOWN, ONE)  # started by a version without provenance
    assert begun(ONE, resumes=False) == (ONE,)
    assert begun(ONE, resumes=True) == (ONE,)
    assert begun(OTHER, resumes=True) == (ONE, OTHER)
    assert begun(OTHER, str(TINY), resumes=False) == (*provenance.read(TINY).data, OTHER)
    base = tmp_path / "base"
    base.mkdir()
    two_mers(base, load(FIXTURES / "llama_h16_g2.npz"))
    assert begun(ONE, str(base), resumes=False) == ({"name": "base", **UNKNOWN}, ONE)


def test_special_tokens_are_those_of_all_data():
    assert Provenance((ONE, OTHER)).special_tokens == {"<s>", "<mam>"}
    assert Provenance((UNKNOWN, ONE)).special_tokens is None
    assert Provenance(()).special_tokens is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"data": []}', "format"),
        ('{"format": 2}', "format"),
        ('{"format": 1, "data": {}}', "data"),
        ('{"format": 1}', "data"),
        ('{"format": 1, "data": [1]}', "data"),
        ('{"format": 1, "data": [{"special_tokens": ["<x>"]}]}', "data"),
        ('{"format": 1, "data": [{"special_tokens": [[]]}]}', "data"),
        ('{"format": 1, "data": [], "step": "7"}', "step"),
        ('{"format": 1, "data": [], "other": 7}', "other"),
        ("[]", None),
    ],
)
def test_a_damaged_file_is_named(text, name, tmp_path):
    (tmp_path / provenance.FILE).write_text(text)
    with raises(CheckpointError, path=tmp_path / provenance.FILE, name=name):
        provenance.read(tmp_path)


def test_what_cannot_have_been_learned():
    def problems(*ids, data=ONE, framed=False):
        return provenance.unseen(Provenance((data,)), [np.array(ids, np.int32)], framed=framed)

    mam, cds = SPECIAL_IDS["<mam>"], SPECIAL_IDS["<cds>"]
    assert not problems(BOS, 40, 50)
    assert not problems()
    assert not problems(BOS, mam, cds, OOV, BOS, BOS, data=UNKNOWN)
    assert len(problems(BOS, mam, cds, mam, 40)) == 2
    assert not problems(BOS, mam, 40, data=OTHER)
    assert len(problems(BOS, 40, OOV)) == 1
    assert len(problems(BOS, BOS, 40)) == 1
    masked = {**ONE, "mask_documents": True}
    assert len(problems(BOS, 40, BOS, data=masked, framed=True)) == 1
    assert not problems(BOS, 40, BOS, data=masked)
    assert not problems(BOS, 40, data=masked, framed=True)
    assert not problems(BOS, 40, BOS, framed=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("trained", "change", "warned"),
    [
        (8, {}, True),
        (9, {}, False),
        (4, {"yarn_factor": 2.0}, True),
        (5, {"yarn_factor": 2.0}, False),
        (8, {"sliding_window": 8}, False),
        (None, {}, False),
    ],
)
def test_a_context_longer_than_those_of_training(trained, change, warned, lm):
    data = ONE if trained is None else {**ONE, "context_length": trained}
    long = LM(with_model(lm.spec, **change), lm.params, lm.mesh, provenance=Provenance((data,)))
    with pytest.warns(UserWarning, match="windows of") if warned else contextlib.nullcontext():
        long.check_length(9, "sequence")
    long.check_length(9, "sequence")


@pytest.mark.parametrize(
    "call",
    [
        lambda lm: lm.generate(["<mam>ACG"], 3),
        lambda lm: list(lm.stream("<mam>ACG", 3)),
        lambda lm: lm.log_likelihood(["ACGTTT", "<mam>ACG"]),
        lambda lm: lm.base_probabilities(["<mam>ACG"]),
        lambda lm: lm.embed(["<mam>ACG"]),
        lambda lm: lm.generate(["ACG"], 3, stop=["</s>"]),
        lambda lm: lm.embed(["ACGT"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_model_warns_once_of_what_its_data_did_not_have(call, lm):
    with pytest.warns(UserWarning, match="random was trained on data without <") as found:
        call(lm)
    assert len(found) == 1
    assert found[0].filename == __file__
    call(lm)
    call(LM(lm.spec, lm.params, lm.mesh))  # whose training is unknown
    call(LM(lm.spec, lm.params, lm.mesh, provenance=Provenance(({**ONE, "special_tokens": list(SPECIAL_IDS)},))))
