"""Sequence understanding: what an oracle, random embeddings, shuffled labels and planted copies must give."""

import dataclasses

import numpy as np
import pytest

from gener_jax.runtime.errors import InputError
from gener_jax.tasks import pairs
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.catalogue import ENTRIES
from gener_jax.tasks.labelled_sets import SETS, LabelledSet
from gener_jax.tasks.understanding import Understanding
from tests.data import data_path
from tests.raised import raises

ROWS = {"train": 120, "validation": 60, "test": 150}
FILES = {name: (f"{name}.tsv",) for name in ROWS}


class Fake:
    """Embeds by looking a sequence up: its vector is that of `known` in the layers `where`, and noise elsewhere."""

    k, num_layers, max_bases = 6, 8, None

    def __init__(self, known=(), where=(0, 2, 4, 6, None)):
        self.known, self.where, self.seen = dict(known), where, []

    def embed(self, sequences, *, pooling, layer):
        self.seen += sequences
        rows = []
        for dna in sequences:
            noise = np.random.default_rng([*dna.encode(), len(pooling), layer or 99]).normal(size=8)
            rows.append(np.append(noise, self.known.get(dna, noise[:3]) if layer in self.where else noise[:3]))
        return np.array(rows, np.float32)


def dna(rng, length=30):
    return "".join(rng.choice(list("ACGT"), length))


def labels_of(problem, rng, row):
    """A label as text, and the vector that tells it."""
    if problem == "multi_label":
        chosen = rng.integers(2, size=3)
        chosen[2] |= not chosen[:2].any()  # F1 counts a row without labels as one without recall
        return str(chosen.tolist()), chosen
    if problem == "regression":
        values = rng.normal(size=3) * [1, 10, 1]
        return f"[{values[0]}, {values[1]}]", values
    classes = 3 if problem == "three" else 2
    return "abc"[row % classes], np.eye(3)[row % classes]


def written(folder, problem, seed=0, shuffle=False, rows=None, length=30):
    """A set with a table for each split, each with groups of three rows, and what is true of each sequence."""
    rng, known = np.random.default_rng(seed), {}
    (folder / "downstream").mkdir(parents=True, exist_ok=True)
    for name, number in (rows or ROWS).items():
        made = [(dna(rng, length), *labels_of(problem, rng, i)) for i in range(number)]
        known |= {x: vector for x, _, vector in made}
        labels = [label for _, label, _ in made]
        labels = rng.permutation(labels) if shuffle else labels
        lines = [f"{x[0]}\t{label}\tg{name}{i // 3}\n" for i, (x, label) in enumerate(zip(made, labels, strict=True))]
        (folder / "downstream" / f"{name}.tsv").write_text("sequence\tlabel\tgroup\n" + "".join(lines))
    kind = "single_label" if problem in ("two", "three") else problem
    return LabelledSet("toy", kind, group="group", **FILES), known


def task(folder, labelled, rows=None, **more):
    return Understanding(Options(folder, rows), labelled, baselines=False, **more)


MAIN = {"two": "mcc", "three": "mcc", "multi_label": "f1_max", "regression": "pearson"}


@pytest.mark.parametrize(("problem", "folds"), [*((problem, 1) for problem in MAIN), ("two", 3), ("regression", 3)])
def test_oracle_random_and_shuffled(tmp_path, problem, folds):
    def found(shuffle, known_of):
        labelled, known = written(tmp_path, problem, shuffle=shuffle)
        if folds > 1:
            labelled = dataclasses.replace(labelled, validation=(), test=(), train=FILES["test"], folds=folds)
        return task(tmp_path, labelled, layers=[None], poolings=["mean"])(Fake(known if known_of else {}))

    oracle = found(False, True)
    assert oracle.metrics[MAIN[problem]] == pytest.approx(1, abs=5e-3)
    assert oracle.counts["rows"] == ROWS["test"]
    if problem == "two":
        assert oracle.metrics["auroc"] == oracle.metrics["accuracy"] == oracle.metrics["f1"] == 1
        assert oracle.counts["positive_rows"] == 75
    if problem == "regression":
        assert oracle.metrics["r2"] > 0.99
        assert oracle.metrics["pearson_pooled"] > 0.99
    for shuffle, known_of in ((False, False), (True, True)):
        other = found(shuffle, known_of).metrics
        if problem == "multi_label":
            assert other["auroc"] == pytest.approx(0.5, abs=0.15)
        else:
            assert other[MAIN[problem]] == pytest.approx(0, abs=0.25)


def test_layer_and_penalty_are_chosen_on_validation_rows_alone(tmp_path):
    labelled, known = written(tmp_path, "two")
    model = Fake(known, where=(4,))
    found = task(tmp_path, labelled)(model)
    assert found.metrics["mcc"] == 1
    assert "of layer 4, penalty" in found.text
    sweep = found.breakdown["layer of validation rows"]
    assert sweep["4, mean"]["validation_mcc"] == 1
    assert max(x["validation_mcc"] for name, x in sweep.items() if not name.startswith("4")) < 0.6
    assert set(sweep) == {"0, mean", *(f"{i}, {x}" for i in (2, 4, 6, "last") for x in ("mean", "last"))}
    path = tmp_path / "downstream" / "test.tsv"
    path.write_text(path.read_text().replace("\ta\t", "\tx\t").replace("\tb\t", "\ta\t").replace("\tx\t", "\tb\t"))
    other = task(tmp_path, labelled)(Fake(known, where=(4,)))
    assert other.metrics["mcc"] == -1
    assert other.text == found.text


def test_a_leaky_split_is_caught(tmp_path):
    """A model that remembers training rows, and knows nothing else, on test rows of which half are such rows."""
    labelled, known = written(tmp_path, "two", length=60)
    train, test = (tmp_path / "downstream" / f"{name}.tsv" for name in ("train", "test"))
    copied, own = train.read_text().splitlines()[1:76], test.read_text().splitlines()[76:]
    test.write_text("\n".join(["sequence\tlabel\tgroup", *copied, *own]) + "\n")
    unknown = {line.split("\t")[0] for line in own}
    found = task(tmp_path, labelled, layers=[None])(
        Fake({x: vector for x, vector in known.items() if x not in unknown})
    )
    assert found.counts["exact_copies"] == 75
    assert found.counts["near_copies"] == 0
    rows = found.breakdown["rows"]
    assert rows["all"]["mcc"] > 0.35
    assert rows["without copies of training rows"]["rows"] == 75
    assert abs(rows["without copies of training rows"]["mcc"]) < 0.3


def test_rows_beyond_the_context(tmp_path):
    labelled, _ = written(tmp_path, "two", length=33)
    path = tmp_path / "downstream" / "test.tsv"
    long = "ACGT" * 20
    path.write_text(path.read_text() + f"{long}\ta\tlong\n{'ACG'}\ta\tshort\n")
    model = Fake()
    model.max_bases = 60
    found = task(tmp_path, labelled, layers=[None])(model)
    assert found.counts["refused"] == 2
    assert found.counts["rows"] == 150
    assert max(map(len, model.seen)) == 30  # whole tokens
    cut = Fake()
    cut.max_bases = 60
    found = task(tmp_path, labelled, long="truncate", layers=[None])(cut)
    assert (found.counts["refused"], found.counts["truncated"], found.counts["rows"]) == (1, 1, 151)
    assert long[:60] in cut.seen
    model.max_bases = 12
    with pytest.raises(NotRun):
        task(tmp_path, labelled)(model)


def test_a_fine_tuned_model_and_baselines_on_the_same_rows(tmp_path):
    labelled, _ = written(tmp_path, "two")
    seen = []

    def adapt(model, splits, folder, seed):
        seen.append((len(splits.train), len(splits.validation), folder, seed))
        return np.eye(2)[splits.test.targets] * 0.8 + 0.1

    made = Understanding(Options(tmp_path, 40), labelled, layers=[2, None])
    found = made.fine_tuned("lora", adapt, tmp_path / "runs")(Fake())
    assert seen == [(40, 20, tmp_path / "runs" / "toy" / "0", 0)]
    Understanding(Options(tmp_path, 40, 2), labelled, layers=[2, None]).fine_tuned("lora", adapt, tmp_path / "runs")(
        Fake()
    )
    assert seen[1] == (40, 20, tmp_path / "runs" / "toy-seed2" / "0", 2)
    assert found.metrics["mcc"] == 1
    assert found.counts["rows"] == 40
    assert {"majority", "k-mer logistic"} == set(found.baselines)
    assert found.baselines["majority"]["mcc_gain"] == 1
    assert "layers" not in found.figures
    pairs.check(found.paired, pairs.table_of(found.predictions))
    assert set(found.predictions["row"]) <= {f"downstream/test.tsv: line {i}" for i in range(2, 152)}
    probed = made(Fake())
    assert probed.baselines["majority"]["mcc"] == found.baselines["majority"]["mcc"]
    assert {name: figure() is not None for name, figure in probed.figures.items()} == dict.fromkeys(
        ("roc", "reliability", "layers"), True
    )
    gain, rows = pairs.gain(found.paired, *(pairs.table_of(x.predictions) for x in (found, probed)))
    assert (gain.gain, rows) == (pytest.approx(1 - probed.metrics["mcc"]), 40)


def test_what_is_missing_is_not_run(tmp_path):
    for name in ("tf_0", "nt_revised_H3K4me3", "gb_human_enhancers_cohn", "malinois", "gener_taxon"):
        with pytest.raises(NotRun) as caught:
            Understanding(Options(tmp_path), SETS[name])
        assert SETS[name].source in str(caught.value)
    with raises(InputError, argument="long"):
        Understanding(Options(tmp_path), SETS["tf_0"], long="cut")


def test_a_set_without_the_splits_it_needs_is_not_ready(tmp_path):
    one, folder = "sequence\tlabel\nACGTAC\ta\n", tmp_path / "downstream" / "gue" / "EMP" / "H3"
    folder.mkdir(parents=True)
    whole = SETS["gue_emp_h3"]
    for name, folds in (("dev", 1), ("test", 1), ("test", 5)):  # always without train
        (folder / f"{name}.tsv").write_text(one)
        with pytest.raises(NotRun):
            Understanding(Options(tmp_path), dataclasses.replace(whole, folds=folds))
    (folder / "train.tsv").write_text(one)
    Understanding(Options(tmp_path), whole)
    (folder / "test.tsv").unlink()
    with pytest.raises(NotRun):
        Understanding(Options(tmp_path), whole)
    Understanding(Options(tmp_path), dataclasses.replace(whole, folds=5))
    suite = tmp_path / "downstream" / "nt_revised"
    for place in (suite, suite / "H3K4me3"):  # a table of all tasks, or a folder of one
        place.mkdir()
        with pytest.raises(NotRun):
            Understanding(Options(tmp_path), SETS["nt_revised_H3K4me3"])
        for name in ("train", "test"):
            (place / f"{name}.tsv").write_text(one)
        Understanding(Options(tmp_path), SETS["nt_revised_H3K4me3"])


def test_a_set_of_another_assembly_than_its_genome_is_not_ready():
    for file in SETS["drosophila_enhancers"].required():
        data_path(*file.split("/"))
    with pytest.raises(NotRun, match=r"BDGP6\.28"):
        Understanding(Options(data_path()), SETS["drosophila_enhancers"])


def test_outputs_of_an_assay_have_metrics_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    known = {dna(rng): rng.normal(size=3) for _ in range(150)}
    lines = [f"{x}\t{a}\t{rng.normal()}\n" for x, (a, _, _) in known.items()]
    (tmp_path / "downstream").mkdir()
    (tmp_path / "downstream" / "rows.tsv").write_text("sequence\tone\ttwo\n" + "".join(lines))
    labelled = LabelledSet(
        "toy", "regression", train=("rows.tsv",), label=("one", "two"), folds=3, metric="pearson",
        reported=("deepstarr", "mean", "pearson"), reported_outputs={"one": "developmental"},
    )  # fmt: skip
    made = Understanding(Options(tmp_path), labelled, layers=[None], poolings=["mean"])
    found = made(Fake(known))
    assert found.metrics["pearson_one"] > 0.99
    assert abs(found.metrics["pearson_two"]) < 0.3
    for row in (found.metrics, *found.baselines.values()):
        assert row["pearson"] == pytest.approx((row["pearson_one"] + row["pearson_two"]) / 2, nan_ok=True)
    assert set(found.metrics) == set(made.metrics)
    assert {x.metric for x in found.published} == {"pearson", "pearson_one"}


def test_entries():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(SETS) <= set(names)
    assert {entry.name for entry in ENTRIES if entry.quick and entry.name in SETS} == {
        "prom_300_tata", "deepstarr_sample", "gener_gene_type",
    }  # fmt: skip


def test_published_figures_compare_only_with_all_of_the_rows(tmp_path):
    labelled, known = written(tmp_path, "two")
    reported = "genomic_benchmarks", "demo_human_or_worm", "accuracy"
    labelled = dataclasses.replace(labelled, metric="accuracy", reported=reported, as_published=True)
    whole, part = (task(tmp_path, labelled, rows, layers=[None])(Fake(known)) for rows in (None, 50))
    assert {x.comparable for x in whole.published} == {True}
    assert {x.comparable for x in part.published} == {False}
    assert whole.published[0].metric == "accuracy"
