"""What tasks take from a model equals plain loops over `transformers`, prediction for prediction, in float32."""

import numpy as np
import pytest

from gener_jax import convert
from gener_jax.inference.lm import load

for package in ("torch", "transformers"):
    pytest.importorskip(package, reason="needs pip install -e '.[parity]'")

from tests import torch_evaluation as peer  # noqa: E402 (it imports them)

pytestmark = pytest.mark.usefixtures("one_device")

# Of a log-probability: a float32 rounding, 2⁻²⁴, for each of some 200 operations in a row (20 in each of the layers,
# and the sums over 4 128 logits), times the size of the numbers that are subtracted, about 10.
TOLERANCE = 200 * 10 * 2.0**-24
CONTEXT = 120


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Ours and theirs with the weights that ship."""
    folder = tmp_path_factory.mktemp("tiny") / "hf"
    convert.main(["--checkpoint", "tiny", "--output", str(folder), "--format", "hf"])
    return load(folder, prompt_convention="v1"), peer.load(folder)


@pytest.fixture(scope="module")
def genome():
    rng = np.random.default_rng(0)
    return "NNNNNNN" + "".join(rng.choice(list("ACGT"), 700))


@pytest.fixture(scope="module")
def variants(genome):
    """Substitutions over the genome: near its beginning, at every position in a 6-mer."""
    at = [9, 14, 60, *range(200, 212), 600, 690]
    return [(i, genome[i], "ACGT"[("ACGT".index(genome[i]) + 1 + n % 3) % 4]) for n, i in enumerate(at)]


def scores(lm, genome, variants, **options):
    found = lm.score_variants([("c", i, ref, alt) for i, ref, alt in variants], {"c": genome}, **options)
    return np.array([x.llr for x in found])


def test_next_kmer(both, genome, variants):
    ours, theirs = both
    expected = [peer.next_kmer(theirs, genome[max(i - CONTEXT, 0) : i], ref, alt) for i, ref, alt in variants]
    found = scores(ours, genome, variants, protocol="next_kmer", context=CONTEXT)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.ptp(expected) > 1000 * TOLERANCE  # so that the wrong variant's would be seen


def test_window_on_both_strands(both, genome, variants):
    ours, theirs = both
    other = peer.reverse_complement(genome[7:])
    kept = [(i, ref, alt) for i, ref, alt in variants if CONTEXT <= i < len(genome) - CONTEXT]
    forward = [peer.window(theirs, genome, i, alt, CONTEXT) for i, _, alt in kept]
    backward = [
        peer.window(theirs, other, len(genome) - 1 - i, peer.reverse_complement(alt), CONTEXT) for i, _, alt in kept
    ]
    for strand, expected in (("+", forward), ("-", backward), ("both", np.mean([forward, backward], axis=0))):
        found = scores(ours, genome, kept, protocol="window", context=CONTEXT, strand=strand)
        assert np.abs(found - expected).max() < TOLERANCE
    assert np.ptp(forward) > 100 * TOLERANCE


def test_likelihood_and_marginals(both, genome):
    ours, theirs = both
    rows = [genome[start : start + size] for start, size in ((7, 60), (20, 120), (31, 606))]
    tokens = ours.log_likelihood(rows)
    expected = [peer.mean_log_likelihood(theirs, row) for row in rows]
    assert (
        np.abs([x.value / (len(row) / 6) for x, row in zip(tokens, rows, strict=True)] - np.array(expected)).max()
        < TOLERANCE
    )
    found = np.array([x.value for x in ours.log_likelihood(rows, score="base")])
    assert np.abs(found - [peer.mean_base_marginal(theirs, row) for row in rows]).max() < TOLERANCE


def test_recovery(both, genome):
    ours, theirs = both
    prompts = [genome[7:137], genome[50:400], genome[100:106]]
    expected = [peer.recovery(theirs, prompt, 5) for prompt in prompts]
    assert ours.generate(prompts, 30, temperature=0, remainder="trim_left") == expected


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings(both, genome, pooling):
    ours, theirs = both
    rows, layers = [genome[7:67], genome[20:140]], ours.spec.model.num_hidden_layers
    for layer, theirs_layer in ((None, -1), (0, 0), (layers - 1, layers - 1)):
        found = ours.embed(rows, pooling=pooling, layer=layer)
        expected = np.stack([peer.embedding(theirs, row, pooling, theirs_layer) for row in rows])
        assert np.abs(found - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())
