"""Tracks of a genome browser: a value per base as bedGraph (text) or bigWig (binary, with an index)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.files import atomic

BEDGRAPH, BIGWIG = (".bedgraph", ".bg"), (".bw", ".bigwig")  # how their names end
_LINES = 1 << 16  # of a bedGraph in memory at a time


def bedgraph(contig: str, start: int, values: np.ndarray) -> str:
    """The lines of consecutive bases from `start`, 0-based; bases whose value is NaN or infinite have none."""
    at = np.flatnonzero(np.isfinite(values))
    return "".join(f"{contig}\t{start + i}\t{start + i + 1}\t{values[i]:.6g}\n" for i in at.tolist())


def write_bigwig(source: Path, path: Path, sizes: dict[str, int]) -> None:
    """Writes the bigWig of a bedGraph file atomically.

    `sizes`: contig → its bases. The lines must be sorted by contig, in the order of `sizes`, and by position.
    """
    import pyBigWig

    with atomic(path) as partial, pyBigWig.open(str(partial), "w") as file:
        file.addHeader(list(sizes.items()))
        for contig, starts, values in _blocks(source):
            file.addEntries([contig] * len(starts), starts, ends=[start + 1 for start in starts], values=values)


def _blocks(source: Path) -> Iterator[tuple[str, list[int], list[float]]]:
    """Yields the contig, starts and values of consecutive lines of one contig."""
    name, starts, values = "", [], []
    with source.open(encoding="utf-8") as file:
        for line in file:
            contig, start, _, value = line.split("\t")
            if starts and (contig != name or len(starts) == _LINES):
                yield name, starts, values
                starts, values = [], []
            name = contig
            starts.append(int(start))
            values.append(float(value))
    if starts:
        yield name, starts, values
