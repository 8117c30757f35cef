"""Lists the commands or runs one: gener-jax train …, or python -m gener_jax train …"""

import importlib.metadata
import platform

from data_pipeline import cli
from gener_jax import __version__
from gener_jax.cli.calling import run

VERBS = {
    "data": (
        "data_pipeline.__main__",
        "datasets of annotated genomes: build, inspect, train_bpe",
    ),
    "train": ("gener_jax.train", "trains a model, or resumes a run"),
    "finetune": ("gener_jax.finetune", "fine-tunes a model on labelled sequences"),
    "evaluate": ("gener_jax.evaluate", "measures models: held-out bits per base, benchmarks of the field"),
    "predict": ("gener_jax.predict", "predicts labels or values of sequences with a fine-tuned model"),
    "sample": ("gener_jax.sample", "generates DNA"),
    "score": ("gener_jax.score", "scores variants (VCF) or sequences (FASTA)"),
    "embed": ("gener_jax.embed", "embeds sequences (FASTA)"),
    "convert": ("gener_jax.convert", "converts a model to or from a Hugging Face folder, or verifies one"),
    "plan": ("gener_jax.plan", "estimates whether a configuration fits a machine, and which is fastest there"),
    "doctor": ("gener_jax.doctor", "checks this installation: versions, devices, kernels, a short benchmark"),
    "benchmark": (
        "gener_jax.benchmarks.__main__",
        "speed and memory: train, inference, loader, build, tokenizer",
    ),
}


def main() -> None:
    """Runs the command line `gener-jax`."""
    jax, python = importlib.metadata.version("jax"), platform.python_version()
    cli.call(VERBS, run, f"gener_jax {__version__}, jax {jax}, Python {python}")


if __name__ == "__main__":
    main()
