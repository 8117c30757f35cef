"""Tests the parser of GenBank feature tables."""

import pytest

from data_pipeline.errors import FormatError
from data_pipeline.formats import feature_table
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
    assert [(row.kind, row.slashed) for row in rows] == [("source", False), ("gene", True), ("CDS", False)]
    assert [feature_table.plain(row.location) for row in rows] == [(0, 10, 1), (1, 7, -1), None]
    assert all(feature_table.is_location(row.location) for row in rows)


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


NO_LOCATIONS = ["", "1..", "1..2..3", "join(1..2, 4..5", "1..5x", "9" * 20, "join()", "complement(1..2"]
LOCATIONS = ["1", "<1..>2", "3^4", "join(1..2,complement(4..5))", "A1.1:3..4", "order(1..2,A.1:7..9)"]


@pytest.mark.parametrize("text", NO_LOCATIONS)
def test_invalid_locations(text):
    assert not feature_table.is_location(text.encode())
    assert feature_table.plain(text.encode()) is None


@pytest.mark.parametrize("text", LOCATIONS)
def test_valid_locations(text):
    assert feature_table.is_location(text.encode())
