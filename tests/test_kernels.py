"""Attention kernels: interpreted ones against the reference, and the cases that each does not support."""

import importlib.util
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gener_jax import config
from gener_jax.model import decoder, kernels, packed
from gener_jax.model.attention import Segments, attention
from gener_jax.runtime.errors import ConfigError
from tests.raised import raises


def arrays(length=512, heads=4, key_heads=2, head_dim=64, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q, k, v, w = (
        jnp.asarray(rng.normal(size=(1, length, n, head_dim)), dtype) for n in (heads, key_heads, key_heads, heads)
    )
    return q, k, v, w, jnp.asarray(np.sort(rng.integers(0, 4, (1, length)), axis=1), jnp.int32)


@pytest.mark.parametrize(
    ("name", "segmented", "window"),
    [
        ("splash", True, 100),
        ("triton", True, None),
        pytest.param("splash", False, None, marks=pytest.mark.slow),
        pytest.param("triton", False, None, marks=pytest.mark.slow),
    ],
)
def test_interpreted_kernels_equal_the_reference(name, segmented, window):
    q, k, v, w, ids = arrays()
    ids = ids if segmented else None

    def kernel(q, k, v):
        return kernels.run(name, q, k, v, ids, window, name_kept="kept", interpret=True)

    def reference(q, k, v):
        segments = Segments(ids, ids) if segmented else None
        return attention(q, k, v, implementation="reference", segments=segments, window=window)

    def both(function):
        def loss(q, k, v):
            out = function(q, k, v)
            return jnp.sum(out * w), out

        grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return out, *grads

    for x, y in zip(both(kernel), both(reference), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-5)
        assert float(jnp.abs(y).max()) > 0.1


def case(length=256, head_dim=64, dtype=jnp.bfloat16, offset=0, segments=False, window=None, keys=None):
    q, k, *_ = (jax.ShapeDtypeStruct((1, n, 4, head_dim), dtype) for n in (length, keys or length))
    return kernels.Case(q, k, offset, segments, window)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cudnn", {"segments": True}, "has no document mask"),
        ("cudnn", {"dtype": jnp.float32}, "supports bfloat16 and float16, not float32"),
        ("cudnn", {"head_dim": 256}, "multiples of 8 up to 128, not 256"),
        ("cudnn", {"length": 1001}, "even lengths, not 1001"),
        ("cudnn", {"offset": 5, "keys": 300}, "not a cache"),
        ("cudnn_packed", {"window": 9}, "is for document masks"),
        ("triton", {"window": 9}, "has no sliding window"),
        ("triton", {"length": 100}, "multiples of 64, not 100"),
        ("triton", {"head_dim": 96}, "powers of two, not 96"),
        ("triton", {"dtype": jnp.float32}, "float32 in TF32"),
        ("splash", {"length": 200}, "multiples of 128, not 200"),
        ("splash", {"offset": jnp.int32(0)}, "or a context axis"),
    ],
)
def test_an_unsupported_case_is_an_error(name, options, words, monkeypatch):
    asked = case(**options)
    monkeypatch.setattr(packed, "VERSION", (0, 0, 0))
    monkeypatch.setattr(packed, "supported", lambda: True)
    assert words in kernels.refusal(name, asked)
    q = jnp.zeros(asked.queries.shape, asked.queries.dtype)
    k = jnp.zeros(asked.keys.shape, asked.keys.dtype)
    ids = jnp.zeros(q.shape[:2], jnp.int32)
    with raises(ConfigError, field="model.attention", value=name):
        attention(
            q, k, k, implementation=name, offset=asked.offset, window=asked.window,
            segments=Segments(ids, ids) if asked.segments else None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("capability", "old"), [("7.5", True), ("8.0", False), ("9.0", False), ("10.3", False), ("gfx90a", True)]
)
def test_gpus_before_ampere_have_no_kernel(capability, old, monkeypatch):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(kernels.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels.jax, "local_devices", lambda: [device])
    for name in ("cudnn", "triton"):
        reason = kernels.refusal(name, case())
        assert reason == (
            f"needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer, not {capability}" if old else None
        )
    assert kernels.choice(case()) == (None if old else "cudnn")


def test_the_packed_layout_needs_a_hopper_here(monkeypatch):
    """Else jax raises an error of its own when it traces the step."""
    monkeypatch.setattr(packed, "VERSION", (0, 0, 0))
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    assert "9.0 (Hopper) or newer in this machine" in kernels.refusal("cudnn_packed", case(segments=True))


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_supported_cases(name, monkeypatch):
    monkeypatch.setattr(packed, "VERSION", (0, 0, 0))
    monkeypatch.setattr(packed, "supported", lambda: True)
    asked = case(segments=name == "cudnn_packed")
    assert "not on cpu" in kernels.refusal(name, asked)
    monkeypatch.setattr(kernels, "platform", lambda: "tpu" if name == "splash" else "gpu")
    assert kernels.refusal(name, asked) is None


def test_evaluation_and_generation_take_any_mask():
    model = config.Model(attention="cudnn")
    assert kernels.for_any_mask(model).attention == "auto"
    assert kernels.for_any_mask(config.Model(attention="blockwise")).attention == "blockwise"
    shapes = jax.eval_shape(
        lambda: decoder.init(decoder.Decoder(config.Model(vocab_size=48, attention="splash")), jax.random.key(0))
    )
    assert shapes["norm"]  # initialised, though the kernel supports no single token


@pytest.mark.parametrize(
    ("platform", "asked", "expected"),
    [
        ("cpu", {}, None),
        ("gpu", {}, "cudnn"),
        ("gpu", {"segments": True}, "triton"),
        ("gpu", {"segments": True, "window": 9}, None),
        ("gpu", {"segments": True, "head_dim": 96}, None),
        ("gpu", {"dtype": jnp.float32}, None),
        ("tpu", {"segments": True, "window": 9}, "splash"),
        ("tpu", {"length": 100}, None),
        ("tpu", {"length": 1, "keys": 128, "offset": 4}, None),
    ],
)
def test_the_choice_of_a_platform(monkeypatch, platform, asked, expected):
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    assert kernels.choice(case(**asked)) == expected


COMPILE = """
import sys
import jax
import jax.numpy as jnp

jax.config.update("jax_platforms", "cpu")
from jax.experimental import topologies

from gener_jax.model.attention import Segments
from gener_jax.model.parallel import sharded_attention
from gener_jax.model.sharding import batch_sharding, make_mesh

topology, length = sys.argv[1], int(sys.argv[2])
devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
mesh = make_mesh(1, 4, 1, devices)
sharding = batch_sharding(mesh)
for head_dim in (64, 96, 128):
    q, k = (jax.ShapeDtypeStruct((4, length, n, head_dim), jnp.bfloat16, sharding=sharding) for n in (8, 2))
    ids = jax.ShapeDtypeStruct((4, length), jnp.int32, sharding=sharding)

    def loss(q, k, v, ids):
        return sharded_attention(q, k, v, implementation="splash", segments=Segments(ids, ids), window=1024).sum()

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, ids)
        assert "tpu_custom_call" in lowered.as_text()
        lowered.compile()
    print("compiled", head_dim)
"""


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'")
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("length", [2048, 16384])  # of both sizes of blocks
def test_splash_compiles_for_a_tpu_at_every_head_size(topology, length):
    """Compiles the forward and backward pass with segment ids and a window; needs no TPU."""
    environment = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    command = [sys.executable, "-c", COMPILE, topology, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["compiled", "64", "compiled", "96", "compiled", "128"]
