"""Writes folders in Hugging Face's layout from the fixtures, and runs our decoder on them."""

import functools
import json

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from gener_jax.model.decoder import Decoder, stack
from gener_jax.model.sharding import make_mesh
from gener_jax.storage import pretrained
from gener_jax.storage.huggingface import config as published_config
from gener_jax.storage.huggingface import weights

NO_TENSORS = ("config", "ids", "logits", "embedded", "layers", "normed")


def load(path):
    with np.load(path, allow_pickle=False) as data:
        expected = {name: data[name] for name in NO_TENSORS}
        tensors = {name: data[name] for name in data.files if name not in NO_TENSORS}
    return json.loads(str(expected.pop("config"))), tensors, expected


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


def write_shards(folder, config, tensors, number=3):
    """Writes the same folder in `number` shards, tensors assigned in turn, and their index."""
    write(folder, config, {})
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{number:05}.safetensors" for i in range(number)]
    weight_map = {tensor: names[i % number] for i, tensor in enumerate(tensors)}
    for file in names:
        part = {name: np.ascontiguousarray(t) for name, t in tensors.items() if weight_map[name] == file}
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def one_device():
    return make_mesh(1, 1, 1, jax.devices()[:1])


def read(folder, mesh=None, dtype="float32"):
    """The model configuration of a folder, with any vocabulary, and its parameters."""
    model = published_config.read_model(folder)
    return model, stack(weights.read(folder, pretrained.abstract_params(model, mesh or one_device(), dtype)))


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, ids):
    """The outputs of the layers [L, B, T, D], the normed hidden states and the logits."""
    model = Decoder(config)
    (hidden, _), state = model.apply({"params": params}, ids, mutable=["intermediates"])
    return (
        state["intermediates"]["layers"]["output"][0],
        hidden,
        model.apply({"params": params}, hidden, method="logits"),
    )


def assert_close(actual, expected, tolerance):
    """Compares the largest difference with the largest value, since elements near 0 have no relative precision."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * max(1, np.abs(expected).max())


def same(a, b):
    flat_a, flat_b = (traverse_util.flatten_dict(x, sep="/") for x in (a, b))
    assert flat_a.keys() == flat_b.keys()
    return all(np.array_equal(flat_a[name], flat_b[name]) for name in flat_a)


def two_mers(folder, small, **changes):
    raw, tensors, _ = small
    cut = {
        name: t[:48] if t.shape[0] == 64 and ("embed" in name or "head" in name) else t for name, t in tensors.items()
    }
    return write(folder, {**raw, "vocab_size": 48, **changes}, cut)
