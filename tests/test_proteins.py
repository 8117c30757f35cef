"""Tests which proteins are alike: identity by hand, clusters of mutated copies, and orthologs of real species."""

import numpy as np
import pytest

from data_pipeline.formats import fasta
from data_pipeline.sequence import bases
from data_pipeline.splitting import clusters, proteins
from tests.data import data_path

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


def random_protein(length, seed):
    return "".join(np.random.default_rng(seed).choice(LETTERS, length))


def mutated(protein, share, seed):
    """The protein with about this share of its amino acids replaced by random ones."""
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(protein)) < share
    return "".join(np.where(chosen, rng.choice(LETTERS, len(protein)), list(protein)))


@pytest.mark.parametrize(
    ("dna", "protein"),
    [
        ("ATGTGATAA", "MW"),
        ("ATGTGATGA", "MW"),
        ("ATGTAGGCC", "M*A"),
        ("ATGGCCTA", "MA"),
        ("ATGNCCACN", "MXT"),
        ("A", ""),
    ],
)
def test_a_coding_sequence_is_read_to_its_stop(dna, protein):
    assert proteins.protein_of(bases.encode(dna)) == protein


def test_identity_is_a_share_of_the_shorter_protein():
    one, other = random_protein(120, 0), random_protein(120, 1)
    changed = "".join("W" if i % 4 == 3 else x for i, x in enumerate(one))
    same = sum(a == b for a, b in zip(one, changed, strict=True))
    assert proteins.identity(one, changed) == pytest.approx(same / 120, abs=0.02)  # the ends may not be aligned
    assert proteins.identity(one, one) == proteins.identity(one, other + one) == 1
    assert proteins.identity(one[:60] + other[:60], one) == pytest.approx(0.5, abs=0.03)
    assert proteins.identity(one, other) == proteins.identity(one, "") == proteins.identity(one[:6], one[:6]) == 0


def families(number, size, share=0.4):
    ancestors = [random_protein(100, seed) for seed in range(number)]
    return [mutated(x, share, 1000 + 10 * i + j) for j in range(size) for i, x in enumerate(ancestors)]


def test_families_are_clusters_also_of_more_than_each_is_aligned_with(monkeypatch):
    made = families(3, 6)
    monkeypatch.setattr(proteins, "_ALIGNED", 2)  # fewer than the relatives of each, which share most with it
    monkeypatch.setattr(proteins, "_BLOCK", 4)
    found = proteins.components(len(made), proteins.links(made, 0.25))
    assert found.dtype == np.int32
    assert found.tolist() == [0, 1, 2] * 6
    assert len(proteins.links(made, 0.9)) == 0
    assert proteins.components(3, proteins.links(["M", "", "M"], 0.3)).tolist() == [0, 1, 2]


def test_the_closest_relative():
    made = families(3, 2)
    found = proteins.closest(made[:3], [*made[4:], made[0], random_protein(80, 99)])
    assert found.dtype == np.float32
    assert 0.25 < found[:2].min() < found[:2].max() < 0.6
    assert found[2:].tolist() == [1, 0]


def test_orthologs_of_bacteria_share_no_32_mer_and_are_one_cluster():
    """Ribosomal proteins of Escherichia coli and of a Leptospira, which have nearly the same ones."""
    path = data_path("protein_families", "ribosomal_protein_prok_cds.fa.gz")
    records = [x for x in fasta.read(path) if "Escherichia" in x.description or "Leptospira" in x.description]
    codes, coli = [x.codes for x in records], np.array(["Escherichia" in x.description for x in records])
    assert len(set(clusters.of_sequences(codes).tolist())) == len(codes) == 111
    found = clusters.of_sequences(codes, proteins.links(list(map(proteins.protein_of, codes)), 0.3))
    both = set(found[coli].tolist()) & set(found[~coli].tolist())
    assert len(both) > 0.7 * coli.sum()
    assert np.bincount(found).max() < 6
