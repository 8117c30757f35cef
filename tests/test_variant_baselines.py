"""Baselines of variant effect: kinds of substitutions, rates of other folds without leakage, places, Markov models."""

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.variant import Variant
from gener_jax.statistics import matched
from gener_jax.tasks import variant_baselines as baselines
from gener_jax.tasks.markov import Markov


@pytest.mark.parametrize(
    ("start", "ref", "alt", "expected"),
    [
        (1, "C", "T", 0),  # of ACGTC: in a CpG
        (2, "G", "A", 0),
        (1, "C", "A", 2),
        (4, "C", "T", 1),  # at the end
        (0, "A", "G", 1),
        (3, "T", "C", 1),
        (3, "T", "G", 2),
    ],
)
def test_substitutions(start, ref, alt, expected):
    assert baselines.substitution(Variant("x", start, ref, alt), Genome.of({"x": "ACGTC"})) == expected


def test_substitutions_of_more_than_one_base_have_no_kind():
    assert np.isnan(baselines.substitution(Variant("x", 0, "AC", "A"), Genome.of({"x": "ACGTC"})))


def test_rates_are_those_of_the_other_folds():
    categories = np.array(["stop", "stop", "stop", "silent", "silent", "rare"])
    target = np.array([1.0, 1, 0, 0, np.nan, 1])
    folds = np.array([1, 2, 3, 1, 2, 2])
    found = baselines.held_out_rates(categories, target, folds)
    mean = 2 / 3  # of the folds 2 and 3
    assert found[0] == pytest.approx((1 + 0 - 2 * mean) / 3)
    assert found[3] == 0  # no other fold knows it
    assert found[5] == 0
    flipped = target.copy()
    flipped[0] = 0  # a row's own target is not seen, nor is that of its fold
    assert baselines.held_out_rates(categories, flipped, folds)[[0, 3]].tolist() == found[[0, 3]].tolist()


def test_a_category_that_only_its_fold_has_predicts_nothing():
    """The split is by fold: a leak would make it perfect."""
    rng = np.random.default_rng(0)
    folds = np.arange(400) % 10
    target = (rng.random(400) < 0.1 + 0.08 * folds).astype(float)
    own = np.array([f"{fold}:{int(t)}" for fold, t in zip(folds, target, strict=True)])
    assert matched.value("auroc", target == 1, baselines.held_out_rates(own, target, folds)) == 0.5
    kind = np.where(rng.random(400) < 0.8, target, 1 - target).astype(str)
    assert matched.value("auroc", target == 1, baselines.held_out_rates(kind, target, folds)) > 0.7
    noise = rng.integers(3, size=400).astype(str)
    assert abs(matched.value("auroc", target == 1, baselines.held_out_rates(noise, target, folds)) - 0.5) < 0.08


def test_places_count_from_the_nearer_end():
    variants = tuple(Variant("x", start, "A", "C") for start in (100, 109, 110, 150, 195, 200, 7))
    folds = np.array([*"aaaaaa", "b"])
    assert baselines.places(variants, folds).tolist() == [0, 0, 1, 3, -1, -1, 0]


def test_the_markov_model_knows_a_repeat():
    text = "ACGGT" * 400
    genome = Genome.of({"x": text})
    assert baselines.markov_order(genome) == 3  # 4^4 contexts and bases times 8 fit 4,000
    variants = tuple(Variant("x", start, text[start], "T" if text[start] != "T" else "A") for start in (0, 1, 57, 1999))
    found = baselines.markov(variants, genome, 3)
    assert (found > 0).all()
    assert np.isnan(baselines.markov((Variant("y", 0, "A", "C"),), genome, 3)).all()


def test_the_markov_score_is_that_of_the_whole_sequence():
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("ACGT"), 300))
    genome, order = Genome.of({"x": text}), 2
    model = Markov(order)
    codes = bases.encode(text)
    model.add(codes)
    model.add(bases.reverse_complement(codes))
    variants = (
        Variant("x", 50, text[50], "A" if text[50] != "A" else "C"),
        Variant("x", 99, text[99:101], text[99]),
    )
    for variant, found in zip(variants, baselines.markov(variants, genome, order), strict=True):
        end = variant.start + len(variant.ref)
        other = bases.encode(text[: variant.start] + variant.alt + text[end:])
        each = [
            model.bits(strand(other)).sum() - model.bits(strand(codes)).sum()
            for strand in (np.array, bases.reverse_complement)
        ]
        assert found == pytest.approx(np.mean(each))
