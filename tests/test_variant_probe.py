"""The probe of variants: folds by group, what leaks without them, oracles, choices on validation groups, windows."""

import dataclasses

import numpy as np
import pytest

from gener_jax.inference.variants.variant import Scored
from gener_jax.runtime.errors import InputError
from gener_jax.tasks import variant_probe
from gener_jax.tasks.base import NotRun
from gener_jax.tasks.variant_probe import VariantProbe
from gener_jax.tasks.variant_tables import Score
from tests.raised import raises
from tests.toy_variants import GENOME, SET, write


@pytest.fixture(autouse=True)
def few_penalties(monkeypatch):
    monkeypatch.setattr(variant_probe, "PENALTIES", (1e-2, 1e-4))


class Fake:
    """A model whose hidden states at one layer are the composition of a sequence, and noise at the others."""

    max_bases, num_layers, k = None, 4, 6

    def __init__(self, informed=2, llr=lambda variant: 0.0, in_windows=lambda variant: 0.0):
        self.informed, self.llr, self.in_windows, self.seen = informed, llr, in_windows, []

    def embed(self, sequences, *, pooling, layer):
        assert pooling == "mean"
        self.seen += sequences
        noise = np.random.default_rng(0).normal(size=(len(sequences), 5))
        return np.array([[x.count(base) for base in "ACGT"] for x in sequences]) if layer == self.informed else noise

    def score_variants(self, variants, genome, *, context, **options):
        llr = self.llr if context == SET.context else self.in_windows
        return (Scored("window", llr(variant)) for variant in variants)


def rows_of(folder, rows=120, exons=6, more=()):
    """Writes substitutions every 30 bases, and an exon of each stretch; harm is a rule of the alleles. `more`: rows."""
    rng, found = np.random.default_rng(1), []
    for i in range(rows):
        at = 100 + 30 * i
        ref, alt = GENOME[at], rng.choice([base for base in "ACGT" if base != GENOME[at]])
        found.append((at, ref, alt, alt > ref, f"exon {i * exons // rows}"))
    return write(folder, [*found, *more])


def test_folds_keep_groups_together_and_are_of_about_the_same_size():
    groups = np.repeat(list("abcdefgh"), [40, 9, 9, 10, 12, 20, 11, 9])
    fold = variant_probe.assigned(groups, 3)
    assert all(len(set(fold[groups == g])) == 1 for g in "abcdefgh")
    assert sorted(np.bincount(fold)) == [39, 40, 41]
    assert max(variant_probe.assigned(groups)) == 4
    with raises(InputError, argument="groups"):
        variant_probe.assigned(["a", "b", "a"])


@pytest.mark.parametrize("by", ["group", "variant"])
def test_folds_of_variants_leak_what_folds_of_groups_do_not(by):
    """Harm depends on the group alone, and so do the hidden states: there is nothing to learn for another group."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 6)
    harmful = rng.random(360) < np.where(rng.random(60) < 0.5, 0.95, 0.05)[groups]
    states = rng.normal(size=(60, 80))[groups] + rng.normal(size=(360, 80)) * 0.1
    fold = variant_probe.assigned(groups if by == "group" else np.arange(360))
    found = variant_probe.out_of_fold([(1, np.zeros_like(states), states)], harmful, fold, "auroc")
    value = variant_probe.matched.value("auroc", harmful, found.chosen)
    assert 0.3 < value < 0.7 if by == "group" else value > 0.9


def test_shuffled_labels_give_chance():
    rng = np.random.default_rng(4)
    harmful = rng.random(400) < 0.3
    states = rng.normal(size=(400, 8)) + 2 * harmful[:, None]
    fold = variant_probe.assigned(np.repeat(np.arange(20), 20))
    for labels, low, high in ((harmful, 0.95, 1), (rng.permutation(harmful), 0.4, 0.6)):
        found = variant_probe.out_of_fold([(1, 0 * states, states)], labels, fold, "auroc")
        assert low < variant_probe.matched.value("auroc", labels, found.chosen) <= high


def test_a_probe_finds_what_hidden_states_tell_and_gains_over_zero_shot(tmp_path):
    options, reports = rows_of(tmp_path), []
    table = (tmp_path / "small.tsv").read_text().splitlines()  # with a score of every other row, which knows the label
    scores = ["column", *("" if i % 2 else int(line.endswith("P")) for i, line in enumerate(table[1:]))]
    (tmp_path / "small.tsv").write_text("".join(f"{line}\t{x}\n" for line, x in zip(table, scores, strict=True)))
    spec = dataclasses.replace(SET, scores={"column": Score("column")})
    # Turned around, so always wrong; and in the probe's windows right.
    task, model = VariantProbe(options, spec), Fake(2, lambda v: -float(v.alt > v.ref), lambda v: float(v.alt > v.ref))
    result = task(model, lambda done, total: reports.append(done / total))
    assert result.metrics == pytest.approx({"auroc": 1.0, "auprc": 1.0})
    assert set(result.baselines) == {"zero_shot", "zero_shot_same_windows", "substitution", "markov_4", "column"}
    assert result.baselines["column"] == {"auroc": 1, "auprc": 1, "rows": 60}
    zero_shot = result.baselines["zero_shot"]
    assert (zero_shot["auroc"], zero_shot["auroc_gain"], zero_shot["auroc_gain_low"]) == (0, 1, 1)
    same = result.baselines["zero_shot_same_windows"]
    assert (same["auroc"], same["auroc_gain"], same["auroc_gain_low"]) == (1, 0, 0)
    assert "zero_shot_same_windows" in result.note
    alone = VariantProbe(options, spec, context=SET.context, layers=[2])(model)
    assert "zero_shot_same_windows" not in {*alone.baselines, *alone.predictions, *alone.note.split()}
    assert "layer 2" in result.text.splitlines()[0]
    assert result.counts["groups"] == 6
    assert result.counts["positives"] + result.counts["negatives"] == result.counts["rows"] == 120
    assert {row["rows"] for row in result.breakdown["exon"].values()} == {20}
    assert result.breakdown["features"]["difference"]["auroc"] == 1
    assert reports == sorted(reports)
    assert reports[-1] == 1
    table = result.predictions
    assert len({*table["variant"]}) == 120
    assert all(len({*np.array(table["fold"])[np.array(table["group"]) == g]}) == 1 for g in set(table["group"]))
    for figure in result.figures.values():
        assert figure().axes


def test_a_model_that_knows_nothing_is_at_chance(tmp_path):
    result = VariantProbe(rows_of(tmp_path), SET)(Fake(informed=99))
    low, high = result.intervals["auroc"]
    assert low < 0.5 < high


def test_windows_have_both_alleles_and_the_same_length(tmp_path):
    at = 1999
    more = (
        (at, GENOME[at : at + 5], GENOME[at], True, "exon 0"),
        (at, GENOME[at], f"{GENOME[at]}GATTACA", False, "exon 1"),
    )
    options = rows_of(tmp_path, rows=12, exons=3, more=more)
    model = Fake()
    result = VariantProbe(options, SET, context=48, layers=[2], strand="both")(model)
    assert result.counts["rows"] == 14
    assert {len(text) for text in model.seen} == {48}
    assert sum("GATTACA" in text for text in model.seen) == 1
    assert sum(GENOME[at - 9 : at + 1] + GENOME[at + 5 : at + 15] in text for text in model.seen) == 1


def test_a_set_without_groups_or_with_too_few_is_refused(tmp_path):
    options = rows_of(tmp_path, exons=2)
    with raises(InputError, argument="variants"):
        VariantProbe(options, dataclasses.replace(SET, folds=""))
    with pytest.raises(NotRun, match="three groups"):
        VariantProbe(options, SET)(Fake())
