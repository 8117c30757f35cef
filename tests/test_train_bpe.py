"""Tests the training of byte-pair vocabularies: the sample, reproducibility to the byte, and errors."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import cli, train_bpe
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.dataset.writer import DatasetWriter
from data_pipeline.regions.extraction import Region
from data_pipeline.regions.schemes import KINDS
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import TAXA
from data_pipeline.sequence.tokenizer import SPECIAL_TOKENS, BpeTokenizer, KmerTokenizer
from tests.tiny import add

MOTIF = "GATTACAGATTACA"


def region(start: int, letters: str) -> Region:
    end = start + len(letters)
    return Region(start, end, 1, KINDS[0], accession="X1.1", taxon=TAXA[0], codes=bases.encode(letters))


def random_dna(length: int, seed: int) -> str:
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), length).tobytes().decode()


def write(folder, letters: list[str], validation: str = "ACGT", tokenizer=None) -> str:
    folder.mkdir()
    writer = DatasetWriter(folder, tokenizer)
    start = 0
    for text in letters:
        add(writer, "train", region(start, text))
        start += len(text)
    add(writer, "validation", region(start, validation))
    writer.close()
    return str(folder)


LETTERS = [
    *(random_dna(500, seed) + MOTIF * 40 for seed in range(30)),
    "ACGT" * 1000 + "N" * 10 + "TTGCA" * 2000,
    random_dna(2 * train_bpe.WINDOW + 77, 99),
    "",
    "NNNN",
]
BASES = sum(len(text) - text.count("N") for text in LETTERS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bpe") / "dataset", LETTERS)


def test_sample_contains_every_base_once(dataset):
    chunks = list(train_bpe.sample(RegionSource(dataset, "train"), 10**9, 0))
    assert sum(map(len, chunks)) == BASES
    assert max(map(len, chunks)) == train_bpe.CHUNK
    assert min(map(len, chunks)) > 0
    pieces = []
    for text in LETTERS:
        for window in range(0, len(text), train_bpe.WINDOW):
            for run in filter(None, text[window : window + train_bpe.WINDOW].split("N")):
                pieces += [run[i : i + train_bpe.CHUNK] for i in range(0, len(run), train_bpe.CHUNK)]
    assert sorted(chunks) == sorted(pieces)


def test_sample_stops_at_max_bases(dataset):
    source = RegionSource(dataset, "train")
    whole = "".join(train_bpe.sample(source, 10**9, 0))
    for most in (1, 4096, 4097, 50_000, BASES - 1, BASES):
        assert "".join(train_bpe.sample(source, most, 0)) == whole[:most]
    assert "".join(train_bpe.sample(source, 50_000, 1)) != whole[:50_000]


def test_sample_reads_no_more_than_it_needs(dataset, monkeypatch):
    source = RegionSource(dataset, "train")
    read, spans = source.read, []
    monkeypatch.setattr(source, "read", lambda *span: spans.append(span) or read(*span))
    list(train_bpe.sample(source, 1000, 0))
    assert sum(stop - start for _, start, stop in spans) <= 2 * train_bpe.WINDOW


def test_command(dataset, tmp_path, capsys):
    outputs = [tmp_path / "a.model", tmp_path / "b.model"]
    lines = []
    for output in outputs:
        command = [dataset, "--vocab_size", "200", "--output", str(output), "--max_bases", "60000"]
        assert train_bpe.main(command) == 0
        lines.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model", "b.model"]
    tokenizer = BpeTokenizer(str(outputs[0]))
    assert lines[0] == {**lines[1], "output": str(outputs[0])}
    assert lines[0]["vocab_size"] == tokenizer.vocab_size == 200
    assert lines[0]["digest"] == tokenizer.digest
    assert lines[0]["bases"] == 60_000
    assert tokenizer.tokens[:32] == SPECIAL_TOKENS
    assert lines[0]["longest_piece"] == max(map(len, tokenizer.tokens[32:])) <= train_bpe.MAX_PIECE
    text = MOTIF * 300
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 6  # the vocabulary contains the repeated motif


def test_seed_and_validation_split(tmp_path, dataset):
    train_bpe.build(dataset, 200, tmp_path / "a.model", 60_000, seed=0)
    train_bpe.build(dataset, 200, tmp_path / "b.model", 60_000, seed=1)
    assert (tmp_path / "a.model").read_bytes() != (tmp_path / "b.model").read_bytes()
    other = write(tmp_path / "other", LETTERS, validation="TTTTTTTT" * 20_000)
    train_bpe.build(other, 200, tmp_path / "c.model", 60_000, seed=0)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "c.model").read_bytes()


def test_larger_vocabularies_begin_with_the_same_merges(tmp_path, dataset):
    small = train_bpe.build(dataset, 100, tmp_path / "100.model")
    large = train_bpe.build(dataset, 300, tmp_path / "300.model")
    assert small["bases"] == large["bases"] == BASES
    merges = [BpeTokenizer(str(tmp_path / f"{size}.model")).tokens[32:-4] for size in (100, 300)]
    assert merges[0] == merges[1][: len(merges[0])]
    assert (len(merges[0]), len(merges[1])) == (64, 264)


def test_errors(dataset, tmp_path, capsys):
    exists = tmp_path / "exists.model"
    exists.write_bytes(b"mine")
    tokens = write(tmp_path / "tokens", ["ACGTAC" * 100], tokenizer=KmerTokenizer(6))
    tiny = write(tmp_path / "tiny", ["ACGT"])
    poor = write(tmp_path / "poor", ["AAAT" * 100])
    unknown = write(tmp_path / "unknown", ["NNNN"])
    new = str(tmp_path / "new.model")
    before = sorted(path.name for path in tmp_path.iterdir())
    for dataset_, output, options, message in [
        (tmp_path / "none", new, [], "none: no such folder"),
        (tokens, new, [], f"{tokens}: "),
        (dataset, new, ["--vocab_size", "65537"], "vocab_size 65537 "),
        (tiny, new, ["--vocab_size", "1024"], "vocab_size 1024 "),
        (poor, new, [], " no C"),
        (unknown, new, [], " no A"),
        (dataset, exists, [], f"{exists}: "),
        (dataset, tmp_path / "no" / "new.model", [], f"{tmp_path / 'no'}: "),
    ]:
        assert train_bpe.main([str(dataset_), "--output", str(output), *options]) == 1
        printed = capsys.readouterr()
        assert not printed.out
        last = printed.err.splitlines()[-1]
        assert last.startswith(f"{cli.program()}: error: ")
        assert message in last
    assert exists.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_from_the_shell(dataset, tmp_path):
    """Another process writes the same bytes, prints its JSON line last, and fails without a traceback."""
    command = [sys.executable, "-m", "data_pipeline.train_bpe", dataset, "--vocab_size", "64"]
    command += ["--output", str(tmp_path / "a.model")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = train_bpe.build(dataset, 64, tmp_path / "b.model")
    assert json.loads(first.stdout.splitlines()[-1])["digest"] == facts["digest"]
    digests = {hashlib.sha256((tmp_path / f"{name}.model").read_bytes()).hexdigest() for name in "ab"}
    assert len(digests) == 1
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("python -m data_pipeline.train_bpe: error: ")
    assert "Traceback" not in again.stderr
