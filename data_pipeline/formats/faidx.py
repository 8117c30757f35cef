"""Random access to an indexed FASTA file: some bases of a contig are read without the rest of the file.

The index is what `samtools faidx` writes beside the file: FILE.fai, and FILE.gzi for a file compressed by bgzip.
"""

import bisect
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import igzip

from data_pipeline.errors import FileError, FormatError, MismatchError
from data_pipeline.formats import fasta, stream

_REMEDY = "make it again with samtools faidx, or remove it"


class _Line(NamedTuple):
    """A line of the index. `offset` is that of the first base in the uncompressed file, in bytes."""

    name: str
    length: int
    offset: int
    line_bases: int
    line_bytes: int

    def at(self, base: int) -> int:
        """The offset of a base, in bytes."""
        return self.offset + base // self.line_bases * self.line_bytes + base % self.line_bases

    @property
    def end(self) -> int:
        """The offset after the last base."""
        return self.at(self.length - 1) + 1 if self.length else self.offset


class Contig:
    """The bases of a contig in the file: a slice is read from there, codes uint8 [bases]."""

    def __init__(self, file: "_File", line: _Line):
        self._file, self._line = file, line

    def __len__(self) -> int:
        return self._line.length

    def __getitem__(self, chosen: slice) -> np.ndarray:
        """The codes of a slice.

        Raises:
          FormatError: if the file has a letter there that is not an IUPAC nucleotide.
          MismatchError: if the lines of the file are not those of the index.
        """
        first, last, _ = chosen.indices(len(self))
        if first >= last:
            return np.zeros(0, np.uint8)
        begin, end = self._line.at(first), self._line.at(last - 1) + 1
        letters = self._file.read(begin, end - begin).translate(None, fasta.BLANKS)
        codes = letters.translate(fasta.CODES)
        if len(codes) != last - first:
            raise _stale(self._file.path, self._line.name)
        if (at := codes.find(fasta.OUTSIDE)) >= 0:
            raise FormatError(
                "is not a nucleotide letter", file=self._file.path, record=self._line.name, field="base",
                value=chr(letters[at]), remedy="give DNA without gaps",
            )  # fmt: skip
        return np.frombuffer(codes, np.uint8)


class _File:
    """A file, plain or compressed by bgzip, of which bytes are read at an offset in the uncompressed text."""

    def __init__(self, path: Path, blocks: np.ndarray | None):
        """`blocks`: of a bgzip file, the compressed and uncompressed offset of each block, [blocks, 2]."""
        self.path = path
        self._blocks = None if blocks is None else list(map(list, zip(*blocks.tolist(), strict=True)))

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer at the end of the file."""
        with stream.readable(self.path), open(self.path, "rb") as raw:
            if self._blocks is None:
                raw.seek(offset)
                return raw.read(size)
            compressed, uncompressed = self._blocks
            block = bisect.bisect_right(uncompressed, offset) - 1
            raw.seek(compressed[block])
            text = igzip.IGzipFile(fileobj=raw)
            text.read(offset - uncompressed[block])
            return text.read(size)


def contigs(path: str | Path) -> dict[str, Contig] | None:
    """The contigs of a FASTA file by name, in its order; None if it has no index.

    A bgzip file has one if both of its files are there. Every header of the FASTA is compared with the index.

    Raises:
      FileError, DamagedFileError: a file cannot be read.
      FormatError: an index does not have the format.
      MismatchError: the index is that of another FASTA, or of another version of it.
    """
    path = Path(path)
    index, of_blocks = (path.with_name(path.name + suffix) for suffix in (".fai", ".gzi"))
    if not index.exists() or not path.exists():
        return None
    with stream.readable(path), open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    if compressed and not of_blocks.exists():
        return None
    file, lines = _File(path, _read_blocks(of_blocks) if compressed else None), _read_lines(index)
    end = 0
    for line in sorted(lines, key=lambda line: line.offset):
        gap = file.read(end, line.offset - end) if 0 < line.offset - end <= fasta.MAX_HEADER else b""
        header, words = gap.lstrip(b"\xef\xbb\xbf\r\n"), gap.partition(b">")[2].split(None, 1)
        if header[:1] != b">" or header.find(b"\n") != len(header) - 1 or words[:1] != [line.name.encode()]:
            raise _stale(path, line.name)
        end = line.end
    if file.read(end, fasta.MAX_HEADER).strip():
        raise _stale(path, lines[-1].name)
    return {fasta.accession(line.name): Contig(file, line) for line in lines}


def _stale(path: Path, name: str) -> MismatchError:
    return MismatchError(f"is not the index of {path.name}", file=f"{path}.fai", record=name, remedy=_REMEDY)


def _read_lines(path: Path) -> list[_Line]:
    with stream.readable(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    found, names = [], set()
    for number, row in enumerate(text.splitlines(), 1):
        name, *columns = row.split("\t")
        if len(columns) < 4 or not all(x.isascii() and x.isdigit() for x in columns[:4]) or name in names:
            raise FormatError("is not a line of a FASTA index", file=path, line=number, remedy=_REMEDY)
        line = _Line(name, *map(int, columns[:4]))
        if line.length and not 0 < line.line_bases <= line.line_bytes:
            raise FormatError("has no length of lines", file=path, line=number, remedy=_REMEDY)
        names.add(name)
        found.append(line)
    if not found:
        raise FileError("the index is empty", file=path, remedy=_REMEDY)
    return found


def _read_blocks(path: Path) -> np.ndarray:
    with stream.readable(path):
        data = path.read_bytes()
    numbers = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    if not len(numbers) or len(data) != 8 * (1 + 2 * int(numbers[0])):
        raise FormatError("is not an index of bgzip's blocks", file=path, remedy=_REMEDY)
    return np.concatenate([np.zeros((1, 2), np.int64), numbers[1:].reshape(-1, 2).astype(np.int64)])
