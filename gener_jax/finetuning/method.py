"""What the tree of a fine-tuned model holds, and which of it trains.

The tree is the decoder's, with "head" and, for LoRA, "adapters":

    full     everything trains; lm_head, which no row uses, gets no gradient, does not decay and stays as it is, so that
             the folder holds a whole model
    lora     adapters and head; the decoder is that of the base, in the compute dtype
    frozen   the head, on features that are computed once
"""

import jax
import jax.numpy as jnp
import numpy as np

from gener_jax.config import Config, Head
from gener_jax.model import decoder, heads, lora
from gener_jax.model.projection import Matrix
from gener_jax.model.trainable import everything


def trains(method: str):
    """The predicate over paths of parameters, as `step.abstract_state` takes it."""
    if method == "full":
        return everything
    return _adapters_and_head if method == "lora" else _head


def _adapters_and_head(path: str) -> bool:
    return path.startswith(("adapters/", "head/"))


def _head(path: str) -> bool:
    return path.startswith("head/")


def head_alone(config: Config, head: Head):
    """The tree of a head without a decoder, from a key; otherwise as `init`."""

    def tree(key):
        m, (of_head, _) = config.model, _keys(key)
        return {"head": heads.init(of_head, head, m.hidden_size, config.tokenizer.k, deviation=m.initializer_range)}

    return tree


def _keys(key: jax.Array):
    """The keys of the head and of the adapters."""
    return jax.random.split(jax.random.fold_in(key, 1))


def placed(params, statistics: tuple[np.ndarray, np.ndarray]) -> dict[str, jax.Array]:
    """The statistics of `standardize` as the head's parameters, where those of `params` are."""
    return {
        name: jax.device_put(x, params[name].sharding)
        for name, x in zip(("mean", "deviation"), statistics, strict=True)
    }


def init(config: Config, head: Head | None, statistics: tuple[np.ndarray, np.ndarray] | None = None):
    """The whole tree from a key, boxed with its logical axes, as `step.abstract_state` takes it.

    Args:
      config: of the run.
      head: its head; None without one (causal).
      statistics: mean and deviation of each input of a standardized head, float32 [inputs].
    """
    f, m = config.finetune, config.model

    def tree(key):
        params = decoder.init(decoder.Decoder(m), key)
        if head is not None:
            params |= head_alone(config, head)(key)
            if statistics is not None:
                for name, x in zip(("mean", "deviation"), statistics, strict=True):
                    params["head"][name] = params["head"][name].replace_boxed(jnp.asarray(x))
            if f.method == "full":  # an axis without a name does not decay
                box = params["lm_head"]
                params["lm_head"] = Matrix(box.value, (box.names[0], None), num_inputs=box.num_inputs)
        if f.method == "lora":
            chosen = {f"layers/{name}" for name in f.targets}
            boxed = decoder.abstract(m)
            params["adapters"] = lora.init(_keys(key)[1], boxed, chosen.__contains__, rank=f.rank, alpha=f.alpha)
        return params

    return tree


def standardize(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each input over training rows, float32 [inputs], of features [strands, rows, inputs].

    An input that does not vary has deviation 1.
    """
    flat = features.reshape(-1, features.shape[-1])
    mean, deviation = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.abs(mean).clip(1e-6)
    return mean.astype(np.float32), np.where(constant, 1, deviation).astype(np.float32)
