"""A small set of variants with labels in a random genome, for the tests of tasks that take any such set."""

from pathlib import Path

import numpy as np

from gener_jax.tasks.base import Options
from gener_jax.tasks.variant_tables import Classes, VariantSet

GENOME = "".join(np.random.default_rng(0).choice(list("ACGT"), 10_000))
SET = VariantSet(
    name="small",
    file="small.tsv",
    genome="small.fa",
    source="",
    note="A small set.",
    classes=(Classes("", ("label",), ("P",), ("B",), "P (positive) against B"),),
    columns=("chrom", "pos", "ref", "alt"),
    folds="exon",
    context=60,
)


def write(folder: Path, rows: list[tuple[int, str, str, bool, str]]) -> Options:
    """Writes table and genome. A row: 0-based position, reference and alternate allele, whether it harms, the exon."""
    lines = [f"1\t{at + 1}\t{ref}\t{alt}\t{exon}\t{'P' if harmful else 'B'}" for at, ref, alt, harmful, exon in rows]
    (folder / SET.file).write_text("\n".join(["chrom\tpos\tref\talt\texon\tlabel", *lines]) + "\n")
    (folder / SET.genome).write_text(f">1\n{GENOME}\n")
    return Options(folder)
