"""Tests the parser of GenBank feature tables."""

import pytest

from data_pipeline.errors import FormatError
from data_pipeline.formats import feature_table
from data_pipeline.sequence.record import Segment
from tests.raised import raises

BLANK = " " * 21
HEADER = f"""LOCUS       TEST 10 bp
FEATURES             Location/Qualifiers
     source          1..10
{BLANK}/organism="A b"
{BLANK}/db_xref="taxon:1"
     gene            complement(<2..>7)
{BLANK}/gene="one"
{BLANK}/note="a note whose line
{BLANK}/gene=opens with a slash, and ""quotes"" a word"
{BLANK}/pseudo
     CDS             join(1..3,
{BLANK}5..9)
{BLANK}/gene="one"
{BLANK}/gene="two"
{BLANK}/codon_start=2
{BLANK}/product="a long
{BLANK}product, ""quoted"" too"
ORIGIN
"""


@pytest.fixture
def rows():
    found, begin, end = feature_table.read(HEADER.encode())
    assert HEADER.encode()[begin:end].startswith(b"     source")
    assert HEADER.encode()[end:] == b"ORIGIN\n"
    return found


def test_rows_and_locations(rows):
    assert [(row.kind, row.slashed, row.odd) for row in rows] == [
        ("source", False, False),
        ("gene", True, False),
        ("CDS", False, False),
    ]
    assert [feature_table.segments(row.location, "X", None) for row in rows] == [
        (Segment(0, 10, 1),),
        (Segment(1, 7, -1),),
        (Segment(0, 3, 1), Segment(4, 9, 1)),
    ]


@pytest.mark.parametrize("wanted", [None, ("gene", "product", "pseudo", "codon_start", "note", "organism", "db_xref")])
def test_qualifiers(rows, wanted):
    source, gene, cds = (feature_table.qualifiers(row, wanted) for row in rows)
    assert source == {"organism": ("A b",), "db_xref": ("taxon:1",)}
    note = 'a note whose line /gene=opens with a slash, and "quotes" a word'
    assert gene == {"gene": ("one",), "note": (note,), "pseudo": ("",)}
    product = 'a long product, "quoted" too'
    assert cds == {"gene": ("one", "two"), "codon_start": ("2",), "product": (product,)}


def test_some_qualifiers(rows):
    found = [feature_table.qualifiers(row, ("gene",)) for row in rows]
    assert found == [{}, {"gene": ("one",)}, {"gene": ("one", "two")}]
    assert feature_table.qualifiers(rows[2], ("ene", "codon")) == {}


def test_empty_or_missing_table():
    assert feature_table.read(b"LOCUS\nFEATURES   \nORIGIN\n")[0] == []
    assert feature_table.read(b"LOCUS\nORIGIN\n") == ([], 13, 13)
    with raises(FormatError, field="FEATURES"):
        feature_table.read(b"LOCUS\n     source          1..4\nORIGIN\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('/organism="A b"', '/organism="A b'),
        (f"{BLANK}/pseudo", f"{BLANK[1:]}/pseudo"),
        (f"{BLANK}/codon_start", f"{BLANK}codon_start"),
        (f"{BLANK}5..9)", f"{BLANK[2:]}5..9)"),
        ("     gene  ", "      gene "),
    ],
)
def test_table_with_shifted_columns_is_rejected(old, new):
    assert old in HEADER
    with raises(FormatError, field="feature table line"):
        feature_table.read(HEADER.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    "text",
    [
        *("", "1..", "1..2..3", "join(1..2, 4..5", "join(1..2, 4..5)", "1..5x", "9" * 20, "join()", "complement(1..2"),
        *("1..2,4..5", "join(1..2,)", "join(,1..2)", "join(1..2))", "join(1..2)(3..4)", "1..2 3..4", "A1.1", "2.7..9"),
    ],
)
def test_invalid_locations(text):
    assert feature_table.segments(text.encode(), "X", 10) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("complement(join(1..2,complement(A.1:4..5)))", [(3, 5, 1, "A.1"), (0, 2, -1)]),
        ("A.1:complement(join(1..2,4..5))", [(3, 5, -1, "A.1"), (0, 2, -1, "A.1")]),
        ("join(X:9..10,A.1:9..2)", [(8, 10, 1), (8, 2, 1, "A.1")]),
        ("complement(9..2)", [(0, 2, -1), (8, 10, -1)]),
        ("join(1..2,\n                     4..5)", [(0, 2, 1), (3, 5, 1)]),
    ],
)
def test_nested_locations(text, expected):
    assert feature_table.segments(text.encode(), "X", 10) == tuple(Segment(*values) for values in expected)


@pytest.mark.parametrize("name", ["inhibition of host synthesis", "a/b"])
def test_qualifier_whose_name_is_none_costs_itself(name):
    """As a phage annotator writes it."""
    header = HEADER.replace("/codon_start=2", f'/{name}="true"')
    *_, cds = feature_table.read(header.encode())[0]
    assert cds.odd
    assert feature_table.qualifiers(cds, ("gene", "codon_start", "product")) == {
        "gene": ("one", "two"),
        "product": ('a long product, "quoted" too',),
    }


def test_what_follows_the_table():
    after = "BASE COUNT  1 a 2 c\nCONTIG      join(A.1:1..4,\n            A.2:1..4)\nWGS         A1-A9\n//\n"
    assert len(feature_table.read(HEADER.replace("ORIGIN\n", after).encode())[0]) == 3
    for line in ("  gene  1..4\n", "x\n", f"CONTIG\n{BLANK}/gene=lost\n", "     gene            1..4\n//\nORIGIN\n"):
        with raises(FormatError, field="feature table line"):
            feature_table.read((HEADER.replace("ORIGIN\n", "BASE COUNT\n") + line).encode())
