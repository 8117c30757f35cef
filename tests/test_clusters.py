"""Tests splits by cluster: regions that share sequence stay together."""

import functools

import numpy as np
import pytest

from data_pipeline.dataset.packing import starts_of
from data_pipeline.sequence import shared_kmers
from data_pipeline.splitting import clusters, split
from data_pipeline.splitting.duplicates import MEMORY_BYTES
from tests.data import random_codes

FRACTIONS = (0.2, 0.2)


class World:
    """Inputs, each a list of regions: (sequence, name of its overlap group)."""

    def __init__(self, *inputs, fixed=None):
        self.inputs = inputs
        self.fixed = fixed or [None] * len(inputs)

    def assign(self, memory_bytes=MEMORY_BYTES, fractions=FRACTIONS):
        def sketches(regions):
            found = [shared_kmers.sketch(codes) for codes, _ in regions]
            owners = np.repeat(np.arange(len(found)), [len(some) for some in found])
            return np.concatenate([np.zeros(0, np.uint64), *found])[:, None], owners

        regions = [region for some in self.inputs for region in some]
        readers = [functools.partial(sketches, some) for some in self.inputs]
        starts = starts_of([len(some) for some in self.inputs])
        split_hash = np.array([split._hash(0, name) for _, name in regions], np.uint64)
        length = np.array([len(codes) for codes, _ in regions], np.int64)
        kept = np.ones(len(regions), bool)
        found = clusters.assign(readers, starts, split_hash, length, kept, self.fixed, *fractions, memory_bytes)
        return [np.split(column, starts[1:-1]) for column in found]


def families(number, copies, seed, prefix=""):
    """`copies` mutated copies of each of `number` genes, each copy in its own overlap group."""
    generator = np.random.default_rng(seed)
    found = []
    for family, gene in enumerate(random_codes([600] * number, seed, unknown=False)):
        for copy in range(copies):
            codes = gene.copy()
            changed = generator.random(len(codes)) < 0.02
            codes[changed] = generator.integers(0, 4, changed.sum())
            found.append((codes, f"{prefix}{family}.{copy}"))
    return found


def test_families_stay_together_and_reach_all_splits():
    regions = families(100, 3, seed=1)
    [splits], [leaking] = World(regions).assign()
    assert not leaking.any()
    splits = splits.reshape(100, 3)
    assert (splits == splits[:, :1]).all()
    assert set(splits[:, 0].tolist()) == {0, 1, 2}
    hashes = np.array([split._hash(0, name) for _, name in regions], np.uint64)
    apart = split.splits_of(hashes, *FRACTIONS).reshape(100, 3)
    assert not (apart == apart[:, :1]).all()  # by overlap groups alone they would not


def test_memory_limit_does_not_change_the_result():
    world = World(families(40, 3, seed=1), families(40, 2, seed=2))
    expected = world.assign()
    for memory in (10_000, 100_000):
        for mine, theirs in zip(world.assign(memory), expected, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(one, other)


def test_more_inputs_move_no_region():
    generator = np.random.default_rng(3)
    first = families(60, 2, seed=1)
    second = families(30, 2, seed=2, prefix="b")
    # The third input has regions that join halves of two genes of the others, and other genes.
    pool = first + second
    third = []
    for number in range(40):
        one, other = generator.integers(0, len(pool), 2)
        third.append((np.concatenate([pool[one][0][:300], pool[other][0][300:]]), f"c{number}"))
    few = World(first).assign()
    some = World(first, second).assign()
    splits, leaking = World(first, second, third).assign()
    for mine in (few, some):
        for number in range(len(mine[0])):
            np.testing.assert_array_equal(splits[number], mine[0][number])
            np.testing.assert_array_equal(leaking[number], mine[1][number])
    assert not leaking[0].any()
    assert not leaking[1].any()
    assert 0 < leaking[2].sum() < len(third)
    # The kept regions of different splits share no sampled 32-mer.
    sides = {}
    for number, regions in enumerate((first, second, third)):
        for i, (codes, _) in enumerate(regions):
            if not leaking[number][i]:
                for kmer in shared_kmers.sketch(codes).tolist():
                    sides.setdefault(kmer, set()).add(int(splits[number][i]))
    assert all(len(found) == 1 for found in sides.values())


def test_overlap_groups_stay_together_without_a_shared_kmer():
    regions = [(codes, f"g{i // 2}") for i, codes in enumerate(random_codes([20] * 60, 1, unknown=False))]
    [splits], _ = World(regions).assign()
    assert (splits[::2] == splits[1::2]).all()
    assert set(splits.tolist()) == {0, 1, 2}


def test_cluster_of_nearly_everything_goes_to_training():
    [element] = random_codes([200], 9, unknown=False)
    for seed in range(20):
        regions = [
            (np.concatenate([codes, element]), f"{seed}.{i}") for i, codes in enumerate(random_codes([300] * 9, seed))
        ]
        [splits], _ = World(regions).assign()
        assert not splits.any()


def test_split_fixed_by_the_manifest_decides_for_later_inputs():
    regions = families(30, 1, seed=4)
    splits, leaking = World(regions, regions, fixed=[2, None]).assign()
    assert (splits[0] == 2).all()
    assert (splits[1] == 2).all()
    splits, leaking = World(regions, regions, fixed=[2, 0]).assign()
    assert not leaking[0].any()
    assert leaking[1].all()


@pytest.mark.parametrize("fractions", [(0.0, 0.0), (0.2, 0.0)])
def test_splits_of_fraction_zero_are_empty(fractions):
    [splits], _ = World(families(50, 1, seed=5)).assign(fractions=fractions)
    assert set(splits.tolist()) == ({0, 1} if fractions[0] else {0})


def test_no_regions():
    splits, leaking = World([], families(3, 1, seed=0), []).assign()
    assert [len(split) for split in splits] == [0, 3, 0] == [len(split) for split in leaking]


def test_clusters_of_sequences_alone():
    one, two, other = random_codes([200] * 3, seed=1, unknown=False)
    link = np.concatenate([one[100:150], two[:50]])
    turned = np.ascontiguousarray(two[::-1] ^ 1)
    repeat = np.tile([0, 1], 60).astype(np.uint8)
    sequences = [one, other, turned, link, repeat, np.concatenate([other[:31], repeat]), one[:20]]
    found = clusters.of_sequences(sequences)
    assert found.dtype == np.int32
    assert [found.tolist().index(x) for x in found] == [0, 1, 0, 0, 4, 5, 6]
    assert len(clusters.of_sequences([])) == 0
