"""Indexed FASTA files: slices as pyfaidx reads them, plain and bgzip; indexes that do not fit their file."""

import numpy as np
import pyfaidx
import pytest
from Bio import bgzf

from data_pipeline.errors import DamagedFileError, FileError, FormatError, MismatchError
from data_pipeline.formats import faidx, fasta
from data_pipeline.sequence import bases
from tests.raised import raises

generator = np.random.default_rng(0)
CONTIGS = {name: "".join(generator.choice(list("ACGTNacgtR"), n)) for name, n in
           {"chr1": 70_007, "gi|1|ref|NC_2.1|": 60, "empty": 0, "one": 1, "last": 100_000}.items()}  # fmt: skip


def text(width=60, newline="\n", end="\n"):
    records = []
    for name, letters in CONTIGS.items():
        lines = [letters[i : i + width] for i in range(0, len(letters), width)]
        records.append(newline.join([f">{name} of a genome", *lines]))
    return newline.join(records) + end


def index(path):
    """Indexes a file with pyfaidx, which writes what samtools faidx writes."""
    pyfaidx.Faidx(str(path)).close()
    return path


def plain(folder, content=None):
    path = folder / "g.fa"
    path.write_bytes((content or text()).encode())
    return index(path)


def compressed(folder):
    path = folder / "g.fa.gz"
    with bgzf.open(path, "wb") as file:
        file.write(text().encode())
    return index(path)


def check(path):
    found = faidx.contigs(path)
    whole = {record.name: record.codes for record in fasta.read(path)}
    assert list(found) == list(whole)
    for name, codes in whole.items():
        contig = found[name]
        assert len(contig) == len(codes)
        for first, last in ((0, len(codes)), (0, 1), (59, 61), (60, 120), (65_500, 65_600), (-5, None), (9, 9), (7, 3)):
            assert np.array_equal(contig[first:last], codes[first:last]), (name, first, last)


@pytest.mark.parametrize(("width", "newline", "end"), [(60, "\n", "\n"), (60, "\r\n", "\r\n"), (7, "\n", ""),
                                                       (10**6, "\n", "\n\n")])  # fmt: skip
def test_a_slice_is_that_of_the_whole_file(tmp_path, width, newline, end):
    check(plain(tmp_path, text(width, newline, end)))


def test_a_slice_of_a_bgzip_file(tmp_path):
    path = compressed(tmp_path)
    assert path.with_name("g.fa.gz.gzi").stat().st_size > 16
    check(path)
    with pyfaidx.Fasta(str(path)) as theirs:
        assert bases.decode(faidx.contigs(path)["last"][65_000:66_000]) == bases.decode(
            bases.encode(theirs["last"][65_000:66_000].seq)
        )
    path.with_name("g.fa.gz.gzi").unlink()
    assert faidx.contigs(path) is None


def test_a_file_without_an_index(tmp_path):
    (tmp_path / "g.fa").write_text(text())
    assert faidx.contigs(tmp_path / "g.fa") is None
    assert faidx.contigs("-") is None
    assert faidx.contigs(tmp_path / "none.fa") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda old: old.replace(">chr1", ">chr2"),
        lambda old: old.replace(">one of", ">one  kind of"),
        lambda old: old + "ACGT\n",
        lambda old: old + ">more\nACGT\n",
        lambda old: old[:-5],
        lambda old: old[: len(old) // 2],
        lambda old: old.partition("\n")[2],
        lambda old: text(70),
    ],
)
def test_an_index_of_another_file_is_an_error(tmp_path, change):
    path = plain(tmp_path)
    path.write_text(change(text()))
    with raises(MismatchError, file="g.fa.fai"):
        for contig in faidx.contigs(path).values():
            contig[:]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("fa.fai", "chr1\t5\n", 1), ("fa.fai", "chr1\t5\t6\tx\t61\n", 1), ("fa.fai", "a\t5\t6\t0\t0\n", 1),
        ("fa.fai", "a\t0\t3\t0\t0\na\t0\t6\t0\t0\n", 2), ("fa.gz.gzi", "abc", None), ("fa.gz.gzi", "", None),
        ("fa.gz.gzi", "x" * 24, None),
    ],
)  # fmt: skip
def test_a_damaged_index_is_an_error(tmp_path, name, content, line):
    path = plain(tmp_path) if name == "fa.fai" else compressed(tmp_path)
    (tmp_path / f"g.{name}").write_text(content)
    with raises(FormatError, file=f"g.{name}", line=line):
        faidx.contigs(path)


def test_a_damaged_file_is_an_error(tmp_path):
    path = plain(tmp_path)
    (tmp_path / "g.fa.fai").write_text("")
    with raises(FileError, file="g.fa.fai"):
        faidx.contigs(path)
    index(compressed(tmp_path))
    contigs = faidx.contigs(tmp_path / "g.fa.gz")
    data = (tmp_path / "g.fa.gz").read_bytes()
    (tmp_path / "g.fa.gz").write_bytes(data[: len(data) // 2])
    with raises(DamagedFileError, file="g.fa.gz"):
        contigs["last"][50_000:]
    (tmp_path / "g.fa.gz").unlink()
    with raises(FileError, file="g.fa.gz"):
        contigs["chr1"][:5]
    path.write_text(">a\nACGT-\n")
    path.with_name("g.fa.fai").write_text("a\t5\t3\t5\t6\n")
    with raises(FormatError, file="g.fa", record="a", field="base", value="-"):
        faidx.contigs(path)["a"][2:5]
