import dataclasses
import json
import re

import pytest

from gener_jax.config import (
    Config,
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
    override,
    resolve,
    to_config_dict,
)
from gener_jax.runtime.errors import ConfigError
from tests.raised import raises


def changed(**fields):
    """The fields of base() with some changed, as in `model__hidden_size=3`."""
    values = base().to_dict()
    for name, value in fields.items():
        *sections, last = name.split("__")
        node = values
        for section in sections:
            node = node[section]
        node[last] = value
    return values


def test_base_is_the_published_model():
    config = resolve(base())
    assert config == Config()
    assert (config.model.hidden_size, config.model.head_dim, config.model.num_hidden_layers) == (2048, 64, 26)
    assert config.model.vocab_size == 4128


def test_base_is_locked_and_typed():
    config = base()
    with pytest.raises(AttributeError):
        config.model.hiden_size = 3
    with pytest.raises(TypeError):
        config.model.hidden_size = "wide"
    config.eval.max_regions = 5  # typed although it was None
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
            train__allow_changes=("train.num_steps",), model__vocab_size=96, tokenizer__k=3,
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
    sections = [f.default_factory for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING]
    assert len(names) == 2 + sum(len(dataclasses.fields(s)) for s in sections)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.hiden_size", 3),  # no such field
        ("modle", {}),
        ("model.hidden_size", "3"),  # a wrong type
        ("model.hidden_size", 3.0),
        ("model.hidden_size", True),
        ("model.hidden_size", None),
        ("model", 3),
        ("data.random_phase", 1),
        ("data.build_from", "x.gb"),
        ("data.build_from", (3,)),
        ("model.num_key_value_heads", 5),  # out of range
        ("model.head_dim", 7),
        ("model.attention", "flash"),
        ("model.dtype", "float16"),
        ("model.rope_theta", 0.0),
        ("tokenizer.k", 9),
        ("data.context_length", 20_000),
        ("data.validation_fraction", 1.0),
        ("data.repeat_weight", -0.1),
        ("data.repeat_weight", float("inf")),
        ("data.repeat_weight", float("nan")),
        ("objective.fns_learning_rate", 1e-4),
        ("optimizer.peak_learning_rate", float("nan")),
        ("optimizer.beta2", 1.0),
        ("optimizer.clip_norm", 0.0),
        ("optimizer.weight_decay", -0.1),
        ("train.num_steps", 0),
        ("train.seed", -1),
        ("train.allow_changes", ("train.steps",)),
        ("train.writers", ("paper",)),
        ("mesh.fsdp", 0),
        ("checkpoint.keep", 1),
        ("eval.split", "dev"),
        ("eval.max_regions", 0),
        ("sample.top_p", 0.0),
        ("sample.prompts", ()),
        ("sample.stop_codons", ("TAAA",)),
    ],
)
def test_a_wrong_field_is_named_with_its_value(field, value):
    with pytest.raises(ConfigError) as caught:
        resolve(changed(**{field.replace(".", "__"): value}))
    assert caught.value.field == field
    assert caught.value.value is value or caught.value.value == value
    assert str(caught.value).startswith(f"{field} is {value!r}: ")
    assert "\n" not in str(caught.value)


def test_a_warm_up_longer_than_the_run_is_a_tenth_of_it(capsys):
    config = resolve(changed(train__num_steps=95))
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(r"^warning: optimizer.warmup_steps 2000 exceeds train.num_steps 95.* 10 steps$", line)
    assert config.optimizer.warmup_steps == 10
    assert resolve(to_config_dict(config)) == config
    assert resolve(changed(train__num_steps=2000)).optimizer.warmup_steps == 2000
    assert not capsys.readouterr().err


def test_another_dataset_is_not_built_from_the_genomes_of_the_experiment():
    values = changed(data__path="datasets/a", data__build_from=("a.gb",))
    assert override(values, {}).data.build_from == ("a.gb",)
    assert override(values, {"data.path": "b"}).data.build_from == ()
    assert override(values, {"data.path": "b", "data.build_from": "b.gb"}).data.build_from == ("b.gb",)
    assert override(values, {"data.build_from": "b.gb"}).data.build_from == ("b.gb",)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model__num_attention_heads": 3}, "model.hidden_size"),
        ({"tokenizer__kind": "bpe"}, "tokenizer.model_file"),
        ({"tokenizer__kind": "bpe", "tokenizer__model_file": "absent"}, "tokenizer"),
        ({"data__repeat_weight": 0.1, "data__storage": "token_ids"}, "data.repeat_weight"),
        ({"mesh__data": -1}, "mesh"),
        ({"model__yarn_beta_fast": 0.5}, "model.yarn_beta_fast"),
        ({"model__yarn_factor": 2.0, "model__llama3_factor": 8.0}, "model.yarn_factor"),
        ({"model__linear_factor": 2.0, "model__llama3_factor": 8.0}, "model.linear_factor"),
        ({"model__llama3_low_freq_factor": 4.0}, "model.llama3_high_freq_factor"),
    ],
)
def test_fields_that_contradict_each_other(fields, field):
    with raises(ConfigError, field=field):
        resolve(changed(**fields))


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
        ("train.num_steps", "3_000", 3000),
        ("optimizer.peak_learning_rate", "1e-3", 1e-3),
        ("data.random_phase", "False", False),
        ("eval.max_regions", "12", 12),
        ("eval.max_regions", "none", None),
        ("model.head_dim", "None", 64),
        ("tokenizer.model_file", "none", None),
        ("data.path", "none", "none"),
        ("data.build_from", "a.gb,b.gb", ("a.gb", "b.gb")),
        ("data.build_from", "", ()),
        ("sample.prompts", "ATG", ("ATG",)),
        ("name", "x", "x"),
    ],
)
def test_values_from_text(name, text, value):
    parsed = dict(flatten(override(base().to_dict(), {name: text})))[name]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("model.hiden_size", "1", "model.hiden_size"),
        ("modle.hidden_size", "1", "modle"),
        ("model", "1", "model"),
        ("model.hidden_size.x", "1", "model.hidden_size"),
        ("", "1", ""),
        ("model.hidden_size", "1e3", "model.hidden_size"),
        ("model.hidden_size", "none", "model.hidden_size"),
        ("optimizer.epsilon", "small", "optimizer.epsilon"),
        ("data.random_phase", "1", "data.random_phase"),
    ],
)
def test_text_that_is_not_a_value(name, text, field):
    with raises(ConfigError, field=field):
        override({}, {name: text})


def test_an_unknown_field_lists_the_known_ones():
    with raises(ConfigError, field="model.hiden_size", value="1") as caught:
        override({}, {"model.hiden_size": "1"})
    assert "did you mean hidden_size? model has vocab_size, hidden_size" in str(caught.value)
    with raises(ConfigError, field="train.num_steps", value="1e3") as caught:
        override({}, {"train.num_steps": "1e3"})
    assert str(caught.value).endswith("must be a whole number")
