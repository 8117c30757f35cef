"""GENERator's decoder: a Llama model over DNA tokens, as pure functions of a parameter tree.

    model = Decoder(config)
    params = init(model, key)                                  # plain arrays
    hidden_BTD, _ = model.apply({"params": params}, ids_BT)
    logits_BTV = model.apply({"params": params}, hidden_BTD, method="logits")

The tree has one of two forms, and the decoder accepts both. Training and checkpoints use parameters stacked over layers
("layers/q" [L, …]); the decoder then scans over the layers. Inference uses parameters by layer ("layers_0/q", …; see
`unstack`); the layers are then unrolled, because a scan would copy each layer's weights and cache out of the stack for
every token. Adapters (`lora`) are a second collection of `apply`, in the same form.

Dimension key: B batch, T tokens, S cache slots, D hidden, F feed-forward, N query heads, K key/value heads, H head
dimension, V vocabulary, L layers.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct, traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from gener_jax.config import Model
from gener_jax.model import rope
from gener_jax.model.attention import Padded, Segments, cached_attention, keep_attention, matmul_precision
from gener_jax.model.parallel import sharded_attention
from gener_jax.model.projection import PRODUCT, declare
from gener_jax.model.sharding import constrain
from gener_jax.model.trainable import everything, split


@struct.dataclass
class Cache:
    """Keys and values of the tokens so far, one array per layer.

    All rows use the same slots; `segment_ids` is 0 where a slot is empty.
    """

    k: tuple[Float[Array, "B K H S"], ...]
    v: tuple[Float[Array, "B K S H"], ...]
    segment_ids: Int[Array, "B S"]
    index: Int[Array, ""]  # the slot of the next token


def extend_cache(cache: Cache, slots: int) -> Cache:
    """The cache with `slots` empty slots appended."""
    return Cache(
        tuple(jnp.pad(k, [(0, 0)] * 3 + [(0, slots)]) for k in cache.k),
        tuple(jnp.pad(v, [(0, 0)] * 2 + [(0, slots), (0, 0)]) for v in cache.v),
        jnp.pad(cache.segment_ids, [(0, 0), (0, slots)]),
        cache.index,
    )


def end_together(cache: Cache, lengths_B: Int[Array, " B"]) -> Cache:
    """Shifts the rows of a full, right-padded cache, of `lengths_B` tokens each, so that all end in the last slot."""
    move = lambda axis: jax.vmap(functools.partial(jnp.roll, axis=axis))  # noqa: E731
    slots = cache.segment_ids.shape[1]
    pad_B = slots - lengths_B
    return Cache(
        tuple(move(2)(k, pad_B) for k in cache.k),
        tuple(move(1)(v, pad_B) for v in cache.v),
        (jnp.arange(slots) >= pad_B[:, None]).astype(jnp.int32),
        cache.index,
    )


class RMSNorm(nn.Module):
    """x / rms(x) · scale, computed in float32 (Zhang and Sennrich, 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x_BTD):  # noqa: D102
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("hidden",))
        scale_D = self.param("scale", ones, x_BTD.shape[-1:], jnp.float32)
        x32 = x_BTD.astype(jnp.float32)
        x32 *= jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32.astype(x_BTD.dtype) * scale_D).astype(x_BTD.dtype)


class Block(nn.Module):
    """One layer: norm → attention → residual → norm → SwiGLU → residual."""

    config: Model
    gradient_dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BTD, cache_kv, angles, segments, slot, keep=False):
        """`cache_kv` is the layer's (k, v) or None. Returns x and the new (k, v), without a cache only if `keep`."""
        c = self.config
        D, N, K, H, F = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.intermediate_size
        matrix = functools.partial(declare, self, nn.initializers.normal(c.initializer_range))
        with jax.named_scope("attention"):
            y_BTD = RMSNorm(c.rms_norm_eps, name="input_norm")(x_BTD)
            q_BTNH = matrix("q", {"embed": D}, {"heads": N, "head_dim": H})(y_BTD)
            k_BTKH = matrix("k", {"embed": D}, {"kv_heads": K, "head_dim": H})(y_BTD)
            v_BTKH = matrix("v", {"embed": D}, {"kv_heads": K, "head_dim": H})(y_BTD)
            q_BTNH = constrain(rope.rotate(q_BTNH, *angles), "batch", "length", "heads", "head_dim")
            k_BTKH = constrain(rope.rotate(k_BTKH, *angles), "batch", "length", "kv_heads", "head_dim")
            v_BTKH = constrain(v_BTKH, "batch", "length", "kv_heads", "head_dim")
            k_BKHT, v_BKTH = k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3)
            if cache_kv is None:
                out_BTNH = sharded_attention(
                    q_BTNH, k_BTKH, v_BTKH, implementation=c.attention, segments=segments, window=c.sliding_window,
                    block=c.attention_block, documents=c.attention_documents,
                )  # fmt: skip
                cache_kv = (k_BKHT, v_BKTH) if keep else None
            else:
                k_BKHS = jax.lax.dynamic_update_slice_in_dim(cache_kv[0], k_BKHT, slot, 3)
                v_BKSH = jax.lax.dynamic_update_slice_in_dim(cache_kv[1], v_BKTH, slot, 2)
                cache_kv = (k_BKHS, v_BKSH)
                out_BTNH = cached_attention(
                    q_BTNH, k_BKHS, v_BKSH, offset=slot, segments=segments, window=c.sliding_window
                )
            out_BTD = matrix("o", {"heads": N, "head_dim": H}, {"embed": D})(out_BTNH)
            x_BTD += constrain(out_BTD, "batch", "length", "hidden")
        with jax.named_scope("mlp"):
            y_BTD = RMSNorm(c.rms_norm_eps, name="post_attention_norm")(x_BTD)
            gate_BTF = matrix("gate", {"embed": D}, {"mlp": F})(y_BTD)
            up_BTF = matrix("up", {"embed": D}, {"mlp": F})(y_BTD)
            h_BTF = constrain(nn.silu(gate_BTF) * up_BTF, "batch", "length", "mlp")
            down_BTD = matrix("down", {"mlp": F}, {"embed": D})(h_BTF)
            x_BTD += constrain(down_BTD, "batch", "length", "hidden")
        self.sow("intermediates", "output", x_BTD)
        return x_BTD, cache_kv


_REMAT = {  # what a layer's forward pass saves for the backward pass, in addition to its input
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(PRODUCT), keep_attention
    ),
    "block": keep_attention,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Decoder(nn.Module):
    """The model up to the final norm; the head is the method `logits`.

    `gradient_dtype`, "float32" or "compute": see `train.gradient_dtype`.
    """

    config: Model
    gradient_dtype: str = "float32"

    def setup(self):  # noqa: D102
        c = self.config
        matrix = functools.partial(declare, self, nn.initializers.normal(c.initializer_range))
        self.embed_tokens = matrix("embed_tokens", {"vocab": c.vocab_size}, {"embed": c.hidden_size})
        if self.has_variable("params", "layers_0"):
            # Flax names them layers_0, …
            self.layers = [Block(c, self.gradient_dtype) for _ in range(c.num_hidden_layers)]
        else:
            block = Block if c.remat == "none" else nn.remat(Block, policy=_REMAT[c.remat], prevent_cse=False)
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0, "adapters": 0, "intermediates": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=c.num_hidden_layers,
                unroll=c.scan_unroll,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(c, self.gradient_dtype)
        self.norm = RMSNorm(c.rms_norm_eps)
        self.lm_head = matrix("lm_head", {"embed": c.hidden_size}, {"vocab": c.vocab_size})
        if unknown := self.variables.get("adapters", {}).keys() - self.variables["params"].keys():
            raise ValueError(f"adapters for {', '.join(sorted(unknown))}, but the parameters are in the other form")

    def __call__(
        self,
        ids_BT: Int[Array, "B T"],
        *,
        positions_BT: Int[Array, "B T"] | None = None,
        segment_ids_BT: Int[Array, "B T"] | Padded | None = None,
        cache: Cache | None = None,
        keep: bool = False,
        final_norm: bool = True,
    ):
        """Hidden states after the final norm, [B, T, D] in the compute dtype, and the cache with these tokens added.

        Args:
          ids_BT: token ids.
          positions_BT: rotary positions in tokens; default: 0, 1, …, or continuing after the tokens of the cache. On a
            mesh with a context axis they are required, since the tokens are in the order of `parallel.balance`.
          segment_ids_BT: document ids, which attention does not cross, or padding; not with a cache.
          cache: keys and values so far, for one further token per row; needs parameters by layer. Without one, the
            returned cache is None.
          keep: without a cache, return one that holds exactly these tokens; needs parameters by layer. Such a pass may
            use the platform's attention kernel.
          final_norm: False returns the output of the last layer as it is.

        With `mutable=["intermediates"]`, `apply` also returns the output of each layer before any norm, [L, B, T, D]
        (with parameters by layer: one array per layer).

        Raises:
          ValueError: if positions are missing on a mesh with a context axis, or a cache comes with stacked parameters.
        """
        c = self.config
        slot = 0 if cache is None else cache.index
        if positions_BT is None:
            mesh = jax.sharding.get_abstract_mesh()
            if not mesh.empty and mesh.shape.get("context", 1) > 1:
                raise ValueError(
                    "a mesh with a context axis needs positions, since its tokens are in the balanced order"
                )
            positions_BT = slot + jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
        if cache is not None:
            own = jnp.ones_like(ids_BT)
            segments = Segments(own, jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, own, slot, 1))
        else:
            segments = segment_ids_BT
            if segments is not None and not isinstance(segments, Padded):
                segments = Segments(segment_ids_BT, segment_ids_BT)
        norm = self.norm if final_norm else (lambda x_BTD: x_BTD)
        angles = rope.angles(positions_BT, c)
        x_BTD = constrain(self.embed_tokens.rows(ids_BT, c.dtype), "batch", "length", "hidden")
        with matmul_precision(c.dtype):
            if isinstance(self.layers, nn.Module):
                if cache is not None or keep:
                    raise ValueError("a cache needs parameters by layer; use decoder.unstack(params)")
                x_BTD, _ = self.layers(x_BTD, None, angles, segments, slot)
                return norm(x_BTD), None
            kept = []
            for i, layer in enumerate(self.layers):
                x_BTD, kv = layer(x_BTD, cache and (cache.k[i], cache.v[i]), angles, segments, slot, keep)
                kept.append(kv)
        if keep:
            cache = Cache(*zip(*kept, strict=True), jnp.ones_like(ids_BT), jnp.int32(ids_BT.shape[1]))
        elif cache is not None:
            cache = Cache(*zip(*kept, strict=True), segments.keys, cache.index + 1)
        return norm(x_BTD), cache

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """The untied output head: float32 logits of hidden states with any leading shape."""
        return self.lm_head(hidden, jnp.float32)


def init(model: Decoder, key: jax.Array):
    """Parameters boxed with their logical axes (`nn.unbox` gives plain arrays).

    Norms are 1; matrices are drawn from a normal distribution with standard deviation `config.initializer_range`.
    """
    one = jnp.zeros((1, 1), jnp.int32)
    model = Decoder(dataclasses.replace(model.config, attention="reference"))  # kernels do not support a single token
    return model.init(key, one, positions_BT=one)["params"]


def variables(tree):
    """The collections for `apply` from one tree: the parameters and, under "adapters", their adapters (see `lora`)."""
    return {"params": {name: x for name, x in tree.items() if name != "adapters"}, "adapters": tree.get("adapters", {})}


def unstack(params, *, donate: bool = False):
    """Splits stacked parameters by layer: "layers/q" [L, …] becomes "layers_0/q", …; a tree by layer is unchanged.

    Takes parameters, adapters or both (see `variables`), as arrays, or as shapes with shardings. `donate` frees each
    stacked array once it is split, so that memory for only one stacked array is needed in addition to the model.
    """
    out = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        before, stacked, after = path.rpartition("layers/")
        if not stacked:
            out[path] = leaf
            continue
        sharding = leaf.sharding
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        if isinstance(leaf, jax.ShapeDtypeStruct):
            by_layer = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=sharding)] * leaf.shape[0]
        else:
            by_layer = jax.block_until_ready(_split(sharding, leaf.shape[0])(leaf))
            if donate:
                leaf.delete()
        out.update({f"{before}layers_{i}/{after}": layer for i, layer in enumerate(by_layer)})
    return traverse_util.unflatten_dict(out, sep="/")


def stack(params, *, donate: bool = False):
    """The inverse of `unstack`, for arrays."""
    out, layers = {}, {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        if layer := re.search(r"layers_(\d+)/", path):
            layers.setdefault(path.replace(layer[0], "layers/"), {})[int(layer[1])] = leaf
        else:
            out[path] = leaf
    for path, by_layer in layers.items():
        sharding = by_layer[0].sharding
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
        by_layer = [by_layer[i] for i in range(len(by_layer))]
        out[path] = jax.block_until_ready(jax.jit(jnp.stack, out_shardings=sharding)(by_layer))
        if donate:
            jax.tree.map(lambda x: x.delete(), by_layer)
    return traverse_util.unflatten_dict(out, sep="/")


@functools.cache
def _split(sharding, layers: int):
    return jax.jit(lambda stacked: [stacked[i] for i in range(layers)], out_shardings=[sharding] * layers)


@functools.lru_cache
def abstract(config: Model, tree=None):
    """The shapes of the parameters, boxed with their logical axes, by abstract evaluation, which allocates nothing.

    `tree`: those of another tree instead, as a function of a key.
    """
    return jax.eval_shape(tree or functools.partial(init, Decoder(config)), jax.random.key(0))


def num_parameters(config: Model, trains=everything) -> int:
    """The number of parameters of a model: of those whose paths `trains` accepts."""
    return sum(leaf.size for leaf in jax.tree.leaves(split(abstract(config), trains)[0]))
