"""Tests what labels mean: columns found, text to targets, refusals with their line."""

import numpy as np
import pytest

from data_pipeline.errors import ArgumentError, FormatError
from gener_jax.labelled import problem
from gener_jax.labelled.problem import Problem
from gener_jax.labelled.table import Table
from tests.raised import raises


def made(**columns) -> Table:
    rows = len(next(iter(columns.values())))
    return Table("t.csv", columns, lines=list(range(2, rows + 2)))


def targets(kind, table, *columns):
    found = Problem(kind, problem.names(kind, [table], columns))
    return found.names, problem.targets(found, table, columns)


def test_columns_are_found():
    dna, words = ["ACGT"] * 30, ["my words"] * 30
    for name in ("sequence", "seq", "dna_sequence", "dna_seq", "Text"):
        assert problem.sequence_column(made(**{"other": words, name: dna}), None) == name
    assert problem.sequence_column(made(text=words, seq=dna), None) == "seq"  # the only one that is DNA
    assert problem.sequence_column(made(text=dna, seq=dna), "text") == "text"
    with raises(FormatError, file="t.csv"):
        problem.sequence_column(made(text=dna, seq=dna), None)
    with raises(FormatError, file="t.csv"):
        problem.sequence_column(made(other=dna), None)
    with raises(FormatError, file="t.csv", remedy="give finetune.genome and finetune.assembly"):
        problem.sequence_column(made(chrom=dna, start=dna, end=dna), None)
    names, values = ["a", "b"] * 15, [str(i) for i in range(30)]
    assert problem.label_columns("regression", made(label=names, target=values), ()) == ("target",)
    assert problem.label_columns("single_label", made(label=names, target=values), ()) == ("label",)
    assert problem.label_columns("regression", made(x=values, y=values), ("y", "x")) == ("y", "x")
    with raises(FormatError, file="t.csv"):
        problem.label_columns("multi_label", made(label=names, target=values), ())
    with raises(FormatError, field="finetune.label", value="z"):
        problem.label_columns("regression", made(x=values), ("x", "z"))
    for kind, wrong in (("single_label", ("x", "y")), ("regression", ("x", "x"))):
        with raises(ArgumentError, field="finetune.label", value=", ".join(wrong)):
            problem.label_columns(kind, made(x=values, y=values), wrong)


def test_sequences():
    assert problem.sequences(made(s=[" acgu ", "RYKN"]), "s") == ["ACGT", "NNNN"]
    with raises(FormatError, line=3, field="s", value=None):
        problem.sequences(made(s=["A", " "]), "s")
    for wrong in ("ACG-T", "MKV*", "ACGTÄ", "AC GT"):
        with raises(FormatError, line=3, field="s", value=wrong):
            problem.sequences(made(s=["A", wrong]), "s")


def test_classes_keep_their_names_in_natural_order():
    table = made(y=["10", "9.0", "10", "9"] * 10)
    names, found = targets("single_label", table, "y")
    assert names == ("9", "10")
    assert found.dtype == np.int32
    assert found[:4].tolist() == [1, 0, 1, 0]
    assert targets("single_label", made(y=["type10", "type9", "b"] * 10), "y")[0] == ("b", "type9", "type10")
    names, found = targets("single_label", made(y=["1", "01", "1.0", "1e0", "+1", "1.50"] * 10), "y")
    assert names == ("+1", "01", "1", "1e0", "1.50")
    assert found[0] == found[2]
    assert targets("single_label", made(y=["a1", "a001", "a01"] * 10), "y")[0] == ("a001", "a01", "a1")
    known = Problem("single_label", ("9", "10"))
    with raises(FormatError, line=3, field="y", value="11"):
        problem.targets(known, made(y=["9", "11"]), ["y"])
    with raises(FormatError, line=3, field="y", value="nan"):
        targets("single_label", made(y=["1", "nan"] * 20), "y")
    for wrong in (["1"] * 30, [str(i // 9) for i in range(30)]):  # one class; four in 30 rows
        with raises(FormatError, file="t.csv", field="y"):
            targets("single_label", made(y=wrong), "y")
    assert len(targets("single_label", made(y=[str(i % 3) for i in range(30)]), "y")[0]) == 3


def test_numbers():
    names, found = targets("regression", made(a=["1", "-2e3"], b=["0.5", "7"]), "b", "a")
    assert names == ("b", "a")
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5, 1], [7, -2000]]
    names, found = targets("regression", made(y=["[1.5, 2]", '["3", "4"]']), "y")
    assert names == ("y_0", "y_1")
    assert found.tolist() == [[1.5, 2], [3, 4]]
    for wrong in ("x", "nan", "inf", "1e39", "1_0"):
        with raises(FormatError, line=3, field="y", value=wrong):
            targets("regression", made(y=["1", wrong]), "y")
    of = problem.standardized(Problem("regression", names), found)
    assert of.mean == pytest.approx((2.25, 3))
    assert of.scale == pytest.approx((0.75, 1))
    with raises(FormatError, field="y_1", value=2.0):
        problem.standardized(of, np.array([[1, 2], [3, 2]], np.float32))


@pytest.mark.parametrize(
    "rows", [["1,0,1", "0,0,0"], ["[1, 0, 1]", "[0,0,0]"], ["1 0 1", "0 0 0"], ['["1","0","1"]'] * 2]
)
def test_several_labels_as_numbers(rows):
    names, found = targets("multi_label", made(y=rows), "y")
    assert names == ("y_0", "y_1", "y_2")
    assert found.dtype == np.float32
    assert found[0].tolist() == [1, 0, 1]
    for wrong, part in (("1,0", "1,0"), ("1,0,2", "2"), ("1,0,x", "x")):
        with raises(FormatError, line=4, field="y", value=part):
            targets("multi_label", made(y=[*rows, wrong]), "y")


def test_several_labels_as_columns_and_names():
    names, found = targets("multi_label", made(a=["1", "0"], b=["0", "1.0"]), "a", "b")
    assert (names, found.tolist()) == (("a", "b"), [[1, 0], [0, 1]])
    with raises(FormatError, line=3, field="b", value="2"):
        targets("multi_label", made(a=["1", "0"], b=["0", "2"]), "a", "b")
    table = made(y=["liver;red blood", "", "liver"])
    assert not problem.empty("multi_label", table, ["y"]).any()  # none of the labels
    names, found = targets("multi_label", table, "y")
    assert (names, found.tolist()) == (("liver", "red blood"), [[1, 1], [0, 0], [1, 0]])
    with raises(FormatError, line=2, field="y", value="brain"):
        problem.targets(Problem("multi_label", names), made(y=["liver;brain"]), ["y"])


def test_empty_labels():
    table = made(a=["1", " ", "3", "4"], b=["1", "2", "", "4"])
    assert problem.empty("regression", table, ["a", "b"]).tolist() == [False, True, True, False]
    assert not problem.empty("causal", table, []).any()
    assert problem.targets(Problem("causal"), table, []).shape == (4, 0)
