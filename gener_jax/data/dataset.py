"""The dataset of a configuration, which is built where it does not exist."""

from pathlib import Path

from data_pipeline.dataset.builder import build
from data_pipeline.errors import DatasetError
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Data
from gener_jax.runtime.progress import log


def exists(path: str) -> bool:
    """Whether there is a dataset in a folder."""
    return (Path(path) / "dataset.json").exists()


def build_missing(data: Data, tokenizer: Tokenizer) -> None:
    """Builds the dataset of `data.path` from `data.build_from`, unless it exists.

    Raises:
      DatasetError: if it does not exist, and there is nothing to build it from.
      DataError: as `build`.
    """
    if exists(data.path):
        return
    if not data.build_from:
        raise DatasetError(
            "does not exist", file=data.path,
            remedy="give the folder of another with --config.data.path=DIR, or build one with "
            "python -m data_pipeline.build --input FILES --output DIR",
        )  # fmt: skip
    log(f"building {data.path} from {', '.join(map(str, data.build_from))}")
    build(
        data.build_from, data.path, validation_fraction=data.validation_fraction,
        tokenizer=tokenizer if data.storage == "token_ids" else None,
    )  # fmt: skip
