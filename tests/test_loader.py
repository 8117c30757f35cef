"""The token stream, compared with a simple loop over whole regions, and batches, compared with the stream."""

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from data_pipeline import train_bpe
from data_pipeline.dataset.reader import REBUILD, RegionSource
from data_pipeline.errors import DatasetError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV, make
from gener_jax.config import Data
from gener_jax.data.loader import TokenStream, device_batches, own_rows
from gener_jax.data.permutation import mix, permute, subkey
from gener_jax.model.sharding import ROWS, batch_sharding, make_mesh
from tests import tiny
from tests.data import random_codes
from tests.raised import raises

LENGTHS = [700, 5, 6, 1, 64, 333, 12, 7, 129, 11]
KMERS = {k: {"".join(t): NUM_SPECIAL + i for i, t in enumerate(itertools.product("ATCG", repeat=k))} for k in (3, 6)}


def data(path, **options):
    return Data(path=str(path), **{"context_length": 16, "random_phase": True, "reverse_complement": True, **options})


@pytest.fixture(scope="module")
def long_regions(tmp_path_factory):
    """Regions in many chunks of 50 bases, with N; some are shorter than a k-mer."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    return tiny.synthetic(folder, {"train": random_codes(LENGTHS, 0)}, chunk_length=52)


@pytest.fixture(scope="module")
def genomes(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


@pytest.fixture(scope="module")
def soft_masked(tmp_path_factory):
    """The same regions with about half of the bases in lower case."""
    folder = tmp_path_factory.mktemp("data") / "masked"
    return tiny.synthetic(folder, {"train": random_codes(LENGTHS, 0)}, soft_masked=True, chunk_length=52)


@pytest.fixture(scope="module", params=["long_regions", "genomes"])
def dataset(request):
    return request.getfixturevalue(request.param)


def plain_epoch(source, k, options, seed, epoch):
    """The ids of one epoch and the region of each, from whole regions as text, split letter by letter."""
    ids, owners = [], []
    complement = str.maketrans("ACGTN", "TGCAN")
    for region in permute(np.arange(len(source)), len(source), subkey(seed, epoch, 0)).tolist():
        text = bases.decode(source.read(region, 0, int(source.index["length"][region])))
        if options.reverse_complement and int(mix(subkey(seed, epoch, 2), np.array(region))) % 2:
            text = text.translate(complement)[::-1]
        phase = int(mix(subkey(seed, epoch, 1), np.array(region))) % k if options.random_phase else 0
        kmers = [text[i : i + k] for i in range(phase, len(text) - k + 1, k)]
        if kmers:
            ids += [BOS] + [KMERS[k].get(kmer, OOV) for kmer in kmers]
            owners += [region] * (1 + len(kmers))
    return ids, owners


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize(("random_phase", "reverse"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_stream_equals_a_simple_loop(dataset, k, random_phase, reverse):
    source, options = (
        RegionSource(dataset, "train"),
        data(dataset, random_phase=random_phase, reverse_complement=reverse),
    )
    stream = TokenStream(source, make("kmer", k), options, seed=5)
    ids = []
    for epoch in range(3):
        assert stream.epoch_of(len(ids)) == epoch
        more, _ = plain_epoch(source, k, options, 5, epoch)
        assert stream.epoch_stats(epoch)["tokens"] == len(more)
        ids += more
    assert stream.read(0, len(ids))[0].tolist() == ids
    generator = np.random.default_rng(1)
    for start, stop in np.sort(generator.integers(0, len(ids), (40, 2)), axis=1).tolist():
        assert stream.read(start, stop)[0].tolist() == ids[start:stop]


def plain_weights(source, k, options, seed, epoch):
    """The weight of every token of an epoch, letter by letter: 1 for <s> and upper case."""
    weights = []
    for region in permute(np.arange(len(source)), len(source), subkey(seed, epoch, 0)).tolist():
        lower = source.lower_case(region, 0, int(source.index["length"][region])).tolist()
        if options.reverse_complement and int(mix(subkey(seed, epoch, 2), np.array(region))) % 2:
            lower = lower[::-1]
        phase = int(mix(subkey(seed, epoch, 1), np.array(region))) % k if options.random_phase else 0
        kmers = [lower[i : i + k] for i in range(phase, len(lower) - k + 1, k)]
        if kmers:
            weights += [1.0] + [sum(options.repeat_weight if b else 1.0 for b in kmer) / k for kmer in kmers]
    return weights


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize(("random_phase", "reverse"), [(False, False), (True, False), (False, True), (True, True)])
def test_weights_equal_those_of_a_simple_loop(soft_masked, k, random_phase, reverse):
    source = RegionSource(soft_masked, "train")
    options = data(soft_masked, random_phase=random_phase, reverse_complement=reverse, repeat_weight=0.1)
    stream = TokenStream(source, make("kmer", k), options, seed=5)
    unweighted = TokenStream(source, make("kmer", k), dataclasses.replace(options, repeat_weight=1.0), seed=5)
    weights = list(itertools.chain.from_iterable(plain_weights(source, k, options, 5, epoch) for epoch in range(3)))
    assert len({round(w, 6) for w in weights}) > k  # from none to all bases of a k-mer
    ids, documents, found = stream.read(0, len(weights))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights, rtol=1e-6)
    plain_ids, plain_documents, none = unweighted.read(0, len(weights))
    assert none is None
    assert np.array_equal(ids, plain_ids)
    assert np.array_equal(documents, plain_documents)
    generator = np.random.default_rng(1)
    for start, stop in np.sort(generator.integers(0, len(weights), (40, 2)), axis=1).tolist():
        assert np.array_equal(stream.read(start, stop)[2], found[start:stop])


def test_weights_of_a_batch_are_those_of_its_targets(soft_masked):
    source, options = RegionSource(soft_masked, "train"), data(soft_masked, repeat_weight=0.0, mask_documents=True)
    stream = TokenStream(source, make("kmer", 6), options, seed=5)
    without = TokenStream(source, make("kmer", 6), dataclasses.replace(options, repeat_weight=1.0), seed=5)
    for number in range(20):
        start = stream.window(number) * 16
        example = stream.example(number)
        weights = example.pop("weights")
        assert np.array_equal(weights, stream.read(start + 1, start + 17)[2])
        assert (weights[example["targets"] == BOS] == 1).all()
        other = without.example(number)
        assert equal([example], [other])
    assert batches(stream, 4, 0, 2)[1]["weights"].shape == (4, 16)


def test_weights_need_lower_case(soft_masked, long_regions, genomes, tmp_path):
    def stream(folder, tokenizer=None, **options):
        options = data(folder, repeat_weight=0.1, **options)
        return TokenStream(RegionSource(folder, "train"), tokenizer or make("kmer", 6), options, 0)

    assert stream(soft_masked).has_lower_case()
    assert not stream(long_regions).has_lower_case()
    assert not stream(soft_masked).has_lower_case(max_bases=0)
    kmers = tiny.genomes(tmp_path / "kmers", tokenizer=make("kmer", 6))
    bpe = make("bpe", model_file=train_bpe.build(genomes, 64, tmp_path / "bpe.model")["output"])
    pieces = tiny.genomes(tmp_path / "bpe", tokenizer=bpe)
    for folder, tokenizer in ((kmers, make("kmer", 6)), (pieces, bpe)):
        with raises(DatasetError, file=folder, field="data.repeat_weight", value=0.1):
            stream(folder, tokenizer, reverse_complement=False)


def test_documents_are_the_regions(dataset):
    source, options = RegionSource(dataset, "train"), data(dataset, mask_documents=True)
    stream = TokenStream(source, make("kmer", 6), options, seed=5)
    ids, owners = [], []
    for epoch in range(2):
        more, who = plain_epoch(source, 6, options, 5, epoch)
        ids += more
        owners += [(epoch, region) for region in who]
    for number in range(len(ids) // 16 - 2):
        start = stream.window(number) * 16
        if start + 17 > len(ids):
            continue
        example = stream.example(number)
        assert example["inputs"].tolist() == ids[start : start + 16]
        assert example["targets"].tolist() == ids[start + 1 : start + 17]
        segment, position, segments, positions = 0, 0, [], []
        for i in range(start, start + 16):
            new = i == start or owners[i] != owners[i - 1]
            segment, position = (segment + 1, 0) if new else (segment, position + 1)
            segments.append(segment)
            positions.append(position)
        assert example["segment_ids"].tolist() == segments
        assert example["positions"].tolist() == positions
        assert all(x.dtype == np.int32 for x in example.values())


@pytest.mark.parametrize("length", [1, 7, 64, 3000])
def test_every_window_once(long_regions, length):
    """Also if an epoch, of about 200 tokens, is shorter than a window, so that most epochs start none."""
    stream = TokenStream(
        RegionSource(long_regions, "train"), make("kmer", 6), data(long_regions, context_length=length), 3
    )
    numbers = range(700) if length == 1 else range(40)
    windows = [stream.window(number) for number in numbers]
    complete = []  # the windows of an epoch are a permutation of their numbers
    for number, window in zip(numbers, windows, strict=True):
        epoch = stream.epoch_of(number * length)
        assert epoch == stream.epoch_of(window * length)
        complete.append(epoch)
    for epoch in set(complete) - {complete[-1]}:
        own = [i for i in numbers if complete[i] == epoch]
        assert sorted(windows[i] for i in own) == own
    if length < 3000:
        assert windows != list(numbers)
    example = stream.example(0)
    assert example["inputs"].shape == example["targets"].shape == (length,)


class Watched(RegionSource):
    """Counts how often each base is read."""

    def read(self, region, start, stop):
        if not hasattr(self, "times_read"):
            self.times_read = [np.zeros(n, np.int64) for n in self.index["length"].tolist()]
        self.times_read[region][start:stop] += 1
        return super().read(region, start, stop)


@pytest.mark.parametrize("reverse", [False, True])
def test_no_base_twice_and_few_lost(dataset, reverse):
    source = Watched(dataset, "train")
    stream = TokenStream(source, make("kmer", 6), data(dataset, reverse_complement=reverse), seed=9)
    for epoch in range(3):
        stats = stream.epoch_stats(epoch)
        assert stats["kept"] + stats["lost_at_start"] + stats["lost_at_end"] == stats["region_bases"]
        assert stats["region_bases"] == source.index["length"].sum()
        start, stop = stream._epoch(epoch).start, stream._epoch(epoch).stop
        source.times_read = [np.zeros(n, np.int64) for n in source.index["length"].tolist()]
        for at in range(start, stop, 37):
            stream.read(at, min(at + 37, stop))
        assert max(times.max() for times in source.times_read) == 1
        assert sum(int(times.sum()) for times in source.times_read) == stats["kept"]
        for times in source.times_read:
            inside = np.flatnonzero(times)
            if len(inside):
                assert times[inside[0] : inside[-1] + 1].all()
                assert inside[0] <= 5
                assert len(times) - 1 - inside[-1] <= 5
            else:
                assert len(times) < 11  # up to five are lost at the start, and five at the end


def test_phases_strands_and_order_change_with_epoch_and_seed(dataset):
    source = RegionSource(dataset, "train")
    epochs = [TokenStream(source, make("kmer", 6), data(dataset), seed)._epoch(epoch)
              for seed, epoch in ((1, 0), (1, 1), (2, 0))]  # fmt: skip
    for one, other in itertools.combinations(epochs, 2):
        for field in ("regions", "phases", "reverse"):
            a, b = (getattr(e, field)[np.argsort(e.regions)] if field != "regions" else e.regions for e in (one, other))
            assert (a != b).any(), field
    again = TokenStream(source, make("kmer", 6), data(dataset), 1)._epoch(1)
    for field in ("regions", "phases", "reverse", "ends"):
        assert np.array_equal(getattr(again, field), getattr(epochs[1], field))
    everything = [TokenStream(source, make("kmer", 6), data(dataset), seed)._epoch(0).phases for seed in range(40)]
    assert set(np.concatenate(everything).tolist()) == set(range(6))


def batches(stream, batch_size, start, num, rows=None):
    """Batches `start` to `start + num` − 1 of the given rows, or of all."""
    rows = range(batch_size) if rows is None else rows
    return list(itertools.islice(stream.batches(start * batch_size, batch_size, rows), num))


def equal(one, other):
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_a_function_of_seed_and_number(dataset, masked):
    def stream(seed=4):
        return TokenStream(RegionSource(dataset, "train"), make("kmer", 6), data(dataset, mask_documents=masked), seed)

    straight = batches(stream(), 8, 0, 12)
    assert len(straight) == 12
    assert straight[0]["inputs"].shape == (8, 16)
    assert ("segment_ids" in straight[0]) == masked
    assert equal(straight[7:], batches(stream(), 8, 7, 5))
    assert not equal(straight, batches(stream(seed=5), 8, 0, 12))
    assert equal(straight, batches(pickle.loads(pickle.dumps(stream())), 8, 0, 12))
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [1, 2, 5, 6]):
        some = [{name: x[rows] for name, x in batch.items()} for batch in straight]
        assert equal(some, batches(stream(), 8, 0, 12, rows=rows))
    rows, halves = (np.concatenate([b["inputs"] for b in found]) for found in (straight, batches(stream(), 4, 3, 8)))
    assert np.array_equal(rows[12:44], halves)  # the position is in examples
    assert np.array_equal(rows[12:14], np.concatenate([b["inputs"] for b in batches(stream(), 1, 12, 2)]))
    assert stream().axes.keys() == straight[0].keys()
    assert len({row.tobytes() for batch in straight for row in batch["inputs"]}) == 12 * 8


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [(1, 8, 1, 1), (2, 1, 2, 2), (1, 2, 1, 4)])
def test_each_device_gets_its_shard_of_a_batch(dataset, masked, sizes):
    stream = TokenStream(RegionSource(dataset, "train"), make("kmer", 6), data(dataset, mask_documents=masked), 4)
    mesh = make_mesh(*sizes[:3], context=sizes[3])
    sharding, placed = batch_sharding(mesh), list(device_batches(stream, 8, 24, 4, mesh))
    for batch, whole in zip(placed, batches(stream, 8, 3, 4), strict=True):
        assert batch.keys() == whole.keys()
        for name, x in batch.items():
            assert np.array_equal(x, whole[name])
            assert {shard.data.shape for shard in x.addressable_shards} == {sharding.shard_shape(x.shape)}


class Process(NamedTuple):
    """A sharding as seen by one of several processes, which has some of the devices."""

    sharding: NamedSharding
    devices: set

    def addressable_devices_indices_map(self, shape):
        return {d: i for d, i in self.sharding.devices_indices_map(shape).items() if d in self.devices}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((8, 1, 1, 1), ([0, 1, 2, 3], [4, 5, 6, 7])),
        ((2, 2, 1, 2), ([0, 1, 2, 3], [4, 5, 6, 7])),
        ((1, 1, 1, 8), (list(range(8)), list(range(8)))),  # each has a chunk of every row
        ((1, 1, 8, 1), (list(range(8)), list(range(8)))),
    ],
)
def test_a_process_reads_only_the_rows_its_devices_hold(sizes, expected):
    sharding = batch_sharding(make_mesh(*sizes[:3], context=sizes[3]), ROWS)
    halves = jax.devices()[:4], jax.devices()[4:]
    assert tuple(own_rows(Process(sharding, set(half)), 8) for half in halves) == expected


def reading(folder, genomes, body):
    """Writes a program that reads with `batches(workers, start, num)`, eight rows each."""
    head = f"""
    import hashlib, itertools, multiprocessing, subprocess, time
    from data_pipeline.dataset.reader import RegionSource
    from data_pipeline.sequence.tokenizer import make
    from gener_jax.config import Data
    from gener_jax.data.loader import TokenStream

    def batches(workers, start, num):
        data = Data(path={str(genomes)!r}, context_length=16, num_workers=workers, reverse_complement=True)
        stream = TokenStream(RegionSource(data.path, "train"), make("kmer", 6), data, 4)
        return itertools.islice(stream.batches(8 * start, 8, range(8)), num)

    if __name__ == "__main__":
    """
    program = folder / "read.py"
    program.write_text(textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    "))
    return program


@pytest.mark.slow
def test_workers_give_the_same_batches(genomes, tmp_path):
    program = reading(
        tmp_path,
        genomes,
        """
        for workers in (0, 3):
            digest = hashlib.sha256()
            number = 0
            for batch in batches(workers, 2, 11):
                digest.update(batch["inputs"].tobytes() + batch["targets"].tobytes())
                number += 1
            print(workers, number, digest.hexdigest())
        """,
    )
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["0", "11"], ["3", "11"]]
    assert len({row[2] for row in rows}) == 1


@pytest.mark.slow
def test_workers_end_only_with_the_trainer(genomes, tmp_path):
    program = reading(
        tmp_path,
        genomes,
        """
        given = batches(2, 0, 1000)
        digest = hashlib.sha256()
        for batch in itertools.islice(given, 4):  # from both workers
            digest.update(batch["inputs"].tobytes())
        children = multiprocessing.active_children()
        for name in ("TERM", "INT"):  # sent to the workers too by a batch system or a terminal
            subprocess.run(["kill", f"-{name}", *(str(child.pid) for child in children)], check=True)
        time.sleep(1)
        for batch in itertools.islice(given, 96):
            digest.update(batch["inputs"].tobytes())
        print(len(children), sum(child.is_alive() for child in children), flush=True)
        alone = hashlib.sha256()
        for batch in batches(0, 0, 100):
            alone.update(batch["inputs"].tobytes())
        print(alone.hexdigest() == digest.hexdigest(), flush=True)
        time.sleep(600)
        """,
    )
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, program], env=environment, stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["2 2\n", "True\n"]
    process.kill()
    process.communicate(timeout=30)  # returns once all workers have closed their output


def test_digest(long_regions, genomes, tmp_path):
    def digest(path=long_regions, k=6, seed=0, split="train", **options):
        return TokenStream(RegionSource(path, split), make("kmer", k), data(path, **options), seed).digest

    first = digest()
    assert digest() == first
    assert digest(seed=1) == first  # the seed is stored separately
    assert digest(num_workers=2, prefetch=9) == first
    others = [
        digest(path=genomes), digest(path=genomes, split="validation"), digest(k=3), digest(context_length=17),
        digest(random_phase=False), digest(reverse_complement=False), digest(mask_documents=True),
        digest(repeat_weight=0.5), digest(repeat_weight=0.0),
    ]  # fmt: skip
    assert len({first, *others}) == 10
    assert digest(repeat_weight=1.0) == first
    settings = {  # those of runs from before repeat_weight existed, which must still resume
        "context_length": 16, "dataset": RegionSource(long_regions, "train").digest, "mask_documents": False,
        "random_phase": True, "reverse_complement": True, "split": "train", "tokenizer": make("kmer", 6).digest,
    }  # fmt: skip
    assert first == hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    copy = tiny.synthetic(tmp_path / "copy", {"train": random_codes(LENGTHS, 0)}, chunk_length=52)
    assert digest(path=copy) == first


def test_stored_tokens_stream_as_bases_do(genomes, tmp_path):
    stored = tiny.genomes(tmp_path / "tokens", tokenizer=make("kmer", 6))
    options = {"random_phase": False, "reverse_complement": False}
    one = TokenStream(RegionSource(genomes, "train"), make("kmer", 6), data(genomes, **options), 3)
    other = TokenStream(RegionSource(stored, "train"), make("kmer", 6), data(stored, **options), 3)
    stats = one.epoch_stats(0)
    assert other.epoch_stats(0) == stats
    assert stats["lost_at_start"] == 0 < stats["lost_at_end"]
    end = 2 * stats["tokens"]
    assert one.read(0, end)[0].tolist() == other.read(0, end)[0].tolist()
    assert equal(batches(one, 4, 0, 5), batches(other, 4, 0, 5))
    with raises(DatasetError, file=stored, field="tokenizer", value="kmer-6"):
        TokenStream(RegionSource(stored, "train"), make("kmer", 3), data(stored, **options), 3)
    with raises(DatasetError, file=stored, field="data.reverse_complement", value=True):
        TokenStream(RegionSource(stored, "train"), make("kmer", 6), data(stored), 3)


def test_bpe(genomes, tmp_path):
    facts = train_bpe.build(genomes, 64, tmp_path / "bpe.model")
    tokenizer = make("bpe", model_file=facts["output"])
    stored = tiny.genomes(tmp_path / "tokens", tokenizer=tokenizer)
    source = RegionSource(stored, "train")
    stream = TokenStream(source, tokenizer, data(stored, reverse_complement=False), 3)
    stats = stream.epoch_stats(0)
    assert stats["kept"] == stats["region_bases"] == source.index["length"].sum()
    ids, documents, _ = stream.read(0, stats["tokens"])
    assert tokenizer.token_bases[ids].sum() == stats["kept"]
    assert len(set(documents.tolist())) == (ids == BOS).sum() == len(source)
    plain = RegionSource(genomes, "train")
    order = permute(np.arange(len(source)), len(source), subkey(3, 0, 0))
    texts = [bases.decode(plain.read(int(r), 0, int(plain.index["length"][r]))) for r in order]
    assert tokenizer.decode(ids).split("<s>")[1:] == texts
    with raises(DatasetError, file=genomes, field="storage", value="bases"):
        TokenStream(plain, tokenizer, data(genomes), 3)


def test_nothing_to_read(tmp_path):
    folder = tiny.synthetic(tmp_path / "set", {"train": random_codes([5, 2, 1], 0)})
    with raises(DatasetError, file=folder, field="split", value="train"):
        TokenStream(RegionSource(folder, "train"), make("kmer", 6), data(folder), 0)
    with raises(DatasetError, file=folder, field="split", value="validation"):
        TokenStream(RegionSource(folder, "validation"), make("kmer", 6), data(folder), 0)
    assert TokenStream(RegionSource(folder, "train"), make("kmer", 3), data(folder), 0).example(0)["inputs"].shape == (
        16,
    )


def test_epochs_without_tokens_are_skipped(tmp_path):
    """One region of one k-mer: in five of six epochs the phase leaves no whole k-mer."""
    folder = tiny.synthetic(tmp_path / "set", {"train": [np.arange(6) % 4]})
    source, options = RegionSource(folder, "train"), data(folder, reverse_complement=False)
    stream = TokenStream(source, make("kmer", 6), options, 0)
    ids = list(itertools.chain.from_iterable(plain_epoch(source, 6, options, 0, epoch)[0] for epoch in range(400)))
    assert 100 < len(ids) < 200
    assert stream.read(0, 100)[0].tolist() == ids[:100]
    assert stream.example(3)["inputs"].shape == (16,)


def test_damage_found_while_reading_is_one_line(genomes, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(genomes, folder)
    [shard] = folder.glob("train-*.array_record")
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 8 : len(raw) // 8 + 64] = bytes(64)
    shard.write_bytes(raw)
    stream = TokenStream(RegionSource(folder, "train"), make("kmer", 6), data(folder), 0)
    with raises(DatasetError, file=shard, remedy=REBUILD):
        batches(stream, 8, 0, 30)
