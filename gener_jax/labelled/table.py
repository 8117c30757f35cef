"""Reads tables as text: CSV, TSV, JSON lines, Parquet, and FASTA with labels in headers; each plain or gzip."""

import csv
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from isal import igzip

from data_pipeline.errors import DataError, FileError, FormatError, did_you_mean, one_line
from data_pipeline.formats import fasta, file_names, stream
from data_pipeline.sequence import bases

MAX_VALUE = 64 << 20  # bytes of a line, characters of a value
MAX_BYTES = 8 << 30  # of a file, decompressed
CSV, TSV, JSONL, PARQUET = "CSV", "TSV", "JSONL", "Parquet"
_SUFFIXES = {
    ".csv": CSV, ".tsv": TSV, ".tab": TSV, ".jsonl": JSONL, ".ndjson": JSONL, ".parquet": PARQUET, ".pq": PARQUET,
}  # fmt: skip
SUFFIXES = (*_SUFFIXES, *(suffix for suffix, kind in file_names.FORMATS.items() if kind == file_names.FASTA))
_DELIMITERS = {CSV: ",", TSV: "\t"}
_PAIR = re.compile(r"([A-Za-z_][\w.-]*)=(\S*)")
_DNA = re.compile(r"[ACGTUNacgtun]{12,}")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns of text.

    Attributes:
      path: the file.
      columns: the values of each column by name, one per row; an empty value is "".
      lines: the line of each row in the file, counted from 1; None if the format has no lines of rows.
      records: the name of each row, of FASTA; else its number from 1, of Parquet. None if there are `lines`.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int] | None = None
    records: list[str] | None = None

    def __len__(self) -> int:
        return len(self.lines if self.records is None else self.records)

    def place(self, row: int) -> dict:
        """Where a row is, as arguments of a DataError."""
        where = {"line": self.lines[row]} if self.records is None else {"record": self.records[row]}
        return {"file": self.path, **where}

    def where(self, row: int) -> str:
        """The same as text: "FILE: line 17" or "FILE: record 16"."""
        (_, path), (kind, at) = self.place(row).items()
        return f"{path}: {kind} {at}"

    def refuse(self, row: int, column: str, problem: str, remedy: str | None = None, part: str = "") -> NoReturn:
        """Raises a FormatError for a row's value in a column, or for a part of it."""
        value = part or self.columns[column][row].strip() or None
        raise FormatError(problem, field=column, value=value, remedy=remedy, **self.place(row))

    def values(self, column: str, field: str) -> list[str]:
        """A column that the argument `field` names.

        Raises:
          FormatError: there is none of that name.
        """
        if column not in self.columns:
            raise FormatError(
                f"is no column{did_you_mean(column, self.columns)}", file=self.path, field=field, value=column,
                remedy=f"the columns are {one_line(', '.join(self.columns))}",
            )  # fmt: skip
        return self.columns[column]

    def take(self, rows: Iterable[int]) -> "Table":
        """Some of the rows."""
        rows = list(rows)

        def chosen(values):
            return None if values is None else [values[i] for i in rows]

        columns = {name: chosen(values) for name, values in self.columns.items()}
        return Table(self.path, columns, chosen(self.lines), chosen(self.records))


def format_of(path: str | Path) -> str | None:
    """CSV, TSV, JSONL, PARQUET or `file_names.FASTA` by the suffix of a name, before .gz; None for any other."""
    path = Path(path)
    kind = _SUFFIXES.get(Path(file_names.unpacked(path.name)).suffix.lower()) or file_names.format_of(path)
    return kind if kind in (*_SUFFIXES.values(), file_names.FASTA) else None


def stem(path: Path) -> str:
    """The name of a file without .gz and the suffix of its format."""
    return Path(file_names.unpacked(path.name)).stem


def read(path: str | Path) -> Table:
    """The table in a file. Its first line, or the keys of its first row, name the columns.

    FASTA has the columns `name` and `sequence`, and one for each KEY=VALUE in the headers; `>NAME|LABEL` is the column
    `label`. Values of JSON and Parquet are written as text: null is "", true and false are 1 and 0, a list is JSON.

    Raises:
      FileError, DamagedFileError: the file cannot be read, or is too large; Parquet without pyarrow.
      FormatError: with the line or record: it is of another format, a row has too many or too few values, a column
        occurs twice, a value is too long; or there are no rows.
    """
    path = Path(path)
    kind = format_of(path)
    if not path.exists():
        raise FileError("no such file", file=path)
    if path.is_dir():
        raise FileError("is a folder", file=path, remedy="name a file in it")
    if kind is None:
        remedy = f"its name must end in one of {' '.join(SUFFIXES)}, each also with .gz"
        raise FormatError("is of an unknown format", file=path, remedy=remedy)
    if kind == PARQUET:
        table = _parquet(path)
    elif kind == JSONL:
        table = _json_lines(path)
    elif kind == file_names.FASTA:
        table = _fasta(path)
    else:
        table = _delimited(path, kind)
    if not len(table):
        raise FileError("has no rows", file=path)
    return table


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, plain or gzip, each with its end.

    Raises:
      FileError, DamagedFileError: it cannot be read, or is too large.
      FormatError: a line is not UTF-8, or too long.
    """
    held, number, size = b"", 0, 0
    for chunk in itertools.chain(stream.chunks(path, lambda count: None), (b"",)):
        size += len(chunk)
        if size > MAX_BYTES:
            raise FileError(f"exceeds {MAX_BYTES >> 30} GiB decompressed", file=path, remedy="split it")
        *lines, held = (held + chunk).split(b"\n")
        if not chunk and held:
            lines.append(held)
        for line in lines:
            number += 1
            try:
                yield line.decode() + "\n"
            except UnicodeDecodeError:
                raise FormatError("is not UTF-8", file=path, line=number, remedy="convert it to UTF-8") from None
        if len(held) > MAX_VALUE:
            problem = f"the line exceeds {MAX_VALUE >> 20} MiB"
            raise FormatError(problem, file=path, line=number + 1, remedy="check the file's line breaks")


def _delimited(path: Path, kind: str) -> Table:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_VALUE))
    reader = csv.reader(text_lines(path), delimiter=_DELIMITERS[kind], strict=True)
    rows, lines, last = [], [], 0
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_header(path, kind, names)
        last = reader.line_num
        for row in reader:
            line, last = last + 1, reader.line_num
            if not row:
                continue
            if len(row) != len(names):
                problem = f"the row has {len(row)} values, and the header names {len(names)} columns"
                raise FormatError(problem, file=path, line=line, remedy=f"give {len(names)} values in each row")
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        problem, remedy = f"is not {kind} ({one_line(error)})", "check its quotation marks"
        raise FormatError(problem, file=path, line=last + 1, remedy=remedy) from None
    columns = list(map(list, zip(*rows, strict=True))) or [[] for _ in names]
    return Table(path, dict(zip(names, columns, strict=True)), lines)


def _check_header(path: Path, kind: str, names: list[str]) -> None:
    remedy = "name the columns in its first line"
    if not any(names):
        raise FormatError("the header names no column", file=path, line=1, remedy=remedy)
    if dna := next(filter(_DNA.fullmatch, names), None):
        raise FormatError("is a sequence, not the name of a column", file=path, line=1, value=dna, remedy=remedy)
    for delimiter, name in (("\t", "tabs"), (";", "semicolons"), (",", "commas")):
        if len(names) == 1 and delimiter != _DELIMITERS[kind] and delimiter in names[0]:
            remedy = (
                "name it FILE.tsv" if delimiter == "\t" else "name it FILE.csv" if delimiter == "," else "use commas"
            )
            raise FormatError(f"is not {kind}: its columns are separated by {name}", file=path, line=1, remedy=remedy)
    _check_unique(names, file=path, line=1)


def _check_unique(names: list[str], **where) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FormatError("occurs twice", field="column", value=twice, remedy="rename one", **where)


def _text(value) -> str:
    """A value of JSON or Parquet as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, default=str) if isinstance(value, list | dict | int | float) else str(value)


def _json_lines(path: Path) -> Table:
    def unique(pairs):
        _check_unique([name for name, _ in pairs], file=path, line=number)
        return dict(pairs)

    columns, lines = {}, []
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:  # numbers remain as they are written
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise FormatError(f"is not JSON ({one_line(error)})", file=path, line=number) from None
        if not isinstance(row, dict):
            raise FormatError(
                "is not an object of JSON", file=path, line=number, remedy='write {"sequence": …, "label": …}'
            )
        columns = columns or {name: [] for name in row}
        for name in columns.keys() ^ row.keys():
            problem = "is missing, unlike in the first row" if name in columns else "is not in the first row"
            raise FormatError(
                problem, file=path, line=number, field="key", value=name, remedy="give each row the same keys"
            )
        for name, value in row.items():
            columns[name].append(_text(value))
        lines.append(number)
    return Table(path, columns, lines)


def _fasta(path: Path) -> Table:
    rows = []
    for record in fasta.read(path, named=False):
        pairs = dict(_PAIR.findall(record.description))
        rows.append(pairs | {"name": record.name, "sequence": bases.decode(record.codes)})
    parts = [row["name"].rpartition("|") for row in rows]
    if all(name and label for name, _, label in parts):
        rows = [{"label": label} | row | {"name": name} for row, (name, _, label) in zip(rows, parts, strict=True)]
    names = dict.fromkeys(name for row in rows for name in row)
    records = [row["name"] or str(number) for number, row in enumerate(rows, 1)]
    return Table(path, {name: [row.get(name, "") for row in rows] for name in names}, records=records)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        remedy = 'pip install "gener-jax[parquet]", or convert it to CSV'
        raise FileError("needs pyarrow, which is not installed", file=path, remedy=remedy) from None
    with stream.readable(path):
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        if packed:
            with igzip.open(path) as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise FileError(f"exceeds {MAX_BYTES >> 30} GiB decompressed", file=path, remedy="split it")
        try:
            data = pq.ParquetFile(io.BytesIO(content) if packed else path)
            if sum(data.metadata.row_group(i).total_byte_size for i in range(data.metadata.num_row_groups)) > MAX_BYTES:
                raise FileError(f"exceeds {MAX_BYTES >> 30} GiB", file=path, remedy="split it")
            _check_unique(list(data.schema_arrow.names), file=path)
            columns = {name: list(map(_text, data.read([name])[name].to_pylist())) for name in data.schema_arrow.names}
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"is no Parquet file, or is damaged ({one_line(error)})", file=path) from None
    return Table(path, columns, records=[str(i) for i in range(1, data.metadata.num_rows + 1)])
