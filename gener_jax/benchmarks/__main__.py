"""Lists the benchmarks, or calls one: gener-jax benchmark train …, which is python -m gener_jax.benchmarks train …"""

from data_pipeline import cli
from gener_jax.cli.calling import run

VERBS = {
    "device": ("gener_jax.benchmarks.device", "everything worth measuring on a device, within a time"),
    "train": ("gener_jax.benchmarks.train", "steps of training, beside a peer if one is given"),
    "inference": ("gener_jax.benchmarks.inference", "generation and scoring, beside a peer if one is given"),
    "kernels": ("gener_jax.benchmarks.kernels", "attention kernels beside the float32 reference"),
    "machine": ("gener_jax.benchmarks.measuring", "card, versions and bandwidth of memory"),
    "loader": ("gener_jax.benchmarks.loader", "batches of a dataset"),
    "build": ("gener_jax.benchmarks.build", "a dataset's making, beside Biopython's parser"),
    "tokenizer": ("gener_jax.benchmarks.tokenizer", "ids of a FASTA file, beside a Python loop"),
}


def main() -> None:
    """The command."""
    cli.call(VERBS, run)


if __name__ == "__main__":
    main()
