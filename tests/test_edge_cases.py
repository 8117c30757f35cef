"""Tests unusual files: each gives a dataset that counts it, or an error that names it."""

import gzip
import os

import pytest

from data_pipeline import inspect
from data_pipeline.dataset import builder
from data_pipeline.dataset.merge import NoRegion
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DamagedFileError, DataError, FileError, FormatError, PairingError
from data_pipeline.formats import gff, gff_rows
from data_pipeline.regions import ledger
from data_pipeline.regions.schemes import Scheme
from tests.data import data_path
from tests.raised import check, raises
from tests.test_genbank import record_text, write

TABLE = "feature table line"
GENE = [("gene", "2..7", {"locus_tag": "g1"})]


def built(tmp_path, *paths, **options):
    return builder.build(paths, tmp_path / "set", **{"validation_fraction": 0, **options})


def build_error(tmp_path, *paths, **options):
    """Runs a build that must fail without leaving files; returns its error."""
    with pytest.raises(DataError) as caught:
        built(tmp_path, *paths, **options)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("set")]
    return caught.value


def coordinates_of(folder):
    source = RegionSource(folder, "train")
    return [inspect.coordinates(source, number) for number in inspect.chosen(source)]


def bases_of(folder):
    source = RegionSource(folder, "train")
    return [inspect.bases.decode(source.read(n, 0, int(source.index["length"][n]))) for n in range(len(source))]


def row(count, bases):
    return {"count": count, "bases": bases}


# The folder of edge cases.


def edge(name):
    return data_path("genomes", "edge_cases", name)


def test_record_without_sequence(tmp_path):
    error = build_error(tmp_path, edge("NT_019265.gb.gz"))
    check(error, NoRegion, file="NT_019265.gb.gz")
    assert f"1 {ledger.NO_SEQUENCE}" in error.problem


def test_short_records_of_dna_and_mrna(tmp_path):
    info = built(tmp_path, edge("cor6_6.gb.gz"))
    assert info["ledger"]["records"] == {"read": row(6, 2819), "skipped": {}}
    assert info["ledger"]["regions"]["dropped"] == {}
    assert {name.split(":")[0] for name in coordinates_of(tmp_path / "set")} == {
        "X55053.1", "X62281.1", "M81224.1", "AJ237582.1", "L31939.1", "AF297471.1",
    }  # fmt: skip


def test_many_short_records(tmp_path):
    info = built(tmp_path, edge("ls_orchid_94records.gbk.gz"))
    assert info["ledger"]["records"] == {"read": row(94, 67518), "skipped": {}}
    assert (
        info["splits"]["train"]["regions"]
        + sum(dropped["count"] for dropped in info["ledger"]["regions"]["dropped"].values())
        == info["ledger"]["regions"]["found"]["count"]
    )


def test_location_below_the_first_base(tmp_path):
    error = build_error(tmp_path, edge("negative_location.gb.gz"))
    check(error, NoRegion, file="negative_location.gb.gz")
    assert f"1 {ledger.MALFORMED}" in error.problem
    info = built(tmp_path, edge("negative_location.gb.gz"), edge("cor6_6.gb.gz"))
    assert info["ledger"]["regions"]["dropped"][ledger.MALFORMED]["count"] == 1


def test_truncated_file(tmp_path):
    path = edge("no_end_marker.gb.gz")
    check(build_error(tmp_path, path), DamagedFileError, file=path, record="AB070938")
    info = built(tmp_path, path, edge("cor6_6.gb.gz"), skip_damaged=True)
    assert [damaged["files"] for damaged in info["damaged"]] == [["no_end_marker.gb.gz"]]


def test_many_unknown_bases(tmp_path):
    built(tmp_path, edge("soybean_gbpln2_850N.seq.gz"))
    [name] = coordinates_of(tmp_path / "set")
    assert name.startswith("V00451.1:")
    info = builder.build(
        [edge("soybean_gbpln2_850N.seq.gz")], tmp_path / "cut", scheme=Scheme("whole", cut_n=50), validation_fraction=0
    )
    assert info["splits"]["train"]["bases"] == 3400 - 850
    assert info["ledger"]["regions"]["dropped"]["N runs cut out"]["bases"] == 850


def test_whole_folder(tmp_path):
    folder = edge("")
    with raises(DamagedFileError, file="no_end_marker.gb.gz", record="AB070938"):
        built(tmp_path, folder)  # the finished inputs are kept
    info = built(tmp_path, folder, skip_damaged=True)
    read = info["ledger"]["records"]
    assert read["read"]["count"] == 1 + 6 + 94 + 1 + 1
    assert read["skipped"] == {ledger.NO_SEQUENCE: row(1, 1250660)}
    assert len(info["damaged"]) == 1


# Odd records.


def test_record_without_features(tmp_path):
    path = write(tmp_path / "a.gb", record_text() + record_text(GENE, name="OTHER"))
    info = built(tmp_path, path)
    assert info["ledger"]["records"] == {"read": row(2, 20), "skipped": {}}
    assert coordinates_of(tmp_path / "set") == ["OTHER.1:2-7(+)"]
    error = build_error((tmp_path / "b.gb").parent / "set", write(tmp_path / "b.gb", record_text()))
    check(error, NoRegion, file="b.gb")


@pytest.mark.parametrize(
    ("location", "flank", "coordinates", "sequence"),
    [
        ("1..10", 0, "1-10(+)", "AACCGGTTAC"),
        ("1..10", 3, "1-10(+)", "AACCGGTTAC"),
        ("complement(1..10)", 0, "1-10(-)", "GTAACCGGTT"),
        ("join(5..10,1..4)", 0, "5-4(+)", "GGTTACAACC"),
        ("join(9..10,1..2)", 0, "9-2(+)", "ACAA"),
        ("9..2", 0, "9-2(+)", "ACAA"),
        ("join(9..10,1..2)", 2, "7-4(+)", "TTACAACC"),
        ("complement(join(9..10,1..2))", 2, "7-4(-)", "GGTTGTAA"),
        ("1..2", 3, "8-5(+)", "TACAACCG"),
    ],
)
def test_circles(tmp_path, location, flank, coordinates, sequence):
    text = record_text([("gene", location, {"locus_tag": "g"})], "aaccggttac", topology="circular")
    built(tmp_path, write(tmp_path / "a.gb", text), scheme=Scheme(flank=flank))
    assert coordinates_of(tmp_path / "set") == [f"TEST.1:{coordinates}"]
    assert bases_of(tmp_path / "set") == [sequence]


def test_record_without_accession(tmp_path):
    text = record_text(GENE).replace("ACCESSION   TEST\nVERSION     TEST.1\n", "ACCESSION   .\nVERSION     .\n")
    built(tmp_path, write(tmp_path / "a.gb", text))
    assert coordinates_of(tmp_path / "set") == ["TEST:2-7(+)"]  # the LOCUS line's name
    bare = text.replace("LOCUS       TEST            ", "LOCUS                       ")
    path = write(tmp_path / "b.gb", bare)
    with raises(FormatError, file=path, record="1"):
        builder.build([path], tmp_path / "bare")


@pytest.mark.parametrize(
    ("location", "outcome"),
    [
        ("2..99999999999999999999", ledger.MALFORMED),
        ("2..7..9", ledger.MALFORMED),
        ("join(2..7", ledger.MALFORMED),
        ("2.7..9", ledger.MALFORMED),
        ("2..7x", ledger.MALFORMED),
        ("0..7", ledger.MALFORMED),
        ("2..11", ledger.MALFORMED),
        ("AB1.1:2..7", ledger.ELSEWHERE),
    ],
)
@pytest.mark.parametrize("topology", ["linear", "circular"])
def test_invalid_locations_are_counted(tmp_path, location, outcome, topology):
    features = [("gene", location, {"locus_tag": "bad"}), *GENE]
    info = built(tmp_path, write(tmp_path / "a.gb", record_text(features, topology=topology)))
    assert {**info["ledger"]["regions"]["dropped"], **info["ledger"]["notes"]}[outcome]["count"] == 1
    assert coordinates_of(tmp_path / "set") == ["TEST.1:2-7(+)"]


@pytest.mark.parametrize(
    ("old", "new", "kind", "field", "value"),
    [
        ("acgtacgtnn", "acgtacgtne", FormatError, "base", "e"),
        ("FEATURES ", "FEATURXS ", FormatError, "FEATURES", ""),
        ('/locus_tag="g1"', '/locus_tag="g1', FormatError, TABLE, '/locus_tag="g1'),
        ('/locus_tag="g1"', "/locus_tag=g1\n" + " " * 21 + '/gene"x"', FormatError, TABLE, '/gene"x"'),
        ("     gene            ", "      gene           ", FormatError, TABLE, "gene "),
        ("     gene            ", "     gene   ", FormatError, TABLE, "gene "),
        ("     gene            ", "     ge ne           ", FormatError, TABLE, "ge ne "),
        ("TEST.1\n", "TEST.1\0\n", DamagedFileError, None, ""),
    ],
)
def test_lines_that_would_be_lost_are_rejected(tmp_path, old, new, kind, field, value):
    text = record_text(GENE)
    assert old in text
    error = build_error(tmp_path, write(tmp_path / "a.gb", text.replace(old, new)))
    check(error, kind, file="a.gb", field=field)
    assert (error.value or "").startswith(value)
    assert error.line == 4 if kind is DamagedFileError else error.record == "TEST"


def test_numbers_with_thousands_of_digits(tmp_path):
    fasta = write(tmp_path / "a.fa", ">s\nACGTACGT\n")
    number, gene = "9" * 5000, "s\tx\tgene\t1\t4\t.\t+\t.\tID=g\n"
    text = f"##sequence-region s 1 {number}\n{gene}{gene.replace('4', number, 1).replace('ID=g', 'ID=h')}"
    info = built(tmp_path, write(tmp_path / "a.gff", text), fasta, taxon="bct")
    assert info["ledger"]["regions"]["dropped"] == {ledger.MALFORMED: row(1, 0)}
    assert info["ledger"]["notes"] == {gff.DIRECTIVES: row(1, 0), gff_rows.INVALID_ROWS: row(1, 0)}
    assert coordinates_of(tmp_path / "set") == ["s:1-4(+)"]


# Odd files.


def test_files_with_the_wrong_suffix(tmp_path):
    text = record_text(GENE).encode()
    twice = write(tmp_path / "twice.gb.gz", gzip.compress(gzip.compress(text, mtime=0), mtime=0))
    assert build_error(tmp_path, twice).file == twice
    nothing = write(tmp_path / "nothing.gb.gz", gzip.compress(b"", mtime=0))
    check(build_error(tmp_path, nothing), FormatError, file=nothing)
    empty = write(tmp_path / "empty.gb.gz", b"")
    check(build_error(tmp_path, empty), FileError, file=empty)
    folder = tmp_path / "folder.gb"
    folder.mkdir()
    check(build_error(tmp_path, folder), PairingError, file=folder)
    plain = write(tmp_path / "plain.gb.gz", text)
    built(tmp_path, plain)
    assert coordinates_of(tmp_path / "set") == ["TEST.1:2-7(+)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    path = write(tmp_path / "a.gb", record_text(GENE))
    path.chmod(0)
    check(build_error(tmp_path, path), FileError, file=path)


def test_names_with_spaces_and_other_letters(tmp_path):
    folder = tmp_path / "größe 10 µ"
    folder.mkdir()
    write(folder / "E. coli – K 12.gbff", record_text(GENE))
    write(folder / "жук (1).fa", ">s\nACGTACGT\n")
    write(folder / "жук (1).gff3", "s\tx\tgene\t1\t4\t.\t+\t.\tID=g\n")
    info = built(tmp_path, folder, taxon="bct")
    assert {file["file"] for file in info["inputs"]} == {"E. coli – K 12.gbff", "жук (1).gff3", "жук (1).fa"}
    assert sorted(coordinates_of(tmp_path / "set")) == ["TEST.1:2-7(+)", "s:1-4(+)"]


def test_cyclic_links(tmp_path):
    folder = tmp_path / "genomes"
    folder.mkdir()
    path = write(folder / "a.gb", record_text(GENE))
    (folder / "again").symlink_to(folder)
    (folder / "b.gb").symlink_to(folder / "c.gb")
    (folder / "c.gb").symlink_to(folder / "b.gb")
    (folder / "gone.gb").symlink_to(folder / "nowhere.gb")
    (folder / "same.gb").symlink_to(path)
    info = built(tmp_path, folder)
    assert info["ledger"]["records"]["read"] == row(1, 10)
    for name in ("b.gb", "gone.gb"):
        with raises(FileError, file=name):
            builder.build([folder / name], tmp_path / "other")


def test_files_with_the_same_name_in_two_folders(tmp_path):
    for name, sequence in (("one", "acgtacgtaa"), ("two", "ttgacgtacc")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "genomic.gbff", record_text(GENE, sequence, name=name.upper()))
    info = built(tmp_path, tmp_path / "one", tmp_path / "two" / "genomic.gbff")
    assert [(file["file"], file["input"]) for file in info["inputs"]] == [("genomic.gbff", 0), ("genomic.gbff", 1)]
    assert sorted(coordinates_of(tmp_path / "set")) == ["ONE.1:2-7(+)", "TWO.1:2-7(+)"]
