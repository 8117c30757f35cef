"""Prompts: what is special tokens, what is DNA, and which bases are left over."""

import numpy as np
import pytest

from data_pipeline.errors import TokenizerError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, SPECIAL_IDS, KmerTokenizer
from gener_jax.inference.prompt import Prompt, as_prompt, as_prompts, parse_prefix
from gener_jax.runtime.errors import ConfigError, InputError
from tests.raised import raises


class Letters:
    """As Biopython's Seq, which is no string."""

    def __bytes__(self):
        return b"<cds>acgun"


def test_a_text_is_special_tokens_and_dna():
    for value in ("<cds>acgun", Letters(), b"<cds>ACGTN", Prompt.parse("<cds>ACGTR")):
        prompt = as_prompt(value, "prompt")
        assert prompt.special.tolist() == [SPECIAL_IDS["<cds>"]]
        assert (bases.decode(prompt.codes), str(prompt)) == ("ACGTN", "<cds>ACGTN")
    for text in ("", "<oov>N", "<mam><cds>", "<s><s>ACG"):
        assert str(Prompt.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "position"), [("AC<cds>GT", 2), ("<cds>AC<s>", 7), ("ACX", 2), ("<x>AC", 0), ("A<cds", 1), ("Aé", 1)]
)
def test_errors_have_the_position(text, position):
    with raises(TokenizerError, position=position):
        Prompt.parse(text)
    with raises(InputError, argument="prompts[1]", value=text):
        as_prompts(["A", text], "prompts")
    with raises(ConfigError, field="--prefix", value=text):
        parse_prefix(text)


@pytest.mark.parametrize(
    ("remainder", "whole", "left_over"), [("constrain", "ACGNTA", "C"), ("trim_left", "CGNTAC", ""),
                                          ("pad_left", "AAACGNTAC", "")],
)  # fmt: skip
def test_bases_that_are_no_whole_kmer(remainder, whole, left_over):
    tokenizer = KmerTokenizer(3)
    ids, *codes = Prompt.parse("<cds>ACGNTAC").encode(tokenizer, remainder)
    assert ids.tolist() == [BOS, *tokenizer.encode(f"<cds>{whole}")]
    assert (ids.dtype, [bases.decode(x) for x in codes]) == (np.int32, [whole, left_over])


def test_neither_a_list_nor_text():
    for values in ("ACGT", Letters(), Prompt.parse("A")):
        with raises(InputError, argument="prompts", value=values):
            as_prompts(values, "prompts")
    for value in (float("nan"), 5):  # a missing value is not the DNA NAN
        with raises(InputError, argument="prompts[1]"):
            as_prompts(["A", value], "prompts")
    with raises(ConfigError, field="--prefix", value="<cds>AC"):
        parse_prefix("<cds>AC")
    assert parse_prefix("<mam><cds>").tolist() == [SPECIAL_IDS["<mam>"], SPECIAL_IDS["<cds>"]]
