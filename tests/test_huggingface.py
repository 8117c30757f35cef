"""Parity with transformers, layer by layer, and a reader that refuses whatever it would have to guess.

The fixtures llama_h*_g*.npz were made by tests/fixtures/make_llama.py with transformers 5.23.0 and torch 2.13.0
(torch.manual_seed(head size + groups)); they hold weights, ids and what every layer gave.
"""

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import gener_jax
from gener_jax import huggingface
from gener_jax.model.decoder import Decoder
from tests.data import FIXTURES, peer_path

LLAMAS = sorted(FIXTURES.glob("llama_*.npz"))
NO_TENSORS = ("config", "ids", "logits", "embedded", "layers", "normed")


def load(path):
    with np.load(path, allow_pickle=False) as data:
        expected = {name: data[name] for name in NO_TENSORS}
        tensors = {name: data[name] for name in data.files if name not in NO_TENSORS}
    return json.loads(str(expected.pop("config"))), tensors, expected


def write(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, ids):
    """What leaves each layer [L, B, T, D], the normed hidden states and the logits."""
    model = Decoder(config)
    (hidden, _), state = model.apply({"params": params}, ids, mutable=["intermediates"])
    return (
        state["intermediates"]["layers"]["output"][0],
        hidden,
        model.apply({"params": params}, hidden, method="logits"),
    )


def assert_close(actual, expected, tolerance):
    """Largest difference against the largest value (an element near 0 has no relative precision of its own)."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.fixture(scope="module")
def small():
    return load(FIXTURES / "llama_h16_g2.npz")


def test_fixtures_cover_head_sizes_and_groups():
    configs = [load(path)[0] for path in LLAMAS]
    found = {(c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]) for c in configs}
    assert found == {(h, g) for h in (16, 64, 96, 128) for g in (1, 2, 4)}
    assert all(path.stat().st_size < 150_000 for path in LLAMAS)


@pytest.mark.parametrize(
    ("path", "implementation"),
    [pytest.param(path, "reference", id=f"{path.stem}-reference") for path in LLAMAS]
    + [pytest.param(path, "blockwise", id=f"{path.stem}-blockwise") for path in LLAMAS[::5]],
)
def test_equals_transformers(path, implementation, tmp_path):
    raw, tensors, expected = load(path)
    config, params = huggingface.read(write(tmp_path, raw, tensors))
    config = dataclasses.replace(config, attention=implementation, attention_block=10)  # 24 tokens: a padded last block
    layers, hidden, logits = run(config, params, expected["ids"])
    assert np.array_equal(params["embed_tokens"][expected["ids"]], expected["embedded"])
    for ours, theirs in zip(layers, expected["layers"], strict=True):
        assert_close(ours, theirs, 1e-5)
    assert_close(hidden, expected["normed"], 1e-5)
    assert_close(logits, expected["logits"], 1e-4)


def test_parity_test_can_fail(small, tmp_path):
    """The tolerances see a RoPE base that is wrong, and two weights of one shape that are swapped."""
    raw, tensors, expected = small
    _, _, right = run(*huggingface.read(write(tmp_path, raw, tensors)), expected["ids"])
    other_rope = raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    for wrong in ((other_rope, tensors), (raw, tensors | {gate: tensors[up], up: tensors[gate]})):
        _, _, logits = run(*huggingface.read(write(tmp_path, *wrong)), expected["ids"])
        assert np.abs(logits - right).max() > 1e-2


def test_reads_transformers_4_and_5_alike(small, tmp_path):
    raw, tensors, _ = small
    five, params = huggingface.read(write(tmp_path, raw, tensors))
    four = {k: v for k, v in raw.items() if k not in ("rope_parameters", "head_dim", "initializer_range")}
    four |= {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "float32", "hidden_size": 8}
    with pytest.raises(ValueError, match=r"model.safetensors: tensor .*k_proj.weight is \[32, 8\]: by config"):
        huggingface.read(write(tmp_path, four, tensors))  # without head_dim it is hidden_size / heads
    four, again = huggingface.read(write(tmp_path, four | {"head_dim": 16}, tensors))
    assert four == dataclasses.replace(five, initializer_range=0.02)
    assert five.rope_theta == 500000.0
    assert np.array_equal(again["layers"]["q"], params["layers"]["q"])


def test_tree_is_the_decoders_in_float32(small, tmp_path):
    raw, tensors, _ = small
    config, params = huggingface.read(write(tmp_path, raw, tensors))
    assert params["layers"]["q"].shape == (2, 8, 4, 16)
    assert params["layers"]["o"].shape == (2, 4, 16, 8)
    published = tensors["model.layers.1.self_attn.k_proj.weight"]  # [heads · H, D]
    assert np.array_equal(params["layers"]["k"][1, :, 1, :], published[16:32].T)
    for dtype in (np.float16, ml_dtypes.bfloat16):  # the fixture's weights are bfloat16 values
        folder = write(tmp_path, raw, {name: t.astype(dtype) for name, t in tensors.items()})
        _, stored = huggingface.read(folder)
        assert stored["layers"]["k"].dtype == stored["lm_head"].dtype == np.float32
        exact = np.array_equal(stored["layers"]["k"], params["layers"]["k"])
        assert exact or dtype == np.float16
        assert_close(stored["lm_head"], params["lm_head"], 1e-3)
    assert config.num_key_value_heads == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling is .*: only None is supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0}}, "rope_parameters is .*yarn"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta is None: it has to be a positive float"),
        ({"rope_parameters": [1]}, "no configuration in JSON"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True: only False"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': only 'silu'"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2': it has to be a positive int"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0: it has to be a positive int"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1: it has to be a positive float"),
        ({"num_key_value_heads": 3}, "not divisible by model.num_key_value_heads 3"),
    ],
)
def test_refuses_another_model(change, message, small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(ValueError, match=rf"^\S+config\.json: .*{message}") as error:
        huggingface.read(write(tmp_path, raw | change, tensors))
    assert "\n" not in str(error.value)


def test_refuses_tensors_that_do_not_fit(small, tmp_path):
    raw, tensors, _ = small
    name = "model.layers.1.mlp.up_proj.weight"
    without = {n: t for n, t in tensors.items() if n != name}
    cases = [
        (raw, without, f"tensor {name} is missing"),
        (raw, tensors | {"score.weight": np.zeros(3, np.float32)}, "tensor score.weight is not part of the model"),
        (raw | {"num_hidden_layers": 1}, tensors, "tensor model.layers.1.input_layernorm.weight is not part"),
        (raw | {"num_hidden_layers": 10**9}, tensors, "tensor model.layers.2.* is missing"),
        (raw, tensors | {name: tensors[name].T}, rf"tensor {name} is \[8, 24\]: by config.json \[24, 8\]"),
        (raw, tensors | {name: tensors[name].astype(np.float64)}, f"tensor {name} is F64: F32, F16 and BF16"),
    ]
    for config, changed, message in cases:
        with pytest.raises(ValueError, match=rf"^\S+model\.safetensors: {message}"):
            huggingface.read(write(tmp_path, config, changed))


def test_refuses_missing_and_damaged_files(small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(ValueError, match=r"config\.json: is no configuration in JSON: .*No such file"):
        huggingface.read(tmp_path)
    write(tmp_path, raw, tensors)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors: is no whole safetensors file") as error:
            huggingface.read(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: is no whole safetensors file.*shards"):
        huggingface.read(tmp_path)
    for text in ("{", "[]", "null"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json: is no configuration in JSON"):
            huggingface.read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["xs", "s", "m"])
def test_equals_a_folder_that_transformers_wrote(size, tmp_path):
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    dump = [sys.executable, str(peer_path("hf_llama.py")), "dump", "--size", size, "--out", str(tmp_path)]
    subprocess.run(dump, check=True, capture_output=True, text=True)
    with np.load(tmp_path / "expected.npz") as data:
        ids, logits, states = data["ids"], data["logits"], data["hidden"]  # states: embedded, after each layer, normed
    config, params = huggingface.read(tmp_path)
    layers, hidden, ours = run(config, params, ids)
    assert len(layers) == config.num_hidden_layers == len(states) - 1
    for layer, expected in zip(layers[:-1], states[1:-1], strict=True):
        assert_close(layer, expected, 1e-5)
    assert_close(hidden, states[-1], 1e-5)
    assert_close(ours, logits, 1e-4)


def test_load_takes_a_published_folder(small, tmp_path):
    """A vocabulary cut to that of 2-mers, 48 tokens: the other logits stay as they were."""
    raw, tensors, _ = small
    with pytest.raises(ValueError, match=r"config\.json: vocab_size 64 is no k-mer vocabulary"):
        gener_jax.load(write(tmp_path, raw, tensors))
    cut = {
        name: t[:48] if t.shape[0] == 64 and ("embed" in name or "head" in name) else t for name, t in tensors.items()
    }
    lm = gener_jax.load(write(tmp_path, {**raw, "vocab_size": 48}, cut))
    ids = np.arange(20).reshape(2, 10)
    config, params = huggingface.read(tmp_path)
    assert_close(lm.logits(ids), np.asarray(run(config, params, ids)[2]), 1e-5)
    assert [len(text) for text in lm.generate(["ACG", ""], num_bases=7)] == [7, 7]
