"""Tests the format of a dataset on disk: what is written is read back, and damage is an error."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dataset import reader
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.dataset.writer import DatasetWriter
from data_pipeline.errors import DataError, DatasetError
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA
from tests.raised import raises
from tests.tiny import add


class StubTokenizer:
    """Encodes codons as numbers in base 5: a minimal tokenizer for storage."""

    name, k, digest = "triplets", 3, "d" * 64

    def __init__(self, vocab_size=125):
        self.vocab_size = vocab_size

    def encode_bases(self, codes):
        whole = codes[: len(codes) // 3 * 3].reshape(-1, 3).astype(np.int32)
        return whole @ np.array([25, 5, 1], np.int32) + (self.vocab_size - 125)


def random_region(rng, length, number):
    codes = rng.integers(0, 4, length).astype(np.uint8)
    for start in rng.integers(0, length, rng.integers(0, 4)):
        codes[start : start + rng.integers(1, 20)] = bases.N
    lower = np.zeros(length, bool)
    for start in rng.integers(0, length, rng.integers(0, 4)):
        lower[start : start + rng.integers(1, 20)] = True
    return Region(
        accession=f"A{number % 3}.1",
        start=number,
        end=number + length,
        strand=1 - 2 * (number % 2),
        kind=KINDS[number % len(KINDS)],
        taxon=TAXA[number % len(TAXA)],
        codes=codes,
        lower_case=bases.runs(lower),
    )


def lower_mask(region):
    mask = np.zeros(len(region.codes), bool)
    for start, end in region.lower_case:
        mask[start:end] = True
    return mask


def write(folder, regions, split="train", **options):
    folder.mkdir(parents=True)
    writer = DatasetWriter(folder, **options)
    for region in regions:
        add(writer, split, region)
    return writer.close()


@given(codes=st.lists(st.integers(0, 3), max_size=40), data=st.data())
@settings(deadline=None)
def test_pack_and_unpack_any_slice(codes, data):
    codes = np.array(codes, np.uint8)
    packed = np.frombuffer(reader.pack(codes), np.uint8)
    assert len(packed) == -(-len(codes) // 4)
    start = data.draw(st.integers(0, len(codes)))
    stop = data.draw(st.integers(start, len(codes)))
    np.testing.assert_array_equal(reader.unpack(packed, start, stop), codes[start:stop])


def test_packed_bytes_follow_the_documentation():
    assert reader.pack(bases.encode("TCGA")) == bytes([1 | 2 << 2 | 3 << 4 | 0 << 6])
    assert reader.pack(bases.encode("N")) == b"\0"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    chunk_length=st.sampled_from([8, 64, 100, 1 << 18]),
    shard_bytes=st.sampled_from([1, 2000, 1 << 28]),
)
def test_round_trip(tmp_path_factory, seed, lengths, chunk_length, shard_bytes):
    rng = np.random.default_rng(seed)
    regions = [random_region(rng, length, number) for number, length in enumerate(lengths)]
    folder = tmp_path_factory.mktemp("data") / "set"
    info = write(folder, regions, chunk_length=chunk_length, shard_bytes=shard_bytes)
    source = RegionSource(folder, "train", cached_entries=2)
    assert len(source) == len(regions) == info["splits"]["train"]["regions"]
    assert source.info == info
    assert source.digest == info["digest"]
    for number, region in enumerate(regions):
        row = {name: column[number] for name, column in source.index.items()}
        assert (row["length"], row["tokens"]) == (len(region.codes), 0)
        assert (row["start"], row["end"], row["strand"]) == (region.start, region.end, region.strand)
        assert source.kinds[row["kind"]] == region.kind
        assert source.taxa[row["taxon"]] == region.taxon
        assert source.accessions[row["accession"]] == region.accession
        mask = lower_mask(region)
        for _ in range(4):
            start, stop = np.sort(rng.integers(0, len(region.codes) + 1, 2))
            got = source.read(number, start, stop)
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, region.codes[start:stop])
            np.testing.assert_array_equal(source.lower_case(number, start, stop), mask[start:stop])
        np.testing.assert_array_equal(source.read(number, 0, len(region.codes)), region.codes)
    shards = info["splits"]["train"]["shards"]
    assert sum(shard["entries"] for shard in shards) == info["splits"]["train"]["entries"]
    if shard_bytes == 1:
        assert len(shards) == info["splits"]["train"]["entries"]


@pytest.mark.parametrize(("vocab_size", "size"), [(125, 2), (65536, 2), (65537, 4)])
def test_tokens(tmp_path, vocab_size, size):
    tokenizer = StubTokenizer(vocab_size)
    rng = np.random.default_rng(0)
    regions = [random_region(rng, length, number) for number, length in enumerate([1, 2, 3, 10, 11, 300_000])]
    info = write(tmp_path / "set", regions, tokenizer=tokenizer)
    assert info["tokenizer"] == {"name": "triplets", "vocab_size": vocab_size, "digest": "d" * 64}
    assert info["chunk_length"] == 65536 // size
    facts = info["splits"]["train"]
    assert facts["remainder"] == 1 + 2 + 0 + 1 + 2 + 0
    assert facts["tokens"] == 1 + 3 + 3 + 100_000
    source = RegionSource(tmp_path / "set", "train")
    assert source.storage == "token_ids"
    assert source.index["tokens"].tolist() == [0, 0, 1, 3, 3, 100_000]
    assert source.index["length"].tolist() == [1, 2, 3, 10, 11, 300_000]
    for number, region in enumerate(regions):
        ids = tokenizer.encode_bases(region.codes)
        got = source.read(number, 0, len(ids))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, ids)
    np.testing.assert_array_equal(source.read(5, 30_000, 99_999), ids[30_000:99_999])
    with raises(DatasetError, file=tmp_path / "set"):
        source.lower_case(5, 0, 3)
    with pytest.raises(IndexError):
        source.read(0, 0, 1)


def test_ids_outside_the_vocabulary_are_rejected(tmp_path):
    tokenizer = StubTokenizer()
    tokenizer.vocab_size = 10
    tokenizer.encode_bases = lambda codes: np.array([3, 10])
    with raises(DataError, field="token id", value=10):
        write(tmp_path / "set", [random_region(np.random.default_rng(0), 5, 0)], tokenizer=tokenizer)


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(1)
    regions = [random_region(rng, length, number) for number, length in enumerate([600] * 300 + [600_000, 262_144, 5])]
    write(tmp_path / "set", regions)
    return tmp_path / "set", regions


def test_entries_have_about_64_kib_and_can_be_read_alone(dataset):
    folder, regions = dataset
    source = RegionSource(folder, "train")
    [shard] = source.info["splits"]["train"]["shards"]
    shards = reader.ArrayRecordReader(str(folder / shard["file"]))
    sizes = [len(raw) for raw in shards.read_all()]
    assert len(sizes) == source.info["splits"]["train"]["entries"]
    assert max(sizes) < 80_000
    assert sizes[0] > 60_000  # entries of short regions
    assert source.index["entry"][301] == source.index["entry"][300] + 3  # 600 000 bases: two full chunks and a part
    number, slot = source.index["entry"][17], source.index["slot"][17]
    [raw] = shards.read([int(number)])
    entry = reader._Entry(raw, "here", 0)
    entry.check(slot, 17, 0, len(regions[17].codes))
    np.testing.assert_array_equal(entry.read(slot, 0, len(regions[17].codes)), regions[17].codes)


def test_threads_and_pickles_read_the_same(dataset):
    folder, regions = dataset
    source = RegionSource(folder, "train", cached_entries=2)
    source.read(0, 0, 5)
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(len(regions)), 3)).tolist()
    with ThreadPoolExecutor(8) as threads:
        for number, got in zip(
            order, threads.map(lambda i: copy.read(i, 1, len(regions[i].codes)), order), strict=True
        ):
            np.testing.assert_array_equal(got, regions[number].codes[1:])
    assert copy._entry.cache_info().currsize <= 2


def test_replaced_dataset_is_detected(dataset):
    folder, regions = dataset
    pickled = pickle.dumps(RegionSource(folder, "train"))
    shutil.rmtree(folder)
    write(folder, regions[:-1])
    with raises(DatasetError, file=folder):
        pickle.loads(pickled)


def test_empty_split(dataset):
    source = RegionSource(dataset[0], "test")
    assert len(source) == 0
    assert source.index["length"].shape == (0,)
    with pytest.raises(IndexError):
        source.read(0, 0, 0)


def test_slices_outside_a_region(dataset):
    source = RegionSource(dataset[0], "train")
    assert len(source.read(0, 600, 600)) == 0
    for region, start, stop in [(303, 0, 1), (-1, 0, 1), (0, 0, 601), (0, -1, 5), (0, 5, 4)]:
        with pytest.raises(IndexError):
            source.read(region, start, stop)


def test_digest_covers_content_but_not_shards(tmp_path):
    rng = np.random.default_rng(3)
    regions = [random_region(rng, 50, number) for number in range(5)]
    one = write(tmp_path / "one", regions)
    again = write(tmp_path / "again", regions, shard_bytes=1)
    assert one["digest"] == again["digest"]
    digests = {one["digest"]}
    for number, change in enumerate(
        [
            regions[::-1],
            regions[:-1],
            [*regions[:-1], random_region(rng, 50, 4)],
            [*regions[:-1], regions[-1]._replace(kind="tRNA")],
            [*regions[:-1], regions[-1]._replace(accession="B.1")],
        ]
    ):
        digests.add(write(tmp_path / str(number), change)["digest"])
    digests.add(write(tmp_path / "split", regions, split="test")["digest"])
    digests.add(write(tmp_path / "chunks", regions, chunk_length=12)["digest"])
    assert len(digests) == 8


def damage(folder, kind):
    shard, index, facts = folder / "train-00000-of-00001.array_record", folder / "train.index.npz", "dataset.json"
    info = json.loads((folder / facts).read_text())
    if kind == "missing shard":
        shard.unlink()
    elif kind == "truncated shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif kind == "zeroed shard":
        shard.write_bytes(bytes(shard.stat().st_size))
    elif kind == "flipped byte":
        content = bytearray(shard.read_bytes())
        content[70_000] ^= 255
        shard.write_bytes(content)
    elif kind == "truncated index":
        index.write_bytes(index.read_bytes()[:-1])
    elif kind == "zeroed index":
        index.write_bytes(bytes(index.stat().st_size))
    elif kind == "other index":
        with np.load(index) as arrays:
            columns = dict(arrays)
        columns["entry"] = columns["entry"][::-1].copy()
        np.savez(index, **columns)
    elif kind == "far index":
        with np.load(index) as arrays:
            columns = dict(arrays)
        columns["entry"] = columns["entry"] + 1000
        np.savez(index, **columns)
    elif kind == "missing json":
        (folder / facts).unlink()
    elif kind == "bad json":
        (folder / facts).write_text("{")
    elif kind == "other json":
        (folder / facts).write_text("[]")
    elif kind == "version":
        (folder / facts).write_text(json.dumps({**info, "version": 1}))
    elif kind == "no splits":
        (folder / facts).write_text(json.dumps({key: info[key] for key in info if key != "splits"}))
    elif kind == "no shards":
        del info["splits"]["train"]["shards"]
        (folder / facts).write_text(json.dumps(info))


SHARD, INDEX, JSON = "train-00000-of-00001.array_record", "train.index.npz", "dataset.json"


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("missing shard", {"file": SHARD}),
        ("truncated shard", {"file": SHARD}),
        ("zeroed shard", {"file": SHARD}),
        ("flipped byte", {"file": SHARD}),
        ("truncated index", {"file": INDEX}),
        ("zeroed index", {"file": INDEX}),
        ("other index", {"file": SHARD}),
        ("far index", {"file": INDEX}),
        ("missing json", {"problem": "is not a dataset, as it has no dataset.json"}),
        ("bad json", {"file": JSON}),
        ("other json", {"file": JSON}),
        ("version", {"file": JSON, "field": "format version", "value": 1}),
        ("no splits", {"file": JSON, "field": "splits"}),
        ("no shards", {"file": JSON, "field": "shards"}),
    ],
)
def test_damage_is_an_error(dataset, kind, attributes):
    folder, regions = dataset
    damage(folder, kind)

    def read_all():
        source = RegionSource(folder, "train")
        for number in range(len(source)):
            np.testing.assert_array_equal(source.read(number, 0, len(regions[number].codes)), regions[number].codes)

    with raises(DatasetError, **attributes) as error:
        read_all()
    assert str(folder) in str(error.value)


def test_unknown_split(dataset):
    with raises(DatasetError, file=dataset[0], field="split", value="dev"):
        RegionSource(dataset[0], "dev")


def test_every_changed_byte_is_noticed(tmp_path):
    """ArrayRecord's checksums cover its entries, so that the reader does not check their numbers again."""
    rng = np.random.default_rng(4)
    regions = [random_region(rng, 90, number) for number in range(3)]
    write(tmp_path / "set", regions)
    path, noticed = tmp_path / "set" / SHARD, 0
    original = path.read_bytes()
    for at in range(0, 700, 3):
        changed = bytearray(original)
        changed[-at if at % 2 else at] ^= 1 + at % 255
        path.write_bytes(changed)
        try:
            source = RegionSource(tmp_path / "set", "train")
            for number, region in enumerate(regions):
                np.testing.assert_array_equal(source.read(number, 0, 90), region.codes)
        except DatasetError:
            noticed += 1
    assert noticed > 50
