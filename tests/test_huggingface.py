"""Compares our decoder with transformers, layer by layer, and tests that the reader rejects ambiguous folders.

The fixtures llama_*.npz and mistral_*.npz were made by tests/fixtures/make_llama.py with transformers 5.2x and torch
2.13.0; they contain weights, ids and the output of every layer.
"""

import dataclasses
import json
import types

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gener_jax
from data_pipeline.sequence.tokenizer import KmerTokenizer
from gener_jax import config as configuration
from gener_jax import convert
from gener_jax.inference import parity
from gener_jax.model import rope
from gener_jax.model.decoder import unstack
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import pretrained
from gener_jax.storage.huggingface import config as published_config
from gener_jax.storage.huggingface import weights
from tests.data import FIXTURES
from tests.published import assert_close, load, read, run, same, two_mers, write, write_shards
from tests.raised import raises

HEADS = sorted(FIXTURES.glob("llama_h*.npz"))
WINDOWS = sorted(FIXTURES.glob("mistral_*.npz"))
LONG = sorted(FIXTURES.glob("llama_[by]*.npz")) + WINDOWS
# Each file is tested with one implementation, and each implementation with every head size and every group size. Of the
# settings for a long context, only the window depends on the implementation.
BY_REFERENCE, BLOCKWISE = HEADS[::2], HEADS[1::2]


@pytest.fixture(scope="module")
def small():
    return load(FIXTURES / "llama_h16_g2.npz")


@pytest.fixture(scope="module")
def params(small, tmp_path_factory):
    raw, tensors, _ = small
    return read(write(tmp_path_factory.mktemp("small"), raw, tensors))[1]


# ---------------------------------------------------------------------------------------------------------- parity


def test_fixtures_cover_head_sizes_groups_and_long_contexts():
    configs = [load(path)[0] for path in HEADS]
    found = {(c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]) for c in configs}
    assert found == {(h, g) for h in (16, 64, 96, 128) for g in (1, 2, 4)}
    for paths in (BY_REFERENCE, BLOCKWISE):
        heads, groups = zip(*(path.stem.removeprefix("llama_h").split("_g") for path in paths), strict=True)
        assert (set(heads), set(groups)) == ({"16", "64", "96", "128"}, {"1", "2", "4"})
    longs = [load(path)[0] for path in LONG]
    assert {(c["model_type"], c["rope_parameters"]["rope_type"]) for c in longs} == {
        ("llama", "default"), ("llama", "yarn"), ("mistral", "default"), ("mistral", "yarn")
    }  # fmt: skip
    assert all(path.stat().st_size < 150_000 for path in HEADS + LONG)


@pytest.mark.parametrize(
    ("path", "implementation"),
    [pytest.param(path, "reference", id=f"{path.stem}-reference") for path in BY_REFERENCE + LONG]
    + [pytest.param(path, "blockwise", id=f"{path.stem}-blockwise") for path in BLOCKWISE + WINDOWS],
)
def test_equals_transformers(path, implementation, tmp_path):
    raw, tensors, expected = load(path)
    config, params = read(write(tmp_path, raw, tensors))
    config = dataclasses.replace(config, attention=implementation, attention_block=10)  # 24 tokens: pads the last block
    layers, hidden, logits = run(config, params, expected["ids"])
    assert np.array_equal(np.asarray(params["embed_tokens"])[expected["ids"]], expected["embedded"])
    for ours, theirs in zip(layers, expected["layers"], strict=True):
        assert_close(ours, theirs, 1e-5)
    assert_close(hidden, expected["normed"], 1e-5)
    assert_close(logits, expected["logits"], 1e-4)


def test_tolerances_detect_wrong_models(small, tmp_path):
    """The tolerances detect a wrong RoPE base, and two swapped weights of the same shape."""
    raw, tensors, expected = small
    _, _, right = run(*read(write(tmp_path / "a", raw, tensors)), expected["ids"])
    other_rope = raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    for wrong in ((other_rope, tensors), (raw, tensors | {gate: tensors[up], up: tensors[gate]})):
        _, _, logits = run(*read(write(tmp_path / "a", *wrong)), expected["ids"])
        assert np.abs(logits - right).max() > 1e-2


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.stem)
def test_each_long_context_setting_changes_the_logits(path, tmp_path):
    """So the comparison above depends on YaRN, the RoPE base and the window."""
    raw, tensors, expected = load(path)
    config, params = read(write(tmp_path, raw, tensors))
    without = {"yarn_factor": 1.0} if config.yarn_factor > 1 else {"rope_theta": 5e5}
    for change in ([{"sliding_window": None}] if config.sliding_window else []) + [without]:
        if getattr(config, next(iter(change))) == next(iter(change.values())):
            continue
        other = dataclasses.replace(config, **change)
        logits = run(other, params, expected["ids"])[2]
        assert np.abs(logits - expected["logits"]).max() > 1e-2, change


@pytest.mark.parametrize(
    "case",
    json.loads((FIXTURES / "rope_frequencies.json").read_text()),
    ids=lambda case: "-".join(str(v) for v in list(case.values())[:3])[:30],
)
def test_frequencies_equal_transformers(case):
    """The angle at token 16 384 has 16 384 times the error of the frequency, so nearly all must be equal to the bit."""
    model = configuration.Model(**{name: case[name] for name in case if name not in ("frequencies", "scale")})
    found, scale = rope.frequencies(model)
    assert found.dtype == np.float32
    expected = np.array(case["frequencies"], np.float32)
    assert (found == expected).mean() > 0.95
    assert np.abs(found - expected).max() * 16384 < 5e-5
    if (case["head_dim"], case["rope_theta"]) == (64, 5e5) and model.yarn_factor == 1:
        # The tolerance detects exponents in float64.
        in_float64 = model.rope_theta ** -(np.arange(0, model.head_dim, 2) / model.head_dim)
        assert np.abs(in_float64.astype(np.float32) - expected).max() * 16384 > 5e-4
    assert scale == pytest.approx(case["scale"], abs=1e-12)


def test_yarn_keeps_short_wavelengths_and_stretches_long_ones():
    model = configuration.Model(head_dim=64, max_position_embeddings=16384, rope_theta=500_000.0)
    plain, one = rope.frequencies(model)
    assert rope.frequencies(dataclasses.replace(model, yarn_attention_factor=2.0))[1] == 2.0
    stretched, scale = rope.frequencies(dataclasses.replace(model, yarn_factor=4.0))
    ratio = plain / stretched
    turns = 16384 * plain / (2 * np.pi)
    np.testing.assert_allclose(ratio[turns > 40], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[turns < 0.8], 4, rtol=1e-6)
    assert (np.diff(ratio) > -1e-6).all()
    assert (one, scale) == (1.0, pytest.approx(0.1 * np.log(4) + 1))


def test_reads_configs_of_transformers_4_and_5(small, tmp_path):
    raw, tensors, _ = small
    five, params = read(write(tmp_path, raw, tensors))
    four = {k: v for k, v in raw.items() if k not in ("rope_parameters", "head_dim", "initializer_range")}
    four |= {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "float32", "hidden_size": 8}
    with raises(CheckpointError, name="model.layers.0.self_attn.k_proj.weight"):
        read(write(tmp_path, four, tensors))  # without head_dim it is hidden_size / heads
    four, again = read(write(tmp_path, four | {"head_dim": 16}, tensors))
    assert four == dataclasses.replace(five, initializer_range=0.02)
    assert five.rope_theta == 500000.0
    assert same(again, params)
    both = {**raw, "rope_theta": 10000.0}  # what transformers 4 writes for a configuration made with 5
    with raises(CheckpointError, name="rope_theta", value=10000.0):
        read(write(tmp_path, {k: v for k, v in both.items() if k != "transformers_version"}, tensors))
    for version, theta in (("4.57.6", 10000.0), ("5.24.0", 500000.0)):  # the base that the version that wrote it used
        assert published_config.read_model(
            write(tmp_path, both | {"transformers_version": version}, tensors)
        ).rope_theta == theta  # fmt: skip
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    old = {**raw, "rope_parameters": None, "rope_theta": 5e5, "rope_scaling": yarn}
    new = {**raw, "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5} | yarn}
    assert published_config.read_model(write(tmp_path, old, tensors)) == published_config.read_model(
        write(tmp_path, new, tensors)
    )


# ------------------------------------------------------------------------------------------------- tensors and types


def test_tree_has_the_shapes_of_the_decoder(small, params):
    _, tensors, _ = small
    assert params["layers"]["q"].shape == (2, 8, 4, 16)
    assert params["layers"]["o"].shape == (2, 4, 16, 8)
    published = tensors["model.layers.1.self_attn.k_proj.weight"]  # [heads · H, D]
    assert np.array_equal(params["layers"]["k"][1, :, 1, :], published[16:32].T)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
def test_stored_types(stored, small, params, tmp_path):
    raw, tensors, _ = small
    folder = write(tmp_path, raw, {name: t.astype(stored) for name, t in tensors.items()})
    _, found = read(folder)
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    assert same(found, params) or stored == np.float16  # the fixture's weights are bfloat16 values
    assert_close(found["lm_head"], params["lm_head"], 1e-3)
    _, low = read(folder, dtype="bfloat16")
    assert low["layers"]["q"].dtype == low["lm_head"].dtype == low["embed_tokens"].dtype == ml_dtypes.bfloat16
    assert low["norm"]["scale"].dtype == np.float32


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
@pytest.mark.parametrize("shards", [1, 3])
def test_parameters_are_equal_on_every_mesh(sizes, shards, small, params, tmp_path):
    raw, tensors, _ = small
    folder = (write if shards == 1 else write_shards)(tmp_path, raw, tensors)
    mesh = make_mesh(*sizes, jax.devices()[: np.prod(sizes)])
    model, found = read(folder, mesh)
    target = pretrained.abstract_params(model, mesh)
    assert jax.tree.all(jax.tree.map(lambda x, t: x.sharding.is_equivalent_to(t.sharding, x.ndim), found, target))
    assert same(found, params)


def test_load_opens_a_published_folder(small, tmp_path):
    """The vocabulary is cut to the 48 tokens of 2-mers, which does not change the other logits."""
    raw, tensors, _ = small
    with raises(CheckpointError, path=tmp_path / "config.json", name="vocab_size", value=64):
        gener_jax.load(write(tmp_path, raw, tensors))
    folder = two_mers(tmp_path, small)
    lm = gener_jax.load(folder)
    ids = np.arange(20).reshape(2, 10)
    assert_close(lm.logits(ids), np.asarray(run(*read(folder), ids)[2]), 1e-5)
    assert [len(text) for text in lm.generate(["ACG", ""], num_bases=7)] == [7, 7]
    low = gener_jax.load(folder, dtype="bfloat16")
    assert low.params["lm_head"].dtype == ml_dtypes.bfloat16
    assert_close(low.logits(ids), lm.logits(ids), 0.05)


def test_published_variants_of_llama_are_read(small, tmp_path):
    """Tied embeddings, with or without a copy of them; a padded vocabulary; left-over rotary buffers."""
    raw, tensors, _ = small
    ids = np.arange(20).reshape(2, 10)
    tied = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    expected = gener_jax.load(two_mers(tmp_path / "untied", (raw, tied, None))).logits(ids)
    assert np.abs(expected - gener_jax.load(two_mers(tmp_path / "other", small)).logits(ids)).max() > 1e-2
    without = {name: tensor for name, tensor in tied.items() if name != "lm_head.weight"}
    for name, given in (("tied", without), ("copy", tied)):
        folder = two_mers(tmp_path / name, (raw, given, None), tie_word_embeddings=True)
        np.testing.assert_array_equal(gener_jax.load(folder).logits(ids), expected)
    padded = write(tmp_path / "padded", raw | {"tie_word_embeddings": True}, without)  # 48 tokens and 16 rows more
    (padded / "vocab.txt").write_text(KmerTokenizer(2).vocab_txt())
    lm = gener_jax.load(padded)
    assert lm.params["embed_tokens"].shape[0] == lm.params["lm_head"].shape[1] == 48
    np.testing.assert_array_equal(lm.logits(ids), expected)
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32) for i in range(2)}
    for writer in (write, write_shards):
        two_mers(tmp_path / "buffers", (raw, tied, None))
        cut = load_file(tmp_path / "buffers" / "model.safetensors")
        (tmp_path / "buffers" / "model.safetensors").unlink()
        folder = writer(tmp_path / "buffers", raw | {"vocab_size": 48}, cut | buffers)
        np.testing.assert_array_equal(gener_jax.load(folder).logits(ids), expected)
        assert weights.stored_dtype(folder) == "float32"


VARIANTS = {
    "tied": {"tie_word_embeddings": True},
    "padded": {"vocab_size": 64},
    "tied and padded": {"tie_word_embeddings": True, "vocab_size": 56},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_published_variants_equal_transformers(name, tmp_path):
    """Random models that transformers writes, read by both; and written by us, read by transformers."""
    torch = pytest.importorskip("torch", reason="needs pip install -e '.[parity]'")
    transformers = pytest.importorskip("transformers", reason="needs pip install -e '.[parity]'")
    torch.manual_seed(0)
    shape = {
        "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": 1,
    }  # fmt: skip
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **VARIANTS[name]})).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text(KmerTokenizer(2).vocab_txt())
    lm = gener_jax.load(tmp_path / "theirs")
    ids = parity.probe_ids(lm)
    ours = parity.ours(lm, ids)
    convert.main(["--checkpoint", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours"), "--format", "hf"])
    for folder in ("theirs", "ours"):
        for what, difference, size in parity.differences(ours, parity.theirs(tmp_path / folder, ids, lm.spec.model)):
            assert difference <= parity.TOLERANCE * size, (folder, what)
    if "rope_parameters" in VARIANTS[name]:
        plain = {"linear_factor": 1.0, "llama3_factor": 1.0}
        assert np.abs(gener_jax.load(tmp_path / "theirs", **plain).logits(ids) - ours.logits).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "given", "convention"),
    [
        ("GENERator-eukaryote-1.2b-base", None, "v1"),
        ("GENERator-v2-eukaryote-1.2b-base", None, "v2"),
        ("models--GenerTeam--GENERator-eukaryote-3b-base/snapshots/0a1b", None, "v1"),
        ("models--GenerTeam--GENERator-v2-prokaryote-3b-base/snapshots/0a1b", None, "v2"),
        ("mine", None, "unknown"),
        ("mine", "v1", "v1"),
        ("GENERator-eukaryote-1.2b-base", "v2", "v2"),
    ],
)
def test_convention_of_published_models(name, given, convention, small, tmp_path):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    ours = {"gener_jax": {"format": 1, "prompt_convention": given}} if given else {}
    spec = published_config.read(two_mers(folder, small, **ours))
    assert spec.prompt_convention == convention
    assert spec.name == (name if "/" not in name else name.split("/")[0].split("--")[2])


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("shard_bytes", [10**9, 3000, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_written_files_equal_those_of_safetensors(dtype, shard_bytes, small, params, tmp_path):
    _, tensors, _ = small
    weights.write(tmp_path, unstack(params), dtype, shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == {10**9: 1, 1: len(tensors)}.get(shard_bytes, min(max(len(files), 3), 12))
    assert [f.name for f in files] == (
        ["model.safetensors"]
        if len(files) == 1
        else [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    )
    found = {}
    for file in files:
        part = load_file(file)
        save_file(part, tmp_path / "again", metadata={"format": "pt"})
        assert (tmp_path / "again").read_bytes() == file.read_bytes()
        assert sum(t.nbytes for t in part.values()) <= shard_bytes or len(part) == 1
        found |= part
        with safe_open(file, framework="numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == np.dtype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
        assert np.array_equal(found[name], tensor.astype(found[name].dtype))
    if len(files) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
        assert index["weight_map"].keys() == tensors.keys()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_write_and_read_on_any_mesh_is_bit_equal(sizes, small, params, tmp_path):
    raw, tensors, _ = small
    mesh = make_mesh(*sizes, jax.devices()[: np.prod(sizes)])
    model, found = read(write(tmp_path / "first", raw, tensors), mesh)
    (tmp_path / "second").mkdir()
    weights.write(tmp_path / "second", unstack(found), "float32", 5000)
    again = weights.read(tmp_path / "second", pretrained.abstract_params(model, mesh))
    assert same(again, unstack(params))


def test_does_not_write_nan_or_infinity(params, tmp_path):
    def with_first(value):
        lm_head = np.array(params["lm_head"])
        lm_head[0, 0] = value
        return {**unstack(params), "lm_head": lm_head}

    with raises(CheckpointError, name="lm_head.weight"):
        weights.write(tmp_path, with_first(np.nan), "float32")
    with raises(CheckpointError, name="lm_head.weight"):
        weights.write(tmp_path, with_first(1e6), "float16")


@pytest.mark.parametrize("path", [HEADS[0], *LONG], ids=lambda path: path.stem)
def test_configuration_round_trip(path, tmp_path):
    raw, tensors, _ = load(path)
    model = published_config.read_model(write(tmp_path, raw, tensors))
    spec = types.SimpleNamespace(model=model, prompt_convention="v2")
    (tmp_path / "config.json").write_text(published_config.write(spec, "float32"))
    assert published_config.read_model(tmp_path) == model
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == raw["model_type"]
