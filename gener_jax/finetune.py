"""Fine-tunes a model on labelled sequences, or resumes such a run.

    gener-jax finetune --config=experiments/finetune_promoter.py
    gener-jax finetune --config=experiments/finetune_promoter.py \\
        --config.finetune.train=my_folder --config.finetune.method=lora

The sequences are in CSV, TSV, JSON lines, Parquet or FASTA; finetune.train is
their file, or a folder with files train, validation (valid, val, dev) and test.
train.init_from is the model. Validation rows choose the checkpoint, and test
rows measure it. The same command resumes. At the end come DIR/results.json,
DIR/test_predictions.tsv, DIR/plots and a table.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline import cli
from gener_jax.cli import command
from gener_jax.config import Config
from gener_jax.runtime import flags
from gener_jax.runtime.progress import log

if TYPE_CHECKING:
    from gener_jax.storage.results import Results


def finetune(config: Config, workdir: Path) -> "Results":
    """Fine-tunes in the folder `workdir`; see `gener_jax.finetuning.run.finetune`."""
    from gener_jax.finetuning import run

    return run.finetune(config, workdir)


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=False)
    args, config, workdir = program.parse(argv)
    line = flags.apply(config.train.xla_flags)

    from gener_jax.training.metrics import check_writers

    check_writers(config)
    if line:
        log(line)
    with cli.text(args.json):
        results = finetune(config, workdir)
    cli.finish(results.json(), args.json, listed=False)


if __name__ == "__main__":
    command.run(main)
