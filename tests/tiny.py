"""Makes datasets, configurations and commands that take seconds, for the tests of training."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from data_pipeline.dataset.builder import build
from data_pipeline.dataset.packing import Packed, pack_regions, with_tokens
from data_pipeline.dataset.writer import DatasetWriter
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence.record import TAXA
from gener_jax.config import Config, flatten, override
from tests.conftest import XLA_FLAGS
from tests.data import FIXTURES

ROOT = Path(__file__).parents[1]
GENOMES = [
    FIXTURES / name
    for name in (
        "phage_NC_000902.gbk.gz", "phiX174_NC_001422.1.gbk.gz", "ypestis_plasmid_pPCP1_NC_005816.1.gb.gz",
    )
]  # fmt: skip


def genomes(folder: Path, **options) -> Path:
    """A dataset of a phage, phiX174 and a plasmid: 107 regions, 68 076 bases; a fifth held out."""
    build(GENOMES, folder, **{"validation_fraction": 0.2, **options})
    return folder


def add(writer: DatasetWriter, split: str, region: Region) -> None:
    """Appends a region to a split."""
    table = pack_regions([region])
    if writer.tokenizer is not None:
        table = with_tokens(table, [region], writer.tokenizer)
    packed = Packed(table | {"record": np.zeros(1, np.int64)}, [region.accession], "")
    writer.splits[split].write(packed, np.zeros(1, np.int64), np.zeros(1, np.float32))


def synthetic(
    folder: Path, sequences: dict[str, list[np.ndarray]], kinds=("cds",), *, soft_masked: bool = False, **options
) -> Path:
    """A dataset of given base codes by split; `soft_masked` makes runs of them lower case."""
    folder.mkdir(parents=True)
    writer = DatasetWriter(folder, **options)
    for split, regions in sequences.items():
        for i, codes in enumerate(regions):
            kind, taxon = kinds[i % len(kinds)], ("bct", "vir")[i % 2]
            assert kind in KINDS
            assert taxon in TAXA
            lower = random_runs(len(codes), i) if soft_masked else np.zeros((0, 2), np.int64)
            region = Region(0, len(codes), 1, kind, accession=split, taxon=taxon, lower_case=lower)
            add(writer, split, region._replace(codes=np.asarray(codes, np.uint8)))
    writer.close()
    return folder


def random_runs(length: int, seed: int) -> np.ndarray:
    """Disjoint intervals (start, end) of about ten bases, in total about half of a region."""
    cuts = np.unique(np.random.default_rng(seed).integers(0, length + 1, length // 8 + 2))
    return cuts[: len(cuts) // 2 * 2].reshape(-1, 2)


SMALL = {
    "name": "tiny",
    "model.hidden_size": "16",
    "model.intermediate_size": "32",
    "model.num_hidden_layers": "1",
    "model.num_attention_heads": "2",
    "model.num_key_value_heads": "1",
    "model.max_position_embeddings": "128",
    "tokenizer.k": "3",
    "data.context_length": "32",
    "optimizer.peak_learning_rate": "1e-2",
    "optimizer.warmup_steps": "2",
    "train.num_steps": "12",
    "train.batch_size": "8",
    "train.log_every_steps": "1",
    "mesh.data": "1",
    "checkpoint.every_steps": "3",
    "eval.every_steps": "4",
    "eval.batch_size": "8",
    "eval.max_regions": "8",
    "sample.num_bases": "30",
    "sample.prompts": "ATG",
}


def config(dataset: Path, **changes: str) -> Config:
    """The configuration of a run of seconds; `changes` as on the command line, with `__` for the dot."""
    return override({}, _texts(dataset, changes))


def _texts(dataset: Path, changes: dict[str, str]) -> dict[str, str]:
    named = {name.replace("__", "."): str(text) for name, text in changes.items()}
    return {**SMALL, "data.path": str(dataset), **named}


def experiment(path: Path, dataset: Path, **changes: str) -> Path:
    """Writes the same configuration as an experiment file."""
    values, names = dict(flatten(config(dataset, **changes))), _texts(dataset, changes)
    lines = [f"    config.{name} = {values[name]!r}\n" for name in names if name != "name"]
    path.write_text(
        "from gener_jax.config import base\n\n\ndef get_config():\n    config = base()\n" + "".join(lines)
        + "    return config\n"
    )  # fmt: skip
    return path


def command(*arguments, module: str, cwd: Path, before: str = "", **options) -> subprocess.Popen:
    """Starts a module in another process on one CPU device; `before` is Python code that runs first."""
    # A shell starts background jobs with SIGINT ignored.
    before = f"signal.signal(signal.SIGINT, signal.default_int_handler)\n{before}"
    code = f"import runpy, signal, sys\n{before}\nsys.argv[0] = 'x'\nrunpy.run_module({module!r}, run_name='__main__')"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "XLA_FLAGS": XLA_FLAGS,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str, str]:
    """Waits for a program; returns its exit status, standard output and standard error."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
