"""The model card, README.md: what a folder holds, how to use it, and what is known of its training."""

import math

from gener_jax import __version__
from gener_jax.config import Head, ModelSpec
from gener_jax.model import decoder
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.provenance import FILE, Provenance

_TAXA = {
    "mam": "mammals", "vrt": "other vertebrates", "inv": "invertebrates", "pln": "plants", "fng": "fungi",
    "prt": "protists", "arc": "archaea", "bct": "bacteria", "mit": "mitochondria", "plt": "plastids",
    "plm": "plasmids", "vir": "viruses",
}  # fmt: skip
_FRAMES = {
    "v1": "v1: `<s>` before the DNA",
    "v2": "v2: `<s>` before the DNA, and for embeddings a second one after it",
    "unknown": "unknown: GENERator's v1 puts `<s>` before the DNA, v2 for embeddings also after it; give "
    '`gener_jax.load("FOLDER", prompt_convention="v2")` or `embed --prompt_convention v2`',
}
_UNKNOWN = "Unknown: the model came without a record of its training."


def write(
    spec: ModelSpec,
    dtype: str,
    provenance: Provenance | None,
    head: Head | None = None,
    *,
    is_classifier: bool = False,
) -> str:
    """The text of the card. What is not known is said to be unknown.

    `is_classifier`: whether the head is also in the form of transformers' classifiers.

    Raises:
      CheckpointError: if the provenance holds other values than training records.
    """
    try:
        training, evaluation, limits = _training(provenance), _evaluation(provenance), _limits(provenance)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(FILE, f"holds other values than training records: {error!r}") from None
    m, k = spec.model, spec.tokenizer.k
    longest = m.max_length
    context = "unlimited" if longest is None else f"{longest:,} tokens, {longest * k:,} bases"
    window = "" if m.sliding_window is None else f"; each token attends to the last {m.sliding_window:,}"
    licence = None if provenance is None else provenance.license
    front = "library_name: transformers" if licence is None else f"license: {licence}\nlibrary_name: transformers"
    example = ("ATGAAAGCGATTACAGGCCTGATT" * k)[: 4 * k]
    return f"""---
{front}
pipeline_tag: text-generation
tags: [dna, genomics, causal-lm]
---

# {spec.name}: a language model of DNA

A GENERator-style decoder over {k}-mers with {decoder.num_parameters(m):,} parameters, converted by
`gener_jax` {__version__}.

| | |
|---|---|
| decoder | Llama; {m.num_hidden_layers} layers, hidden size {m.hidden_size}, {m.num_attention_heads} query heads and \
{m.num_key_value_heads} key/value heads of size {m.head_dim}, feed-forward {m.intermediate_size} |
| tokens | {k}-mers without overlap, {m.vocab_size:,} with 32 special tokens |
| context | {context}{window} |
| prompt convention | {_FRAMES[spec.prompt_convention]} |
| weights | {dtype} safetensors |
| licence | {licence or "unknown: whoever trained the model did not state one here"} |

## Use

`FOLDER` is this folder. In `gener_jax`, where a prompt may have any length:

```python
import gener_jax

lm = gener_jax.load("FOLDER"{', prompt_convention="v2"' * (spec.prompt_convention == "unknown")})
lm.generate(["{example[:-1]}"], num_bases=60)
lm.log_likelihood(["{example}"])
lm.embed(["{example}"])
```

`gener-jax convert --checkpoint FOLDER --verify` compares its outputs with those of `transformers`, layer by layer.

In `transformers` 4.57 or later, without remote code. `generation_config.json` keeps special tokens out of what is
generated. The bases left over at the end of a prompt that is not a whole number of {k}-mers become one `<oov>`, which
makes what follows meaningless: give a multiple of {k}.

```python
from transformers import pipeline

generator = pipeline("text-generation", model="FOLDER")
generator("{example}", max_new_tokens=10)
```

{_head(head, is_classifier)}## Training

{training}

## Evaluation

{evaluation}

## Limits

{limits}
"""


def _head(head: Head | None, is_classifier: bool) -> str:
    """The section of a fine-tuned model's head, if it has one."""
    if head is None:
        return ""
    theirs = (
        "`AutoModelForSequenceClassification` of `transformers` gives its outputs too, for ids framed as above: logits "
        "before `temperature`, or values before `mean` and `scale` of `head.json`."
        if is_classifier
        else "The classifiers of `transformers` have no such head (a bias, another pooling or another layer)."
    )
    names = ", ".join(f"`{name}`" for name in head.names[:20]) + ", …" * (len(head.names) > 20)
    return f"""## Head

Fine-tuned ({head.problem.replace("_", " ")}): {names}. `gener-jax predict --checkpoint FOLDER` gives what it predicts;
`head.json` and `head.safetensors` hold it. {theirs}

"""


def _training(provenance: Provenance | None) -> str:
    if provenance is None:
        return _UNKNOWN
    lines = [line for data in provenance.data for line in _data(data)]
    if provenance.step is not None:
        tokens = "" if provenance.tokens is None else f", {provenance.tokens:,} tokens"
        lines.append(f"- {provenance.step:,} steps{tokens}" + " in the last run" * (len(provenance.data) > 1))
    versions = [f"{name} {x}" for name, x in (provenance.versions or {}).items() if x[:1].isdigit()]
    lines += ["- trained with " + ", ".join(versions)] if versions else []
    return "\n".join(lines)


def _data(data: dict) -> list[str]:
    if "name" in data:
        return [f"- first trained elsewhere, as {data['name']}, on unknown data"]
    if "finetune" in data:
        sequences = f"{data['rows']:,} labelled sequences with {data['bases']:,} bases"
        return [f"- fine-tuned (problem {data['problem']}, method {data['method']}) on {sequences}"]
    parts = [f"dataset {data['dataset']}"] if "dataset" in data else []
    parts += [f"{data['regions']:,} regions with {data['bases']:,} bases"] if "bases" in data else []
    lines = ["- " + (", ".join(parts) or "unknown data, before they were recorded")]
    for name, names in (("taxa", _TAXA), ("kinds", {})):
        if data.get(name):
            counts = ", ".join(f"{names.get(x, x)} {n:,}" for x, n in data[name].items())
            lines.append(f"  - bases by {'taxon' if name == 'taxa' else 'kind of region'}: {counts}")
    if "context_length" in data:
        lines.append(f"  - read in windows of {data['context_length']:,} tokens")
    if "records" in data:
        more = data["records"] - len(data["accessions"])
        records = ", ".join(data["accessions"]) + (f" and {more:,} more" if more else "")
        lines.append(f"  - sequence records (of which some regions may be held out): {records}")
    return lines


def _evaluation(provenance: Provenance | None) -> str:
    held_out = provenance and provenance.held_out
    if not held_out:
        return "Held-out bits per base are unknown."
    rows = [("this model", held_out.get("bits_per_base"))]
    rows += [(f"Markov model of order {order}", held_out.get(f"markov_{order}")) for order in (0, 5)]
    rows = [f"| {name} | {bits:.4f} |" for name, bits in rows if bits is not None and math.isfinite(bits)]
    regions = "held-out regions"
    if "bases" in held_out:
        regions = f"{held_out['regions']:,} held-out regions with {held_out['bases']:,} bases"
    after = " The Markov models are fitted on the training data." if len(rows) > 1 else ""
    return "\n".join(
        [f"Bits per base of {regions} of the same dataset; 2 is chance, lower is better.{after}", "",
         "| | bits per base |", "|---|---|", *rows]
    )  # fmt: skip


def _limits(provenance: Provenance | None) -> str:
    seen = None if provenance is None else provenance.special_tokens
    if seen is None:
        tags = "Whether its training data contained tags such as `<mam>` or `<cds>` is unknown."
    else:
        written = ", ".join(f"`{token}`" for token in sorted(seen))
        others = ", ".join(f"`{token}`" for token in ("<mam>", "<cds>", "</s>") if token not in seen)
        others = f", such as {others}," if others else ""
        tags = f"Its training data contain no special tokens but {written}; others{others} mean nothing in a prompt."
    return f"{tags} What it generates is not known to work in a cell, and its scores are not clinical evidence."
