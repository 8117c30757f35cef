"""Names of contigs: each rule, their order, ambiguity, aliases."""

import pytest

from data_pipeline.errors import FileError
from data_pipeline.formats.contigs import Contigs, read_aliases
from tests.raised import raises


@pytest.mark.parametrize(
    ("contig", "names"),
    [
        ("chr1", ["chr1", "1", "Chr1", "CHR1", "NC_000001.11", "NC_000001.10", "NC_000001"]),
        ("Chr1", ["1", "chr1", "gi|568815597|ref|NC_000001.11|"]),
        ("13", ["chr13", "NC_000013.11"]),
        ("chrX", ["X", "x", "NC_000023.11"]),
        ("Y", ["chrY", "NC_000024.10"]),
        ("MT", ["M", "chrM", "chrMT", "mt", "NC_012920.1"]),
        ("NC_012920.1", ["chrM", "MT", "gi|251831106|ref|NC_012920.1|"]),
        ("NC_000023.11", ["chrX", "X"]),
        ("NC_000013.11", ["13", "chr13", "NC_000013", "gi|1|ref|NC_000013.11|"]),
        ("NC_099913.2", ["gi|49175990|ref|NC_099913.2|", "nc_099913.2"]),
        ("chrUn_KI270302v1", ["chrun_ki270302v1", "Un_KI270302v1"]),
    ],
)
def test_names_of_one_contig(contig, names):
    found = Contigs([contig, "chr12", "GL000.1", "chr_random"])
    assert {name: found.find(name) for name in names} == dict.fromkeys(names, contig)


@pytest.mark.parametrize(
    ("contig", "name"),
    [
        ("NC_000013.11", "NC_000013.10"),  # another assembly
        ("NC_099913.2", "NC_099913.1"),
        ("NC_000067.7", "67"),  # of the mouse
        ("NC_000025.1", "25"),
        ("chr1", "chr11"),
        ("chrX", "23"),
    ],
)
def test_names_of_different_contigs(contig, name):
    assert Contigs([contig]).find(name) is None
    assert Contigs([name]).find(contig) is None


def test_the_first_rule_with_exactly_one_contig_decides():
    both = Contigs(["1", "chr1", "M", "chrMT", "NC_000013.11", "NC_000013.10"])
    found = {name: both.find(name) for name in ("1", "chr1", "CHR1", "chrM", "MT", "chrMT")}
    assert found == {"1": "1", "chr1": "chr1", "CHR1": "chr1", "chrM": "M", "MT": "chrMT", "chrMT": "chrMT"}
    assert both.find("chr13") is None
    assert both.candidates("chr13") == ["NC_000013.10", "NC_000013.11"]
    assert Contigs(["A", "a"]).candidates("chrA") == ["A", "a"]


def test_aliases(tmp_path):
    path = tmp_path / "report.txt"
    rows = [
        "chr1 assembled-molecule 1 Chromosome CM1.1 = NC_1.1 Primary 160 chr1",
        "scf unlocalized-scaffold 1 Chromosome GL1.1 = NT_1.1 Primary 200 na",
    ]
    path.write_text("\ufeff# Sequence-Name\n" + "".join("\t".join(row.split()) + "\n" for row in rows))
    found = Contigs(["NC_1.1", "NT_1.1"], read_aliases(path))
    names = {"1": "NC_1.1", "chr1": "NC_1.1", "CM1.1": "NC_1.1", "scf": "NT_1.1", "GL1.1": "NT_1.1", "SCF": "NT_1.1"}
    assert {name: found.find(name) for name in names} == names
    assert not any(map(found.find, ("=", "na", "Chromosome", "160", "200", "Primary")))
    path.write_text("# names\nI\tNC_1.1\tsomething\n\nx\tNC_1.1\nx\tNT_1.1\nchrVII\tnt_1.1\n")
    found = Contigs(["NC_1.1", "NT_1.1"], read_aliases(path))
    assert [found.find(name) for name in ("chrI", "VII", "something", "y")] == ["NC_1.1", "NT_1.1", "NC_1.1", None]
    assert found.candidates("x") == ["NC_1.1", "NT_1.1"]
    with raises(FileError, file="none.tsv"):
        read_aliases(tmp_path / "none.tsv")
