"""Tests which files and rows are in which split, folds, groups, and the digest of examples."""

import collections
import dataclasses
import gzip
import itertools

import numpy as np
import pytest

from data_pipeline.errors import ArgumentError, FileError, FormatError, MismatchError
from data_pipeline.sequence import bases, translation
from gener_jax.config import Finetune
from gener_jax.labelled import folds, splits
from gener_jax.labelled.examples import Examples
from gener_jax.runtime.errors import ConfigError
from tests.data import data_path
from tests.raised import raises
from tests.test_proteins import random_protein


def write(path, rows, header="sequence,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def rows(number, classes=2, start=0):
    return [
        f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16 % 4]},{i % classes}" for i in range(start, start + number)
    ]


def read(problem="single_label", seed=0, **finetune):
    listed = {name: x if isinstance(x, tuple) else (str(x),) for name, x in finetune.items() if name in splits.NAMES}
    return splits.read(Finetune(problem=problem, **finetune | listed), seed)


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize(
    "form", ["{}.csv", "{}.csv.gz", "data/{}-00000-of-00001.csv", "{}-00000-of-00001-aeb5.csv", "{}/0.csv"]
)
def test_folders(validation, form, tmp_path):
    for name, number in (("train", 30), (validation, 4), ("test", 2)):
        write(tmp_path / form.format(name), rows(number))
    (tmp_path / "README.md").write_text("x")
    found = read(train=tmp_path)
    assert (len(found.train), len(found.validation), len(found.test)) == (30, 4, 2)
    assert found.problem.names == ("0", "1")
    assert found.validation.name == "validation"
    assert not found.notes
    other = write(tmp_path / "other.csv", rows(6))
    assert len(read(train=tmp_path, test=other).test) == 6


def test_shards_are_joined(tmp_path):
    for i in range(2):
        write(tmp_path / f"train-0000{i}-of-00002.csv", rows(20, start=20 * i))
    found = read(train=tmp_path, folds=4)
    assert len(found.train) + len(found.validation) == 40
    assert found.test is None
    (tmp_path / "train-00001-of-00002.csv").unlink()
    with raises(FileError, file=tmp_path):
        read(train=tmp_path)


def test_files_that_are_refused(tmp_path):
    one = write(tmp_path / "one.csv", rows(30))
    with raises(ArgumentError, field="finetune.train"):
        read()
    with raises(ArgumentError, field="finetune.problem"):
        read(problem=None, train=one)
    for other in (one, str(tmp_path / "." / "one.csv")):
        with raises(MismatchError, file=other):
            read(train=one, test=other)
    with raises(MismatchError, file=one):
        read(train=(one, one))
    with raises(FileError, file=tmp_path):  # no file of a split
        read(train=tmp_path)
    write(tmp_path / "train.csv", rows(30))
    with raises(FileError, file=tmp_path):
        read(train=one, test=tmp_path)
    write(tmp_path / "train.tsv", rows(30))
    with raises(MismatchError, file=tmp_path):
        read(train=tmp_path)


def test_rows_that_are_refused(tmp_path):
    train = write(tmp_path / "train.csv", rows(30))
    with raises(FormatError, file="test.csv", field="column", value="label"):
        read(train=train, test=write(tmp_path / "test.csv", ["A,1"], "sequence,y"))
    with raises(FormatError, file="test.csv", line=3, field="label", value="2"):
        read(train=train, test=write(tmp_path / "test.csv", ["A,1", "A,2"]))
    with raises(FileError, file="test.csv", field="label"):
        read(train=train, test=write(tmp_path / "test.csv", ["A,", "A, "]))
    group = write(
        tmp_path / "group.csv",
        [f"{row},{i // 10}" for i, row in enumerate(rows(30, 1))] + ["A,1,3"] * 5,
        "sequence,label,g",
    )
    alone = {f: e for f in range(4) if (e := _error(lambda f=f: read(train=group, group="g", folds=4, fold=f)))}
    assert len(alone) == 1  # the fold that has all rows of a class
    assert type(*alone.values()) is MismatchError


def _error(call):
    try:
        call()
    except ValueError as error:
        return error


def test_empty_labels_are_left_out_and_counted(tmp_path):
    train = write(tmp_path / "t.csv", ["A,1", "C,", "-,", "G,2", "T,4"] * 4)
    found = read("regression", train=train, folds=4)
    assert len(found.train) + len(found.validation) == 12
    assert f"{train}: 8 rows" in found.notes[0]
    assert found.problem.mean == pytest.approx([found.train.targets.mean()])
    assert {place.rpartition("line ")[2] for place in found.train.places} <= {
        str(i + 2) for i in range(20) if i % 5 not in (1, 2)
    }
    causal = read("causal", train=write(tmp_path / "c.csv", rows(20)), folds=4)
    assert causal.train.targets.shape == (15, 0)


def test_folds_are_a_partition_with_every_class(tmp_path):
    train = write(tmp_path / "t.csv", [f"A{'C' * i},{i % 10 == 0:d}" for i in range(100)])
    held_out = [read(train=train, folds=5, fold=fold).validation for fold in range(5)]
    assert [len(x) for x in held_out] == [20] * 5
    assert all(x.targets.sum() == 2 for x in held_out)
    assert len({sequence for x in held_out for sequence in x.sequences}) == 100
    again, other = (read(train=train, folds=5, seed=seed).validation for seed in (0, 1))
    assert again.digest == held_out[0].digest != other.digest
    with raises(ArgumentError, field="finetune.folds", value=200):
        read(train=train, folds=200)


def test_groups_stay_whole(tmp_path):
    lines = [f"A{'C' * i},{i % 2},g{i % 7}_{i},G{i % 7}" for i in range(70)]
    train = write(tmp_path / "t.csv", lines, "sequence,label,name,group")
    by_column = read(train=train, folds=3, group="group")
    found = read(train=train, folds=3, group="name:_")
    assert not set(found.train.groups) & set(found.validation.groups)
    assert len(set(found.train.groups) | set(found.validation.groups)) == 7
    assert by_column.validation.digest == found.validation.digest
    with raises(FormatError, field="finetune.group", value="nam"):
        read(train=train, group="nam:_")
    test = write(tmp_path / "test.csv", ["A,1,g0_x,x", "A,0,g9_x,x"], "sequence,label,name,group")
    assert "1 group" in read(train=train, test=test, folds=3, group="name:_").notes[0]
    with raises(FormatError, file="test.csv", line=2, field="name"):
        read(train=train, test=write(tmp_path / "test.csv", ["A,1,_x,x"], "sequence,label,name,group"), group="name:_")


def test_folds_balance_classes_over_groups():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 600)
    targets = (rng.random(600) < 0.2).astype(np.int32)
    found = folds.assign(Examples("train", ["A"] * 600, targets, [""] * 600, groups), 5, 0, True)
    assert all(len(set(found[groups == group])) == 1 for group in range(60))
    for number in (np.bincount(found), np.bincount(found, targets)):
        assert number.max() - number.min() < 0.2 * number.mean()


def test_digest_and_take():
    one = Examples("train", ["A", "CG"], np.array([0, 1], np.int32), ["f: line 2", "f: line 3"], np.array([5, 6]))
    same = Examples("test", ["A", "CG"], np.array([0, 1], np.int32), ["", ""], np.array([5, 6]))
    assert one.digest == same.digest
    others = [
        one.take([1, 0]),
        Examples("train", ["AC", "G"], one.targets, one.places, one.groups),
        Examples("train", one.sequences, one.targets[::-1], one.places, one.groups),
        Examples("train", one.sequences, one.targets, one.places, None),
    ]
    assert len({one.digest, *(x.digest for x in others)}) == 5
    assert one.take([1, 0]).where(0) == "f: line 3"
    assert one.take(np.array([False, True]), "x").groups.tolist() == [6]
    assert len(one.take([])) == 0


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("gue/prom/prom_core_tata", {}, (4904, 613, 613)),
        ("splice_hs3d", {}, (6205, 1020, 1345)),
        ("deepstarr_sample", {"label": ("Dev_log2_enrichment", "Hk_log2_enrichment")}, (2084, 442, 443)),
        ("yeast_promoters_dream2022", {"label": ("expression",)}, (5125, 583, 637)),
        ("mpra_crx/crx_mpra_library1.tsv.gz", {"label": ("expression_log2",), "group": "label:_"}, (4324, 481, None)),
        ("enhancers_ienhancer/bert_enhancer_dataset.csv.gz", {"folds": 5}, (2374, 594, None)),
    ],
)
def test_real_files(path, options, expected):
    problem = "regression" if "label" in options else "single_label"
    found = read(problem, train=data_path("downstream", *path.split("/")), **options)
    assert (len(found.train), len(found.validation), found.test and len(found.test)) == expected
    if "group" in options:
        assert ": 39 rows" in found.notes[0]
    if problem == "single_label":
        counts = [collections.Counter(x.targets.tolist()) for x in (found.train, found.validation)]
        assert counts[0].keys() == counts[1].keys()


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_rows_are_written_and_read_back(problem, tmp_path):
    value = {"single_label": "b{0}", "multi_label": "x;y{0}", "regression": "0.{0}25"}[problem]
    for name, number in (("train", 40), ("dev", 9), ("test", 6)):
        lines = [f"{'ACGT' * 2}{'ACGT'[i % 4] * (i + 1)},{value.format(i % 2)},g{i // 2}" for i in range(number)]
        write(tmp_path / "in" / f"{name}.csv", lines, "sequence,label,element")
    found = read(problem, train=tmp_path / "in", group="element")
    fields = splits.write(found, tmp_path / "out")
    again = splits.read(Finetune(**{key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}))
    assert again.problem.names == found.problem.names
    for name in splits.NAMES:
        first, second = getattr(found, name), getattr(again, name)
        assert first.sequences == second.sequences
        np.testing.assert_array_equal(first.targets, second.targets)
        assert len(np.unique(first.groups)) == len(np.unique(second.groups))
    assert "test" not in splits.write(splits.Splits(found.train, found.validation, None, found.problem), tmp_path / "a")


def coding(*proteins, seed=0):
    """Sequences of these proteins, whose codons are chosen at random."""
    rng, codons = np.random.default_rng(seed), {}
    for first, second, third in itertools.product("ACGT", repeat=3):
        codons.setdefault(translation.translate(bases.encode(first + second + third), 11), []).append(
            first + second + third
        )
    return ["".join(rng.choice(codons[x]) for x in protein) for protein in proteins]


def test_sequences_of_similar_proteins_are_not_held_out_from_each_other(tmp_path):
    ancestors = [random_protein(60, seed) for seed in range(4)]
    copies = (
        coding(*ancestors, seed=0),
        coding(*[x[:40] + random_protein(20, 9 + i) for i, x in enumerate(ancestors)], seed=1),
    )
    train = write(tmp_path / "t.csv", list(itertools.chain(*copies)), "sequence")
    found = read("causal", train=train, folds=4)
    assert len(found.validation) == 2
    assert len(set(found.validation.groups)) == 1
    assert "8 sequences in 4 clusters" in found.notes[0]
    assert read("causal", train=train, folds=8, max_identity=0.9).validation.groups.size == 1
    assert read("causal", train=train, folds=8, max_identity=None).validation.groups.size == 1
    with raises(ArgumentError, field="finetune.max_identity", value=0.3):
        read("causal", train=train, folds=8)
    similar = write(tmp_path / "s.csv", [*coding(*ancestors[:1] * 7), *copies[1][1:]], "sequence")
    with raises(ArgumentError, field="finetune.max_identity", value=0.3):
        read("causal", train=similar, folds=4)  # a fold holds most rows
    assert len(read("causal", train=similar, folds=4, fold=1).validation) == 1
    stop = write(tmp_path / "stop.csv", [*copies[0], "ATGTAGGCC"], "sequence")
    with raises(FormatError, file=f"{stop}: line 6", field="sequence"):
        read("causal", train=stop, folds=4)
    assert len(read("causal", train=stop, folds=5, max_identity=None).validation) == 1


def test_conditions_are_known_special_tokens(tmp_path):
    lines = [f"{'ACGT'[i % 4]},<{('mam', 'bct')[i % 2]}><cds>,{i}" for i in range(8)]
    train = write(tmp_path / "t.csv", lines, "sequence,condition,group")
    test = write(tmp_path / "test.csv", ["A,<vir>,x"], "sequence,condition,group")
    found = read("causal", train=train, test=test, condition="condition", group="group", folds=4)
    assert sorted(found.train.conditions + found.validation.conditions) == ["<bct><cds>"] * 4 + ["<mam><cds>"] * 4
    assert found.test.conditions == ["<vir>"]
    assert "<vir>" in found.notes[-1]
    assert found.train.digest != dataclasses.replace(found.train, conditions=None).digest
    assert found.train.take([1]).conditions == found.train.conditions[1:2]
    with raises(FormatError, field="finetune.condition", value="tokens", file=train):
        read("causal", train=train, condition="tokens")
    for text, value in (("<cow>", "<cow>"), ("<cds>ACG", "<cds>ACG"), ("mam", "mam"), ("", None), ("</s>", "</s>")):
        wrong = write(tmp_path / "wrong.csv", [*lines, f"A,{text},y"], "sequence,condition,group")
        with raises(FormatError, file=wrong, line=10, field="condition", value=value):
            read("causal", train=wrong, condition="condition", group="group")
    with raises(ConfigError, field="finetune.prefix", value="<cds>"):
        read("causal", train=train, condition="condition", prefix="<cds>")
    with raises(ConfigError, field="finetune.condition", value="condition"):
        read("single_label", train=train, condition="condition")
