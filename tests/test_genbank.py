"""Tests the GenBank reader and its errors."""

import gzip

import numpy as np
import pytest

from data_pipeline.errors import DamagedFileError, FileError, FormatError
from data_pipeline.formats import genbank, stream
from data_pipeline.formats.genbank import Segment
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import LONGER
from tests.data import FIXTURES
from tests.raised import raises


def record_text(features=(), sequence="acgtacgtnn", *, name="TEST", length=None, topology="linear", origin=True) -> str:
    """One GenBank record; `features` are (kind, location, {qualifier: value or None})."""
    table = ""
    for kind, location, qualifiers in features:
        table += f"     {kind:<16}{location}\n"
        for key, value in qualifiers.items():
            table += " " * 21 + (f"/{key}\n" if value is None else f'/{key}="{value}"\n')
    lines = [f"{at + 1:>9} {sequence[at : at + 60]}\n" for at in range(0, len(sequence), 60)]
    return (
        f"LOCUS       {name:<16} {len(sequence) if length is None else length} bp    DNA     {topology:<8} BCT "
        f"01-JAN-2000\nDEFINITION  A test.\nACCESSION   {name}\nVERSION     {name}.1\nSOURCE      Some bacterium\n"
        "  ORGANISM  Some bacterium\n            Bacteria; Somephylum;\n            Someclass.\n"
        f"FEATURES             Location/Qualifiers\n     source          1..{len(sequence)}\n{table}"
        f"{'ORIGIN' if origin else 'CONTIG      join(AB1.1:1..4,gap(100))'}\n{''.join(lines) if origin else ''}//\n"
    )


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("file", "accession", "length", "circular", "taxon", "lineage"),
    [
        ("phiX174_NC_001422.1.gbk.gz", "NC_001422.1", 5386, True, "vir", "Viruses"),
        ("phage_NC_000902.gbk.gz", "NC_000902.1", 60942, False, "vir", "Viruses"),
        ("ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", "NC_005816.1", 9609, True, "plm", "Bacteria"),
        ("athaliana_chloroplast_NC_000932.1.gb.gz", "NC_000932.1", 154478, True, "plt", "Eukaryota"),
    ],
)
def test_fixtures(file, accession, length, circular, taxon, lineage):
    [record] = genbank.read(FIXTURES / file)
    assert record.accession == accession
    assert len(record.codes) == record.declared_length == length
    assert (record.circular, record.taxon, record.lineage[0]) == (circular, taxon, lineage)
    assert record.codes.dtype == np.uint8
    assert len(record.lower_case) == 0  # GenBank writes ORIGIN in lower case, which is not masking
    assert record.features[0].kind == "source"


def test_kinds_limit_features_but_not_the_taxon():
    [record] = genbank.read(FIXTURES / "ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", kinds={"gene"})
    assert {feature.kind for feature in record.features} == {"gene"}
    assert record.taxon == "plm"


@pytest.mark.parametrize(
    ("location", "topology", "segments"),
    [
        ("3..5", "linear", [(2, 5, 1)]),
        ("<3..>5", "linear", [(2, 5, 1)]),
        ("complement(3..5)", "linear", [(2, 5, -1)]),
        ("complement(<3..>5)", "linear", [(2, 5, -1)]),
        ("4", "linear", [(3, 4, 1)]),
        ("<4", "linear", [(3, 4, 1)]),
        ("3^4", "linear", [(3, 3, 1)]),
        ("join(1..2,4..5)", "linear", [(0, 2, 1), (3, 5, 1)]),
        ("order(1..2,4..5)", "linear", [(0, 2, 1), (3, 5, 1)]),
        ("bond(1,4)", "linear", [(0, 1, 1), (3, 4, 1)]),
        ("complement(join(1..2,4..5))", "linear", [(3, 5, -1), (0, 2, -1)]),
        ("join(complement(4..5),complement(1..2))", "linear", [(3, 5, -1), (0, 2, -1)]),
        ("join(complement(4..5),7..8)", "linear", [(3, 5, -1), (6, 8, 1)]),
        ("join(8..10,1..3)", "circular", [(7, 10, 1), (0, 3, 1)]),
        ("8..3", "circular", [(7, 10, 1), (0, 3, 1)]),
        ("complement(8..3)", "circular", [(0, 3, -1), (7, 10, -1)]),
        ("8..3", "linear", [(7, 3, 1)]),
        ("-2..5", "linear", [(-3, 5, 1)]),
        ("(3.5)..7", "linear", [(2, 7, 1)]),
        ("3..(5.7)", "linear", [(2, 7, 1)]),
        ("complement((1.3)..(5.7))", "linear", [(0, 7, -1)]),
        ("one-of(1,2)..5", "linear", [(0, 5, 1)]),
        ("3..one-of(5,7)", "linear", [(2, 7, 1)]),
        ("one-of(1..3,2..5)", "linear", [(0, 3, 1), (1, 5, 1)]),
        ("TEST.1:1..4", "linear", [(0, 4, 1)]),
        ("join(1..2,AB9.1:1..4)", "linear", [(0, 2, 1), (0, 4, 1, "AB9.1")]),
        ("complement(AB9.1:3..4)", "linear", [(2, 4, -1, "AB9.1")]),
    ],
)
def test_locations(tmp_path, location, topology, segments):
    path = write(tmp_path / "a.gb", record_text([("gene", location, {"gene": "a"})], topology=topology))
    [record] = genbank.read(path)
    assert record.features[1].segments == tuple(Segment(*segment) for segment in segments)


def test_qualifiers_keep_all_values_and_no_line_breaks(tmp_path):
    text = record_text([("gene", "1..4", {"note": "wrapped\n                     over lines", "pseudo": None})])
    text = text.replace("/pseudo\n", '/pseudo\n                     /note="a ""second"" one (3.5)..7"\n')
    [record] = genbank.read(write(tmp_path / "a.gb", text))
    assert record.features[1].qualifiers == {
        "note": ("wrapped over lines", 'a "second" one (3.5)..7'),
        "pseudo": ("",),
    }


def test_several_records_in_any_compression(tmp_path, monkeypatch):
    texts = [record_text(sequence=bases.decode(np.arange(n) % 4).lower(), name=f"R{n}") for n in (1, 60, 61, 1000)]
    header = "GBBCT1.SEQ          Genetic Sequence Data Bank\n                          June 15 2024\n\n\n"
    plain = (header + "\n\n".join(texts)).encode()
    members = b"".join(
        gzip.compress(plain[at : at + 700], mtime=0) for at in range(0, len(plain), 700)
    ) + gzip.compress(b"", mtime=0)
    files = {
        "a.gb": plain,
        "b.gb": plain.rstrip(b"\n"),
        "crlf.gb": plain.replace(b"\n", b"\r\n"),
        "a.gz": gzip.compress(plain, mtime=0),
        "bgzip_without_a_suffix": members,
    }
    for chunk in (1 << 20, 701):
        monkeypatch.setattr(stream, "CHUNK_BYTES", chunk)
        for name, content in files.items():
            counts = []
            found = list(genbank.read(write(tmp_path / name, content), progress=counts.append))
            assert [(r.accession, len(r.codes)) for r in found] == [
                ("R1.1", 1),
                ("R60.1", 60),
                ("R61.1", 61),
                ("R1000.1", 1000),
            ]
            assert all((r.codes == np.arange(len(r.codes)) % 4).all() for r in found)
            assert sum(counts) == len(content)


def test_chunk_size_does_not_change_the_records(tmp_path, monkeypatch):
    path = write(tmp_path / "a.gb", record_text(name="A") + record_text(name="B"))
    for chunk in range(60, 120):
        monkeypatch.setattr(stream, "CHUNK_BYTES", chunk)
        assert [record.accession for record in genbank.read(path)] == ["A.1", "B.1"]


def test_only_mixed_case_marks_lower_case(tmp_path):
    for sequence, runs in [("acgtacgt", []), ("ACGTACGT", []), ("acGTNnac", [[0, 2], [5, 8]])]:
        [record] = genbank.read(write(tmp_path / "a.gb", record_text(sequence=sequence)))
        assert record.lower_case.tolist() == runs
        assert bases.decode(record.codes) == sequence.upper()


def test_accession_without_version(tmp_path):
    text = record_text(name="LOCAL")
    for old, new, accession in [
        ("VERSION     LOCAL.1\n", "", "LOCAL"),
        ("VERSION     LOCAL.1\n", "VERSION     AB1.2  GI:12\n", "AB1.2"),
        ("ACCESSION   LOCAL\nVERSION     LOCAL.1\n", "ACCESSION   AB1 AB2\n", "AB1"),
        ("ACCESSION   LOCAL\nVERSION     LOCAL.1\n", "ACCESSION\nVERSION\n", "LOCAL"),
    ]:
        assert old in text
        [record] = genbank.read(write(tmp_path / "a.gb", text.replace(old, new)))
        assert record.accession == accession


@pytest.mark.parametrize(
    "locus",
    [
        "LOCUS       HS04636       10 bp  DNA",
        "LOCUS       HS04636 10 bp",
        "LOCUS       HS04636                 10 bp    DNA     linear       2026-02-19",
        "LOCUS       HS04636                 10 BP    ds-DNA  linear   BCT 19-FEB-2026",
    ],
)
def test_minimal_records(tmp_path, locus):
    """As gene finders are trained on, and with a date as no one expects it; only the lines that are used are read."""
    text = record_text([("gene", "1..4", {"gene": "a"})])
    text = f"{locus}\nKEYW@RDS\n" + text[text.index("FEATURES") :]
    [record] = genbank.read(write(tmp_path / "a.gb", text))
    assert (record.accession, record.declared_length, len(record.features)) == ("HS04636", 10, 2)


def test_master_record_of_a_wgs_project(tmp_path):
    """It has no sequence, and its LOCUS line counts records."""
    text = record_text(origin=False, length=90).replace(" bp ", " rc ")
    text = text.replace("CONTIG      join(AB1.1:1..4,gap(100))", "WGS         AB01000001-AB01000090")
    master, other = genbank.read(write(tmp_path / "a.gb", text + record_text(name="OTHER")))
    assert (len(master.codes), master.declared_length, len(other.codes)) == (0, 0, 10)


def test_record_longer_than_declared(tmp_path):
    """It is read if its lines are numbered; a shorter one, or a circular one, is an error."""
    sequence = "acgt" * 50
    blocks = [sequence[at : at + 60] for at in range(0, 200, 60)]
    numbered = "".join(
        f"{60 * i + 1:>9} {' '.join(block[at : at + 10] for at in range(0, 60, 10)).rstrip()}\n"
        for i, block in enumerate(blocks)
    )

    def text(length, topology, lines):
        whole = record_text(sequence=sequence, length=length, topology=topology)
        return whole[: whole.index("ORIGIN")] + f"ORIGIN\n{lines}//\n"

    path = tmp_path / "a.gb"
    [record] = genbank.read(write(path, text(199, "linear", numbered)))
    assert (record.declared_length, len(record.codes), record.notes) == (200, 200, {LONGER: 1})
    plain = f"        1 {sequence}\n"
    for bad in (text(201, "linear", numbered), text(199, "circular", numbered), text(199, "linear", plain)):
        with raises(DamagedFileError, file=path, record="TEST"):
            list(genbank.read(write(path, bad)))


def test_latin_1_in_a_name_is_read(tmp_path):
    text = record_text([("gene", "1..4", {"gene": "caf\xe9"})]).encode("latin-1")
    [record] = genbank.read(write(tmp_path / "a.gb", text))
    assert record.features[1].qualifiers["gene"] == ("caf\xe9",)


@pytest.mark.parametrize("ending", ["CONTIG      join(AB1.1:1..4,gap(100))\n//\n", "ORIGIN\n//\n", "//\n"])
def test_record_without_sequence(tmp_path, ending):
    text = record_text([("gene", "1..4", {})], length=12345, origin=False)
    text = text[: text.index("CONTIG")] + ending
    [record] = genbank.read(write(tmp_path / "a.gb", text))
    assert (len(record.codes), record.declared_length) == (0, 12345)


@pytest.mark.parametrize(
    ("organelle", "plasmid", "lineage", "division", "taxon"),
    [
        ("mitochondrion:kinetoplast", False, "Eukaryota;Discoba", "INV", "mit"),
        ("plastid:chloroplast", True, "Eukaryota;Viridiplantae", "PLN", "plt"),
        ("chloroplast", False, "Eukaryota;Viridiplantae", "PLN", "plt"),
        ("", True, "Bacteria", "BCT", "plm"),
        ("nucleomorph", False, "Eukaryota;Cryptophyceae", "PLN", "prt"),
        ("", False, "Archaea", "BCT", "arc"),
        ("", False, "Eubacteria", "BCT", "bct"),
        ("", False, "Viruses", "PHG", "vir"),
        ("", False, "", "VRL", "vir"),
        ("", False, "Eukaryota;Fungi", "PLN", "fng"),
        ("", False, "Eukaryota;Viridiplantae", "PLN", "pln"),
        ("", False, "Eukaryota;Metazoa;Vertebrata;Mammalia", "PRI", "mam"),
        ("", False, "Eukaryota;Metazoa;Vertebrata", "VRT", "vrt"),
        ("", False, "Eukaryota;Metazoa", "INV", "inv"),
        ("", False, "Eukaryota;Amoebozoa", "INV", "prt"),
        ("", False, "", "ROD", "mam"),
        ("", False, "unclassified sequences", "SYN", None),
    ],
)
def test_taxon(organelle, plasmid, lineage, division, taxon):
    assert genbank.taxon_of(organelle, plasmid, lineage.split(";"), division) == taxon


WHOLE = record_text(name="FIRST") + record_text(name="SECOND", sequence="acgt" * 5000)
ZIPPED = gzip.compress(WHOLE.encode(), mtime=0)


@pytest.mark.parametrize(
    ("content", "kind", "attributes"),
    [
        (b"", FileError, {}),
        (b"\n\n", FormatError, {}),
        (gzip.compress(b"", mtime=0), FormatError, {}),
        (b">a\nACGT\n", FormatError, {}),
        (bytes(range(256)) * 100, DamagedFileError, {"line": 1}),
        (bytes(range(1, 256)) * 100, FormatError, {}),
        (WHOLE + ">a\nACGT\n//\n", FormatError, {"record": None}),
        (WHOLE[:-3], DamagedFileError, {"record": "SECOND"}),
        (WHOLE[:-10000], DamagedFileError, {"record": "SECOND"}),
        (WHOLE.replace("//\n", "", 1), DamagedFileError, {"record": "FIRST"}),
        (WHOLE.replace(" 20000 bp", " 20001 bp"), DamagedFileError, {"record": "SECOND"}),
        (WHOLE.replace("acgtacgtnn", "acgtacgt*n"), FormatError, {"record": "FIRST"}),
        (
            record_text().replace(" bp    DNA     linear  ", " aa            linear  "),
            FormatError,
            {"record": "TEST", "remedy": "give nucleotide records"},
        ),
        (ZIPPED[: len(ZIPPED) // 2], DamagedFileError, {}),
        (ZIPPED[:-8] + bytes(8), DamagedFileError, {}),
        (ZIPPED[:40] + bytes(20) + ZIPPED[60:], DamagedFileError, {}),
        (ZIPPED + b"rubbish", DamagedFileError, {}),
    ],
)
def test_bad_files(tmp_path, content, kind, attributes):
    path = write(tmp_path / "bad.gb", content)
    with raises(kind, file=path, **attributes):
        list(genbank.read(path))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.gb", tmp_path):
        with raises(FileError, file=path):
            list(genbank.read(path))


def test_sequence_lines_out_of_order(tmp_path):
    sequence = "".join("acgt"[(i * i) % 4] for i in range(250))
    text = record_text([("gene", "1..6", {})], sequence)
    lines = [  # blocks of ten bases, as the format requires
        line[:10] + " ".join(line[i : i + 10] for i in range(10, len(line), 10))
        if line[:10].strip().isdecimal()
        else line
        for line in text.splitlines(keepends=True)
    ]
    text = "".join(lines)
    at = lines.index(next(line for line in lines if line.startswith("        1 ")))
    swapped = [*lines[: at + 1], lines[at + 2], lines[at + 1], *lines[at + 3 :]]
    with raises(DamagedFileError, file=tmp_path / "a.gb", record="TEST"):
        list(genbank.read(write(tmp_path / "a.gb", "".join(swapped))))
    [record] = genbank.read(write(tmp_path / "b.gb", text))
    assert bases.decode(record.codes) == sequence.upper()
