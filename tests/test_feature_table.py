"""Tests the parser of GenBank feature tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
"""


@pytest.fixture
def rows():
    found, begin = feature_table.read(HEADER.encode())
    assert HEADER.encode()[begin:].startswith(b"     source")
    return found


def test_rows_and_locations(rows):
    assert [(row.kind, row.slashed) for row in rows] == [("source", False), ("gene", True), ("CDS", False)]
    found = [[segment[:3] for segment in feature_table.segments(row.location, "A.1", None)] for row in rows]
    assert found == [[(0, 10, 1)], [(1, 7, -1)], [(0, 3, 1), (4, 9, 1)]]


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
    assert feature_table.read(b"LOCUS\nFEATURES  Location/Qualifiers\nBASE COUNT  1 a\nCONTIG      join(A.1:1..4,\n"
                              b"            gap(100))\n//\n")[0] == []  # fmt: skip
    assert feature_table.read(b"LOCUS\n") == ([], 6)
    for line in (b"", b"FEATURES   \n", b"FEATURES             Lo\n"):
        with raises(FormatError, field="FEATURES"):
            feature_table.read(b"LOCUS\n" + line + b"     source          1..4\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('/organism="A b"', '/organism="A b'),
        (f"{BLANK}/pseudo", f"{BLANK[1:]}/pseudo"),
        (f"{BLANK}/codon_start", f"{BLANK}codon_start"),
        (f"{BLANK}5..9)", f"{BLANK[2:]}5..9)"),
        ("     gene  ", "      gene "),
        ("     gene  ", "gene  "),
    ],
)
def test_table_with_shifted_columns_is_rejected(old, new):
    assert old in HEADER
    with raises(FormatError, field="feature table line"):
        feature_table.read(HEADER.replace(old, new, 1).encode())


NO_LOCATIONS = [
    "", "1..", "1..2..3", "join(1..2, 4..5", "join(1..2, 4..5)", "1..5x", "9" * 20, "join()", "complement(1..2",
    "1..2,4..5", "@0", "1@..2", "join(1..2)complement(4..5)", "(3.5", "one-of()",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_LOCATIONS)
def test_invalid_locations(text):
    assert feature_table.segments(text.encode(), "A.1", 10) is None


@given(data=st.data())
def test_joins_equal_the_general_case(data):
    """A join of plain spans has a faster way of its own; an added 3^4 takes the other one."""
    spans = data.draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4))
    text = ",".join(f"<{start}..{end}" for start, end in spans)
    circle = data.draw(st.sampled_from([None, 20]))
    fast = feature_table.segments(f"join({text})".encode(), "A.1", circle)
    assert fast == feature_table.segments(f"join({text},3^4)".encode(), "A.1", circle)[:-1]
    turned = tuple(segment._replace(strand=-1) for segment in fast[::-1])
    assert feature_table.segments(f"complement(join({text}))".encode(), "A.1", circle) == turned
