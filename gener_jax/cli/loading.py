"""Options and loading of the commands that apply a model to all records of a file."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.ranges import Whole
from gener_jax.config import Config, dumps
from gener_jax.inference.options import TOKENS, TOKENS_ACCELERATED
from gener_jax.storage.files import refuse_existing
from gener_jax.storage.resumable import of_file

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --fasta and --prefix, and `add_batches`."""
    add = parser.add_argument
    add("--fasta", type=Path, metavar="FILE", required=True, help="plain, gzip or bgzip; - is standard input")
    add("--prefix", default="", metavar="TOKENS", help="special tokens before each sequence, e.g. <mam><cds>")
    add_batches(parser)


def add_batches(parser: argparse.ArgumentParser) -> None:
    """Adds --batch_tokens and --overwrite."""
    add = parser.add_argument
    add("--batch_tokens", type=Whole(1), help=f"tokens per batch [{TOKENS}; on an accelerator {TOKENS_ACCELERATED}]")
    add("--overwrite", action="store_true", help="replace an output that exists; without it, only resume")


def load(args, config: Config, folder: Path, options: Iterable[str], files: Iterable[str]) -> "tuple[LM, dict]":
    """The model, and the fingerprint of the output: plain values that determine every byte of it.

    `options` and `files` are names of arguments. Sets the default of `args.batch_tokens`.

    Raises:
      ConfigError: if `args.output` exists and may not be replaced.
    """
    if args.output is not None:  # now, not after the model is read
        refuse_existing(args.output, args.overwrite)

    from gener_jax.inference.batches import tokens_per_batch
    from gener_jax.inference.lm import from_spec
    from gener_jax.storage.compilation import keep_programs

    files = {name: of_file(path) for name in files if (path := getattr(args, name)) is not None}
    args.batch_tokens = tokens_per_batch(args.batch_tokens)
    keep_programs(config, folder)
    lm = from_spec(config.spec, folder, step=args.step, weights=args.weights)
    options = {name: getattr(args, name) for name in options}
    options |= {} if args.weights is None else {"weights": args.weights}
    spec = json.loads(dumps(config.spec))
    return lm, {"checkpoint": str(folder), "step": lm.step, **options, **files, "spec": spec}
