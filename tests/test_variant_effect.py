"""Variant effect: what looks the answer up scores 1 in every form, its opposite 0, chance 0.5; signs, ties, counts."""

import dataclasses

import numpy as np
import pytest

import gener_jax
from gener_jax.inference.variants.variant import Scored
from gener_jax.plotting import figure
from gener_jax.runtime.errors import InputError
from gener_jax.statistics import matched
from gener_jax.storage import tracks
from gener_jax.tasks import annotation_columns, pairs, variant_effect, variant_tables
from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.catalogue import TASKS
from gener_jax.tasks.variant_effect import VariantEffect, context_for
from gener_jax.tasks.variant_tables import Classes, Score, Values, VariantSet
from tests.data import DATA, data_path
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

SET = VariantSet(
    name="toy",
    file="toy.tsv",
    genome="toy.fa",
    source="nowhere",
    note="A toy.",
    classes=(Classes("", ("kind",), ("bad",), ("good",), "bad (positive) against good"),),
    values=(Values("", "effect", -1, "minus the effect"),),
    columns=("contig", "pos", "ref", "alt"),
    groups=("consequence", "exon"),
    macro={"exon": ("exon", "equal")},
    consequence="consequence",
    folds="exon",
    regions=True,
    scores={"column": Score("column")},
    context=80,
)
RNG = np.random.default_rng(0)
GENOME = "".join(RNG.choice(list("ACGT"), 400))
HARM = RNG.normal(size=400).round(6)  # of each position


def write(folder, shuffled=False, extra=""):
    """A variant at each position; the hundred that are measured to do the greatest harm are bad."""
    harm = np.random.default_rng(2).permutation(HARM) if shuffled else HARM
    lines = ["contig\tpos\tref\talt\tkind\teffect\tconsequence\texon\tcolumn\tgroup"]
    bad = harm >= np.sort(harm)[-100]
    place = {True: iter(range(400)), False: iter(range(400))}
    for i, ref in enumerate(GENOME):
        group = next(place[bool(bad[i])]) // (1 if bad[i] else 3)
        values = ["bad" if bad[i] else "good", f"{-harm[i]}", "stop" if i % 3 else "silent", i // 50, i % 7, group]
        lines.append("\t".join(map(str, ("chr1", i + 1, ref, "ACGT"[("ACGT".index(ref) + 1) % 4], *values))))
    (folder / "toy.tsv").write_text("\n".join(lines) + f"\n{extra}")
    (folder / "toy.fa").write_text(f">chr1\n{GENOME}\n")
    return Options(folder)


class Fake:
    """A model that scores a variant by a function of it, and notes what it was asked."""

    k, max_bases = 6, None

    def __init__(self, score, flag=lambda variant: "", max_bases=None):
        self.score, self.flag, self.max_bases, self.calls = score, flag, max_bases, []

    def score_variants(self, variants, genome, **options):
        variants = list(variants)
        self.calls.append((variants, options))
        for variant in variants:
            flag = self.flag(variant)
            yield Scored("window", float("nan") if flag else float(self.score(variant)), flag=flag)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Coverage is `test_matched`'s."""
    monkeypatch.setattr(variant_effect, "_RESAMPLES", (100, 100))


def oracle(variant):
    return HARM[variant.start]


FORMS = ("auroc", "auprc", "auprc_trapezoid", "spearman", "auroc_by_exon", "auprc_by_exon", "spearman_by_exon")


def test_an_oracle_scores_one_in_every_form_and_its_opposite_nothing(tmp_path):
    task = VariantEffect(write(tmp_path), SET)
    assert set(FORMS) <= set(task.metrics)
    found = task(Fake(oracle))
    assert {name: value for name, value in found.metrics.items() if value < 1 - 1e-9} == {}
    for column in ("consequence", "exon"):
        for row in found.breakdown[column].values():
            assert (row["auroc"], row["auprc"]) == (1, 1)
            assert row["spearman"] == pytest.approx(1)
    worst = task(Fake(lambda v: -oracle(v))).metrics
    assert worst["auroc"] == worst["auroc_by_exon"] == 0
    assert worst["spearman"] == pytest.approx(-1)
    assert worst["auprc"] < 0.2


def test_chance_and_shuffled_labels_and_ties_give_chance(tmp_path):
    task = VariantEffect(write(tmp_path), SET)
    noise = np.random.default_rng(5).normal(size=400)
    random = task(Fake(lambda v: noise[v.start]))
    assert abs(random.metrics["auroc"] - 0.5) < 0.12  # its standard error is 0.033
    assert abs(random.metrics["spearman"]) < 0.18
    assert abs(random.metrics["auprc"] - 0.25) < 0.1
    ties = task(Fake(lambda v: 1.0))
    assert ties.metrics["auroc"] == 0.5
    assert ties.metrics["auprc"] == 0.25
    assert np.isnan(ties.metrics["spearman"])
    shuffled = VariantEffect(write(tmp_path, shuffled=True), SET)(Fake(oracle))
    assert abs(shuffled.metrics["auroc"] - 0.5) < 0.12
    assert shuffled.baselines["consequence"]["auroc"] < 0.65


def test_counts_positions_and_a_table_of_predictions(tmp_path):
    twice = f"chr1\t1\t{GENOME[0]}\t{'ACGT'[('ACGT'.index(GENOME[0]) + 1) % 4]}\tgood\t1\tstop\t0\t0\t0\n"
    mismatch = f"chr1\t2\t{'A' if GENOME[1] != 'A' else 'C'}\tG\tgood\t1\tstop\t0\t0\t0\n"
    outside = "chr1\t500\tA\tG\tbad\t1\tstop\t0\t0\t0\n"
    model = Fake(oracle, flag=lambda v: "too near" if v.start < 5 else "")
    found = VariantEffect(write(tmp_path, extra=twice + mismatch + outside), SET)(model)
    (asked, options), *others = model.calls
    assert not others
    assert len(asked) == 400
    assert [v.start for v in asked] == list(range(400))
    assert options == {"protocol": "window", "context": 80, "phases": 1, "strand": "+", "marginals": False}
    counts = found.counts
    assert (counts["rows"], counts["distinct_variants"], counts["scored"]) == (403, 400, 395)
    assert counts["reference_mismatches"] == 1
    assert counts["positives"] + counts["negatives"] == 395
    without = {reason: row["rows"] for reason, row in found.breakdown["without_score"].items()}
    assert without == {"too near": 6, variant_tables.MISMATCH: 1, variant_tables.OUTSIDE: 1}
    assert sum("without a score" in line for line in found.text.splitlines()) == 3
    table = found.predictions
    assert {len(values) for values in table.values()} == {403}
    assert table["position"][:2] == [1, 2]
    assert table["score"][7] == HARM[7]
    assert np.isnan(table["score"][[0, -1, -2, -3]]).all()
    truth = table["class"][np.isfinite(table["score"])] == 1
    assert matched.value("auroc", truth, table["score"][np.isfinite(table["score"])]) == found.metrics["auroc"]


def test_conservation_of_a_bigwig_is_a_baseline_and_what_is_absent_is_named(tmp_path):
    options = write(tmp_path)
    (tmp_path / "tracks").mkdir()
    (tmp_path / "t.bedgraph").write_text(tracks.bedgraph("chr1", 0, HARM))
    track = next(each for each in annotation_columns.TRACKS if each.name == "phyloP")
    tracks.write_bigwig(tmp_path / "t.bedgraph", tmp_path / track.file, {"chr1": 400})
    found = VariantEffect(options, SET)(Fake(lambda v: -oracle(v)))
    assert (found.baselines["phyloP"]["auroc"], found.baselines["phyloP"]["auroc_gain"]) == (1, -1)
    assert "CADD" not in found.baselines
    assert "CADD" in found.note
    assert "phyloP," not in found.note
    assert "CADD: not run here" in found.text


def test_each_strand_alone_and_the_mean(tmp_path):
    class Stranded(Fake):
        def score_variants(self, variants, genome, *, strand, **options):
            sign = 2 if strand == "+" else -1
            for variant in variants:
                yield Scored("window", sign * oracle(variant))

    done = []
    found = VariantEffect(write(tmp_path), SET, strand="both")(Stranded(oracle), lambda *x: done.append(x))
    assert found.metrics["auroc"] == 1  # (2 - 1) / 2
    assert [found.breakdown["strand"][name]["auroc"] for name in ("forward", "reverse")] == [1, 0]
    assert done[-1] == (800, 800)


def test_the_context_is_what_the_model_takes(tmp_path):
    for most, context in ((None, 8192), (8240, 8192), (8192, 8144), (3066, 3008), (200, 152)):
        assert context_for(Fake(oracle, max_bases=most), 8192) == context
        assert context % 12 == 8192 % 12  # the variant at the same base of its k-mer
    with pytest.raises(NotRun):
        context_for(Fake(oracle, max_bases=50), 8192)
    model = Fake(oracle, max_bases=200)
    found = VariantEffect(write(tmp_path), dataclasses.replace(SET, context=8192))(model)
    assert model.calls[0][1]["context"] == found.counts["context_bases"] == 152
    assert "cut from 8192" in found.note


def test_baselines_are_on_the_rows_that_the_model_scored(tmp_path):
    task = VariantEffect(write(tmp_path), SET)
    found = task(Fake(oracle))
    assert set(found.baselines) == {"substitution", "markov_2", "column", "consequence", "position"}
    for row in found.baselines.values():
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["auroc_gain"] == pytest.approx(1 - row["auroc"])
        assert row["auroc_gain_low"] > 0
    half = task(Fake(oracle, flag=lambda v: "odd" if v.start % 2 else ""))
    assert half.baselines["column"]["auroc"] != found.baselines["column"]["auroc"]
    some = dataclasses.replace(SET, scores={"column": Score("column", -1, ("other",))})
    assert "column" not in VariantEffect(Options(tmp_path), some)(Fake(oracle)).baselines


def test_matched_controls(tmp_path):
    options = write(tmp_path)
    spec = dataclasses.replace(SET, match="group", values=(), metric="auprc_by_exon")
    found = VariantEffect(options, spec)(Fake(oracle))
    assert found.counts["match_groups"] == 100
    assert found.metrics["auprc_by_exon"] == pytest.approx(1)
    noise = np.random.default_rng(2).normal(size=400)
    found = VariantEffect(options, spec)(Fake(lambda v: noise[v.start] + oracle(v)))
    low, high = found.intervals["auroc"]
    assert low < found.metrics["auroc"] < high
    with raises(InputError, argument="groups"):
        VariantEffect(options, dataclasses.replace(spec, match="column"))(Fake(oracle))


def test_two_models_are_compared_by_the_main_metric(tmp_path):
    options, noise = write(tmp_path), np.random.default_rng(2).normal(size=(2, 400))
    for metric in ("auprc", "spearman_by_exon", "auroc_by_exon"):
        task = VariantEffect(options, dataclasses.replace(SET, metric=metric))
        both = [task(Fake(lambda v, x=x: oracle(v) + x[v.start])) for x in noise]
        tables = [pairs.table_of(each.predictions) for each in both]
        pairs.check(both[0].paired, tables[0])
        gain, rows = pairs.gain(both[0].paired, *tables)
        assert rows == 400
        assert gain.gain == pytest.approx(both[0].metrics[metric] - both[1].metrics[metric])


def test_figures_are_drawn(tmp_path):
    found = VariantEffect(write(tmp_path), SET)(Fake(oracle))
    assert set(found.figures) == {"toy_roc", "toy_measured", "toy_by_consequence"}
    for name, draw in found.figures.items():
        figure.save(draw(), tmp_path / f"{name}.png")


def test_published_figures_compare_only_where_rows_and_protocol_do(tmp_path):
    options = write(tmp_path)
    spec = dataclasses.replace(SET, reported=sets.CLINVAR.reported, same_rows=True)
    for task, comparable in (
        (VariantEffect(options, spec), True),
        (VariantEffect(dataclasses.replace(options, rows=399), spec), False),
        (VariantEffect(options, spec, phases=6), False),
        (VariantEffect(options, dataclasses.replace(spec, same_rows=False)), False),
    ):
        rows = task(Fake(oracle)).published
        assert {row.metric for row in rows} == {"auroc", "auprc_trapezoid"}
        assert {row.comparable for row in rows} == {comparable}
    base = sets.TRAITGYM_MENDELIAN.reported_base
    for reported, models in (((), 14), (base, 2)):
        task = VariantEffect(options, dataclasses.replace(spec, reported_base=reported), marginals=True)
        rows = task(Fake(oracle)).published
        assert {row.comparable for row in rows} == {bool(reported)}
        assert len({row.model for row in rows}) == models


def test_a_planted_variant_has_the_right_sign(tmp_path):
    """What a real model thinks likeliest is the reference of the bad one, and the alternate of the good one."""
    lm = gener_jax.load("tiny")
    before = "".join(np.random.default_rng(3).choice(list("ACGT"), 120))
    order = np.argsort(lm.base_probabilities([before + "ACGTAC"])[0][120])
    best, worst = "ACGT"[order[-1]], "ACGT"[order[0]]
    lines = ["contig\tpos\tref\talt\tkind\teffect\tconsequence\texon\tcolumn"]
    for contig, ref, alt, kind in (("a", best, worst, "bad"), ("b", worst, best, "good")):
        lines.append("\t".join((contig, "121", ref, alt, kind, "0" if kind == "good" else "-1", "x", contig, "")))
    (tmp_path / "toy.tsv").write_text("\n".join(lines))
    (tmp_path / "toy.fa").write_text(f">a\n{before}{best}ACGTA\n>b\n{before}{worst}ACGTA\n")
    found = VariantEffect(Options(tmp_path), SET, protocol="next_kmer", context=120)(lm)
    assert found.metrics["auroc"] == 1
    assert found.predictions["score"][0] > 0 > found.predictions["score"][1]


@pytest.mark.parametrize("name", ["brca1_clinvar", "bard1"])
def test_real_rows_with_a_small_model(name):
    spec = next(s for s in sets.SETS if s.name == name)
    data_path(spec.file)
    lm = gener_jax.load("tiny")
    task = VariantEffect(Options(DATA, 40), spec, context=min(spec.context, 80 if spec.context < 8192 else 92))
    found = task(lm)
    assert found.counts["scored"] == 40 - task.rows.problems.count(variant_tables.OUTSIDE)
    row = task.rows.problems.index("")
    v = task.rows.variants[row]
    (one,) = lm.score_variants([v], task.rows.genome, protocol=task.protocol, context=task.context)
    assert found.predictions["score"][row] == pytest.approx(one.llr, abs=1e-4)


def test_every_set_is_a_task():
    groups = {spec.name: TASKS[spec.name].group for spec in sets.SETS}
    indels = {sets.BRCA2_INDELS.name, sets.BARD1_DELETIONS.name}
    assert groups == {name: "indels" if name in indels else "variants" for name in groups}
