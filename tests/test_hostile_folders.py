"""Tests that damaged, hostile and unsupported published folders are rejected with one line that gives the reason."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import gener_jax
from data_pipeline.sequence.tokenizer import KmerTokenizer
from gener_jax.runtime.errors import CheckpointError, ConfigError, InputError
from gener_jax.storage.huggingface import config as published_config
from tests.data import FIXTURES
from tests.published import load, read, two_mers, write, write_shards
from tests.raised import raises

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def small():
    return load(FIXTURES / "llama_h16_g2.npz")


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def yarn(**fields):
    return {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5} | fields}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None, "rope_theta": 1e4},
         "rope_scaling.rope_type"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_parameters.factor"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}}, "model.linear_factor"),
        ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "model.llama3_high_freq_factor"),
        ({"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 81.5}},
         "rope_parameters.original_max_position_embeddings"),
        ({"rope_parameters": {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}},
         "rope_parameters.low_freq_factor"),
        ({"rope_parameters": LLAMA3 | {"beta_fast": 32}}, "rope_parameters"),
        (yarn(), "rope_parameters.factor"),
        (yarn(factor=2.0, mscale=1.0), "rope_parameters"),
        (yarn(factor=2.0, truncate=False), "rope_parameters"),
        (yarn(factor=2.0, original_max_position_embeddings=100), "max_position_embeddings"),
        (yarn(factor=0.5), "model.yarn_factor"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 5e5}}, "rope_parameters.rope_type"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}, "rope_parameters"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"architectures": ["LlamaModel"]}, "architectures"),
        ({"architectures": {"a": []}}, "architectures"),
        ({"rope_parameters": {"rope_type": ["llama3"], "rope_theta": 5e5}}, "rope_parameters.rope_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "qwen3"}, "model_type"),
        ({"model_type": "mistral"}, "sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": False, "rope_parameters": None, "rope_theta": 5e5}, "rope_scaling"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"intermediate_size": 10**12}, "intermediate_size"),
        ({"rope_parameters": {"rope_theta": 1e-300}}, "model.rope_theta"),
        ({"sliding_window": 7}, "sliding_window"),
        ({"model_type": "mistral", "sliding_window": -7}, "sliding_window"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"num_key_value_heads": 3}, "model.num_key_value_heads"),
    ],
)  # fmt: skip
def test_rejects_unsupported_configurations(change, name, small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(CheckpointError) as caught:
        read(write(tmp_path, raw | change, tensors))
    assert (caught.value.path, caught.value.name) == (tmp_path / "config.json", name)
    if name in change:
        assert caught.value.value == change[name]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("change", [{"vocab_size": 155_776}, {}])
def test_rejects_carbon_by_name(change, small, tmp_path):
    folder = tmp_path / ("Carbon-3B" if not change else "mine")
    with pytest.raises(CheckpointError, match="Carbon") as caught:
        published_config.read(two_mers(folder, small, **change))
    assert (caught.value.path, caught.value.name) == (folder, "vocab_size")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dna_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="Carbon"):
        published_config.read(two_mers(tmp_path / "other", small))


def test_says_what_a_folder_is(small, tmp_path):
    """A folder that does not exist, a file, an adapter of one; a classifier is above."""
    for name in ("nope", tmp_path / "absent"):
        with raises(CheckpointError, path=type(tmp_path)(name)) as caught:
            gener_jax.load(name)
        assert "does not exist" in str(caught.value)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "GenerTeam/base", "peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").touch()
    with raises(CheckpointError, path="GenerTeam/base"):  # of which it is an adapter
        gener_jax.load(tmp_path)
    with raises(CheckpointError, path=tmp_path / "adapter_config.json") as caught:
        gener_jax.load(tmp_path / "adapter_config.json")
    assert "is a file" in str(caught.value)


def test_a_padded_vocabulary_needs_a_list_of_its_tokens(small, tmp_path):
    """Without one, or with more padding than a multiple of something needs, the size is an error."""
    raw, tensors, _ = small
    folder = write(tmp_path / "a", raw, tensors)  # 64 rows, of which 48 would be tokens
    with raises(CheckpointError, path=folder / "config.json", name="vocab_size", value=64):
        gener_jax.load(folder)
    for size in (36, 60, 848):
        (write(tmp_path / str(size), raw | {"vocab_size": size}, tensors) / "vocab.txt").write_text("")
        with pytest.raises(CheckpointError) as caught:
            gener_jax.load(tmp_path / str(size))
        assert caught.value.path.parent == tmp_path / str(size)


def test_rejects_wrong_tensors(small, tmp_path):
    raw, tensors, _ = small
    without = {n: t for n, t in tensors.items() if n != UP}
    nan, infinite = (tensors[UP].copy() for _ in range(2))
    nan[3, 2], infinite[0, 0] = np.nan, -np.inf
    cases = [
        (raw, without, UP, None),
        (raw, tensors | {"score.weight": np.zeros(3, np.float32)}, "score.weight", None),
        (
            raw,
            tensors | {"model.layers.0.self_attn.rotary.inv_freq": np.zeros(8, np.float32)},
            "model.layers.0.self_attn.rotary.inv_freq",
            None,
        ),
        (raw | {"tie_word_embeddings": True}, tensors, "lm_head.weight", None),  # it is another matrix
        (raw, {n: t for n, t in tensors.items() if n != "lm_head.weight"}, "lm_head.weight", None),
        (raw | {"vocab_size": 72}, tensors, "", [64, 8]),  # the embedding or the head, whichever comes first
        (raw | {"num_hidden_layers": 1}, tensors, "model.layers.1.", None),
        (raw | {"num_hidden_layers": 3}, tensors, "model.layers.2.self_attn.q_proj.weight", None),
        (raw, tensors | {UP: tensors[UP].T}, UP, [8, 24]),
        (raw, tensors | {UP: tensors[UP].ravel()}, UP, [192]),
        (raw, tensors | {UP: tensors[UP].astype(np.float64)}, UP, "F64"),
        (raw, tensors | {UP: tensors[UP].astype(np.int32)}, UP, "I32"),
        (raw, tensors | {UP: nan}, UP, None),
        (raw, tensors | {UP: infinite.astype(ml_dtypes.bfloat16)}, UP, None),
    ]
    for config, changed, name, value in cases:
        for writer in (write, write_shards):
            folder = tmp_path / writer.__name__
            with pytest.raises(CheckpointError) as caught:
                read(writer(folder, config, changed))
            assert (caught.value.name.startswith(name), caught.value.value) == (True, value)
            assert caught.value.path.parent == folder
            assert caught.value.path.suffix == ".safetensors"
            assert "\n" not in str(caught.value)


def test_rejects_more_layers_than_tensors_quickly(small, tmp_path):
    raw, tensors, _ = small
    with raises(CheckpointError, name="model.layers.1999999999.self_attn.q_proj.weight"):
        read(write(tmp_path, raw | {"num_hidden_layers": 2 * 10**9}, tensors))


def with_header(path, header: bytes, body: bytes = b"", length: int | None = None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)


def test_rejects_missing_and_damaged_files(small, tmp_path):
    raw, tensors, _ = small
    with raises(CheckpointError, path=tmp_path / "config.json"):
        read(tmp_path)
    file = write(tmp_path, raw, tensors) / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole + b"\0", b"\xff" * 64):
        file.write_bytes(damaged)
        with raises(CheckpointError, path=file, name=None):
            read(tmp_path)
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with raises(CheckpointError, path=tmp_path, value="pytorch_model.bin"):
        read(tmp_path)
    for text in (b"{", b"[]", b"null", b"[" * 100_000, b" " * (2 << 20), b"\xff{}", b'{"a": ' + b"9" * 5000 + b"}"):
        (tmp_path / "config.json").write_bytes(text)
        with raises(CheckpointError, path=tmp_path / "config.json"):
            gener_jax.load(tmp_path)


def test_rejects_hostile_headers(small, tmp_path):
    """Offsets that overlap, leave gaps or exceed the file, sizes that overflow, and headers that claim to be huge."""
    raw, tensors, _ = small
    file = write(tmp_path, raw, tensors) / "model.safetensors"

    def tensor(start, stop, shape=(2,)):
        return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}

    cases = [
        {"a": tensor(0, 8), "b": tensor(4, 12)},
        {"a": tensor(0, 8), "b": tensor(0, 8)},
        {"a": tensor(0, 8), "b": tensor(12, 20)},
        {"a": tensor(0, 1 << 40, (1 << 38,))},
        {"a": tensor(0, 8, (1 << 62, 1 << 62))},
        {"a": tensor(0, 8, (3,))},
        {"a": tensor(8, 0)},
        {"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}},
    ]
    for header in cases:
        with_header(file, json.dumps(header).encode(), bytes(20))
        with raises(CheckpointError, path=file, name=None):
            read(tmp_path)
    for length in (1 << 20, 1 << 40, (1 << 64) - 1):
        with_header(file, b"{}", length=length)
        with raises(CheckpointError, path=file, name=None):
            read(tmp_path)


def test_rejects_hostile_indices(small, tmp_path):
    raw, tensors, _ = small
    folder = write_shards(tmp_path / "in", raw, tensors)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    (tmp_path / "outside.safetensors").write_bytes((folder / good[UP]).read_bytes())
    other = next(file for file in good.values() if file != good[UP])
    outside = str(tmp_path / "outside.safetensors")
    cases = [
        ({UP: "../outside.safetensors"}, index, UP, "../outside.safetensors"),
        ({UP: outside}, index, UP, outside),
        ({UP: ".."}, index, UP, ".."),
        ({UP: "config.json"}, index, UP, "config.json"),
        ({UP: 3}, index, UP, 3),
        ({UP: "absent.safetensors"}, folder / "absent.safetensors", None, None),
        ({UP: other}, folder / good[UP], UP, None),
        ({"x": good[UP]}, folder / good[UP], "x", None),
    ]
    for change, path, name, value in cases:
        index.write_text(json.dumps({"weight_map": good | change}))
        with raises(CheckpointError, path=path, name=name, value=value):
            read(folder)
    index.write_text(json.dumps({"weight_map": {name: file for name, file in good.items() if name != UP}}))
    with raises(CheckpointError, path=folder / good[UP], name=UP):
        read(folder)
    for text in ("{}", '{"weight_map": {}}', '{"weight_map": []}'):
        index.write_text(text)
        with raises(CheckpointError, path=index, name="weight_map"):
            read(folder)
    index.write_text(json.dumps({"weight_map": good}))
    whole = (folder / good[UP]).read_bytes()
    (folder / good[UP]).write_bytes(whole[:-5])
    with raises(CheckpointError, path=folder / good[UP], name=None):
        read(folder)
    (folder / good[UP]).write_bytes(whole)
    read(folder)
    save_file({"a": np.zeros(1, np.float32)}, folder / "model.safetensors")
    with raises(CheckpointError, path=folder, name="model.safetensors"):
        read(folder)


def test_rejects_a_vocabulary_of_another_order(small, tmp_path):
    folder = two_mers(tmp_path, small)
    ours = KmerTokenizer(2).vocab_txt()
    vocab = folder / "vocab.txt"
    vocab.write_text(ours)
    assert published_config.read(folder).tokenizer.k == 2
    alphabetical = ours.replace("AT 33", "AC 33").replace("AC 34", "AT 34")
    cases = [
        (alphabetical, "AC", 33),
        (ours.replace("<s> 1\n", ""), "<s>", None),
        (ours + "AAA 48\n", "AAA", 48),
        (ours.replace("GG 47", "GG x"), None, None),
        (ours + "GG 47\n", None, None),
        (ours.replace(" ", "\t"), None, None),
    ]
    for text, name, value in cases:
        assert text != ours
        vocab.write_text(text)
        with raises(CheckpointError, path=vocab, name=name, value=value):
            gener_jax.load(folder)
    vocab.unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"<oov>": 0, "<s>": 2}}}))
    with raises(CheckpointError, path=folder / "tokenizer.json", name="<s>", value=2):
        gener_jax.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with raises(CheckpointError, path=folder / "tokenizer.json", name=None):
        gener_jax.load(folder)


def test_load_rejects_bad_arguments(small, tmp_path):
    folder = two_mers(tmp_path, small)
    for given, field in (
        ({"hidden": 8}, "model.hidden"),
        ({"yarn_factor": "4"}, "model.yarn_factor"),
        ({"sliding_window": 5.5}, "model.sliding_window"),
        ({"rope_theta": float("inf")}, "model.rope_theta"),
        ({"yarn_factor": 1e300}, "model.yarn_factor"),
        ({"dtype": "int8"}, "model.dtype"),
        ({"prompt_convention": "v3"}, "prompt_convention"),
    ):
        with raises(ConfigError, field=field):
            gener_jax.load(folder, **given)
    with raises(CheckpointError, path=folder, name="step", value=3):
        gener_jax.load(folder, step=3)
    loaded = gener_jax.load(folder, max_position_embeddings=16)
    assert loaded.spec.model.max_length == 16
    with raises(InputError, argument="prompt_convention", value="unknown"):
        loaded.embed(["ACGT"])
