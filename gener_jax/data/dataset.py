"""The dataset of a configuration, which is built where it does not exist."""

import shlex
from pathlib import Path

from data_pipeline.dataset.builder import build
from data_pipeline.errors import DatasetError
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Data
from gener_jax.runtime.progress import log


def exists(path: str) -> bool:
    """Whether there is a dataset in a folder."""
    return (Path(path) / "dataset.json").exists()


def missing(path: str) -> DatasetError:
    """The error if there is no dataset in a folder, and nothing to build it from."""
    build, folder = "gener-jax data build --input", Path(path)
    if folder.exists():
        remedy = f"if it holds genomes: {build} {shlex.quote(path)} --output datasets/{folder.absolute().name}"
        return DatasetError("is not a dataset, which has a dataset.json", file=path, remedy=remedy)
    return DatasetError(
        "does not exist", file=path,
        remedy="give the folder of a dataset with --config.data.path=DIR, or build one of annotated genomes (GenBank, "
        f"or FASTA with GFF3): {build} GENOMES --output {shlex.quote(path)}, or name these with "
        "--config.data.build_from=GENOMES",
    )  # fmt: skip


def build_missing(data: Data, tokenizer: Tokenizer) -> None:
    """Builds the dataset of `data.path` from `data.build_from`, unless it exists.

    Raises:
      DatasetError: if it does not exist, and there is nothing to build it from.
      DataError: as `build`.
    """
    if exists(data.path):
        return
    if not data.build_from:
        raise missing(data.path)
    log(f"building {data.path} from {', '.join(map(str, data.build_from))}")
    build(
        data.build_from, data.path, validation_fraction=data.validation_fraction,
        tokenizer=tokenizer if data.storage == "token_ids" else None,
    )  # fmt: skip
