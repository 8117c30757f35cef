"""Tests the fraction of held-out 32-mers that occur in training, against a naive count."""

import numpy as np
import pytest

from data_pipeline.sequence import bases, shared_kmers
from data_pipeline.splitting import leakage
from tests.data import random_codes
from tests.test_shared_kmers import naive_canonical


def fractions(training, held, sample=1):
    hashes, sizes = leakage.hash_regions(held, sample)
    members, which = np.unique(hashes, return_inverse=True)
    return leakage.train_overlaps(
        leakage.occurring(shared_kmers.Index(members), batches(training), sample), which, sizes
    ), sizes


def batches(sequences):
    """All sequences but the first in one batch, each followed by up to three bases that belong to none."""
    for some in (sequences[:1], sequences[1:]):
        starts = np.cumsum([0, *(-(-len(codes) // 4) * 4 for codes in some)])
        codes = np.full(starts[-1], bases.A, np.uint8)
        for start, sequence in zip(starts.tolist(), some, strict=False):
            codes[start : start + len(sequence)] = sequence
        yield codes, starts[:-1], np.array([len(sequence) for sequence in some], np.int64)


def naive_fractions(training, held):
    known = {kmer for codes in training for kmer in naive_canonical(bases.decode(codes))}
    found = []
    for codes in held:
        mine = naive_canonical(bases.decode(codes))
        found.append(np.mean([kmer in known for kmer in mine]) if mine else 0)
    return np.array(found, np.float32)


def test_fractions_of_known_sequences():
    training = random_codes([500, 31, 0, 900, 32], seed=1)
    held = [*random_codes([300, 10, 0], seed=2)]
    held.append(bases.reverse_complement(training[0][100:400]))
    held.append(np.concatenate([training[3][:200], held[0][:150]]))
    held.append(training[4])
    found, _ = fractions(training, held)
    np.testing.assert_allclose(found, naive_fractions(training, held), rtol=1e-6)
    assert found[3] == 1
    assert 0.3 < found[4] < 0.8
    assert found[0] == found[1] == found[2] == 0


def test_windows_across_chunk_borders_count(monkeypatch):
    monkeypatch.setattr(leakage, "CHUNK", 50)
    training = random_codes([500, 31, 49, 50, 51, 81, 82, 900], seed=1)
    held = [codes[5:-3] for codes in training] + random_codes([200], seed=2)
    found, _ = fractions(training, held)
    np.testing.assert_allclose(found, naive_fractions(training, held), rtol=1e-6)


def test_sample_estimates_the_fraction():
    training = random_codes([40_000], seed=1, unknown=False)
    held = [np.concatenate([training[0][:12_000], *random_codes([8_000], seed=2, unknown=False)])]
    exact, all_kmers = fractions(training, held)
    found, sizes = fractions(training, held, sample=8)
    assert sizes[0] == pytest.approx(all_kmers[0] / 8, rel=0.1)
    assert found[0] == pytest.approx(exact[0], abs=0.04)


def test_copy_of_known_identity_shares_the_documented_fraction():
    generator = np.random.default_rng(0)
    [gene] = random_codes([200_000], seed=1, unknown=False)
    copy = gene.copy()
    changed = generator.random(len(copy)) < 0.07
    copy[changed] = (copy[changed] + generator.integers(1, 4, changed.sum())) % 4
    found, _ = fractions([gene], [copy])
    assert found[0] == pytest.approx(0.93**32, rel=0.1) == pytest.approx(leakage.NEAR_COPY, rel=0.1)


def test_report():
    splits, lengths = np.array([0, 1, 1, 2, 1]), np.array([100, 50, 60, 70, 5])
    train_overlap, sizes = np.array([0, 0.5, 0.05, 0, 0], np.float32), np.array([0, 20, 40, 39, 0])
    found = leakage.report(splits, lengths, train_overlap, sizes, 1, ("train", "validation", "test"))
    assert found == {
        "kmer_length": 32,
        "sampled_one_in": 1,
        "validation": {
            "regions": 3, "bases": 115, "kmers": 60, "fraction_in_training": 0.2,
            "near_copies": {"regions": 1, "bases": 50},
        },
        "test": {
            "regions": 1, "bases": 70, "kmers": 39, "fraction_in_training": 0.0,
            "near_copies": {"regions": 0, "bases": 0},
        },
    }  # fmt: skip


def test_samples_fit_into_memory():
    assert leakage.sampling(leakage.MEMORY_KMERS) == 1
    assert leakage.sampling(leakage.MEMORY_KMERS + 1) == 2
    assert leakage.sampling(40 * leakage.MEMORY_KMERS) == 40
