import collections
import math

import numpy as np
import pytest

from data_pipeline import train_bpe
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import make
from gener_jax.tasks import markov
from gener_jax.tasks.held_out import region_ids, region_tokens
from tests import tiny
from tests.data import random_codes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of regions with N, some of them shorter than any context."""
    sequences = {
        "train": random_codes([400, 3, 90, 1, 250], 1),
        "validation": random_codes([200, 4, 77, 6, 13], 2),
    }
    return tiny.synthetic(tmp_path_factory.mktemp("data") / "set", sequences, chunk_length=64)


def texts(dataset, split):
    source = RegionSource(dataset, split)
    return [bases.decode(source.read(r, 0, int(source.index["length"][r]))) for r in range(len(source))]


class Plain:
    """A Markov model that counts in a dictionary, base by base."""

    def __init__(self, order, sequences):
        self.order, self.counts = order, collections.Counter()
        for sequence in sequences:
            for i, base in enumerate(sequence):
                for context in self.contexts(sequence, i):
                    self.counts[context, base] += base != "N"

    def contexts(self, sequence, i):
        """The contexts of position i without N, the shortest first."""
        found = [sequence[i - o : i] for o in range(self.order + 1) if o <= i]
        return [context for context in found if "N" not in context]

    def bits(self, sequence, i):
        context = self.contexts(sequence, i)[-1]
        seen = {base: self.counts[context, base] + 1 for base in "ACGT"}
        return -math.log2(seen[sequence[i]] / sum(seen.values()))


@pytest.mark.parametrize("order", [0, 1, 5])
def test_as_a_dictionary(dataset, order):
    train, held_out = texts(dataset, "train"), texts(dataset, "validation")
    plain = Plain(order, train)
    model = markov.fit(RegionSource(dataset, "train"), make("kmer"), order)
    for sequence in held_out:
        expected = [0.0 if base == "N" else plain.bits(sequence, i) for i, base in enumerate(sequence)]
        np.testing.assert_allclose(model.bits(bases.encode(sequence)), expected, rtol=0, atol=1e-12)
    # The probabilities after each context add up to 1.
    for counts in model.counts:
        np.testing.assert_allclose((counts / counts.sum(-1, keepdims=True)).sum(-1), 1)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_baseline_is_scored_on_the_same_bases_as_the_model(dataset, k):
    source, tokenizer = RegionSource(dataset, "validation"), make("kmer", k)
    plain, model = Plain(5, texts(dataset, "train")), markov.fit(RegionSource(dataset, "train"), tokenizer, 5)
    total, number = 0.0, 0
    for sequence in texts(dataset, "validation"):
        for first in range(0, len(sequence) - k + 1, k):
            if "N" not in sequence[first : first + k]:
                total += sum(plain.bits(sequence, i) for i in range(first, first + k))
                number += k
    bits, scored = markov.bits_per_base(model, source, tokenizer, np.arange(len(source)))
    assert scored == number > 0
    assert bits == pytest.approx(total / number, abs=1e-12)
    ids = np.concatenate(
        [region_ids(source, tokenizer, r, 0, n) for r, n in enumerate(region_tokens(source, tokenizer))]
    )
    assert scored == tokenizer.token_bases[ids].sum()
    some, _ = markov.bits_per_base(model, source, tokenizer, np.array([2]))
    assert some != bits


def test_stored_tokens_give_the_same_baseline(tmp_path):
    plain = tiny.genomes(tmp_path / "plain")
    model_file = train_bpe.build(plain, 48, tmp_path / "bpe.model")["output"]
    kmer, bpe = make("kmer", 1), make("bpe", model_file=model_file)
    stored = tiny.genomes(tmp_path / "stored", tokenizer=bpe)
    found = []
    for folder, tokenizer in ((plain, kmer), (stored, bpe)):
        source = RegionSource(folder, "validation")
        model = markov.fit(RegionSource(folder, "train"), tokenizer, 5)
        found.append(markov.bits_per_base(model, source, tokenizer, np.arange(len(source))))
    assert found[0] == found[1]  # every base counts in both
    assert 1.9 < found[0][0] < 2.0


def test_without_bases_to_score_the_result_is_nan(dataset):
    bits, scored = markov.bits_per_base(
        markov.Markov(1), RegionSource(dataset, "validation"), make("kmer"), np.array([1])
    )
    assert np.isnan(bits)
    assert scored == 0


def test_a_bounded_fit(dataset):
    one = markov.fit(RegionSource(dataset, "train"), make("kmer"), 0, max_bases=1)  # the whole first region
    assert one.counts[0].sum() == 4 + sum(base != "N" for base in texts(dataset, "train")[0])


def test_continuations_are_the_most_likely_bases(dataset):
    train, held_out = texts(dataset, "train"), texts(dataset, "validation")
    model = markov.Markov(5)
    for sequence in train:
        model.add(bases.encode(sequence))
    for order in (0, 2, 5):
        plain = Plain(order, train)
        for sequence in held_out:
            text = sequence
            for _ in range(8):
                text += min("ATCG", key=lambda base: plain.bits(text + base, len(text)))
            found = bases.decode(model.continued(bases.encode(sequence), 8, order))
            assert found == text[len(sequence) :]
        bits = markov.Markov(order)
        for sequence in train:
            bits.add(bases.encode(sequence))
        codes = bases.encode(held_out[0])
        np.testing.assert_array_equal(model.bits(codes, order), bits.bits(codes))
