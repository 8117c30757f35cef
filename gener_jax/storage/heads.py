"""`head.json`, in the folder of a fine-tuned model: its `config.Head`. The parameters are with those of the model."""

import dataclasses
import json
from pathlib import Path

from data_pipeline.files import write_text
from gener_jax.config import Head
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage.files import read_json

FILE = "head.json"
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
