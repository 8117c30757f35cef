"""Options and loading of the commands that apply a model to all records of a file."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.ranges import Whole
from gener_jax.config import Config, dumps
from gener_jax.inference.batches import TOKENS, TOKENS_ACCELERATED, tokens_per_batch
from gener_jax.inference.lm import LM, from_spec
from gener_jax.storage.compilation import keep_programs
from gener_jax.storage.resumable import of_file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --fasta, --prefix and --batch_tokens."""
    parser.add_argument(
        "--fasta", type=Path, metavar="FILE", required=True, help="plain, gzip or bgzip; - is standard input"
    )
    parser.add_argument(
        "--prefix", default="", metavar="TOKENS", help="special tokens before each sequence, e.g. <mam><cds>"
    )
    parser.add_argument(
        "--batch_tokens",
        type=Whole(1),
        help=f"tokens per batch, including padding [{TOKENS}; on an accelerator {TOKENS_ACCELERATED}]",
    )


def load(args, config: Config, folder: Path, options: Iterable[str], files: Iterable[str]) -> tuple[LM, dict]:
    """The model, and the fingerprint of the output: plain values that determine every byte of it.

    `options` and `files` are names of arguments. Sets the default of `args.batch_tokens`.
    """
    files = {name: of_file(path) for name in files if (path := getattr(args, name)) is not None}
    args.batch_tokens = tokens_per_batch(args.batch_tokens)
    keep_programs(config, folder)
    lm = from_spec(config.spec, folder, step=args.step)
    options = {name: getattr(args, name) for name in options}
    spec = json.loads(dumps(config.spec))
    return lm, {"checkpoint": str(folder), "step": lm.step, **options, **files, "spec": spec}
