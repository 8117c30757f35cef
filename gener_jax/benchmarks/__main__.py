"""Lists the benchmarks, or runs one: `gener-jax benchmark train …` or `python -m gener_jax.benchmarks train …`."""

from data_pipeline import cli
from gener_jax.cli.calling import run

VERBS = {
    "device": ("gener_jax.benchmarks.device", "all benchmarks that matter on a device, within a time limit"),
    "train": ("gener_jax.benchmarks.train", "training steps, optionally beside a peer program"),
    "inference": (
        "gener_jax.benchmarks.inference",
        "generation and scoring, optionally beside a peer program",
    ),
    "finetune": (
        "gener_jax.benchmarks.finetune",
        "fine-tuning on many tasks, with random weights and baselines beside it",
    ),
    "kernels": ("gener_jax.benchmarks.kernels", "errors of attention kernels against the float32 reference"),
    "peer": ("gener_jax.benchmarks.peer", "a program to compare with, alone, at several shapes"),
    "loader": ("gener_jax.benchmarks.loader", "throughput of the data loader"),
    "build": ("gener_jax.benchmarks.build", "building a dataset, compared with Biopython's parser"),
    "tokenizer": ("gener_jax.benchmarks.tokenizer", "tokenizing a FASTA file, compared with a Python loop"),
}


def main() -> None:
    """The command."""
    cli.call(VERBS, run)


if __name__ == "__main__":
    main()
