"""The tokenizer of a folder: the published vocab.txt and token maps, and a tokenizer.json that needs no remote code.

`tokenizers`, the library that `AutoTokenizer` uses, has no k-mers, but it can split a text every k letters and map
each substring to an id; a substring that is not a k-mer of A, C, G and T becomes <oov>. That equals
`KmerTokenizer.encode` with `add_bos=True, remainder="oov"`.
"""

import json
import os
import re
from pathlib import Path

from data_pipeline.sequence.tokenizer import BOS, OOV, SPECIAL_TOKENS, KmerTokenizer
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.files import read_text

_MAX_BYTES = 16 << 20  # of a vocab.txt or tokenizer.json; the largest, of 8-mers, has less than 3 MB


def listed(folder: Path) -> bool:
    """Whether a file of the folder lists the vocabulary."""
    return any((folder / name).exists() for name in ("vocab.txt", "tokenizer.json"))


def check(folder: Path, tokenizer: KmerTokenizer) -> None:
    """Checks that a folder's vocab.txt and tokenizer.json, where they exist, give the same ids as ours.

    Raises:
      CheckpointError: naming the first entry that differs.
    """
    ours = {token: i for i, token in enumerate(tokenizer.tokens)}
    for name, entries in (("vocab.txt", _vocab_txt), ("tokenizer.json", _tokenizer_json)):
        path = folder / name
        if not os.path.lexists(path):
            continue
        text = read_text(path, _MAX_BYTES)
        try:
            theirs = entries(text)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(path, f"is no vocabulary: {error}") from None
        for token, i in theirs.items():
            if ours.get(token) != i:
                raise CheckpointError(
                    path,
                    f"gives {token!r} the id {i}, where a vocabulary of {tokenizer.k}-mers has "
                    f"{ours.get(token, 'no such token')}; it must have the published order",
                    name=token,
                    value=i,
                )
        if missing := ours.keys() - theirs.keys():
            token = min(missing, key=ours.get)
            raise CheckpointError(path, f"has no token {token!r}", name=token)


def _vocab_txt(text: str) -> dict[str, int]:
    found = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        entry = re.fullmatch(r"(\S+) ([0-9]{1,9})\r?", line)
        if entry is None:
            raise ValueError(f"line {number} is {line[:40]!r}, not a token and its id")
        if entry[1] in found:
            raise ValueError(f"token {entry[1]!r} occurs twice")
        found[entry[1]] = int(entry[2])
    return found


def _tokenizer_json(text: str) -> dict[str, int]:
    return dict(json.loads(text)["model"]["vocab"])


def files(tokenizer: KmerTokenizer, model_max_length: int) -> dict[str, str]:
    """Name → text of all tokenizer files; `model_max_length` is in tokens."""
    return {
        "vocab.txt": tokenizer.vocab_txt(),
        "special_tokens_map.json": tokenizer.special_tokens_map(),
        "tokenizer_config.json": _as_json(_tokenizer_config(tokenizer, model_max_length)),
        "tokenizer.json": _as_json(_fast_tokenizer(tokenizer)),
    }


def _as_json(fields: dict) -> str:
    return json.dumps(fields, indent=2) + "\n"


def _added_tokens() -> list[dict]:
    """The special tokens, which are found in a text before anything else is done to it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)]


def _tokenizer_config(tokenizer: KmerTokenizer, model_max_length: int) -> dict:
    decoder = {str(token.pop("id")): token for token in _added_tokens()}
    return {
        "added_tokens_decoder": decoder,
        **json.loads(tokenizer.special_tokens_map()),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": model_max_length,
        "padding_side": "right",
        # Any class of a model's own, such as LlamaTokenizerFast, puts a pre-tokenizer of its own over tokenizer.json.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _fast_tokenizer(tokenizer: KmerTokenizer) -> dict:
    bos, oov = SPECIAL_TOKENS[BOS], SPECIAL_TOKENS[OOV]
    # Case is ignored and U is T. Letters that are not listed cannot be in a k-mer, whatever their case.
    letters = {"a": "A", "c": "C", "g": "G", "t": "T", "u": "T", "U": "T"}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    a, b = ({"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in letters.items()
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": f"[\\s\\S]{{1,{tokenizer.k}}}"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, a],
            "pair": [first, a, b],
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: i for i, token in enumerate(tokenizer.tokens)},
            "unk_token": oov,
        },
    }
