"""Compares the exported tokenizer, loaded by `transformers.AutoTokenizer`, with ours."""

import json

import numpy as np
import pytest

from data_pipeline.sequence.tokenizer import SPECIAL_TOKENS, KmerTokenizer
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.huggingface import vocabulary


def write(folder, k):
    for name, text in vocabulary.files(KmerTokenizer(k), 128).items():
        (folder / name).write_text(text)
    return folder


def random_texts(number, seed):
    """DNA of any length in upper and lower case, with U, N, other IUPAC letters and special tokens anywhere."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        parts = []
        for _ in range(rng.integers(0, 6)):
            if rng.random() < 0.3:
                parts.append(SPECIAL_TOKENS[rng.integers(len(SPECIAL_TOKENS))])
            else:
                rare = rng.random() < 0.3
                letters = list("ACGTacgt" + "NnUuRYSWKMBDHVryswkmbdhv" * rare)
                parts.append("".join(rng.choice(letters, rng.integers(0, 40))))
        yield "".join(parts)


def test_published_files():
    files = vocabulary.files(KmerTokenizer(6), 16384)
    assert files.keys() == {"vocab.txt", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"}
    assert len(files["vocab.txt"]) == 48_399
    assert len(files["special_tokens_map.json"]) == 122
    config = json.loads(files["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (config["bos_token"], config["eos_token"], config["pad_token"], config["unk_token"]) == (
        "<s>", "</s>", "<pad>", "<oov>"
    )  # fmt: skip
    assert config["model_max_length"] == 16384
    assert "auto_map" not in config


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_check_accepts_only_our_vocabulary(k, tmp_path):
    vocabulary.check(write(tmp_path, k), KmerTokenizer(k))
    with pytest.raises(CheckpointError) as caught:
        vocabulary.check(tmp_path, KmerTokenizer(k + 1))
    assert caught.value.path == tmp_path / "vocab.txt"
    assert caught.value.name


@pytest.mark.slow
@pytest.mark.parametrize("k", [6, 4])
def test_auto_tokenizer_gives_our_ids(k, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs pip install -e '.[parity]'")
    theirs = transformers.AutoTokenizer.from_pretrained(write(tmp_path, k), trust_remote_code=False)
    ours, seen = KmerTokenizer(k), set()
    texts = list(random_texts(10_000, seed=k))
    for text, ids in zip(texts, theirs(texts)["input_ids"], strict=True):
        expected = ours.encode(text, add_bos=True, remainder="oov").tolist()
        assert ids == expected, text
        seen.update(expected)
    assert len(seen & set(range(32))) == 32  # every special token occurred
    assert theirs(["ACGTNACGTNAC", "AAAAAATTTTTT"])["input_ids"] == [
        ours.encode(text, add_bos=True, remainder="oov").tolist() for text in ("ACGTNACGTNAC", "AAAAAATTTTTT")
    ]
    padded = theirs(["ACGTAC" * 3, "ACGTAC"], padding=True)
    assert padded["input_ids"][1][-1] == 3
    assert padded["attention_mask"][1][-1] == 0
    clean = "".join(np.random.default_rng(0).choice(list("ACGT"), 50 * k))
    assert theirs.decode(theirs(clean)["input_ids"], skip_special_tokens=True) == clean
    assert theirs.decode(theirs("<mam><cds>" + clean)["input_ids"]) == "<s><mam><cds>" + clean
    assert len(theirs) == ours.vocab_size
    theirs.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(texts[:100])["input_ids"] == theirs(texts[:100])["input_ids"]
