"""config.json of a `LlamaForCausalLM` or `MistralForCausalLM` ↔ our configuration; generation_config.json.

A Mistral without biases is a Llama whose attention has a sliding window, so a model with a window is written as one.
`rope_theta` and `rope_scaling` (transformers 4) and `rope_parameters` (5) are both read; the first form, which is the
published one and which 5 reads too, is written.
"""

import dataclasses
import json
import re
from pathlib import Path

from data_pipeline.sequence.tokenizer import BOS, EOS, NUM_SPECIAL, PAD, KmerTokenizer
from gener_jax import config as configuration
from gener_jax.config import Head, Model, ModelSpec
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.storage import heads
from gener_jax.storage.files import read_json
from gener_jax.storage.huggingface import vocabulary

FORMAT = 1  # of our exports, in the field gener_jax
_SIZES = {  # copied unchanged
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "head_dim": int, "max_position_embeddings": int,
    "rms_norm_eps": float, "initializer_range": float, "sliding_window": int,
}  # fmt: skip
_MAY_BE_ABSENT = ("head_dim", "initializer_range", "sliding_window", "beta_fast", "beta_slow", "attention_factor")
_ARCHITECTURES = ["LlamaForCausalLM"], ["MistralForCausalLM"]
_CLASSIFIERS = ["LlamaForSequenceClassification"], ["MistralForSequenceClassification"]  # only beside head.json
_ONLY = {  # the only values that our decoder implements
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0, "layer_types": None,
    "quantization_config": None,
}  # fmt: skip
_ROPE = {  # rope_type → our field → theirs
    "default": {},
    "linear": {"linear_factor": "factor"},
    "yarn": {
        "yarn_factor": "factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow",
        "yarn_attention_factor": "attention_factor",
    },
    "llama3": {
        "llama3_factor": "factor", "llama3_low_freq_factor": "low_freq_factor",
        "llama3_high_freq_factor": "high_freq_factor", "llama3_positions": "original_max_position_embeddings",
    },
}  # fmt: skip
_PADDING = 512  # tokens by which a published vocabulary may be padded, to a multiple of 8 or more


def is_folder(folder: Path) -> bool:
    """Whether a folder's config.json belongs to a Hugging Face model; False if it is a run's, or absent.

    Raises CheckpointError where it cannot be read.
    """
    return (folder / "config.json").exists() and bool({"model_type", "architectures"} & _fields(folder).keys())


def read(folder: Path) -> ModelSpec:
    """The spec of a folder: its model, and the k of its vocabulary, which is compared with ours.

    Raises:
      CheckpointError: one line naming the file and the field that is missing, damaged, or not ours.
    """
    fields, name = _fields(folder), _name(folder)
    if (folder / "dna_config.json").exists() or fields.get("vocab_size") == 155_776 or re.match("carbon-", name, re.I):
        raise CheckpointError(
            folder,
            "is a Carbon model, whose vocabulary of English byte pairs and 6-mers is not supported; GENERator's is",
            name="vocab_size",
        )
    model = read_model(folder)
    k = next((k for k in range(8, 0, -1) if KmerTokenizer(k).vocab_size <= model.vocab_size), 1)
    size = KmerTokenizer(k).vocab_size
    # A vocabulary is padded if a file lists its tokens, which `vocabulary.check` compares.
    padded = model.vocab_size % 8 == 0 and 0 < model.vocab_size - size < _PADDING and vocabulary.listed(folder)
    if model.vocab_size != size and not padded:
        raise CheckpointError(
            folder / "config.json", f"vocab_size is {model.vocab_size}, which no vocabulary of k-mers has",
            name="vocab_size", value=model.vocab_size,
        )  # fmt: skip
    vocabulary.check(folder, KmerTokenizer(k))
    try:
        model = dataclasses.replace(model, vocab_size=size)
        return ModelSpec(name, model, configuration.Tokenizer(k=k), _convention(fields, name))
    except ConfigError as error:
        raise _of_file(folder, error) from None


def read_model(folder: Path) -> Model:
    """The model's fields alone, whatever its vocabulary; raises CheckpointError like `read`."""
    try:
        fields = _fields(folder)
        if fields.get("architectures") in list(_CLASSIFIERS) and (folder / heads.FILE).exists():
            fields.pop("architectures")
        return _model(fields)
    except ConfigError as error:
        raise _of_file(folder, error) from None


def _of_file(folder: Path, error: ConfigError) -> CheckpointError:
    """A field's error as that of the file which holds it."""
    return CheckpointError(folder / "config.json", str(error), name=error.field, value=error.value)


def _fields(folder: Path) -> dict:
    return read_json(folder / "config.json")


def _name(folder: Path) -> str:
    """The model's name: of its folder, or of its repository in a cache of Hugging Face's."""
    folder = folder.absolute()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _convention(fields: dict, name: str) -> str:
    """v1 or v2, from our export's field or the published name; else unknown."""
    if (ours := fields.get("gener_jax")) is not None:
        if not isinstance(ours, dict) or ours.get("format") != FORMAT:
            problem = f"only format {FORMAT} of our exports is supported; convert the model again"
            raise ConfigError(problem, "gener_jax", ours)
        return ours.get("prompt_convention")
    known = re.match(r"GENERator-(v2-)?(eukaryote|prokaryote)-", name)
    return "unknown" if known is None else "v2" if known[1] else "v1"


def _model(fields: dict) -> Model:
    if fields.get("model_type") not in ("llama", "mistral"):
        raise ConfigError("only 'llama' and 'mistral' are supported", "model_type", fields.get("model_type"))
    if fields.get("architectures") not in (None, [], *_ARCHITECTURES):
        raise ConfigError(
            f"only {' and '.join(map(str, _ARCHITECTURES))} are supported", "architectures", fields["architectures"]
        )
    for name, value in _ONLY.items():
        if fields.get(name) is not None and fields[name] != value:
            raise ConfigError(f"only {value!r} is supported", name, fields[name])
    if fields["model_type"] == "llama" and fields.get("sliding_window") is not None:
        raise ConfigError("model_type llama has no window", "sliding_window", fields["sliding_window"])
    if fields["model_type"] == "mistral" and "sliding_window" not in fields:
        raise ConfigError("model_type mistral must give its window, or null", "sliding_window", "absent")
    values = {}
    for name, type_ in _SIZES.items():
        value = fields.get(name)
        if value is not None or name not in _MAY_BE_ABSENT:
            values[name] = _positive(name, value, type_)
    return Model(**{**values, **_rope(fields, values["max_position_embeddings"])})


def _positive(name: str, value, type_: type):
    if type(value) not in (int, type_) or not 0 < value < (2**31 if type_ is int else 1e30):
        raise ConfigError(f"must be a positive {type_.__name__}", name, value)
    return type_(value)


def _rope(fields: dict, positions: int) -> dict:
    """Our fields of the rotary embedding; `positions` is the file's max_position_embeddings, after YaRN's extension."""
    where = "rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling"
    if where == "rope_parameters" and fields.get("rope_scaling") not in (None, fields[where]):
        raise ConfigError(f"contradicts {where} {fields[where]!r}; remove one", "rope_scaling", fields["rope_scaling"])
    outside = fields.get("rope_theta")
    if where == "rope_parameters" and outside is not None:  # each version reads one; the version that wrote is right
        writer = str(fields.get("transformers_version")).partition(".")[0]
        if not writer.isdigit() and fields[where] != {"rope_type": "default", "rope_theta": outside}:
            raise ConfigError(f"contradicts {where} {fields[where]!r}; remove the wrong one", "rope_theta", outside)
        if writer.isdigit() and int(writer) < 5:
            where = "rope_scaling"
    rope = {} if fields.get(where) is None else fields[where]
    if not isinstance(rope, dict):
        raise ConfigError("must be an object", where, rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = _positive("rope_theta", rope.get("rope_theta", outside), float)
    if kind not in list(_ROPE):  # compared, since it may be anything
        raise ConfigError(f"only {', '.join(_ROPE)} are supported", f"{where}.rope_type", kind)
    given = {name: value for name, value in rope.items() if value is not None}
    known = {"rope_type", "type", "rope_theta", "truncate", "partial_rotary_factor", *_ROPE[kind].values()}
    if kind != "default":  # linear has no use for it
        known.add("original_max_position_embeddings")
    if given.get("truncate", True) is not True or given.get("partial_rotary_factor", 1.0) != 1 or set(given) - known:
        settings = ", ".join(_ROPE[kind].values()) or "rope_theta"
        raise ConfigError(f"has other settings than {settings}, those of {kind} that are supported", where, rope)
    values = {}
    for ours, name in _ROPE[kind].items():
        if name in given or name not in _MAY_BE_ABSENT:
            type_ = int if name.endswith("embeddings") else float
            values[ours] = _positive(f"{where}.{name}", given.get(name), type_)
    if kind != "yarn":
        return {"rope_theta": theta, **values}
    factor = values["yarn_factor"]
    before = given.get("original_max_position_embeddings", fields.get("original_max_position_embeddings", positions))
    before = _positive("original_max_position_embeddings", before, int)
    if positions not in (before, int(before * factor)):
        raise ConfigError(
            f"is neither original_max_position_embeddings {before} nor that times {where}.factor {factor}",
            "max_position_embeddings", positions,
        )  # fmt: skip
    return {"rope_theta": theta, "max_position_embeddings": before, **values}


def write(spec: ModelSpec, dtype: str, classifier: Head | None = None) -> str:
    """The text of config.json, in the published order; `dtype` is that of the tensors in the folder.

    `classifier`: a head that transformers computes too (see `heads.is_classifier`).

    Raises ConfigError for a shape that transformers does not support.
    """
    m = spec.model
    if m.hidden_size % m.num_attention_heads:
        heads = m.num_attention_heads
        raise ConfigError(
            f"transformers needs a multiple of num_attention_heads {heads}", "model.hidden_size", m.hidden_size
        )
    if m.initializer_range > 1:
        raise ConfigError("transformers takes at most 1", "model.initializer_range", m.initializer_range)
    windowed = m.sliding_window is not None
    is_yarn = m.yarn_factor != 1 or m.yarn_attention_factor is not None
    kind, scaling = "yarn" if is_yarn else "linear" if m.linear_factor != 1 else "llama3", None
    if is_yarn or m.linear_factor != 1 or m.llama3_factor != 1:
        values = {theirs: getattr(m, ours) for ours, theirs in _ROPE[kind].items() if getattr(m, ours) is not None}
        scaling = {"rope_type": kind, "original_max_position_embeddings": m.max_position_embeddings, **values}
    kind_of = "CausalLM" if classifier is None else "SequenceClassification"
    labels = {}
    if classifier is not None:
        labels = {
            "id2label": {str(i): name for i, name in enumerate(classifier.names)},
            "label2id": {name: i for i, name in enumerate(classifier.names)},
            "problem_type": classifier.problem + "_classification" * (classifier.problem != "regression"),
        }
    fields = {
        "architectures": [f"{'Mistral' if windowed else 'Llama'}For{kind_of}"],
        **labels,
        **({} if windowed else {"attention_bias": False}),
        "attention_dropout": 0.0,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "gener_jax": {"format": FORMAT, "prompt_convention": spec.prompt_convention},
        "head_dim": m.head_dim,
        "hidden_act": "silu",
        "hidden_size": m.hidden_size,
        "initializer_range": m.initializer_range,
        "intermediate_size": m.intermediate_size,
        "max_position_embeddings": int(m.max_position_embeddings * m.yarn_factor),
        **({} if windowed else {"mlp_bias": False}),
        "model_type": "mistral" if windowed else "llama",
        "num_attention_heads": m.num_attention_heads,
        "num_hidden_layers": m.num_hidden_layers,
        "num_key_value_heads": m.num_key_value_heads,
        "pad_token_id": PAD,
        **({} if windowed else {"pretraining_tp": 1}),
        "rms_norm_eps": m.rms_norm_eps,
        "rope_scaling": scaling,
        "rope_theta": m.rope_theta,
        **({"sliding_window": m.sliding_window} if windowed else {}),
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": m.vocab_size,
    }
    return json.dumps(fields, indent=2) + "\n"


def write_generation() -> str:
    """The text of generation_config.json, with which transformers generates DNA until `</s>` or its own limit.

    Special tokens are suppressed: untrained ones could rank first. `</s>` may end a sequence, but not before it starts.
    """
    fields = {
        "begin_suppress_tokens": [EOS],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "suppress_tokens": [i for i in range(NUM_SPECIAL) if i != EOS],
    }
    return json.dumps(fields, indent=2) + "\n"
