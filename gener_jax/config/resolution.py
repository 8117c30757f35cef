"""From experiment files, command lines and saved runs to a checked configuration, and back."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping

from ml_collections import ConfigDict, config_dict

from data_pipeline.errors import did_you_mean
from gener_jax.config.schema import Config, Model, ModelSpec, flatten
from gener_jax.runtime.errors import ConfigError

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list"}


class Text(str):
    """A value from a command line, which is converted to the type of its field.

    "none" is None if the field allows it; items of a list are separated by commas.
    """


def _types(cls) -> dict[str, tuple[type, bool]]:
    """Field name → (type, whether the value may be None)."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(t for t in typing.get_args(hint) if t is not type(None))
        found[name] = (typing.get_origin(hint) or hint, optional)
    return found


def to_config_dict(config) -> ConfigDict:
    """A dataclass as a locked ConfigDict; a field that is None becomes a placeholder with its type."""
    result = ConfigDict()
    for name, (type_, _) in _types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(type_):
            value = to_config_dict(value)
        result[name] = config_dict.placeholder(type_) if value is None else value
    return result.lock()


def base() -> ConfigDict:
    """The published recipe of the 1.2b model, which an experiment file changes."""
    values = to_config_dict(Config())
    with values.unlocked():  # computed later from what an experiment sets
        values.model.update(vocab_size=config_dict.placeholder(int), head_dim=config_dict.placeholder(int))
    return values


def resolve(values: ConfigDict | Mapping, cls: type = Config, path: str = ""):
    """The checked, frozen form of a ConfigDict, or of a mapping: a `Config`, or another class of `schema`.

    `path` is the dotted name of `values` in the configuration, for errors, with a dot at the end.

    Raises:
      ConfigError: with the field and its value.
    """
    fields, made = _types(cls), {}
    for name, value in (values.to_dict() if isinstance(values, ConfigDict) else values).items():
        field = path + name
        if name not in fields:
            meant = did_you_mean(name, fields) or ";"
            raise ConfigError(
                f"there is no such field{meant} {path[:-1] or 'config'} has {', '.join(fields)}", field, value
            )
        type_, optional = fields[name]
        if not dataclasses.is_dataclass(type_):
            made[name] = _typed(value, type_, optional, field)
        elif isinstance(value, Mapping):
            made[name] = resolve(value, type_, f"{field}.")
        else:
            raise ConfigError("must be a section with fields", field, value)
    return cls(**made)


def _typed(value, type_: type, optional: bool, field: str):
    """The value of a field, converted if it is `Text`."""
    wrong = ConfigError(f"must be {_KINDS[type_]}" + (", or none" if optional else ""), field, value)
    if (value is None or (isinstance(value, Text) and value.lower() == "none")) and optional:
        return None
    if isinstance(value, Text) and type_ is tuple:
        return tuple(item for item in value.split(",") if item)
    if isinstance(value, Text):
        try:
            return {"true": True, "false": False}[value.lower()] if type_ is bool else type_(value)
        except (KeyError, ValueError):
            raise wrong from None
    if type_ is tuple and isinstance(value, list | tuple):
        if any(type(item) is not str for item in value):
            raise ConfigError("its items must be text", field, value)
        return tuple(value)
    if type_ in (int, float):  # `schema` checks numbers
        return value
    if type(value) is not type_:
        raise wrong
    return type_(value)


def with_model(spec: ModelSpec, **fields) -> ModelSpec:
    """The same with fields of its model replaced.

    Raises:
      ConfigError: with the field and its value.
    """
    return dataclasses.replace(spec, model=resolve({**dataclasses.asdict(spec.model), **fields}, Model, "model."))


def override(values: Mapping, overrides: Mapping[str, str]) -> Config:
    """The configuration of `values` with other values, as text, for fields by dotted name.

    Another `data.path` is another dataset: the `data.build_from` of `values`, which says what the former is built from,
    is dropped, unless it is given too.

    Raises:
      ConfigError: with the field and its value.
    """
    merged, names = dict(values), dict(flatten(Config()))
    if "data.path" in overrides:
        overrides = {"data.build_from": "", **overrides}
    for name, text in overrides.items():
        elsewhere = [other for other in names if other.endswith(f".{name}")]
        if elsewhere and name not in names:
            problem = f"there is no such field; did you mean {' or '.join(elsewhere)}?"
            raise ConfigError(problem, name, text)
        *sections, last = name.split(".")
        at = merged
        for section in sections:
            at[section] = dict(at.get(section, {})) if isinstance(at.get(section, {}), Mapping) else {}
            at = at[section]
        at[last] = Text(text)
    return resolve(merged)


def dumps(spec: ModelSpec) -> str:
    """The resolved configuration, or a model's spec, as JSON, one field per line."""
    return json.dumps(dataclasses.asdict(spec), indent=2) + "\n"
