"""Compares our model with `transformers`: every layer's hidden state, the logits, a greedy continuation."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL
from gener_jax.config import Model
from gener_jax.inference.generate import Request, programs
from gener_jax.inference.lm import LM
from gener_jax.runtime.errors import CheckpointError

TOLERANCE = 1e-4  # relative to the largest value of a layer, in float32
NEW_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model for ids [B, T]."""

    hidden: list[
        np.ndarray
    ]  # float32 [B, T, D]: embeddings, outputs of all layers but the last, output of the last norm
    logits: np.ndarray  # float32 [B, T, V]
    greedy: list[int]  # NEW_TOKENS ids generated greedily after the first row, from the whole vocabulary


def probe_ids(lm: LM, rows: int = 2, length: int = 256) -> np.ndarray:
    """Ids to compare on, int32 [rows, length]: <s> and random k-mers, always the same; fewer for a short context."""
    vocab_size, longest = lm.tokenizer.vocab_size, lm.spec.model.max_length
    if longest is not None:
        length = max(min(length, longest - NEW_TOKENS), 1)
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, vocab_size, (rows, length), dtype=np.int32)
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
    """The outputs of our model."""
    vocab_size = lm.tokenizer.vocab_size
    anything = np.ones(vocab_size, bool)
    request = Request(
        keys=jax.random.key(0)[None], first_allowed=anything[None], allowed=anything, stops=~anything,
        token_bases=anything.astype(np.int32), left_over=np.zeros(1, np.int32),
        num_bases=np.full(1, NEW_TOKENS, np.int32), temperature=np.float32(0), top_k=np.int32(0), top_p=np.float32(1),
    )  # fmt: skip
    prefill, advance = programs()
    with jax.set_mesh(lm.mesh):
        hidden, logits = jax.device_get(_states(lm.model, lm.params, jnp.asarray(ids)))
        state = prefill(
            lm.model, lm.params, jnp.asarray(ids[:1]), np.full(1, ids.shape[1], np.int32), np.zeros(1, np.int32),
            request, None, None, None, None, room=NEW_TOKENS, log_probs=0,
        )  # fmt: skip
        greedy = advance(lm.model, lm.params, request, state, NEW_TOKENS, filtered=False, greedy=True, base_mode=0).ids
    return Outputs(hidden, logits, np.asarray(greedy)[0].tolist())


def theirs(folder: Path, ids: np.ndarray, model: Model) -> Outputs:
    """The outputs of `transformers` with the folder's weights, on the CPU, without remote code; `model` is our config.

    Raises:
      ImportError: if torch or transformers is not installed.
      CheckpointError: if this transformers cannot run the model, or reads another RoPE base from the folder than we do.
    """
    import torch
    import transformers

    try:
        return _theirs(folder, ids, model, torch, transformers)
    except CheckpointError:
        raise
    except Exception as error:  # many classes, with texts of any length
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            folder, f"transformers {transformers.__version__} cannot run it: {type(error).__name__}: {first}"
        ) from error


def _theirs(folder, ids, model, torch, transformers) -> Outputs:
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    rope_theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")  # transformers 5
    if int(transformers.__version__.partition(".")[0]) < 5:
        rope_theta = config.rope_theta
    if rope_theta != model.rope_theta:
        raise CheckpointError(
            folder / "config.json",
            f"transformers {transformers.__version__} reads rope_theta {rope_theta} from it, gener_jax "
            f"{model.rope_theta}, because versions 4 and 5 store it in different fields; verify the output of "
            "--format hf instead, which both versions read",
            name="rope_theta",
            value=rope_theta,
        )
    architecture = {"llama": transformers.LlamaForCausalLM, "mistral": transformers.MistralForCausalLM}
    vocab_size = model.vocab_size
    model = architecture[config.model_type].from_pretrained(folder, dtype=getattr(torch, model.dtype)).eval()
    model.resize_token_embeddings(vocab_size)  # without padding
    model.generation_config = transformers.GenerationConfig()  # the folder's own could change the decoding
    rows = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        out = model(rows, output_hidden_states=True)
        new = model.generate(
            rows[:1], attention_mask=torch.ones_like(rows[:1]), do_sample=False, max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS, eos_token_id=None,
        )  # fmt: skip
    greedy = new[0, ids.shape[1] :].tolist()
    return Outputs([state.float().numpy() for state in out.hidden_states], out.logits.float().numpy(), greedy)


def differences(a: Outputs, b: Outputs) -> Iterator[tuple[str, float, float]]:
    """Yields (name, largest difference, largest value of `b`), from the embedding to the logits."""
    names = ["embedded", *(f"layer {i}" for i in range(1, len(a.hidden) - 1)), "last norm", "logits"]
    for name, x, y in zip(names, [*a.hidden, a.logits], [*b.hidden, b.logits], strict=True):
        with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which exceeds every tolerance
            yield name, float(np.abs(x - y).max()), float(np.abs(y).max())
