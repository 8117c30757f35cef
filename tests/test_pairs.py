"""Predictions as tables, and the gain of one model over another on the rows of two of them."""

import numpy as np
import pytest

from gener_jax.statistics import intervals
from gener_jax.tasks import pairs
from gener_jax.tasks.base import Paired

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 200)
NAMES = [f"v{i}" for i in range(200)]
AUROC = Paired("multi_label", "auroc", ("score",), ("label",), groups="gene", rows="name")


def table(noise, rows=slice(None), **columns):
    scores = LABELS + np.random.default_rng(int(noise * 10)).normal(0, noise, 200)
    made = {"name": NAMES, "label": LABELS, "gene": np.arange(200) // 4, "score": scores, **columns}
    return pairs.table_of({name: list(values)[rows] for name, values in made.items()})


def test_a_table_is_read_as_it_was_written(tmp_path):
    made = pairs.table_of({
        "name": ["a\tb", 'c"d', "é"], "score": [0.1 + 0.2, float("nan"), None], "single": np.float32([0.1, 2, -3]),
        "label": [True, np.False_, np.True_], "count": np.arange(3),
    })  # fmt: skip
    pairs.write(tmp_path / "new" / "x.tsv", made)
    assert pairs.read(tmp_path / "new" / "x.tsv") == made
    assert made["score"] == ["0.30000000000000004", "", ""]
    assert made["label"] == ["1", "0", "1"]
    assert float(made["single"][0]) == np.float32(0.1)
    pairs.write(tmp_path / "empty.tsv", {"score": []})
    assert pairs.read(tmp_path / "empty.tsv") == {"score": []}
    with pytest.raises(ValueError, match="length"):
        pairs.table_of({"a": [1], "b": [1, 2]})


def test_the_gain_is_that_of_the_statistics():
    better, worse = table(0.5), table(2)
    found, rows = pairs.gain(AUROC, better, worse)
    scores = [np.array(x["score"], float)[:, None] for x in (better, worse)]
    expected = intervals.paired("multi_label", "auroc", LABELS[:, None], *scores, np.array(better["gene"]))
    assert (found, rows) == (expected, 200)
    assert found.low > 0.05
    turned, _ = pairs.gain(AUROC, worse, better)
    assert turned.gain == pytest.approx(-found.gain)


def test_rows_that_one_model_lacks_are_left_out():
    whole, some = table(0.5), table(2, slice(20, None))
    some["score"][3] = ""
    found, rows = pairs.gain(AUROC, whole, {name: column[::-1] for name, column in some.items()})
    assert rows == 179
    kept = np.array([i for i in range(20, 200) if i != 23])
    scores = [np.array(x["score"], float)[kept, None] for x in (table(0.5), table(2))]
    assert found.gain == pytest.approx(intervals.paired("multi_label", "auroc", LABELS[kept, None], *scores).gain)


def test_other_data_are_not_compared():
    one = table(1)
    assert pairs.gain(AUROC, one, table(1, label=1 - LABELS)) is None
    assert pairs.gain(AUROC, one, table(1, name=[f"w{i}" for i in range(200)])) is None
    by_place = Paired("mean", "score", ("score",))
    assert pairs.gain(by_place, one, table(1, slice(10))) is None
    assert pairs.gain(by_place, one, table(2))[1] == 200


def test_means_and_classes():
    hits = {noise: table(noise, right=LABELS if noise == 1 else np.zeros(200)) for noise in (1, 2)}
    found, _ = pairs.gain(Paired("mean", "right", ("right",)), hits[1], hits[2])
    assert found.gain == LABELS.mean()
    assert found.low < found.gain < found.high
    lower = Paired("mean", "right", ("right",), higher_is_better=False)
    assert pairs.gain(lower, hits[1], hits[2])[0].gain == -LABELS.mean()
    classes = Paired("single_label", "accuracy", ("p0", "p1"), ("label",))
    perfect, reverse = table(1, p0=1 - LABELS, p1=LABELS), table(1, p0=LABELS, p1=1 - LABELS)
    assert pairs.gain(classes, perfect, reverse)[0].gain == 1


@pytest.mark.parametrize(
    ("paired", "columns", "problem"),
    [
        (Paired("mean", "x", ("absent",)), {}, "absent"),
        (Paired("multi_label", "auroc", ("score",), ("label",), rows="gene"), {}, "several rows"),
        (Paired("multi_label", "mcc", ("score",), ("label",)), {}, "no metric"),
        (Paired("mean", "name", ("name",)), {}, "v0"),
    ],
)
def test_a_wrong_declaration_is_told(paired, columns, problem):
    with pytest.raises(ValueError, match=problem):
        pairs.check(paired, table(1, **columns))
    pairs.check(AUROC, table(1))
