"""`head.json`, in the folder of a fine-tuned model: its `config.Head`.

A run's checkpoints hold the parameters with those of the model; in a published folder they are in `head.safetensors`.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_pipeline.files import write_text
from gener_jax.config import Head
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage.files import read_json

FILE, PARAMETERS = "head.json", "head.safetensors"
_MAX_BYTES = 1 << 24  # class names


def write(folder: Path, head: Head) -> None:
    """Writes it, replacing what is there."""
    write_text(folder / FILE, json.dumps(dataclasses.asdict(head), indent=2) + "\n")


def read(folder: Path) -> Head | None:
    """What is there; None if the model has no head.

    Raises:
      CheckpointError: if it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    fields = {name: tuple(x) if isinstance(x, list) else x for name, x in read_json(path, _MAX_BYTES).items()}
    try:
        return Head(**fields)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(path, f"cannot be used: {error}") from None


def check(folder: Path, head: Head, params, hidden_size: int, k: int) -> None:
    """Raises CheckpointError if the parameters are not those of a head of a model with this hidden size and k."""
    expected = {"kernel": (head.num_inputs(hidden_size), head.num_outputs(k))}
    if head.bias:
        expected["bias"] = expected["kernel"][1:]
    for name, shape in expected.items():
        if name not in params or params[name].shape != shape:
            found = params[name].shape if name in params else "absent"
            problem = f"does not fit the parameters: {name} of the head has shape {found} instead of {shape}"
            raise CheckpointError(folder / FILE, problem, name=name, value=found)


def is_classifier(head: Head, params) -> bool:
    """Whether transformers' `ForSequenceClassification` computes the same: a matrix without a bias times the hidden
    state of the last token after the final norm.
    """
    plain = params.keys() == {"kernel"} and head.layer is None and head.chunks == 1 and not head.pool_at_end
    return plain and head.problem != "token" and head.pooling in ("last", "separator")


def write_params(folder: Path, params) -> None:
    """Writes the parameters of a head, float32, into a published folder."""
    save_file({name: np.ascontiguousarray(x, np.float32) for name, x in params.items()}, folder / PARAMETERS)


def read_params(folder: Path) -> dict[str, np.ndarray] | None:
    """The parameters of a head in a published folder; None if it has none.

    Raises:
      CheckpointError: if they cannot be read, or are not finite.
    """
    path = folder / PARAMETERS
    if not path.exists():
        return None
    try:
        params = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"is not a complete safetensors file: {error}") from None
    for name, x in params.items():
        if not np.isfinite(x).all():
            raise CheckpointError(path, f"tensor {name!r} holds NaN or infinity", name=name)
    return params
