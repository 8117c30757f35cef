"""The reader of variant tables: positions, alleles, classes, values, chosen rows."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.errors import FormatError
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import Variant
from gener_jax.tasks import variant_tables as tables
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.variant_tables import Classes, Values, VariantSet
from tests.raised import raises

GENOME = "ACGTACGGTTCAACGTNACGT"
SET = VariantSet(
    "toy",
    "toy.tsv",
    "toy.fa",
    "nowhere",
    "",
    classes=(Classes("", ("kind",), ("bad",), ("good",), ""), Classes("low", ("effect", "again"), -0.5, (), "")),
    values=(Values("", "effect", -1, ""), Values("size", "effect", 0, "")),
    columns=("contig", "pos", "ref", "alt"),
)
ROWS = (
    ("1", "1", "A", "C", "bad", "-1", "-1"),
    ("chr1", "3", "G", "T", "good", "0.5", "-2"),
    ("chr1", "4", "T", "-", "other", "", ""),
    ("chr1", "1", "A", "-", "bad", "-0.5", "-0.5"),
    ("chr1", "8", "A", "C", "good", "2", "1"),
    ("chr1", "99", "A", "C", "good", "", ""),
    ("chr2", "1", "A", "C", "good", "", ""),
)


def write(folder, lines=ROWS, **changes):
    text = "\n".join("\t".join(row) for row in (("contig", "pos", "ref", "alt", "kind", "effect", "again"), *lines))
    (folder / "toy.tsv").write_text(text + "\n")
    (folder / "toy.fa").write_text(f">chr1\n{GENOME}\n")
    return Options(folder, **changes)


def test_positions_and_alleles(tmp_path):
    rows = SET.read(write(tmp_path))
    assert rows.variants[:4] == (
        Variant("1", 0, "A", "C"),
        Variant("chr1", 2, "G", "T"),
        Variant("chr1", 0, "AC", "C"),  # nothing is before it
        Variant("chr1", 7, "A", "C"),
    )
    assert rows.problems == ("", "", "", tables.MISMATCH, tables.OUTSIDE, tables.OUTSIDE)
    assert rows.counts == {"rows_in_file": 7, "rows_of_set": 7, "rows_with_target": 6, "reference_mismatches": 1}
    anchored, problem = tables.placed(Variant("chr1", 3, "T", ""), Genome.of({"chr1": GENOME}))
    assert (anchored, problem) == (Variant("chr1", 2, "GT", "G"), "")


def test_classes_and_values(tmp_path):
    found = SET.read(write(tmp_path)).table
    nan = np.nan
    np.testing.assert_equal(SET.target(found, SET.classes[0]), [1, 0, 1, 0, 0, 0])
    np.testing.assert_equal(SET.target(found, SET.classes[1]), [1, nan, 1, 0, nan, nan])  # where both agree
    np.testing.assert_equal(SET.target(found, SET.values[0]), [1, -0.5, 0.5, -2, nan, nan])
    np.testing.assert_equal(SET.target(found, SET.values[1]), [1, 0.5, 0.5, 2, nan, nan])


def test_kept_and_chosen_rows(tmp_path):
    some = dataclasses.replace(SET, keep={"effect": -0.5, "alt": ("C", "T")})
    rows = some.read(write(tmp_path))
    assert rows.counts["rows_of_set"] == 2
    assert [v.start for v in rows.variants] == [2, 7]
    many = tuple(("chr1", str(1 + i % 16), GENOME[i % 16], "-", "bad", str(i), str(i // 4)) for i in range(40))
    chosen = SET.read(write(tmp_path, many, rows=10)).table.columns["effect"]
    assert chosen == SET.read(Options(tmp_path, 10)).table.columns["effect"] != [str(i) for i in range(10)]
    assert chosen == sorted(chosen, key=int)
    assert len(set(chosen)) == 10
    assert chosen != SET.read(Options(tmp_path, 10, seed=1)).table.columns["effect"]
    matched = dataclasses.replace(SET, match="again", block=10)
    found = matched.read(Options(tmp_path, 10)).table.columns
    assert sorted(map(found["again"].count, set(found["again"]))) == [4, 4]  # whole groups
    assert len(set(found["block"])) == 1


def test_what_is_wrong_with_a_row_is_named(tmp_path):
    for position in ("0", "-3", "x", "1.0"):
        options = write(tmp_path, (ROWS[0], ("chr1", position, *ROWS[1][2:])))
        with raises(FormatError, file="toy.tsv", line=3, field="pos", value=position):
            SET.read(options)
    with raises(FormatError, file="toy.tsv", line=2, field="effect", value="high"):
        SET.read(write(tmp_path, ((*ROWS[0][:5], "high", ""),)))
    with raises(FormatError, file="toy.tsv", field="keep", value="exon"):
        dataclasses.replace(SET, keep={"exon": ("1",)}).read(write(tmp_path))
    (tmp_path / "toy.fa").unlink()
    with pytest.raises(NotRun):
        SET.read(Options(tmp_path))


def test_blocks_are_divided_by_gaps_alone():
    contigs, positions = ["b", "a", "a", "a", "b", "a"], np.array([3.0, 900, 1, 400, 700, 1300])
    assert tables.blocks(contigs, positions, 500) == ["b:3", "a:1", "a:1", "a:1", "b:700", "a:1"]
    assert tables.blocks(contigs, positions, 499) == ["b:3", "a:900", "a:1", "a:1", "b:700", "a:900"]
    assert tables.blocks([], np.zeros(0), 500) == []
