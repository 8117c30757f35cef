"""Tests the regions of records, by every scheme, against an oracle and Biopython."""

import collections
import gzip
import hashlib
import io
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import ArgumentError, DamagedFileError
from data_pipeline.formats import genbank
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import DUPLICATE, ELSEWHERE, MALFORMED, NO_SEQUENCE, Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import Feature, Record, Segment
from tests import oracle
from tests.data import DATA, FIXTURES, data_path
from tests.raised import raises
from tests.test_genbank import record_text, write

GENBANK_SUFFIXES = (".gb.gz", ".gbk.gz", ".gbff.gz", ".seq.gz")


def table(path, ledger=None):
    """The rows that the oracle would print for a file, and their text."""
    rows = []
    for record in genbank.read(path, schemes.feature_kinds(schemes.GENE)):
        for region in extraction.regions(record, schemes.GENE, ledger):
            strand = "+" if region.strand > 0 else "-"
            md5 = hashlib.md5(bases.decode(region.codes).encode()).hexdigest()
            rows.append(
                (region.accession, region.start, region.end, strand, region.kind, len(region.codes), md5),
            )
    return sorted(rows)


def digest(rows):
    return hashlib.sha256("".join("\t".join(map(str, row)) + "\n" for row in rows).encode()).hexdigest()


def oracle_rows(stream):
    from Bio import BiopythonWarning, SeqIO
    from Bio.Seq import UndefinedSequenceError

    rows, counts = [], collections.Counter()
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
def test_every_genome_equals_the_oracle():
    files = sorted(p for p in data_path("genomes").rglob("*") if p.name.endswith(GENBANK_SUFFIXES))
    assert len(files) > 30, DATA
    for path in files:
        if path.name == "no_end_marker.gb.gz":  # malformed: no `//`
            with raises(DamagedFileError, file=path):
                table(path)
            continue
        with gzip.open(path, "rt") as stream:
            expected, counts = oracle_rows(stream)
        ledger = Ledger()
        assert table(path, ledger) == expected, path
        assert ledger.notes[ELSEWHERE][0] == counts["parts on other records"], path


def test_malformed_real_files_are_counted():
    ledger = Ledger()
    assert table(data_path("genomes", "edge_cases", "negative_location.gb.gz"), ledger) == []
    assert ledger.dropped[MALFORMED] == [1, 492]
    assert table(data_path("genomes", "edge_cases", "NT_019265.gb.gz"), ledger) == []
    assert ledger.skipped[NO_SEQUENCE] == [1, 1_250_660]


def find(tmp_path, features, sequence, topology="linear", scheme=schemes.GENE):
    ledger = Ledger()
    [record] = genbank.read(write(tmp_path / "a.gb", record_text(features, sequence, topology=topology)))
    return list(extraction.regions(record, scheme, ledger)), ledger


def test_regions_across_the_origin_on_both_strands_with_lower_case(tmp_path):
    sequence = "acGTTTTTTTCa"  # soft-masked at both ends of the circle: one run across the origin
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


def test_whole_circle_and_overlapping_circle(tmp_path):
    [region], _ = find(tmp_path, [("gene", "join(4..8,1..3)", {})], "ACGGTTTA", "circular")
    assert (region.start, region.end, bases.decode(region.codes)) == (3, 3, "GTTTAACG")
    [region], _ = find(tmp_path, [("gene", "complement(join(4..8,1..3))", {})], "ACGGTTTA", "circular")
    assert bases.decode(region.codes) == "CGTTAAAC"
    found, ledger = find(tmp_path, [("gene", "join(4..8,1..5)", {})], "ACGGTTTA", "circular")
    assert found == []
    assert ledger.dropped[MALFORMED] == [1, 8]


def test_outer_span_of_join_includes_introns(tmp_path):
    [region], _ = find(tmp_path, [("gene", "join(2..3,6..8)", {})], "ACGTACGTAC")
    assert (region.start, region.end, bases.decode(region.codes)) == (1, 8, "CGTACGT")
    [region], _ = find(tmp_path, [("gene", "join(9..10,1..2)", {})], "ACGTACGTAC")
    assert (region.start, region.end) == (0, 10)


def test_everything_dropped_is_counted(tmp_path):
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
    found, ledger = find(tmp_path, features, "acgtacgtac")
    assert [(r.start, r.end, r.strand) for r in found] == [(0, 4, -1), (0, 4, 1), (4, 6, 1)]
    assert ledger.notes == {ELSEWHERE: [2, 15]}
    assert ledger.dropped == {DUPLICATE: [1, 4], MALFORMED: [3, 3]}
    ledger.check(len(found), sum(len(region.codes) for region in found))


def test_kind_is_the_best_among_the_features_of_the_gene(tmp_path):
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
    """Valid GenBank locations on a record of LENGTH bases."""
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


@settings(max_examples=150, deadline=None)
@given(features=FEATURES, topology=st.sampled_from(["linear", "circular"]), seed=st.randoms(use_true_random=False))
def test_random_records_equal_the_oracle(tmp_path_factory, features, topology, seed):
    text = record_text(features, "".join(seed.choices("acgtn", k=LENGTH)), topology=topology)
    expected, _ = oracle_rows(io.StringIO(text))
    path = write(tmp_path_factory.getbasetemp() / "random.gb", text)
    ledger = Ledger()
    found = table(path, ledger)
    assert found == expected  # both reject "9..3" on a linear record


def expected_bases(text, region):
    """A region's bases, taken from its record's text by its coordinates alone, with their case."""
    if region.segments:
        intervals = region.segments
    elif region.start < region.end:
        intervals = [(region.start, region.end, region.strand)]
    else:
        intervals = [(region.start, len(text), region.strand), (0, region.end, region.strand)][:: region.strand]
    forward = [(text[start:end], strand) for start, end, strand in intervals]
    complement = str.maketrans("ACGTacgt", "TGCAtgca")
    return "".join(segment if strand > 0 else segment[::-1].translate(complement) for segment, strand in forward)


def check_bases(text, region):
    """Asserts that a region has the bases and soft-masked runs of its coordinates."""
    spelled = expected_bases(text, region)
    assert bases.decode(region.codes) == re.sub("[^ACGT]", "N", spelled.upper())
    if text.lower() != text and text.upper() != text:
        lower = np.array([letter.islower() for letter in spelled])
        assert region.lower_case.tolist() == bases.runs(lower).tolist()
    else:
        assert len(region.lower_case) == 0


CODING_QUALIFIERS = st.fixed_dictionaries(
    {},
    optional={
        "codon_start": st.sampled_from("123"),
        "gene": st.sampled_from("ab"),
        "product": st.sampled_from(["kinase", "protein"]),
        "pseudo": st.none(),
        "trans_splicing": st.none(),
    },
)


@settings(max_examples=100, deadline=None)
@given(
    features=st.lists(
        st.tuples(st.sampled_from(["CDS", "CDS", "mRNA", "gene", "promoter"]), locations(), CODING_QUALIFIERS),
        max_size=6,
    ),
    topology=st.sampled_from(["linear", "circular"]),
    name=st.sampled_from(["gene", "whole", "mrna", "cds"]),
    flank=st.sampled_from([0, 0, 1, 7, 50, 500]),
    min_length=st.sampled_from([1, 1, 5, 20]),
    max_length=st.sampled_from([None, 20, 23, 64]),
    cut_n=st.sampled_from([None, 1, 2, 3]),
    gene=st.sampled_from([None, None, "a"]),
    seed=st.randoms(use_true_random=False),
)
def test_all_regions_of_random_records_are_counted(
    tmp_path_factory, features, topology, name, flank, min_length, max_length, cut_n, gene, seed
):
    choose = {} if name == "whole" else {"flank": flank, "gene": gene}
    scheme = Scheme(
        name,
        min_length=min_length,
        max_length=max_length,
        cut_n=cut_n,
        regulatory=name == "gene" and flank == 7,
        **choose,
    )
    sequence = "".join(seed.choices("acgtnACGTN", k=LENGTH))
    path = write(tmp_path_factory.getbasetemp() / "random.gb", record_text(features, sequence, topology=topology))
    [record] = genbank.read(path, schemes.feature_kinds(scheme))
    ledger = Ledger()
    spans = extraction.find(record, scheme, ledger)
    assert [span[:3] for span in spans] == sorted(span[:3] for span in spans)
    kept = []
    for span in spans:
        whole = extraction.extract(record, span, "mam")
        check_bases(sequence, whole)
        assert len(whole.codes) == span.length(LENGTH) >= min_length
        assert whole.taxon == "mam"
        positions = [at for start, end in span.intervals(LENGTH) for at in range(start, end)]
        if not span.segments:
            assert len(positions) == len(set(positions))
        subregions = list(extraction.cut(whole, scheme, ledger))
        kept += subregions
        for subregion in subregions:
            check_bases(sequence, subregion)
            assert min_length <= len(subregion.codes) <= (max_length or LENGTH)
        if min_length == 1:
            text = bases.decode(whole.codes)
            runs = [segment for segment in re.split(f"N{{{cut_n},}}", text) if segment] if cut_n else [text]
            expected = [-(-len(segment) // (max_length or LENGTH)) for segment in runs]
            assert len(subregions) == sum(expected)
            assert "".join(bases.decode(subregion.codes) for subregion in subregions) == "".join(runs)
            offset = 0
            for subregion in subregions:
                offset = text.index(bases.decode(subregion.codes), offset)
                if subregion.reading_frame >= 0 and not cut_n:
                    assert (offset + subregion.reading_frame - whole.reading_frame) % 3 == 0
                    assert offset + subregion.reading_frame >= whole.reading_frame
                    assert subregion.reading_frame < 3 or offset < whole.reading_frame
                offset += len(subregion.codes)
            lengths = [len(subregion.codes) for subregion in subregions]
            if len(runs) == 1 and lengths:
                assert max(lengths) - min(lengths) <= 1
    ledger.check(len(kept), sum(len(subregion.codes) for subregion in kept))
    assert [r.codes.tolist() for r in extraction.regions(record, scheme)] == [r.codes.tolist() for r in kept]


def spliced(tmp_path, features, sequence, topology="linear", **scheme):
    """(bases, start, end, strand, segments, reading frame) of each region of the scheme `cds`, and the ledger."""
    found, ledger = find(tmp_path, features, sequence, topology, Scheme("cds", **scheme))
    ledger.check(len(found), sum(len(region.codes) for region in found))
    return [(bases.decode(r.codes), r.start, r.end, r.strand, r.segments, r.reading_frame) for r in found], ledger


#                  0123456789
TWELVE = "ACGTTGCAAGCC"


@pytest.mark.parametrize(
    ("location", "topology", "expected"),
    [
        ("3..5", "linear", ("GTT", 2, 5, 1, (), 0)),
        ("complement(3..5)", "linear", ("AAC", 2, 5, -1, (), 0)),
        ("join(2..3,6..8)", "linear", ("CGGCA", 1, 8, 1, ((1, 3, 1), (5, 8, 1)), 0)),
        ("complement(join(2..3,6..8))", "linear", ("TGCCG", 1, 8, -1, ((5, 8, -1), (1, 3, -1)), 0)),
        ("join(2..3,3..5)", "linear", ("CGGTT", 1, 5, 1, ((1, 3, 1), (2, 5, 1)), 0)),  # slips back
        ("join(complement(6..8),2..3)", "linear", ("TGCCG", 1, 8, -1, ((5, 8, -1), (1, 3, 1)), 0)),
        ("join(6..8,2..3)", "linear", ("GCACG", 1, 8, 1, ((5, 8, 1), (1, 3, 1)), 0)),
        ("join(10..12,1..2)", "circular", ("GCCAC", 9, 2, 1, (), 0)),
        ("complement(join(10..12,1..2))", "circular", ("GTGGC", 9, 2, -1, (), 0)),
        ("join(7..8,10..12,1..2)", "circular", ("CAGCCAC", 6, 2, 1, ((6, 8, 1), (9, 12, 1), (0, 2, 1)), 0)),
        ("join(7..8,2..3)", "circular", ("CACG", 1, 8, 1, ((6, 8, 1), (1, 3, 1)), 0)),  # an intron across the origin
    ],
)
def test_spliced_locations(tmp_path, location, topology, expected):
    assert spliced(tmp_path, [("CDS", location, {})], TWELVE, topology)[0] == [expected]
    [region], _ = find(tmp_path, [("mRNA", location, {})], TWELVE, topology, Scheme("mrna"))
    assert (bases.decode(region.codes), region.start, region.end, region.strand, region.segments) == expected[:5]
    assert (region.kind, region.reading_frame, region.genetic_code) == ("mRNA", -1, 0)


def test_lower_case_of_joined_segments(tmp_path):
    features = [("CDS", "join(1..3,5..6,9..9)", {}), ("CDS", "complement(join(1..3,5..7))", {}), ("CDS", "8..9", {})]
    found, _ = find(tmp_path, features, "AcGTacGTacGT", scheme=Scheme("cds"))
    assert [(bases.decode(r.codes), r.lower_case.tolist()) for r in found] == [
        ("CGTCGT", [[1, 3], [4, 5]]),
        ("ACGACA", [[1, 2], [3, 6]]),
        ("TA", [[1, 2]]),
    ]
    [region], _ = find(tmp_path, [("CDS", "join(3..4,7..8)", {})], "acGTacGTac", scheme=Scheme("cds"))
    assert (bases.decode(region.codes), region.lower_case.shape) == ("GTGT", (0, 2))


@pytest.mark.parametrize("topology", ["linear", "circular"])
@pytest.mark.parametrize("name", ["gene", "cds"])
def test_location_between_two_bases_is_malformed(tmp_path, topology, name):
    found, ledger = find(tmp_path, [("CDS", "3^4", {})], TWELVE, topology, Scheme(name))
    assert (found, ledger.found, ledger.dropped) == ([], [1, 0], {MALFORMED: [1, 0]})


def test_isoforms_differ_by_their_segments(tmp_path):
    found, ledger = spliced(
        tmp_path,
        [
            ("CDS", "join(1..2,7..8)", {"gene": "a"}),
            ("CDS", "join(1..3,7..8)", {"gene": "a"}),
            ("CDS", "join(1..2,7..8)", {"gene": "b"}),
            ("CDS", "join(1..2,XY1.1:7..8)", {}),
            ("CDS", "join(1..2,9..20)", {}),
            ("CDS", "3^4", {}),
        ],
        TWELVE,
    )
    assert [row[0] for row in found] == ["ACCA", "ACGCA"]
    assert ledger.found == [6, 23]
    assert ledger.dropped == {DUPLICATE: [1, 4], ELSEWHERE: [1, 4], MALFORMED: [2, 6]}
    assert ledger.notes == {"translation: no /translation": [2, 9]}


def test_coding_regions_have_reading_frame_genetic_code_and_exceptions(tmp_path):
    qualifiers = {"codon_start": "2", "transl_table": "11", "ribosomal_slippage": None, "transl_except": "(pos:1,aa:X)"}
    features = [
        ("CDS", "1..7", qualifiers | {"gene": "a", "locus_tag": "b_1", "product": "c"}),
        ("CDS", "2..8", {"pseudo": None}),
        ("CDS", "3..9", {"codon_start": "4"}),
        ("CDS", "4..10", {"transl_table": "7", "translation": "MA"}),
    ]
    found, ledger = find(tmp_path, features, TWELVE, scheme=Scheme("cds"))
    rows = [(r.kind, r.reading_frame, r.genetic_code, r.exceptions, r.translation) for r in found]
    text = "/transl_except=(pos:1,aa:X); /ribosomal_slippage"
    assert rows == [
        ("cds", 1, 11, text, "no /translation"),
        ("pseudo", -1, 0, "", "pseudo"),
        ("cds", -1, 1, "", "unreadable frame or genetic code"),
        ("cds", 0, 0, "", "unreadable frame or genetic code"),
    ]
    assert (found[0].gene, found[0].locus_tag, found[0].product) == ("a", "b_1", "c")
    assert ledger.notes["translation: unreadable frame or genetic code"] == [2, 14]


@pytest.mark.parametrize(
    ("location", "topology", "flank", "expected"),
    [
        ("5..6", "linear", 3, (1, 9, ())),
        ("5..6", "linear", 5, (0, 11, ())),
        ("complement(5..6)", "linear", 5, (0, 11, ())),
        ("2..3", "circular", 2, (11, 5, ())),
        ("11..12", "circular", 2, (8, 2, ())),
        ("11..12", "circular", 1, (9, 1, ())),
        ("5..6", "circular", 5, (11, 11, ())),  # ten more bases: the whole circle
        ("5..6", "circular", 50, (11, 11, ())),
        ("1..12", "circular", 5, (0, 12, ())),
        ("join(12..12,1..5)", "circular", 2, (9, 7, ())),
        ("join(5..6,8..8)", "linear", 2, (2, 10, ((2, 6, 1), (7, 10, 1)))),
        ("complement(join(5..6,8..8))", "linear", 9, (0, 12, ((7, 12, -1), (0, 6, -1)))),
        ("join(2..2,4..4)", "circular", 2, (11, 6, ((11, 12, 1), (0, 2, 1), (3, 6, 1)))),
        ("complement(join(2..2,11..11))", "circular", 2, (0, 12, ((10, 12, -1), (0, 2, -1)))),
        ("join(8..9,3..4)", "linear", 9, (2, 9, ((5, 9, 1), (2, 5, 1)))),  # trans-spliced: both flanks share one gap
        ("join(complement(5..6),9..9)", "linear", 2, (4, 11, ((4, 8, -1), (8, 11, 1)))),
    ],
)
def test_flanks(tmp_path, location, topology, flank, expected):
    [(text, start, end, _, segments, reading_frame)], _ = spliced(
        tmp_path, [("CDS", location, {"codon_start": "2"})], TWELVE, topology, flank=flank
    )
    [(inner, *_)], _ = spliced(tmp_path, [("CDS", location, {})], TWELVE, topology)
    assert (start, end, segments) == expected
    assert text[reading_frame - 1 :].startswith(
        inner[:1]
    )  # codon_start 2: one base of the region precedes its reading frame


def test_whole_records_in_near_equal_windows(tmp_path):
    found, ledger = find(tmp_path, [("gene", "1..4", {})], "acgtacgtacg", scheme=Scheme("whole", max_length=4))
    assert [(r.start, r.end, r.strand, r.kind) for r in found] == [
        (0, 3, 1, "whole"),
        (3, 7, 1, "whole"),
        (7, 11, 1, "whole"),
    ]
    assert "".join(bases.decode(r.codes) for r in found) == "ACGTACGTACG"
    assert ledger.found == [3, 11]
    sequence = "acgt" * 50_000
    found, _ = find(tmp_path, [], sequence, scheme=Scheme("whole"))
    assert [len(r.codes) for r in found] == [66_666, 66_667, 66_667]
    found, ledger = find(tmp_path, [], "nnacgtnnnacnnn", scheme=Scheme("whole", cut_n=2, min_length=3))
    assert [(r.start, r.end) for r in found] == [(2, 6)]
    assert ledger.dropped == {extraction.UNKNOWN: [0, 8], extraction.SHORT: [1, 2]}
    ledger.check(1, 4)
    found, ledger = find(tmp_path, [], "nnnn", scheme=Scheme("whole", cut_n=2))
    assert found == []
    ledger.check(0, 0)


def test_cut_regions_keep_their_coordinates_across_the_origin(tmp_path):
    features = [("gene", "complement(join(9..12,1..5))", {})]
    found, _ = find(tmp_path, features, TWELVE, "circular", Scheme(max_length=4))
    assert [(r.start, r.end, bases.decode(r.codes)) for r in found] == [(2, 5, "AAC"), (11, 2, "GTG"), (8, 11, "GCT")]
    feature = ("CDS", "join(7..8,10..12,1..2)", {})
    found, _ = find(tmp_path, [feature], TWELVE, "circular", Scheme("cds", max_length=4))
    assert [(r.start, r.end, r.segments) for r in found] == [(6, 10, ((6, 8, 1), (9, 10, 1))), (10, 2, ())]
    assert [bases.decode(r.codes) for r in found] == ["CAG", "CCAC"]
    found, ledger = find(tmp_path, [("gene", "4..12", {})], "ACGNNGCNNNCC", scheme=Scheme(cut_n=3))
    assert [(r.start, r.end) for r in found] == [(3, 7), (10, 12)]
    assert (ledger.found, ledger.cut, ledger.dropped) == ([1, 9], 1, {extraction.UNKNOWN: [0, 3]})


def test_cut_regions_keep_their_reading_frame(tmp_path):
    feature = ("CDS", "join(1..5,7..12)", {"codon_start": "3"})
    found, _ = find(tmp_path, [feature], TWELVE, scheme=Scheme("cds", max_length=4))
    assert [(bases.decode(r.codes), r.reading_frame) for r in found] == [("ACG", 2), ("TTCA", 2), ("AGCC", 1)]
    assert found[1].segments == ((3, 5, 1), (6, 8, 1))
    assert (found[2].start, found[2].end, found[2].segments) == (8, 12, ())
    found, _ = find(tmp_path, [("CDS", "9..11", {})], TWELVE, scheme=Scheme("cds", max_length=4, flank=8))
    assert [r.reading_frame for r in found] == [-1, -1, 0]


def test_names_and_products(tmp_path):
    features = [
        ("gene", "1..6", {"gene": "abc", "locus_tag": "t1"}),
        ("tRNA", "1..2", {"locus_tag": "t1", "product": "a tRNA"}),
        ("CDS", "1..6", {"locus_tag": "t1", "gene": "other", "product": "a kinase"}),
        ("gene", "7..9", {"locus_tag": "t2", "pseudo": None}),
        ("CDS", "7..9", {"locus_tag": "t2", "product": "a lost one"}),
        ("gene", "10..11", {"locus_tag": "t3"}),
        ("CDS", "10..11", {"locus_tag": "t3"}),
        ("misc_RNA", "10..11", {"locus_tag": "t3", "product": "an RNA"}),
        ("rRNA", "complement(3..5)", {"gene": "rrn", "product": "a rRNA"}),
    ]
    found, _ = find(tmp_path, features, TWELVE)
    assert [(r.kind, r.gene, r.locus_tag, r.product) for r in found] == [
        ("cds", "abc", "t1", "a kinase"),
        ("rRNA", "rrn", "", "a rRNA"),
        ("pseudo", "", "t2", "a lost one"),
        ("cds", "", "t3", "an RNA"),
    ]
    for scheme, kept in [
        (Scheme(kinds=("pseudo", "rRNA")), [(2, 5), (6, 9)]),
        (Scheme(gene="^a"), [(0, 6)]),
        (Scheme(gene="t[23]"), [(6, 9), (9, 11)]),
        (Scheme(product="RNA$"), [(2, 5), (9, 11)]),
        (Scheme(product="kinase", min_length=7), []),
        (Scheme(min_length=4), [(0, 6)]),
    ]:
        found, ledger = find(tmp_path, features, TWELVE, scheme=scheme)
        assert [(r.start, r.end) for r in found] == kept
        ledger.check(len(found), sum(len(region.codes) for region in found))
    assert ledger.dropped == {extraction.SHORT: [3, 8]}


def test_regulatory_features_on_request(tmp_path):
    features = [
        ("gene", "1..6", {"locus_tag": "t1"}),
        ("regulatory", "2..3", {"regulatory_class": "ribosome_binding_site"}),
        ("promoter", "complement(8..9)", {"gene": "abc"}),
        ("-10_signal", "8..9", {}),
    ]
    assert [r.kind for r in find(tmp_path, features, TWELVE)[0]] == ["other"]
    found, _ = find(tmp_path, features, TWELVE, scheme=Scheme(regulatory=True))
    assert [(r.start, r.strand, r.kind, r.product) for r in found] == [
        (0, 1, "other", ""),
        (1, 1, "regulatory", "ribosome_binding_site"),
        (7, -1, "regulatory", "promoter"),
        (7, 1, "regulatory", "-10_signal"),
    ]


def test_children_are_matched_by_gene_id_if_given():
    def feature(kind, start, end, gene_id=None, **qualifiers):
        values = {key: (value,) for key, value in qualifiers.items()}
        return Feature(kind, (Segment(start, end, 1),), values, gene_id)

    features = (
        feature("gene", 0, 4, "gene-1", gene="a"),
        feature("gene", 4, 8, "gene-2", gene="a"),
        feature("gene", 8, 12, gene="a"),
        feature("CDS", 0, 4, "gene-1", gene="a", product="one"),
        feature("tRNA", 3, 8, "gene-2", product="two"),
        feature("rRNA", 7, 9, "gene-3", gene="a", product="three"),
    )
    record = Record("X.1", 12, bases.encode(TWELVE), np.zeros((0, 2), np.int64), False, "", "", (), "bct", features)
    assert [(r.kind, r.product) for r in extraction.regions(record)] == [
        ("cds", "one"),
        ("tRNA", "two"),
        ("rRNA", "three"),
    ]


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ({"name": "genes"}, "scheme", "genes"),
        ({"flank": -1}, "flank", -1),
        ({"min_length": 0}, "min_length", 0),
        ({"min_length": 50, "max_length": 49}, "max_length", 49),
        ({"max_length": 0}, "max_length", 0),
        ({"cut_n": 0}, "cut_n", 0),
        ({"name": "cds", "regulatory": True}, "regulatory", None),
        ({"name": "whole", "flank": 5}, "flank", None),
        ({"name": "whole", "gene": "a"}, "gene", None),
        ({"kinds": ("cds", "CDS")}, "kind", "CDS"),
        ({"kinds": ("regulatory",)}, "kind", "regulatory"),
        ({"name": "mrna", "kinds": ("cds",)}, "kind", "cds"),
        ({"gene": "a("}, "gene", "a("),
        ({"product": "*"}, "product", "*"),
    ],
)
def test_bad_schemes(arguments, field, value):
    with raises(ArgumentError, field=field, value=value):
        Scheme(**arguments)


def check_against_biopython(path):
    """Compares the bases of every CDS and mRNA, and the proteins, with Biopython's; returns the number of CDS."""
    from Bio import BiopythonWarning, SeqIO
    from Bio.Data import CodonTable
    from Bio.Seq import UndefinedSequenceError

    compared = 0
    with warnings.catch_warnings(), gzip.open(path, "rt") as stream:
        warnings.simplefilter("ignore", BiopythonWarning)
        theirs = {record.id: record for record in SeqIO.parse(stream, "genbank")}
    for name, kind in (("cds", "CDS"), ("mrna", "mRNA")):
        scheme = Scheme(name)
        for record in genbank.read(path, schemes.feature_kinds(scheme)):
            other = theirs[record.accession]
            try:
                str(other.seq)
            except UndefinedSequenceError:
                continue
            ledger = Ledger()
            ours = {}
            for span in extraction.find(record, scheme, ledger):
                region = extraction.extract(record, span)
                ours.setdefault(bases.decode(region.codes), set()).add(region.translation)
            expected = set()
            for feature in other.features:
                location = feature.location
                if feature.type != kind or location is None or any(segment.ref for segment in location.parts):
                    continue
                whole = feature.extract(other.seq)
                text = re.sub("[^ACGT]", "N", str(whole).upper())
                expected.add(text)
                if kind == "mRNA":
                    continue
                compared += 1
                protein = feature.qualifiers.get("translation", [None])[0]
                if protein is None or "pseudo" in feature.qualifiers:
                    continue
                table = int(feature.qualifiers.get("transl_table", ["1"])[0])
                begin = int(feature.qualifiers.get("codon_start", ["1"])[0]) - 1
                coding = whole[begin:]
                read = str((coding + "N" * (-len(coding) % 3)).translate(table=table)).rstrip("X").removesuffix("*")
                starts = CodonTable.unambiguous_dna_by_id[table].start_codons
                if protein[0] == "M" and str(coding[:3]).upper() in starts:
                    read = "M" + read[1:]
                equal = len(read) == len(protein) and all(
                    a == b or b == "U" for a, b in zip(read, protein, strict=True)
                )
                assert ("equal" in ours[text]) == equal, (path, feature)
            assert set(ours) == expected, (path, record.accession)
    return compared


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("athaliana_chloroplast_NC_000932.1.gb.gz", 85),
        ("phiX174_NC_001422.1.gbk.gz", 11),
        ("ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", 10),
        ("phage_NC_000902.gbk.gz", 83),
    ],
)
def test_spliced_fixtures_equal_biopython(file, count):
    assert check_against_biopython(FIXTURES / file) == count


@pytest.mark.slow
def test_spliced_genomes_equal_biopython():
    compared = 0
    for path in sorted(p for p in data_path("genomes").rglob("*") if p.name.endswith(GENBANK_SUFFIXES)):
        if path.name not in ("no_end_marker.gb.gz", "negative_location.gb.gz"):  # malformed
            compared += check_against_biopython(path)
    assert compared > 13_000


def test_filtered_features_do_not_represent_their_gene(tmp_path):
    features = [("gene", "1..8", {"gene": "one"}), ("gene", "1..8", {"gene": "two"})]
    [record] = genbank.read(write(tmp_path / "a.gb", record_text(features)))
    for name in ("one", "two"):
        count = Ledger()
        assert [span.gene for span in extraction.find(record, schemes.Scheme(gene=name), count)] == [name]
        assert count.content()["regions"]["dropped"] == {extraction.FILTERED: {"count": 1, "bases": 8}}
