"""Scores of a region: each base given those before it, in windows, on both strands; all substitutions."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.inference.lm import LM
from gener_jax.inference.region import RegionScorer
from gener_jax.inference.variants import next_kmer
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.variant import Variant
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_generate import make_lm

K = 3
generator = np.random.default_rng(0)
CHROMOSOME = "".join(generator.choice(list("ACGT"), 200))
GENOME = {"chr1": CHROMOSOME}


@pytest.fixture(scope="module")
def lm():
    return make_lm(K)


def test_a_base_has_its_probability_after_the_context(lm):
    for given in ("bases", "tokens"):
        for phases in (1, K):
            found = lm.score_region("1:61-80", GENOME, context=24, given=given, phases=phases)
            (expected,) = lm.base_probabilities([CHROMOSOME[36:80]], given=given, phases=phases)
            np.testing.assert_allclose(found.probabilities, expected[24:], atol=1e-5)
    assert (found.interval, found.reference) == (Interval("1", 60, 80), CHROMOSOME[60:80])
    (score,) = lm.log_likelihood([CHROMOSOME[36:80]], per_base=True, special_tokens=False)
    found = lm.score_region(Interval("1", 60, 80), GENOME, context=26)  # in whole k-mers
    np.testing.assert_allclose(found.log_p, score.per_base[24:], atol=1e-4)
    rows = list(found.rows())
    assert [row.pos for row in rows] == list(range(61, 81))
    assert rows[3].log_p == pytest.approx(np.log(getattr(rows[3], rows[3].ref)), abs=1e-6)


def test_strands(lm):
    back = bases.decode(bases.reverse_complement(bases.encode(CHROMOSOME)))
    plus, minus, both = (lm.score_region("1:61-80", GENOME, context=24, strand=s) for s in ("+", "-", "both"))
    opposite = lm.score_region("1:121-140", {"1": back}, context=24)
    np.testing.assert_allclose(minus.log_p, opposite.log_p[::-1], atol=1e-5)
    np.testing.assert_allclose(both.probabilities, (plus.probabilities + minus.probabilities) / 2, atol=1e-6)
    assert minus.reference == plus.reference
    assert np.abs(plus.log_p - minus.log_p).max() > 1e-3


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_long_region_is_scored_in_windows(lm, strand):
    """A base has the same score in a region of several windows as in one of a single window that begins there."""
    model = dataclasses.replace(lm.spec.model, max_position_embeddings=16)
    short = LM(dataclasses.replace(lm.spec, model=model), lm.params, lm.mesh)
    scorer = RegionScorer(short, context=24, strand=strand)
    assert (scorer.context, scorer.stride) == (24, 24)
    genome = Genome.of(GENOME)
    whole = scorer("1:51-173", genome).log_p
    parts = [scorer(Interval("1", s, min(s + 24, 173)), genome).log_p for s in range(50, 173, 24)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-5)
    assert len(scorer("1:1-200", genome).log_p) == 200
    with raises(InputError, argument="context", value=48):
        RegionScorer(short, context=48)


def test_unknown_bases(lm):
    text = CHROMOSOME[:30] + "NNRN" + CHROMOSOME[34:]
    found = lm.score_region("1:29-40", {"1": text}, context=24)
    assert np.isnan(found.log_p).tolist() == [letter == "N" for letter in found.reference]
    assert np.isnan(found.probabilities).all(1).sum() == 4
    start = lm.score_region("1:35-40", {"1": "N" * 34 + CHROMOSOME[34:]}, context=24)
    alone = lm.score_region("1:1-6", {"1": CHROMOSOME[34:]}, context=24)
    np.testing.assert_allclose(start.log_p, alone.log_p, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"protocol": "window", "strand": "both"}, {"phases": K, "strand": "-"}])
def test_saturation_is_the_scores_of_all_substitutions(lm, options):
    text = CHROMOSOME[:64] + "N" + CHROMOSOME[65:]
    found = lm.saturation("1:61-70", {"chr1": text}, context=24, **options)
    assert (found.interval, found.reference, found.llr.shape) == (Interval("1", 60, 70), text[60:70], (10, 4))
    rows = list(found.rows())
    variants = [Variant(r.contig, r.pos - 1, r.ref, r.alt) for r in rows]
    assert len(set(variants)) == len(variants) == 27
    expected = list(lm.score_variants(variants, {"chr1": text}, context=24, **options))
    np.testing.assert_allclose([r.llr for r in rows], [s.llr for s in expected], atol=1e-5)
    spreads = [np.nan if s.spread is None else s.spread for s in expected]
    np.testing.assert_allclose([r.spread for r in rows], spreads, atol=1e-5)
    assert found.protocol == options.get("protocol", "next_kmer")
    assert np.isnan(found.llr[4]).all()
    assert [found.llr[i, "ACGT".index(x)] for i, x in enumerate(found.reference) if x != "N"] == [0] * 9


def test_the_substitutions_of_a_base_share_its_context(lm, monkeypatch):
    rows, real = [], next_kmer._masses
    monkeypatch.setattr(next_kmer, "_masses", lambda lm, x, *options: rows.append(len(x)) or real(lm, x, *options))
    lm.saturation("1:61-80", GENOME, context=24, batch_tokens=4096)
    assert rows == [20]  # one stream of batches, a row per base


@pytest.mark.parametrize(
    "region", ["chr1", "chr2:1-5", "chr1:190-201", "chr1:9-5", "chr1:1-5(-)", Interval("chr1", -1, 5), 7]
)
def test_what_is_no_region(lm, region):
    for method in (lm.score_region, lm.saturation):
        with raises(InputError, argument="region", value=region):
            method(region, GENOME, context=24)


@pytest.mark.parametrize(("argument", "value"), [("given", "x"), ("phases", 2), ("strand", "x"), ("context", 0)])
def test_invalid_options(lm, argument, value):
    with raises(InputError, argument=argument, value=value):
        lm.score_region("chr1:1-5", GENOME, **{argument: value})
