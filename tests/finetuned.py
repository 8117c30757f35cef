"""Writes folders of fine-tuned models, as runs leave them, from models in memory."""

from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from gener_jax.config import Head
from gener_jax.inference.lm import LM
from gener_jax.model import decoder, heads, lora
from gener_jax.storage import heads as stored
from gener_jax.storage import run_folder


def head_params(lm: LM, head: Head, seed: int = 0):
    """Random parameters of a head for a model."""
    key, size = jax.random.key(seed), lm.spec.model.hidden_size
    params = nn.unbox(heads.init(key, head, size, lm.spec.tokenizer.k, deviation=1.0))
    return jax.tree.map(lambda x: x + np.float32(0.1), params)


def adapters(lm: LM, targets=("q", "v", "down"), rank: int = 2, seed: int = 0):
    """Random adapters, stacked, that change the outputs of a model."""
    paths = [f"layers/{name}" for name in targets]
    new = lora.init(jax.random.key(seed), decoder.abstract(lm.spec.model), paths.__contains__, rank=rank, alpha=2)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jax.device_put(rng.normal(scale=0.3, size=x.shape).astype(np.float32)), nn.unbox(new))


def write(folder: Path, lm: LM, head: Head, base: Path | None = None, **tree) -> Path:
    """Writes a model with a head: all of its parameters, or, with a `base`, only those of `tree` ("adapters").

    The parameters of the head are those of `head_params`, unless `tree` has them.
    """
    folder.mkdir(parents=True)
    params = decoder.stack(lm.params)
    if base is not None:
        run_folder.name_base(folder, base, params, run_folder.checksum(params))
        params = {}
    run_folder.write_params(folder, lm.spec, {**params, "head": head_params(lm, head), **tree})
    stored.write(folder, head)
    return folder
