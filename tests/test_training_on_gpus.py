"""Training on a GPU: the text that jax lowers for CUDA, which needs no GPU, and gradients in bfloat16."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gener_jax import config
from gener_jax.model import decoder
from gener_jax.model.losses import token_nll
from gener_jax.model.parallel import sharded_attention
from gener_jax.model.sharding import make_mesh
from tests.conftest import random_params


def model(**fields):
    return config.Model(
        vocab_size=48, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, **fields,
    )  # fmt: skip


def loss(c, params, ids, documents=None):
    hidden, _ = decoder.Decoder(c).apply({"params": params}, ids, segment_ids_BT=documents)
    logits = decoder.Decoder(c).apply({"params": params}, hidden, method="logits")
    return token_nll(logits, jnp.roll(ids, -1, 1)).mean()


def traced(c, *, documents=False):
    params = nn.unbox(jax.eval_shape(lambda: decoder.init(decoder.Decoder(c), jax.random.key(0))))
    ids = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    return jax.jit(jax.grad(functools.partial(loss, c))).trace(params, ids, ids if documents else None)


def lowered(c):
    return traced(c).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("remat", "forwards"), [("none", 1), ("dots", 1), ("block", 1), ("full", 2)])
def test_attention_is_computed_once_where_remat_keeps_it(gpu, remat, forwards):
    """The scan over layers has one forward and one backward body, so each call occurs once in the text per layer."""
    c = model(dtype="bfloat16", remat=remat)
    calls = Counter(re.findall(r"custom_call @(__cudnn\$\w+)", lowered(c)))
    assert calls == {"__cudnn$fmhaSoftmax": forwards, "__cudnn$fmhaSoftmaxBackward": 1}
    program = str(traced(c, documents=True).jaxpr)  # document masks need Triton
    assert Counter(re.findall(r"name=(mha_(?:for|back)ward)", program)) == {"mha_forward": forwards, "mha_backward": 1}


def test_the_embeddings_gradient_is_summed_in_float32(gpu):
    """The gradient of an id sums over all its tokens; in bfloat16 a long sum stops growing."""
    text = lowered(model(dtype="bfloat16"))
    sums = re.findall(r'"stablehlo.scatter".*?\}\) : \(.*?\) -> (\S+)', text, re.DOTALL)
    assert "tensor<48x128xf32>" in sums
    assert not any("bf16" in found for found in sums)


def gradient_in(gradient_dtype, **fields):
    """The parameters' shapes, and the gradient of the loss lowered for CUDA."""
    c = model(**fields)
    params = nn.unbox(jax.eval_shape(lambda: decoder.init(decoder.Decoder(c), jax.random.key(0))))
    decode = decoder.Decoder(c, gradient_dtype)

    def total(params, ids):
        hidden, _ = decode.apply({"params": params}, ids)
        return token_nll(decode.apply({"params": params}, hidden, method="logits"), ids).mean()

    ids = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    return params, jax.jit(jax.grad(total)).trace(params, ids).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.usefixtures("gpu")
def test_in_float32_the_dtype_of_gradients_changes_no_program():
    assert gradient_in("float32")[1] == gradient_in("compute")[1]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("gradient_dtype", "rounded"), [("float32", 0), ("compute", 1)])
def test_what_devices_add_is_the_gradient_in_float32(gradient_dtype, rounded):
    """Devices add what each one's product returns: if that is bfloat16, a conversion to float32 follows it."""
    params, text = gradient_in(gradient_dtype, dtype="bfloat16")
    shapes = Counter(re.findall(r"stablehlo.convert %\S+ : \(tensor<(\S+)xbf16>\) -> tensor<\1xf32>", text))
    layer = params["layers"]
    matrices = Counter("x".join(map(str, layer[name].shape[1:])) for name in ("q", "k", "v", "o", "gate", "up", "down"))
    assert {shape: shapes[shape] for shape in matrices} == {shape: rounded * n for shape, n in matrices.items()}
    head = re.findall(r"dot_general [^\n]*-> tensor<(?:128x48|48x128)x(\w+)>", text)
    assert head == ["bf16" if rounded else "f32"]
    assert text.count("(tensor<2x128x48xf32>) -> tensor<2x128x48xbf16>") == rounded  # of the logits


def test_gradients_in_bfloat16_are_float32s_where_an_id_repeats():
    """bfloat16 rounds by 0.0011 (root mean square) each time.

    Sixty independent roundings in a row give 0.0085, the largest error found; the limit is twice that. A sum over the
    4096 tokens in bfloat16 exceeds it (0.075 for the head).
    """
    c = model(initializer_range=0.05, attention="reference")
    ids = np.random.default_rng(0).integers(1, 48, (8, 512))
    ids[np.random.default_rng(1).random(ids.shape) < 0.1] = 0  # such as poly-A
    params = random_params(c)
    gradients = [
        jax.jit(jax.grad(functools.partial(loss, model(dtype=dtype, initializer_range=0.05, attention="reference"))))(
            params, jnp.asarray(ids)
        )
        for dtype in ("float32", "bfloat16")
    ]
    exact, low = ({jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(g)} for g in gradients)
    errors = {name: float(jnp.linalg.norm(low[name] - x) / jnp.linalg.norm(x)) for name, x in exact.items()}
    table = "['embed_tokens']"
    repeated, expected = low[table][0], exact[table][0]
    errors["the repeated id"] = float(jnp.linalg.norm(repeated - expected) / jnp.linalg.norm(expected))
    assert max(errors.values()) < 0.017, errors


def test_the_context_axis_has_the_kernel(gpu):
    """The kernel runs once forward and once backward over the whole length; blockwise if the heads do not divide."""

    def calls(heads):
        def total(q, k, v):
            return sharded_attention(q, k, v).astype(jnp.float32).sum()

        q, k = (jax.ShapeDtypeStruct((2, 512, n, 64), jnp.bfloat16) for n in (heads, 2))
        with jax.set_mesh(make_mesh(2, 1, 1, context=4)):
            text = jax.jit(jax.grad(total, (0, 1, 2))).trace(q, k, k).lower(lowering_platforms=("cuda",)).as_text()
        lengths = set(re.findall(r"custom_call @__cudnn\$fmhaSoftmax\(.*?\) .*? : \(tensor<1x(\d+)x", text))
        return Counter(re.findall(r"custom_call @(__cudnn\$\w+)", text)), lengths, text.count("all_to_all")

    once = {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}
    kernel, lengths, exchanges = calls(8)
    assert (kernel, lengths) == (once, {"512"})
    assert exchanges > 0
    assert calls(6) == ({}, set(), 0)
