"""The list of labelled sets: files are read, folds hold groups out, tables of other forms are brought to one."""

import functools
import gzip
import json

import pytest

from data_pipeline.errors import FileError, FormatError
from gener_jax.benchmarks.finetune_tasks import TASKS
from gener_jax.labelled import table
from gener_jax.statistics.metrics import METRICS
from gener_jax.tasks.labelled_sets import SETS, LabelledSet, of_column, of_task, outer_folds
from tests.data import data_path
from tests.raised import raises


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_suites_are_whole():
    number = {suite: sum(each.reported is not None and each.suite == suite for each in SETS.values()) for suite in (
        "nt_revised", "nt_original")}  # fmt: skip
    assert number == {"nt_revised": 18, "nt_original": 18}
    assert sum(name.startswith("gb_") for name in SETS) == 9
    gue = {place for each in SETS.values() if each.suite == "gue" and each.as_published for place in each.train}
    assert len({file.removesuffix("/train.csv.gz") for file in gue}) == 28
    assert len(TASKS) == 27
    assert [task.name for task in TASKS[-3:]] == ["celegans_bases", "yeast_bases", "exon_positions"]


@pytest.mark.parametrize("labelled", SETS.values(), ids=SETS)
def test_metrics_and_published_figures_exist(labelled):
    assert labelled.metric is None or labelled.metric in METRICS[labelled.problem]
    assert labelled.required()
    if labelled.reported is not None:
        assert {x.comparable for x in labelled.figures(comparable=True)} == {labelled.as_published}
        assert not any(x.comparable for x in labelled.figures(comparable=False))


@pytest.mark.parametrize("size", [4, 14])  # of a group: 20 groups, or 6, fewer than the folds that validation is one of
def test_outer_folds_test_each_row_once_and_hold_groups_out(tmp_path, size):
    rows = [f"{'ACGTTG' * 3}{'ACGT'[i % 4] * (i + 1)}\t{i % 2}\tg{i // size}_{i}" for i in range(80)]
    write(tmp_path / "downstream" / "rows.tsv", ["sequence\tlabel\telement", *rows])
    labelled = LabelledSet("toy", train=("rows.tsv",), group="element:_", folds=4)
    found = outer_folds(labelled, tmp_path)
    tested = [dna for splits in found for dna in splits.test.sequences]
    assert sorted(tested) == sorted(row.split("\t")[0] for row in rows)
    for splits in found:
        of = [set(each.groups.tolist()) for each in (splits.train, splits.validation, splits.test)]
        assert not of[2] & (of[0] | of[1])
        assert not of[0] & of[1]


def test_a_table_is_split_by_chromosome(tmp_path):
    rows = [f"{chrom}\t{'ACGTAC' * 4}\t{i}.5\t{-i}" for i, chrom in enumerate(("1", "chr19", "X", "7", "13", "2"))]
    write(tmp_path / "downstream" / "mpra.tsv", ["chr\tsequence\tone\ttwo", *rows])
    values = {"validation": ("19", "X"), "test": ("7", "13")}
    make = functools.partial(of_column, file="mpra.tsv", column="chr", values=values)
    labelled = LabelledSet("toy", "regression", label=("one", "two"), make=make)
    [splits] = outer_folds(labelled, tmp_path)
    assert splits.train.targets.tolist() == [[0.5, 0], [5.5, -5]]
    assert splits.validation.targets[:, 0].tolist() == [1.5, 2.5]
    assert splits.test.targets[:, 0].tolist() == [3.5, 4.5]
    assert SETS["malinois"].make.keywords["values"] == {"validation": ("19", "21", "X"), "test": ("7", "13")}


def test_tabs_quotes_and_line_breaks_of_values_shift_no_column(tmp_path):
    notes = ["a\tb", 'say "x"', "two\nlines", "two\r\nlines", "\r", '"', "", " x "]
    rows = [{"chr": "1", "note": note, "sequence": "ACGTAC" * 4, "label": str(i % 2)} for i, note in enumerate(notes)]
    write(tmp_path / "downstream" / "mpra.jsonl", map(json.dumps, rows))
    made = of_column(tmp_path, tmp_path, 0, file="mpra.jsonl", column="chr", values={})
    assert table.read(made.files["train"][0]).columns["note"] == notes


def test_a_suite_is_one_table_or_folders(tmp_path):
    data = tmp_path / "downstream" / "nt_revised"
    for name, number in (("train", 30), ("test", 12)):
        rows = [f"{'ACGTAC' * 4}\tx{i}\t{i // 2 % 2}\t{('H3K4me3', 'enhancers')[i % 2]}" for i in range(number)]
        write(data / f"{name}.tsv", ["sequence\tname\tlabel\ttask", *rows])
    [splits] = outer_folds(SETS["nt_revised_H3K4me3"], tmp_path)
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (15, 6)
    with raises(FileError, file="test.tsv"):
        of_task(tmp_path, tmp_path, 0, suite="nt_revised", task="H3K9ac")
    for name, number in (("train", 20), ("test", 4)):
        fasta = [line for i in range(number) for line in (f">seq{i}|{i % 2}", "ACGTAC" * 5)]
        write(data / "enhancers" / f"{name}.fa", fasta)
    [splits] = outer_folds(SETS["nt_revised_enhancers"], tmp_path)
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (20, 4)


def test_classes_as_files_and_uci(tmp_path):
    for name, number in (("Ecoli_prom", 40), ("Ecoli_non_prom", 60)):
        fasta = [line for i in range(number) for line in (f">{name}{i}", "ACGTAC" * 5)]
        write(tmp_path / "downstream" / "promoters_umarov" / f"{name}.fa.gz", fasta)
    [first, *others] = outer_folds(SETS["umarov_ecoli"], tmp_path)
    assert first.problem.names == ("other", "promoter")
    assert sum(int(splits.test.targets.sum()) for splits in (first, *others)) == 40
    lines = [f"{x},    NAME-{i},   {'ACGTRN' * 10}" for i in range(30) for x in ("EI", "IE", "N")]
    write(tmp_path / "downstream" / "splice_uci" / "splice.txt.gz", lines)
    [first, *_] = outer_folds(SETS["uci_splice"], tmp_path)
    assert first.problem.names == ("EI", "IE", "N")
    assert first.test.sequences[0] == "ACGTNN" * 10
    write(tmp_path / "downstream" / "splice_uci" / "splice.txt.gz", [lines[0], "", "IE,  NAME-1"])
    with raises(FormatError, file="splice.txt.gz", line=3):
        outer_folds(SETS["uci_splice"], tmp_path)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("mouse_0", 810), ("emp_h4", 1461), ("ienhancer", 2968), ("regulondb_promoters", 5720), ("crx", 4805),
     ("hs3d_splice", 1345), ("deepstarr_sample", 443), ("yeast_promoters", 637), ("nt_revised_sample", 1500),
     ("uci_splice", 3190), ("umarov_bacillus", 1373)],
)  # fmt: skip
def test_sets_of_the_test_data(name, rows):
    for file in SETS[name].required():
        data_path(*file.split("/"))
    found = outer_folds(SETS[name], data_path())
    assert sum(len(splits.test) for splits in found) == rows
