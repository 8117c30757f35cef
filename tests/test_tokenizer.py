"""Compares the tokenizers with a naive implementation, the published digests, and another program's ids."""

import hashlib
import io
import itertools
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import train_bpe
from data_pipeline.errors import ArgumentError, FileError, FormatError, TokenizerError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import (
    BOS,
    BPE_SPAN,
    EOS,
    NUM_SPECIAL,
    OOV,
    PAD,
    REMAINDERS,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
    BpeTokenizer,
    KmerTokenizer,
    make,
)
from gener_jax.benchmarks import tokenizer as benchmark
from tests.data import data_path, peer_path
from tests.raised import raises

YEAST = ("genomes", "eukaryote", "yeast_S288C_R64_chrI-XII_MT.fna.gz")
RANKS = {k: {"".join(p): i for i, p in enumerate(itertools.product("ATCG", repeat=k), 32)} for k in range(1, 9)}

LETTERS = st.text("ACGTacgtACGTacgtUuNnRyK", max_size=40)
TEXTS = st.lists(st.one_of(LETTERS, st.sampled_from(SPECIAL_TOKENS)), max_size=6).map("".join)
CLEAN = st.lists(st.one_of(st.text("ACGT", max_size=40), st.sampled_from(SPECIAL_TOKENS)), max_size=6).map("".join)


def naive_encode(text: str, k: int, remainder: str) -> list[int] | None:
    """Applies the rules letter by letter; None if the text must be rejected."""
    ids = []
    for part in re.split("(<[^<>]*>)", text):
        if part.startswith("<"):
            ids.append(SPECIAL_TOKENS.index(part))
            continue
        part = part.upper().replace("U", "T")
        over = len(part) % k
        if over and remainder == "error":
            return None
        if over and remainder == "trim_left":
            part = part[over:]
        if over and remainder == "pad_left":
            part = "A" * (k - over) + part
        ids += [RANKS[k].get(part[i : i + k], 0) for i in range(0, len(part), k)]
    return ids


def naive_decode(ids, k: int) -> str:
    kmers = list(RANKS[k])
    return "".join("N" * k if i == 0 else SPECIAL_TOKENS[i] if i < 32 else kmers[i - 32] for i in ids)


def random_dna(length: int, seed: int = 0, letters: bytes = b"ACGT") -> str:
    return np.random.default_rng(seed).choice(np.frombuffer(letters, np.uint8), length).tobytes().decode()


@pytest.fixture(scope="module")
def bpe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "bpe.model"
    path.write_bytes(train_bpe.train([random_dna(2000, seed) for seed in range(20)], 300))
    return str(path)


def test_special_tokens():
    assert len(SPECIAL_TOKENS) == NUM_SPECIAL == 32 == len(set(SPECIAL_TOKENS))
    assert (OOV, BOS, EOS, PAD) == (0, 1, 2, 3)
    ids = [SPECIAL_IDS[token] for token in ("<oov>", "<s>", "</s>", "<pad>", "<mask>", "<+>", "<->", "<cds>", "<mam>")]
    assert ids == [0, 1, 2, 3, 4, 9, 10, 11, 17]
    assert SPECIAL_IDS["<bct>"] == 24
    assert KmerTokenizer().special_ids is SPECIAL_IDS


def test_published_files():
    tokenizer = KmerTokenizer()
    published = tokenizer.vocab_txt().encode()
    assert len(published) == 48_399
    digest = "068e0d76ca42ac672ade448afb2462ce4bd800a1fc1ad863d0b65992d90cf881"
    assert hashlib.sha256(published).hexdigest() == tokenizer.digest == digest
    special = tokenizer.special_tokens_map().encode()
    assert len(special) == 122
    assert hashlib.sha256(special).hexdigest().startswith("4844a00974")
    assert json.loads(special)["unk_token"] == "<oov>"


def test_published_examples():
    tokenizer = KmerTokenizer(6)
    assert tokenizer.encode("ACGTNACGTNAC").tolist() == [0, 0]
    assert tokenizer.encode("AAAAAATTTTTT").tolist() == [32, 1397]
    assert tokenizer.encode("AAAAATGGGGGG").tolist() == [33, 4127]
    assert tokenizer.encode("<mam><cds>aaaaaa", add_bos=True).tolist() == [1, 17, 11, 32]
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.encode("").dtype == np.int32
    assert tokenizer.encode("", add_bos=True).tolist() == [1]
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("k", range(1, 9))
def test_vocabulary(k):
    tokenizer = KmerTokenizer(k)
    assert tokenizer.tokens == SPECIAL_TOKENS + list(RANKS[k])
    assert tokenizer.vocab_size == 32 + 4**k == len(tokenizer.token_bases)
    assert set(tokenizer.token_bases[:32]) == {0}
    assert set(tokenizer.token_bases[32:]) == {k}
    assert tokenizer.token(32 + 4**k - 1) == "G" * k
    assert (tokenizer.kind, tokenizer.name) == ("kmer", f"kmer-{k}")
    every = "".join(RANKS[k])
    assert np.array_equal(tokenizer.encode(every), np.arange(32, 32 + 4**k))
    assert np.array_equal(tokenizer.encode(every.lower()), np.arange(32, 32 + 4**k))
    assert np.array_equal(tokenizer.encode_bases(bases.encode(every)), np.arange(32, 32 + 4**k))
    assert tokenizer.decode(np.arange(32, 32 + 4**k)) == every
    assert tokenizer.decode(np.arange(32 + 4**k)) == "N" * k + "".join(SPECIAL_TOKENS[1:]) + every


def test_digests_differ():
    assert len({KmerTokenizer(k).digest for k in range(1, 9)}) == 8


@settings(deadline=None, max_examples=200)
@given(TEXTS, st.integers(1, 8), st.sampled_from(REMAINDERS), st.booleans())
def test_encode_equals_naive_encode(text, k, remainder, add_bos):
    tokenizer = KmerTokenizer(k)
    expected = naive_encode(text, k, remainder)
    if expected is None:
        with pytest.raises(TokenizerError):
            tokenizer.encode(text, add_bos, remainder)
        return
    ids = tokenizer.encode(text, add_bos, remainder)
    assert ids.dtype == np.int32
    assert ids.tolist() == [1] * add_bos + expected
    assert tokenizer.encode(text.encode(), add_bos, remainder).tolist() == ids.tolist()
    assert tokenizer.decode(ids) == naive_decode(ids, k)


@settings(deadline=None)
@given(CLEAN, st.integers(1, 8))
def test_round_trip(text, k):
    tokenizer = KmerTokenizer(k)
    whole = "".join(p if p[:1] == "<" else p[: len(p) // k * k] for p in re.split("(<[^<>]*>)", text))
    ids = tokenizer.encode(whole)
    if SPECIAL_TOKENS[0] not in whole:  # <oov> is decoded as N
        assert tokenizer.decode(ids) == whole
    assert tokenizer.token_bases[ids].sum() == len(re.sub("<[^<>]*>", "", whole))


@settings(deadline=None)
@given(LETTERS, st.integers(1, 8))
def test_encode_bases(letters, k):
    tokenizer = KmerTokenizer(k)
    ids = tokenizer.encode_bases(bases.encode(letters))
    assert ids.dtype == np.int32
    assert ids.tolist() == naive_encode(letters[: len(letters) // k * k], k, "error")
    backwards = bases.encode(letters)[::-1]  # a view that is not contiguous
    assert tokenizer.encode_bases(backwards).tolist() == tokenizer.encode_bases(backwards.copy()).tolist()


@pytest.mark.parametrize("k", [1, 5, 6, 8])
def test_long_text(k):
    """A text longer than a block of the encoder, with N, U and soft-masked bases."""
    text = random_dna(200_000 // k * k, seed=k)
    text = text[:70_000] + "N" * 700 + "acgu" * 10 + "R" + text[70_741:]
    ids = KmerTokenizer(k).encode(text)
    assert ids.tolist() == naive_encode(text, k, "error")
    assert OOV in ids
    assert KmerTokenizer(k).decode(ids) == naive_decode(ids, k)


def test_peer_algorithm():
    """The benchmark's loop with a dictionary gives the same ids; `test_peer` compares on a published genome."""
    text = random_dna(200_001, letters=b"ACGT" * 50 + b"N")
    loop = [RANKS[6].get(text[i : i + 6], 0) for i in range(0, len(text), 6)]
    assert KmerTokenizer().encode(text, remainder="oov").tolist() == loop
    assert loop[-1] == 0


def test_peer(capsys):
    fasta, peer = data_path(*YEAST), peer_path("kmer_tokenizer.py")
    run = subprocess.run([sys.executable, peer, fasta], capture_output=True, text=True, check=True)
    theirs = json.loads(run.stdout)
    benchmark.main([str(fasta), "--repeats", "1"])
    ours = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ours["sha256"] == theirs["sha256"]
    assert ours["bases"] == theirs["bases"] == 8_408_984


def test_benchmark(tmp_path, capsys):
    text = random_dna(6001, letters=b"ACGTNacgt")
    fasta = tmp_path / "a.fa"
    fasta.write_text(f">one\n{text[:3000]}\n{text[3000:]}\n>two\nACGTAC\n")
    benchmark.main([str(fasta), "--repeats", "2"])
    line = json.loads(capsys.readouterr().out)
    loop = [*naive_encode(text, 6, "oov"), *naive_encode("ACGTAC", 6, "oov")]
    assert line["bases"] == 6007
    assert line["sha256"] == hashlib.sha256(np.array(loop, "<u2").tobytes()).hexdigest()
    assert line["ratio"] == pytest.approx(line["mbp_per_s"] / line["loop_mbp_per_s"])


@pytest.mark.parametrize(
    ("text", "value", "position"),
    [
        ("ACGTAC<foo>ACGTAC", "<foo>", 6),
        ("ACGTAC<S>", "<S>", 6),
        ("<mam", "<", 0),
        ("<<s>", "<", 0),
        ("<s>>", ">", 3),
        ("<s>ACGTAC-CGTAC", "-", 9),
        ("ACGTA1", "1", 5),
        ("ACGTAC\n", "\n", 6),
        ("ACG TAC", " ", 3),
        ("ACGTAX", "X", 5),
        ("ACGTACGTACGT<s>\0CGTAC", "\0", 15),
        ("ACGTAé", "é", 5),
        ("ACGTA\xc1", "\xc1", 5),
    ],
)
@pytest.mark.parametrize("remainder", REMAINDERS)
def test_bad_text(text, value, position, remainder, bpe_file):
    for tokenizer in (KmerTokenizer(6), KmerTokenizer(4), BpeTokenizer(bpe_file)):
        with pytest.raises(TokenizerError) as error:
            tokenizer.encode(text, remainder=remainder)
        assert (error.value.value, error.value.position) == (value, position)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("character", sorted(set(map(chr, range(256))) - set("ACGTUNRYSWKMBDHVacgtunryswkmbdhv<>")))
def test_other_characters_are_rejected(character):
    with pytest.raises(TokenizerError) as error:
        KmerTokenizer(6).encode(f"ACGT{character}A".encode("latin-1"))
    assert (error.value.value, error.value.position) == (character, 4)


def test_remainder_errors():
    with pytest.raises(TokenizerError) as error:
        KmerTokenizer(6).encode("<s>ACGTACGT")
    assert (error.value.value, error.value.position) == (8, 3)
    assert all(name in str(error.value) for name in REMAINDERS if name != "error")
    with pytest.raises(TokenizerError) as error:
        KmerTokenizer(6).encode("ACGT", remainder="trim_right")
    assert error.value.value == "trim_right"


def test_bad_ids(bpe_file):
    for tokenizer, size in ((KmerTokenizer(6), 4128), (BpeTokenizer(bpe_file), 300)):
        for ids in ([32, size], [32, -1]):
            with pytest.raises(TokenizerError) as error:
                tokenizer.decode(ids)
            assert (error.value.value, error.value.position) == (ids[1], 1)
        for bad in (size, -1):
            with pytest.raises(TokenizerError) as error:
                tokenizer.token(bad)
            assert error.value.value == bad
        with pytest.raises(TokenizerError):
            tokenizer.decode([[32, 33]])
        with pytest.raises(TokenizerError):
            tokenizer.decode([32.0])


def test_decode_accepts_all_integer_types():
    ids = [1, 32, 4127, 0, 2]
    for array in (ids, tuple(ids), np.array(ids, np.uint16), np.array(ids, np.int64)):
        assert KmerTokenizer().decode(array) == "<s>AAAAAAGGGGGGNNNNNN</s>"


def test_frozen_and_pickled(bpe_file):
    for tokenizer in (KmerTokenizer(4), BpeTokenizer(bpe_file)):
        ids = tokenizer.encode("<mam>ACGTACGT")
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy == tokenizer
        assert hash(copy) == hash(tokenizer)
        assert copy.digest == tokenizer.digest
        assert copy.encode("<mam>ACGTACGT").tolist() == ids.tolist()
        with pytest.raises(AttributeError):
            tokenizer.k = 5
    assert KmerTokenizer(4) != KmerTokenizer(5)
    assert len(pickle.dumps(KmerTokenizer(8))) < 200


@settings(deadline=None)
@given(text=TEXTS, add_bos=st.booleans(), remainder=st.sampled_from(REMAINDERS))
def test_bpe_round_trip(bpe_file, text, add_bos, remainder):
    tokenizer = BpeTokenizer(bpe_file)
    ids = tokenizer.encode(text, add_bos, remainder)
    assert ids.dtype == np.int32
    parts = re.split("(<[^<>]*>)", text)
    dna = [re.sub("[^ACGT]", "N", part.upper().replace("U", "T")) for part in parts[::2]]
    expected = "".join(itertools.chain.from_iterable(itertools.zip_longest(dna, parts[1::2], fillvalue="")))
    assert tokenizer.decode(ids) == "<s>" * add_bos + expected.replace("<oov>", "N")
    assert tokenizer.token_bases[ids].sum() + (ids == OOV).sum() == len("".join(dna)) + text.count("<oov>")


def test_bpe_vocabulary(bpe_file):
    tokenizer = make("bpe", model_file=bpe_file)
    assert (tokenizer.kind, tokenizer.name, tokenizer.vocab_size) == ("bpe", "bpe-300", 300)
    assert tokenizer.tokens[:32] == SPECIAL_TOKENS
    assert set("ACGT") <= set(tokenizer.tokens[32:])
    assert tokenizer.token_bases.tolist() == [0] * 32 + [len(token) for token in tokenizer.tokens[32:]]
    assert len(tokenizer.digest) == 64
    text = random_dna(5000)
    ids = tokenizer.encode(text)
    assert ids.tolist() == tokenizer.encode_bases(bases.encode(text)).tolist()
    assert ids.tolist() == sentencepiece.SentencePieceProcessor(model_file=bpe_file).encode(text)
    assert len(ids) < 2500  # more than two bases per token


def test_bpe_long_run_is_cut(bpe_file):
    tokenizer = BpeTokenizer(bpe_file)
    text = random_dna(2 * BPE_SPAN + 100)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert {BPE_SPAN, 2 * BPE_SPAN} <= set(np.cumsum(tokenizer.token_bases[ids]).tolist())
    assert tokenizer.encode_bases(np.zeros(0, np.uint8)).tolist() == []
    assert tokenizer.encode("N" * 5).tolist() == [0] * 5


def foreign_model(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([random_dna(400, seed) for seed in range(20)]),
        model_writer=model,
        model_type="bpe",
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def test_bad_models(tmp_path, bpe_file):
    ours = {"unk_piece": "<oov>", "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3, "pad_piece": "<pad>"}
    ours |= {"control_symbols": SPECIAL_TOKENS[4:], "add_dummy_prefix": False}
    good = Path(bpe_file).read_bytes()
    cases = [
        (b"garbage", "sentencepiece"),
        (good[: len(good) // 2], ""),
        (foreign_model(vocab_size=60), "special tokens"),
        (foreign_model(vocab_size=60, **ours | {"add_dummy_prefix": True}), "piece '▁"),
        (foreign_model(vocab_size=60, user_defined_symbols=["X"], **ours), "piece 'X'"),
        (b"", ""),
    ]
    for i, (content, named) in enumerate(cases):
        path = tmp_path / f"{i}.model"
        path.write_bytes(content)
        with raises(FormatError, file=path) as error:
            BpeTokenizer(str(path))
        assert named in error.value.problem


def test_make(tmp_path, bpe_file):
    assert make("kmer", 3) == KmerTokenizer(3)
    assert make("kmer", 6, "") == KmerTokenizer()
    assert make("bpe", 6, bpe_file) == BpeTokenizer(bpe_file)
    for arguments, kind, attributes in [
        (("word",), ArgumentError, {"field": "kind", "value": "word"}),
        *[(("kmer", k), ArgumentError, {"field": "k", "value": k}) for k in (0, 9, True, "6")],
        (("bpe", 6, ""), ArgumentError, {"field": "model_file"}),
        (("bpe", 6, str(tmp_path / "none.model")), FileError, {"file": tmp_path / "none.model"}),
        (("bpe", 6, str(tmp_path)), FileError, {"file": tmp_path}),
    ]:
        with raises(kind, **attributes):
            make(*arguments)
