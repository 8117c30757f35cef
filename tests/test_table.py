"""Tests the formats of tables and their errors."""

import gzip
import io
import json
import sys

import pytest

from data_pipeline.errors import DamagedFileError, FileError, FormatError
from gener_jax.labelled import table
from tests.raised import raises

ROWS = {"sequence": ["ACGTNA", "acg"], "label": ["1", ""], "score": ["0.10", "[1, 0]"]}


def parquet(columns: dict) -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def content(suffix: str) -> bytes:
    names, rows = list(ROWS), list(zip(*ROWS.values(), strict=True))
    if suffix == ".parquet":
        return parquet(ROWS | {"label": pytest.importorskip("pyarrow").array([True, None])})
    if suffix == ".jsonl":
        values = [["ACGTNA", True, 0.10], ["acg", None, [1, 0]]]
        return (
            "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in values).replace("0.1", "0.10").encode()
        )
    join = {".csv": lambda row: ",".join(f'"{x}"' for x in row), ".tsv": "\t".join}[suffix]
    return "\r\n".join(map(join, [names, *rows])).encode()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_formats(suffix, packed, tmp_path):
    path = tmp_path / f"t{suffix}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content(suffix)) if packed else content(suffix))
    read = table.read(path)
    of_json = {"score": ["0.10", '["1", "0"]']} if suffix == ".jsonl" else {}
    assert read.columns == ROWS | of_json
    first = {".csv": "line 2", ".tsv": "line 2", ".jsonl": "line 1", ".parquet": "record 1"}[suffix]
    assert read.where(0) == f"{path}: {first}"
    assert read.take([1]).columns["sequence"] == ["acg"]
    assert read.take([1]).where(0) == read.where(1)


def test_fasta(tmp_path):
    path = tmp_path / "t.fa"
    path.write_text(">a label=1 sequence=x kind=b\nACG\nTR\n>a\nacgt\n")
    read = table.read(path)
    assert read.columns["name"] == ["a", "a"]
    assert read.columns["sequence"] == ["ACGTN", "ACGT"]
    assert (read.columns["label"], read.columns["kind"]) == (["1", ""], ["b", ""])
    assert read.where(1) == f"{path}: record a"
    path.write_text(">chr1:5-9|+|x\nACG\n>|y|z\nACG\n")
    assert table.read(path).columns["label"] == ["x", "z"]
    assert table.read(path).columns["name"] == ["chr1:5-9|+", "|y"]
    path.write_text(">a|1\nACG\n>b\nACG\n")  # a bar that is part of a name
    assert table.read(path).columns["name"] == ["a|1", "b"]
    path.write_text(">a|1\nAC-G\n")
    with raises(FormatError, file="t.fa", line=2, value="-"):
        table.read(path)


def test_lines_of_quoted_values(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"1\n\n2",3\n\n4,5\n')
    read = table.read(path)
    assert read.columns == {"a": ["1\n\n2", "4"], "b": ["3", "5"]}
    assert read.lines == [2, 6]


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("t.csv", "a,b\n1,2\n3\n", {"line": 3}),
        ("t.csv", "a,b\n1,2\n\n3,4,5\n", {"line": 4}),
        ("t.csv", "a,a\n1,2\n", {"line": 1, "field": "column", "value": "a"}),
        ("t.csv", 'a,b\n"1,2\n3,4\n', {"line": 2}),
        ("t.csv", "a\tb\n1\t2\n", {"line": 1, "remedy": "name it FILE.tsv"}),
        ("t.tsv", "a,b\n1,2\n", {"line": 1, "remedy": "name it FILE.csv"}),
        ("t.csv", "ACGTACGTACGTACGT,1\n", {"line": 1, "value": "ACGTACGTACGTACGT"}),
        ("t.csv", "\n1,2\n", {"line": 1}),
        ("t.csv", b"a,b\n1,\xff\n", {"line": 2}),
        ("t.jsonl", '{"a": 1}\n{"a": 2', {"line": 2}),
        ("t.jsonl", '{"a": 1}\n[2]\n', {"line": 2}),
        ("t.jsonl", '{"a": 1}\n\n{"b": 2}\n', {"line": 3, "field": "key"}),
        ("t.jsonl", '{"a": 1, "a": 2}\n', {"line": 1, "field": "column", "value": "a"}),
        ("t.jsonl", "[" * 100_000, {"line": 1}),
        ("t.parquet", "PAR1, but no more", {}),
        ("t.xlsx", "a", {}),
    ],
)
def test_format_errors(name, text, facts, tmp_path):
    if name == "t.parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with raises(FormatError, file=path, **facts):
        table.read(path)


def test_file_errors(tmp_path, monkeypatch):
    with raises(FileError, file="no.csv"):
        table.read(tmp_path / "no.csv")
    with raises(FileError, file="no-folder"):
        table.read(tmp_path / "no-folder")
    with raises(FileError, file=tmp_path):
        table.read(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with raises(FileError, file="t.parquet") as caught:
        table.read(tmp_path / "t.parquet")
    assert "gener-jax[parquet]" in caught.value.remedy
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-9])
    with raises(DamagedFileError, file=path):
        table.read(path)
    for text in ("", "a,b\n"):
        path.write_bytes(gzip.compress(text.encode()) if text else b"")
        with raises(FileError, file=path):
            table.read(path)
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
    monkeypatch.setattr(table, "MAX_BYTES", 100)
    with raises(FileError, file=path):
        table.read(path)


def test_a_long_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_VALUE", 1 << 20)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n" + "A" * (1 << 22) + ",1\n")
    with raises(FormatError, file=path, line=3):
        table.read(path)


def test_a_missing_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sequence,label\nA,1\n")
    with raises(FormatError, file=path, field="finetune.label", value="lable") as caught:
        table.read(path).values("lable", "finetune.label")
    assert "label?" in caught.value.problem
