import dataclasses
import json

import pytest

from gener_jax.config import (
    Config,
    ConfigError,
    Data,
    Mesh,
    Model,
    Optimizer,
    Sample,
    Tokenizer,
    Train,
    base,
    dumps,
    flatten,
    parse_value,
    resolve,
    to_config_dict,
)


def changed(**fields):
    """The base's fields with some changed: `model__hidden_size=3`."""
    values = base().to_dict()
    for name, value in fields.items():
        *sections, last = name.split("__")
        at = values
        for section in sections:
            at = at[section]
        at[last] = value
    return values


def test_base_is_the_published_model():
    config = resolve(base())
    assert config == Config()
    assert (config.model.hidden_size, config.model.head_dim, config.model.num_hidden_layers) == (2048, 64, 26)
    assert config.model.vocab_size is None


def test_base_is_locked_and_typed():
    config = base()
    with pytest.raises(AttributeError):
        config.model.hiden_size = 3
    with pytest.raises(TypeError):
        config.model.hidden_size = "wide"
    config.eval.max_regions = 5  # None until now, and still typed
    with pytest.raises(TypeError):
        config.data.path = 3


def test_head_size_follows_the_sizes_unless_given():
    assert (
        resolve(
            changed(model__hidden_size=192, model__num_attention_heads=4, model__num_key_value_heads=2)
        ).model.head_dim
        == 48
    )
    assert resolve(changed(model__hidden_size=192, model__head_dim=32)).model.head_dim == 32


def test_a_saved_config_is_the_same_config():
    for values in (
        changed(),
        changed(
            name="other", data__build_from=("a.gb", "b.gb"), eval__max_regions=7, sample__prompts=("ATG", "<s>"),
            train__allow_changes=("train.num_steps",), model__vocab_size=96,
        ),
    ):  # fmt: skip
        config = resolve(values)
        assert resolve(json.loads(dumps(config))) == config
        assert resolve(to_config_dict(config)) == config
        assert len(dumps(config).splitlines()) > 50


def test_flatten_names_every_field():
    names = dict(flatten(Config()))
    assert names["model.hidden_size"] == 2048
    assert names["data.repeat_weight"] == 1.0
    sections = [f.default_factory for f in dataclasses.fields(Config) if f.name != "name"]
    assert len(names) == 1 + sum(len(dataclasses.fields(s)) for s in sections)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model__hiden_size": 3}, "model.hiden_size is not a field"),
        ({"modle": {}}, "modle is not a field"),
        ({"model__hidden_size": "3"}, "model.hidden_size is '3': it has to be of type int"),
        ({"model__hidden_size": 3.0}, "model.hidden_size is 3.0: it has to be of type int"),
        ({"model__hidden_size": True}, "model.hidden_size is True: it has to be of type int"),
        ({"model__hidden_size": None}, "model.hidden_size is None"),
        ({"model": 3}, "model is 3: it is a section"),
        ({"data__random_phase": 1}, "data.random_phase is 1: it has to be of type bool"),
        ({"data__build_from": "x.gb"}, "data.build_from is 'x.gb': it has to be of type tuple"),
        ({"data__build_from": (3,)}, "data.build_from is (3,): its items have to be text"),
        ({"model__num_attention_heads": 3}, "not divisible by model.num_attention_heads 3"),
        ({"model__num_key_value_heads": 5}, "not divisible by model.num_key_value_heads 5"),
        ({"model__head_dim": 7}, "model.head_dim is 7: RoPE needs an even one"),
        ({"model__attention": "flash"}, "model.attention is 'flash': one of auto"),
        ({"model__dtype": "float16"}, "model.dtype is 'float16': one of float32, bfloat16"),
        ({"model__rope_theta": 0.0}, "model.rope_theta is 0.0"),
        ({"tokenizer__k": 9}, "tokenizer.k is 9: it has to be 1 to 8"),
        ({"tokenizer__kind": "bpe"}, "python -m data_pipeline.train_bpe"),
        ({"tokenizer__kind": "bpe", "tokenizer__model_file": "m"}, "BPE needs a dataset of tokens"),
        ({"data__context_length": 20_000}, "data.context_length 20000 is over model.max_position_embeddings 16384"),
        ({"data__validation_share": 1.0}, "data.validation_share is 1.0"),
        ({"data__repeat_weight": -0.1}, "data.repeat_weight is -0.1: it has to be finite and not negative"),
        ({"data__repeat_weight": float("inf")}, "data.repeat_weight is inf"),
        ({"data__repeat_weight": float("nan")}, "data.repeat_weight is nan"),
        ({"data__repeat_weight": 0.1, "data__records": "tokens"}, "data.records is tokens, which keep no lower case"),
        ({"optimizer__warmup_steps": 200_000}, "optimizer.warmup_steps 200000 is over train.num_steps 185000"),
        ({"optimizer__peak_learning_rate": float("nan")}, "optimizer.peak_learning_rate is nan"),
        ({"optimizer__beta2": 1.0}, "optimizer.beta2 is 1.0"),
        ({"optimizer__clip_norm": 0.0}, "optimizer.clip_norm is 0.0"),
        ({"optimizer__weight_decay": -0.1}, "optimizer.weight_decay is -0.1"),
        ({"train__num_steps": 0}, "train.num_steps is 0"),
        ({"train__seed": -1}, "train.seed is -1"),
        ({"train__allow_changes": ("train.steps",)}, "train.allow_changes names 'train.steps'"),
        ({"mesh__fsdp": 0}, "mesh.fsdp is 0"),
        ({"mesh__data": -1}, "mesh has more than one -1"),
        ({"checkpoint__keep": 1}, "checkpoint.keep is 1: keep at least 2"),
        ({"eval__split": "dev"}, "eval.split is 'dev': one of train, validation, test"),
        ({"eval__max_regions": 0}, "eval.max_regions is 0"),
        ({"sample__top_p": 0.0}, "sample.top_p is 0.0"),
        ({"sample__prompts": ()}, "sample.prompts is empty"),
        ({"sample__stop_codons": ("TAAA",)}, "sample.stop_codons"),
    ],
)
def test_one_line_for_what_is_wrong(fields, words):
    with pytest.raises(ConfigError) as caught:
        resolve(changed(**fields))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_floats_where_floats_are_wanted():
    rate = resolve(changed(optimizer__weight_decay=0)).optimizer.weight_decay
    assert type(rate) is float


@pytest.mark.parametrize("cls", [Model, Tokenizer, Data, Optimizer, Train, Mesh, Sample])
def test_sections_are_frozen(cls):
    section = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, dataclasses.fields(cls)[0].name, 1)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("train.num_steps", "1_000", 1000),
        ("optimizer.peak_learning_rate", "1e-3", 1e-3),
        ("data.random_phase", "False", False),
        ("eval.max_regions", "12", 12),
        ("eval.max_regions", "none", None),
        ("model.head_dim", "None", None),
        ("tokenizer.model_file", "none", None),
        ("data.path", "none", "none"),
        ("data.build_from", "a.gb,b.gb", ("a.gb", "b.gb")),
        ("data.build_from", "", ()),
        ("sample.prompts", "ATG", ("ATG",)),
        ("name", "x", "x"),
    ],
)
def test_values_from_text(name, text, value):
    parsed = parse_value(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "model.hiden_size",
            "1",
            "config.model.hiden_size is not a field of the configuration; config.model has vocab",
        ),
        ("modle.hidden_size", "1", "config.modle.hidden_size is not a field"),
        ("model", "1", "config.model is not a field"),
        ("model.hidden_size.x", "1", "config.model.hidden_size.x is not a field"),
        ("", "1", "is not a field"),
        ("model.hidden_size", "1e3", "config.model.hidden_size is '1e3': it has to be of type int"),
        ("model.hidden_size", "none", "it has to be of type int"),
        ("optimizer.epsilon", "small", "it has to be of type float"),
        ("data.random_phase", "1", "config.data.random_phase is '1': one of true, false"),
    ],
)
def test_text_that_is_no_value(name, text, words):
    with pytest.raises(ConfigError) as caught:
        parse_value(name, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
