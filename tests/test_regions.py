import hashlib
import importlib.util
import io
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import bases, genbank, regions
from data_pipeline.errors import DataError
from tests.data import DATA, FIXTURES, data_path, peer_path
from tests.test_genbank import record_text, write

GENBANK_SUFFIXES = (".gb.gz", ".gbk.gz", ".gbff.gz", ".seq.gz")


def table(path, skipped=None):
    """The rows that the oracle prints, and their text."""
    rows = []
    for record in genbank.read(path, regions.FEATURE_KINDS):
        for region in regions.regions(record, skipped):
            strand = "+" if region.strand > 0 else "-"
            md5 = hashlib.md5(bases.decode(region.codes).encode()).hexdigest()
            rows.append(
                (region.accession, region.start, region.end, strand, region.kind, len(region.codes), md5),
            )
    return sorted(rows)


def digest(rows):
    return hashlib.sha256("".join("\t".join(map(str, row)) + "\n" for row in rows).encode()).hexdigest()


@pytest.fixture(scope="module")
def oracle():
    path = peer_path("gene_regions.py")
    spec = importlib.util.spec_from_file_location("gene_regions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def oracle_rows(oracle, stream):
    from Bio import BiopythonWarning, SeqIO
    from Bio.Seq import UndefinedSequenceError

    rows, counts = [], oracle.collections.Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiopythonWarning)
        for record in SeqIO.parse(stream, "genbank"):
            try:
                str(record.seq)
            except UndefinedSequenceError:
                continue
            rows += oracle.regions(record, counts)
    return sorted(rows), counts


def check_digest(path, count, length, beginning):
    rows = table(path)
    assert (len(rows), sum(row[5] for row in rows)) == (count, length)
    assert digest(rows).startswith(beginning)


@pytest.mark.parametrize(
    ("file", "count", "length", "beginning"),
    [
        ("athaliana_chloroplast_NC_000932.1.gb.gz", 130, 111_777, "864758c2c6ff"),
        ("phiX174_NC_001422.1.gbk.gz", 11, 7_014, "43f1e3b8b3d5"),
        ("ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", 10, 5_814, "7acae944395a"),
        ("phage_NC_000902.gbk.gz", 86, 55_248, "797039dbf7e1"),
    ],
)
def test_fixture_digests(file, count, length, beginning):
    check_digest(FIXTURES / file, count, length, beginning)


@pytest.mark.parametrize(
    ("file", "count", "length", "beginning"),
    [
        ("prokaryote/ecoli_K12_MG1655_NC_000913.3.gbk.gz", 4498, 4_179_571, "ea1f5df6e3b2"),
        ("prokaryote/malvi_ATCC29626_draft.gbff.gz", 726, 760_518, "168a5fde3b9b"),
        ("prokaryote/ctrachomatis_1998_CG0037.gbk.gz", 932, 945_642, "735f66f1acb0"),
        ("eukaryote/yeast_S288C_chrVII_NC_001139.9.gb.gz", 590, 805_234, "bccd2bd1c7a5"),
    ],
)
def test_genome_digests(file, count, length, beginning):
    check_digest(data_path("genomes", *file.split("/")), count, length, beginning)


@pytest.mark.slow
def test_every_genome_equals_the_oracle(oracle):
    files = sorted(p for p in data_path("genomes").rglob("*") if p.name.endswith(GENBANK_SUFFIXES))
    assert len(files) > 30, DATA
    for path in files:
        if path.name == "no_end_marker.gb.gz":  # malformed: no `//`
            with pytest.raises(DataError, match="ends before the record"):
                table(path)
            continue
        with genbank.gzip.open(path, "rt") as stream:
            expected, counts = oracle_rows(oracle, stream)
        skipped = regions.Skipped()
        assert table(path, skipped) == expected, path
        assert skipped[regions.ELSEWHERE]["count"] == counts["parts on other records"], path


def test_malformed_real_files_are_counted():
    skipped = regions.Skipped()
    assert table(data_path("genomes", "edge_cases", "negative_location.gb.gz"), skipped) == []
    assert skipped[regions.MALFORMED] == {"count": 1, "bases": 492}
    assert table(data_path("genomes", "edge_cases", "NT_019265.gb.gz"), skipped) == []
    assert skipped[regions.NO_SEQUENCE] == {"count": 1, "bases": 1_250_660}


def find(tmp_path, features, sequence, topology="linear"):
    skipped = regions.Skipped()
    [record] = genbank.read(write(tmp_path / "a.gb", record_text(features, sequence, topology=topology)))
    return list(regions.regions(record, skipped)), skipped


def test_over_the_origin_on_either_strand_with_lower_case(tmp_path):
    sequence = "acGTTTTTTTCa"  # soft-masked at both ends of the circle: one run over the origin
    for location, text, runs in [
        ("join(10..12,1..4)", "TCAACGT", [[2, 5]]),
        ("complement(join(10..12,1..4))", "ACGTTGA", [[2, 5]]),
        ("12..3", "AACG", [[0, 3]]),
        ("complement(12..4)", "ACGTT", [[2, 5]]),
    ]:
        [region], _ = find(tmp_path, [("gene", location, {"gene": "a"})], sequence, "circular")
        assert region.start > region.end
        assert region.strand == (-1 if "complement" in location else 1)
        assert bases.decode(region.codes) == text
        assert region.lower_case.tolist() == runs
        assert (region.kind, region.taxon, region.accession) == ("other", "bct", "TEST.1")


def test_whole_circle_and_more_than_that(tmp_path):
    [region], _ = find(tmp_path, [("gene", "join(4..8,1..3)", {})], "ACGGTTTA", "circular")
    assert (region.start, region.end, bases.decode(region.codes)) == (3, 3, "GTTTAACG")
    [region], _ = find(tmp_path, [("gene", "complement(join(4..8,1..3))", {})], "ACGGTTTA", "circular")
    assert bases.decode(region.codes) == "CGTTAAAC"
    found, skipped = find(tmp_path, [("gene", "join(4..8,1..5)", {})], "ACGGTTTA", "circular")
    assert found == []
    assert skipped[regions.MALFORMED] == {"count": 1, "bases": 8}


def test_join_outer_span_includes_introns_and_linear_records_have_no_origin(tmp_path):
    [region], _ = find(tmp_path, [("gene", "join(2..3,6..8)", {})], "ACGTACGTAC")
    assert (region.start, region.end, bases.decode(region.codes)) == (1, 8, "CGTACGT")
    [region], _ = find(tmp_path, [("gene", "join(9..10,1..2)", {})], "ACGTACGTAC")
    assert (region.start, region.end) == (0, 10)


def test_everything_left_out_is_counted(tmp_path):
    gene = {"locus_tag": "a"}
    features = [
        ("gene", "1..4", gene),
        ("gene", "1..4", gene),
        ("gene", "complement(1..4)", gene),
        ("gene", "join(5..6,XY1.1:11..20)", {}),
        ("gene", "XY1.1:1..5", {}),
        ("gene", "8..3", {}),
        ("gene", "8..30", {}),
        ("gene", "3^4", {}),
        ("CDS", "2..3", {"locus_tag": "elsewhere"}),
    ]
    found, skipped = find(tmp_path, features, "acgtacgtac")
    assert [(r.start, r.end, r.strand) for r in found] == [(0, 4, -1), (0, 4, 1), (4, 6, 1)]
    assert skipped == {
        regions.NO_SEQUENCE: {"count": 0, "bases": 0},
        regions.ELSEWHERE: {"count": 2, "bases": 15},
        regions.DUPLICATE: {"count": 1, "bases": 4},
        regions.MALFORMED: {"count": 3, "bases": 3},
    }


def test_kind_is_the_best_of_the_features_of_the_gene(tmp_path):
    tag = {"locus_tag": "a"}
    for products, kind in [
        ([], "other"),
        ([("misc_RNA", "2..3", tag)], "miscRNA"),
        ([("misc_RNA", "2..3", tag), ("tmRNA", "1..4", tag)], "ncRNA"),
        ([("ncRNA", "2..3", tag), ("rRNA", "2..3", tag), ("tRNA", "2..3", tag)], "tRNA"),
        ([("tRNA", "2..3", tag), ("CDS", "2..3", tag)], "cds"),
        ([("CDS", "complement(2..3)", tag), ("rRNA", "2..3", tag)], "rRNA"),
        ([("CDS", "2..3", {"gene": "a"})], "other"),
        ([("CDS", "2..3", {"locus_tag": "b"})], "other"),
    ]:
        found, _ = find(tmp_path, [("gene", "1..4", tag), *products], "acgtacgtac")
        assert {(r.start, r.strand): r.kind for r in found}[0, 1] == kind
    [region], _ = find(tmp_path, [("gene", "1..4", {**tag, "pseudo": None}), ("CDS", "1..4", tag)], "acgtacgtac")
    assert region.kind == "pseudo"


LENGTH = 120


@st.composite
def locations(draw):
    """GenBank locations on a record of LENGTH bases that have no fault."""
    style = draw(st.sampled_from(["span", "span", "complement", "join", "join_complement", "mixed", "origin"]))
    cuts = sorted(2 * cut for cut in draw(st.lists(st.integers(1, LENGTH // 2), min_size=4, max_size=4, unique=True)))
    if style == "origin":
        location = f"join({cuts[2]}..{LENGTH},1..{cuts[1]})"
        return draw(st.sampled_from([location, f"complement({location})", f"{cuts[2]}..{cuts[1]}"]))
    first, second = f"{cuts[0]}..{cuts[1]}", f"{cuts[2]}..{cuts[3]}"
    return {
        "span": first,
        "complement": f"complement({second})",
        "join": f"join({first},{second})",
        "join_complement": f"join(complement({second}),complement({first}))",
        "mixed": f"join(complement({first}),{second})",
    }[style]


FEATURES = st.lists(
    st.tuples(
        st.sampled_from(["gene", "gene", "gene", "CDS", "tRNA", "rRNA", "ncRNA", "tmRNA", "misc_RNA", "exon"]),
        locations(),
        st.dictionaries(st.sampled_from(["locus_tag", "gene"]), st.sampled_from("ab"))
        | st.just({"locus_tag": "a", "pseudo": None})
        | st.just({"gene": "b", "trans_splicing": None}),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(features=FEATURES, topology=st.sampled_from(["linear", "circular"]), seed=st.randoms(use_true_random=False))
def test_random_records_equal_the_oracle(oracle, tmp_path_factory, features, topology, seed):
    text = record_text(features, "".join(seed.choices("acgtn", k=LENGTH)), topology=topology)
    expected, _ = oracle_rows(oracle, io.StringIO(text))
    path = write(tmp_path_factory.getbasetemp() / "random.gb", text)
    skipped = regions.Skipped()
    found = table(path, skipped)
    assert found == expected  # a linear "9..3" is a fault to both
