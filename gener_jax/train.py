"""Trains a model, or resumes the run in its folder.

    gener-jax train --config=experiments/quickstart.py
    gener-jax train --config=experiments/euk_1b.py --config.train.batch_size=64

An experiment file sets the configuration; --config=FILE.py --print_config lists
its fields, and --config.SECTION.FIELD=X sets one. The same command resumes from
the last checkpoint, to the same parameters as a run that never stopped.
Ctrl-C and SIGTERM save the current step first. Progress goes to standard error
and DIR/log.jsonl; at the end come DIR/results.json, DIR/plots and a summary.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline import cli
from gener_jax.cli import command
from gener_jax.config import Config
from gener_jax.runtime import distributed, flags

if TYPE_CHECKING:
    from gener_jax.storage.results import Results


def train(config: Config, workdir: Path, **parts) -> "Results":
    """Trains in the folder `workdir`; see `gener_jax.training.run.train`."""
    from gener_jax.training import run

    return run.train(config, workdir, **parts)


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=False)
    distributed.add_flags(program.parser)
    args, config, workdir = program.parse(argv)
    line = flags.apply(config.train.xla_flags, args.num_processes)
    distributed.start(args)

    from gener_jax.training.metrics import check_writers
    from gener_jax.training.run import check

    if distributed.is_primary():  # now, not after the dataset is built
        check_writers(config)
    fields = [f"--config.{name}={text}" for name, text in args.overrides.items()]
    check(config, flags=shlex.join([f"--config={args.config}", *fields]))
    if line:
        distributed.log_primary(line)
    with cli.text(args.json):
        results = train(config, workdir)
    if distributed.is_primary():
        cli.finish(results.json(), args.json, listed=False)


if __name__ == "__main__":
    command.run(main)
