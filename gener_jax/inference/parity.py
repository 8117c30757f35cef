"""Compares our model with `transformers`: every layer's hidden state, the logits, a greedy continuation."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.errors import one_line
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL
from gener_jax.config import Model
from gener_jax.inference.lm import LM
from gener_jax.model import sharding
from gener_jax.runtime.errors import CheckpointError

TOLERANCE = 1e-4  # relative to the largest value of a layer, in float32
NEW_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model for ids [B, T]."""

    hidden: list[np.ndarray]  # float32 [B, T, D]: embeddings, all layers but the last, the last norm
    logits: np.ndarray  # float32 [B, T, V]
    greedy: list[int]  # NEW_TOKENS ids generated greedily after the first row, k-mers only


def probe_ids(lm: LM) -> np.ndarray:
    """Ids to compare on, int32 [2, 256]: <s> and random k-mers, always the same; fewer for a short context."""
    longest = lm.spec.model.max_length
    shape = 2, 256 if longest is None else max(min(256, longest - NEW_TOKENS), 1)
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, lm.tokenizer.vocab_size, shape, dtype=np.int32)
    ids[:, 0] = BOS
    return ids


@functools.partial(jax.jit, static_argnums=0)
def _states(model, params, ids):
    (hidden, _), state = model.apply({"params": params}, ids, mutable=["intermediates"])
    embedded = jnp.take(params["embed_tokens"], ids, axis=0).astype(model.config.dtype)
    layers = [state["intermediates"][f"layers_{i}"]["output"][0] for i in range(model.config.num_hidden_layers)]
    logits = model.apply({"params": params}, hidden, method="logits")
    return [x.astype(jnp.float32) for x in (embedded, *layers[:-1], hidden)], logits


def ours(lm: LM, ids: np.ndarray) -> Outputs:
    """The outputs of our model; the rows of `ids` begin with <s>."""
    with sharding.on(lm.mesh):
        hidden, logits = jax.device_get(_states(lm.model, lm.params, jnp.asarray(ids)))
    (text,) = lm.generate([lm.tokenizer.decode(ids[0, 1:])], NEW_TOKENS * lm.tokenizer.k, temperature=0)
    return Outputs(hidden, logits, lm.tokenizer.encode(text).tolist())


def require() -> None:
    """Raises CheckpointError if torch or transformers cannot be imported."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        problem = f"cannot compare with transformers ({error}); pip install -e '.[parity]'"
        raise CheckpointError(None, problem) from None


def theirs(folder: Path, ids: np.ndarray, model: Model) -> Outputs:
    """The outputs of `transformers` with the folder's weights, on the CPU, without remote code; `model` is our config.

    Raises:
      CheckpointError: if torch or transformers is not installed, or if this transformers cannot run the model, or reads
        another RoPE base from the folder than we do.
    """
    require()
    import torch
    import transformers

    version = transformers.__version__
    architecture = {"llama": transformers.LlamaForCausalLM, "mistral": transformers.MistralForCausalLM}
    rows = torch.from_numpy(ids.astype(np.int64))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        network = architecture[config.model_type].from_pretrained(folder, dtype=getattr(torch, model.dtype)).eval()
        network.resize_token_embeddings(model.vocab_size)  # without padding
        network.generation_config = transformers.GenerationConfig()  # the folder's own could change the decoding
        with torch.no_grad():
            out = network(rows, output_hidden_states=True)
            new = network.generate(
                rows[:1], attention_mask=torch.ones_like(rows[:1]), do_sample=False, max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS, eos_token_id=None, suppress_tokens=list(range(NUM_SPECIAL)),
            )  # fmt: skip
    except Exception as error:  # many classes, with texts of any length
        problem = f"transformers {version} cannot run it: {type(error).__name__}: {one_line(error)}"
        raise CheckpointError(folder, problem) from error
    rope = config.rope_parameters if int(version.partition(".")[0]) >= 5 else {"rope_theta": config.rope_theta}
    if rope["rope_theta"] != model.rope_theta:
        raise CheckpointError(
            folder / "config.json",
            f"transformers {version} reads rope_theta {rope['rope_theta']} from it, gener_jax {model.rope_theta}, "
            "because versions 4 and 5 store it in different fields; verify the output of --format hf instead, which "
            "both versions read",
            name="rope_theta",
            value=rope["rope_theta"],
        )
    greedy = new[0, ids.shape[1] :].tolist()
    return Outputs([state.float().numpy() for state in out.hidden_states], out.logits.float().numpy(), greedy)


def differences(a: Outputs, b: Outputs) -> Iterator[tuple[str, float, float]]:
    """Yields (name, largest difference, largest value of `b`), from the embedding to the logits."""
    names = ["embedded", *(f"layer {i}" for i in range(1, len(a.hidden) - 1)), "last norm", "logits"]
    for name, x, y in zip(names, [*a.hidden, a.logits], [*b.hidden, b.logits], strict=True):
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which exceeds every tolerance
            yield name, float(np.abs(x - y).max()), float(np.abs(y).max())
