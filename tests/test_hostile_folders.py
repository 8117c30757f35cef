"""Published folders that are damaged, hostile or of another model: refused in one line, with the reason."""

import json
import re
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import gener_jax
from data_pipeline.tokenizer import KmerTokenizer
from gener_jax import config as configuration
from gener_jax.errors import CheckpointError
from gener_jax.huggingface import config as published_config
from tests.data import FIXTURES
from tests.published import load, read, two_mers, write, write_shards

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def small():
    return load(FIXTURES / "llama_h16_g2.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None, "rope_theta": 1e4}, "linear"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5}}, "rope_parameters has no factor"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "mscale": 1.0}}, "without mscale"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "truncate": False}}, "truncate"),
        (
            {"rope_parameters": {
                "rope_type": "yarn", "rope_theta": 5e5, "factor": 2.0, "original_max_position_embeddings": 100,
            }},
            "max_position_embeddings is 128: neither original_max_position_embeddings 100 nor that times",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 0.5}}, "yarn_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type 'llama3'"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta is None: it has to be a positive float"),
        ({"rope_parameters": [1]}, "rope_parameters is \\[1\\]: it has to be an object"),
        ({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True: only False"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': only 'silu'"),
        ({"model_type": "qwen3"}, "model_type is 'qwen3': only 'llama' and 'mistral'"),
        ({"model_type": "mistral"}, "sliding_window is not given"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "has rope_scaling .* and rope_parameters .*: remove one"),
        ({"rope_scaling": False, "rope_parameters": None, "rope_theta": 5e5}, "rope_scaling is False: it has to be an"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*: only None"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5: only 1.0"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types is"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000.*: it has to be a positive float"),
        ({"intermediate_size": 10**12}, "intermediate_size is 1000000000000: it has to be a positive int"),
        ({"rope_parameters": {"rope_theta": 1e-300}}, "rope_theta is 1e-300: it has to be above 1"),
        ({"sliding_window": 7}, "sliding_window is 7 and model_type llama"),
        ({"model_type": "mistral", "sliding_window": -7}, "sliding_window is -7: it has to be a positive int"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2': it has to be a positive int"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0: it has to be a positive int"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True: it has to be a positive int"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1: it has to be a positive float"),
        ({"num_key_value_heads": 3}, "not divisible by model.num_key_value_heads 3"),
    ],
)  # fmt: skip
def test_refuses_another_model(change, message, small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(CheckpointError, match=rf"^\S+config\.json: .*{message}") as error:
        read(write(tmp_path, raw | change, tensors))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"vocab_size": 155_776}, {}])
def test_refuses_carbon_by_name(change, small, tmp_path):
    folder = tmp_path / ("Carbon-3B" if not change else "mine")
    with pytest.raises(CheckpointError, match="is a Carbon model: its vocabulary of English byte pairs"):
        published_config.read(two_mers(folder, small, **change))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dna_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a Carbon model"):
        published_config.read(two_mers(tmp_path / "other", small))


def test_refuses_tensors_that_do_not_fit(small, tmp_path):
    raw, tensors, _ = small
    without = {n: t for n, t in tensors.items() if n != UP}
    nan, infinite = (tensors[UP].copy() for _ in range(2))
    nan[3, 2], infinite[0, 0] = np.nan, -np.inf
    cases = [
        (raw, without, f"tensor {UP!r} is missing"),
        (raw, tensors | {"score.weight": np.zeros(3, np.float32)}, "tensor 'score.weight' is not part of the model"),
        (raw | {"num_hidden_layers": 1}, tensors, r"tensor 'model.layers.1\S+' is not part"),
        (raw | {"num_hidden_layers": 3}, tensors, "tensor 'model.layers.2.*' is missing"),
        (raw, tensors | {UP: tensors[UP].T}, rf"tensor {UP!r} is \[8, 24\]: the model's is \[24, 8\]"),
        (raw, tensors | {UP: tensors[UP].ravel()}, rf"tensor {UP!r} is \[192\]: the model's is \[24, 8\]"),
        (raw, tensors | {UP: tensors[UP].astype(np.float64)}, f"tensor {UP!r} is F64: F32, F16, BF16"),
        (raw, tensors | {UP: tensors[UP].astype(np.int32)}, f"tensor {UP!r} is I32: F32, F16, BF16"),
        (raw, tensors | {UP: nan}, f"tensor {UP!r} holds NaN or infinity"),
        (raw, tensors | {UP: infinite.astype(ml_dtypes.bfloat16)}, f"tensor {UP!r} holds NaN or infinity"),
    ]
    for config, changed, message in cases:
        for writer, name in ((write, "model"), (write_shards, r"model-0000\d-of-00003")):
            folder = tmp_path / writer.__name__
            with pytest.raises(CheckpointError, match=rf"^\S+{name}\.safetensors: {message}") as error:
                read(writer(folder, config, changed))
            assert "\n" not in str(error.value)


def test_refuses_more_layers_than_tensors_at_once(small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.1999999999\.\S+' is missing"):
        read(write(tmp_path, raw | {"num_hidden_layers": 2 * 10**9}, tensors))


def with_header(path, header: bytes, body: bytes = b"", length: int | None = None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)


def test_refuses_missing_and_damaged_files(small, tmp_path):
    raw, tensors, _ = small
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read(tmp_path)
    file = write(tmp_path, raw, tensors) / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole + b"\0", b"\xff" * 64):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is no whole safetensors file") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*pytorch_model\.bin is a pickle, which can run"):
        read(tmp_path)
    for text in (b"{", b"[]", b"null", b"[" * 100_000, b" " * (2 << 20), b"\xff{}", b'{"a": ' + b"9" * 5000 + b"}"):
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(CheckpointError, match=r"config\.json: (cannot be read|holds no|has more than)"):
            gener_jax.load(tmp_path)


def test_refuses_hostile_headers(small, tmp_path):
    """Offsets that overlap, leave gaps or reach behind the file, sizes that overflow, a header said to be enormous."""
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
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is no whole safetensors file") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)
    for length in (1 << 20, 1 << 40, (1 << 64) - 1):
        with_header(file, b"{}", length=length)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is no whole safetensors file"):
            read(tmp_path)


def test_refuses_hostile_indices(small, tmp_path):
    raw, tensors, _ = small
    folder = write_shards(tmp_path / "in", raw, tensors)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    (tmp_path / "outside.safetensors").write_bytes((folder / good[UP]).read_bytes())
    other = next(file for file in good.values() if file != good[UP])
    cases = [
        ({UP: "../outside.safetensors"}, f"tensor {UP!r} is in '../outside.safetensors': that is no safetensors file"),
        ({UP: str(tmp_path / "outside.safetensors")}, "that is no safetensors file beside it"),
        ({UP: ".."}, "that is no safetensors file beside it"),
        ({UP: "config.json"}, "that is no safetensors file beside it"),
        ({UP: 3}, "that is no safetensors file beside it"),
        ({UP: "absent.safetensors"}, "file 'absent.safetensors' is missing, which model.safetensors.index.json names"),
        ({UP: other}, f"tensor {UP!r} is"),
        ({"x": good[UP]}, f"{good[UP]}: tensor 'x' is missing, which model.safetensors.index.json"),
    ]
    for change, message in cases:
        index.write_text(json.dumps({"weight_map": good | change}))
        with pytest.raises(CheckpointError, match=re.escape(message)) as error:
            read(folder)
        assert "\n" not in str(error.value)
    index.write_text(json.dumps({"weight_map": {name: file for name, file in good.items() if name != UP}}))
    with pytest.raises(CheckpointError, match=f"tensor {UP!r} is not in model.safetensors.index.json"):
        read(folder)
    for text in ("{}", '{"weight_map": {}}', '{"weight_map": []}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="has no weight_map"):
            read(folder)
    index.write_text(json.dumps({"weight_map": good}))
    whole = (folder / good[UP]).read_bytes()
    (folder / good[UP]).write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match=f"{good[UP]}: is no whole safetensors file"):
        read(folder)
    (folder / good[UP]).write_bytes(whole)
    read(folder)
    save_file({"a": np.zeros(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds both model\.safetensors and model\.safetensors\.index\.json"):
        read(folder)


def test_refuses_a_vocabulary_of_another_order(small, tmp_path):
    folder = two_mers(tmp_path, small)
    ours = KmerTokenizer(2).vocab_txt()
    vocab = folder / "vocab.txt"
    vocab.write_text(ours)
    assert published_config.read(folder).tokenizer.k == 2
    alphabetical = ours.replace("AT 33", "AC 33").replace("AC 34", "AT 34")
    cases = [
        (alphabetical, "gives 'AC' the id 33, where a vocabulary of 2-mers has 34: the order has to be the published"),
        (ours.replace("<s> 1\n", ""), "has no token '<s>'"),
        (ours + "AAA 48\n", "gives 'AAA' the id 48, where a vocabulary of 2-mers has no such token"),
        (ours.replace("GG 47", "GG x"), "is no vocabulary"),
        (ours + "GG 47\n", "token 'GG' stands in it twice"),
        (ours.replace(" ", "\t"), "is no vocabulary"),
    ]
    for text, message in cases:
        assert text != ours
        vocab.write_text(text)
        with pytest.raises(CheckpointError, match=rf"vocab\.txt: .*{re.escape(message)}"):
            gener_jax.load(folder)
    vocab.unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"<oov>": 0, "<s>": 2}}}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: gives '<s>' the id 2"):
        gener_jax.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is no vocabulary"):
        gener_jax.load(folder)


def test_load_says_what_it_refuses_to_do(small, tmp_path):
    folder = two_mers(tmp_path, small)
    with pytest.raises(configuration.ConfigError, match=r"model\.hidden is not a field of the configuration"):
        gener_jax.load(folder, hidden=8)
    for wrong in ({"yarn_factor": "4"}, {"sliding_window": 5.5}, {"rope_theta": float("inf")}, {"yarn_factor": 1e300}):
        with pytest.raises(configuration.ConfigError, match=rf"model\.{next(iter(wrong))} is"):
            gener_jax.load(folder, **wrong)
    assert gener_jax.load(folder, max_position_embeddings=16).config.data.context_length == 16
    with pytest.raises(ValueError, match=r"does not say whether it reads sequences as v1 or v2"):
        gener_jax.load(folder).embed(["ACGT"])
    with pytest.raises(configuration.ConfigError, match=r"model\.dtype is 'int8'"):
        gener_jax.load(folder, dtype="int8")
    with pytest.raises(CheckpointError, match="is a published model, without steps"):
        gener_jax.load(folder, step=3)
    with pytest.raises(configuration.ConfigError, match=r"tokenizer\.convention is 'v3'"):
        gener_jax.load(folder, convention="v3")
