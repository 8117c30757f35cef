"""Tracks of a genome browser: a value per base as bedGraph (text) or bigWig (binary, with an index)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import FormatError
from data_pipeline.files import atomic
from data_pipeline.formats.contigs import Contigs

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


def read_bigwig(path: Path, intervals: Iterable[tuple[str, int, int]]) -> list[np.ndarray]:
    """The values of intervals (contig, start, end), 0-based and half-open, float64 [bases] each.

    Contigs may have other names in the file (see `formats.contigs`). A base has NaN where the file has no value, also
    beyond the ends of its contigs.

    Raises:
      FormatError: if the file is not bigWig.
    """
    import pyBigWig

    try:
        file = pyBigWig.open(str(path))
    except RuntimeError:
        raise FormatError("is not bigWig", file=path) from None
    with file:
        sizes, found = file.chroms(), []
        contigs = Contigs(sizes)
        for name, start, end in intervals:
            values, contig = np.full(end - start, np.nan), contigs.find(name)
            first, last = max(start, 0), min(end, sizes.get(contig, 0))
            if first < last:
                values[first - start : last - start] = file.values(contig, first, last)
            found.append(values)
    return found


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
