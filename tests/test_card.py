"""The model card: what it says, and what it says it does not know."""

import dataclasses

import pytest

from gener_jax.assets import TINY
from gener_jax.config import Head, Model, ModelSpec, Tokenizer
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import provenance
from gener_jax.storage.huggingface import card
from gener_jax.storage.provenance import Provenance
from tests.raised import raises

SPEC = ModelSpec("small", Model(hidden_size=16, num_attention_heads=2, num_key_value_heads=1), Tokenizer(k=3))


def front_matter(text):
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    return dict(line.split(": ") for line in front.splitlines())


def test_what_is_unknown_is_said_to_be():
    text = card.write(SPEC, "float32", None)
    assert front_matter(text) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": "[dna, genomics, causal-lm]"
    }  # fmt: skip
    for section in ("licence | unknown", "Training\n\nUnknown", "bits per base are unknown", "`<cds>` is unknown"):
        assert section in text
    assert "16,384 tokens, 49,152 bases" in text
    for kind in ("v1", "v2", "unknown"):
        assert f"prompt convention | {kind}: " in card.write(
            dataclasses.replace(SPEC, prompt_convention=kind), "float32", None
        )


def test_what_is_known_is_said():
    text = card.write(SPEC, "float16", provenance.read(TINY))
    assert front_matter(text)["license"] == "apache-2.0"
    for fact in ("7,133 regions with 8,086,651 bases", "4,710,400 tokens", "NC_000913.3", "no special tokens but `<s>`",
                 "1.8748 |", "of order 5 | 1.9444", "363 held-out regions", "float16 safetensors"):  # fmt: skip
        assert fact in text
    assert "nknown" not in text


def test_the_base_of_a_model_is_named():
    known = Provenance(({"name": "base", "special_tokens": None}, {"dataset": "d1"}), step=5, tokens=1000)
    text = card.write(SPEC, "float32", known)
    assert "as base, on unknown data\n- dataset d1\n- 5 steps, 1,000 tokens in the last run\n" in text


@pytest.mark.parametrize("data", [{"regions": "x", "bases": 1}, {"taxa": [1]}, {"records": 1}])
def test_other_values_are_refused(data):
    with raises(CheckpointError, path=provenance.FILE):
        card.write(SPEC, "float32", Provenance((data,)))


def test_a_fine_tuned_model_is_described():
    data = {"finetune": ["x.csv"], "problem": "single_label", "method": "lora", "rows": 1200, "bases": 360_000}
    head = Head("single_label", ("no", "yes"))
    text = card.write(SPEC, "float32", Provenance((data,), step=10), head)
    for part in ("`no`, `yes`", "lora", "1,200 labelled sequences with 360,000 bases", "no such head"):
        assert part in text
    assert "AutoModelForSequenceClassification" in card.write(SPEC, "float32", None, head, is_classifier=True)
    assert "## Head" not in card.write(SPEC, "float32", None)
