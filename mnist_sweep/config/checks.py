"""Checks a mapping against a pydantic model, with messages that name the key and the value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.config.foreign_sweeps import meant_as_sweep
from mnist_sweep.config.key_names import unknown_key
from mnist_sweep.config.shipped import TRIAL_GROUPS

M = TypeVar("M", bound=BaseModel)

_SEARCHED = tuple(f"{group}." for group in TRIAL_GROUPS)


class Strict(BaseModel):
    """A config model that refuses unknown keys and does not convert types."""

    # By alias, so that what is written can be checked again.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)


def check(cls: type[M], raw: Mapping[str, Any], prefix: str = "") -> M:
    """Checks a mapping against a pydantic model.

    Args:
        cls: The model.
        raw: The mapping.
        prefix: The dotted key of the mapping in the config, with a dot at its end.

    Returns:
        The typed object.

    Raises:
        UserError: The first error, as one line: `model.units=0: must be at least 1`.
        ImpossibleError: Each value is allowed, but not together with another one.
    """
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        kind = ImpossibleError if all(_of_several_keys(details, raw) for details in error.errors()) else UserError
        raise kind(_one_line(error, cls, raw, prefix)) from None


_MESSAGES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a group of keys",
    "none_required": "must be null",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be auto or HOST:PORT",
}


def _one_line(error: ValidationError, cls: type[BaseModel], raw: Mapping[str, Any], prefix: str) -> str:
    # A field of type `int | list[int]` has an error for each of the two types. The one that fits the value best is
    # reported, followed by the words that the field accepts.
    def unlikeness(details: Any) -> tuple[bool, bool, bool]:
        in_list = any(str(part).startswith("list[") for part in details["loc"])
        is_list = isinstance(_value(raw, _path(raw, details["loc"], whole=True)), list)
        is_word = details["type"] == "literal_error"
        return (in_list != is_list, is_word or details["type"].endswith(("_type", "none_required")), is_word)

    def order(details: Any) -> tuple[bool, bool]:
        return _of_several_keys(details, raw), details["type"] != "extra_forbidden"

    # Unknown keys first: an unknown key may be a missing one, misspelt.
    errors = sorted(error.errors(), key=order)
    first_key = _path(raw, errors[0]["loc"], whole=True)
    details = min((e for e in errors if _path(raw, e["loc"], whole=True) == first_key), key=unlikeness)
    path = _path(raw, details["loc"])
    key = (prefix + ".".join(_parts(raw, path))).rstrip(".")
    if details["type"] == "missing":
        return f"{prefix}{'.'.join([*_parts(raw, path), str(details['loc'][-1])])}: this key is missing"
    if details["type"] == "extra_forbidden":
        known = [prefix + k for k in dotted_keys(cls, raw)]
        return unknown_key(key, known)
    value = _value(raw, path)
    if details["type"] == "value_error":
        message = str(details["ctx"]["error"])
        if message.startswith("."):
            # A check of several keys names the wrong one itself.
            return key + message
    else:
        message = _MESSAGES.get(details["type"], details["msg"].lower()).format(
            **{
                name: int(given) if isinstance(given, float) and given.is_integer() else given
                for name, given in details.get("ctx", {}).items()
            }
        )
        where = _path(raw, details["loc"])
        for other in errors:
            if other["type"] == "literal_error" and other is not details and _path(raw, other["loc"]) == where:
                message += f" or {other['ctx']['expected']}"
        if details["type"] == "literal_error" and _may_be_null(cls, raw, where):
            message += " or null"
    if details["type"] == "list_type" and isinstance(value, str) and value:
        message += f"; write '{key}=[{value}]'"
    sweep = meant_as_sweep(value) if key.startswith(_SEARCHED) else None
    if sweep is not None:
        message += f"; to search values, write {key}={sweep}"
    return f"{key}: {message}" if isinstance(value, Mapping) or not key else f"{key}={as_written(value)}: {message}"


def _of_several_keys(details: Any, raw: Mapping[str, Any]) -> bool:
    """Returns whether an error is about values that do not go together, rather than about one of them."""
    return details["type"] == "value_error" and isinstance(_value(raw, _path(raw, details["loc"])), Mapping)


def as_written(value: object) -> str:
    """Returns a value as YAML, on one line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else " ".join(str(value).split())


def _path(raw: Any, loc: Sequence[int | str], *, whole: bool = False) -> list[int | str]:
    """Returns the parts of a pydantic location that are keys of the mapping, without pydantic's names of types."""
    path: list[int | str] = []
    for part in loc:
        in_list = isinstance(raw, list) and isinstance(part, int) and not whole
        if in_list or (isinstance(raw, Mapping) and part in raw):
            raw = raw[part]
            path.append(part)
    return path


def _parts(raw: Any, path: Sequence[int | str]) -> Iterator[str]:
    """Yields the parts of a dotted key; layers are counted from 1."""
    for part in path:
        yield str(int(part) + 1 if isinstance(raw, list) else part)
        raw = raw[part]


def _value(raw: Any, path: Sequence[int | str]) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _fields(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """Returns the fields of a config model by their keys, which may be words of Python."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _may_be_null(cls: type[BaseModel], raw: Any, path: Sequence[int | str]) -> bool:
    for part in path[:-1]:
        field = _fields(cls).get(str(part))
        raw = raw[part]
        models = list(_models(field.annotation, raw)) if field else []
        if not models:
            return False
        cls = models[0]
    field = _fields(cls).get(str(path[-1])) if path else None
    return field is not None and type(None) in get_args(field.annotation)


def _models(annotation: Any, raw: Any) -> Iterator[type[BaseModel]]:
    """Yields the config models that a field accepts; if there are several, only the one of the kind in the mapping."""
    types = [t for t in _types(annotation) if issubclass(t, BaseModel)]
    if len(types) > 1:
        kind = raw.get("kind") if isinstance(raw, Mapping) else None
        types = [t for t in types if kind in get_args(getattr(t.model_fields.get("kind"), "annotation", None))]
    yield from types


def dotted_keys(cls: type[BaseModel], raw: Any = None) -> Iterator[str]:
    """Yields all keys of a config model, as dotted names.

    Args:
        cls: The pydantic model.
        raw: The mapping, whose `kind` selects a model where a field accepts several.

    Yields:
        Names such as `model.pooling.size`.
    """
    for name, field in _fields(cls).items():
        yield name
        below = raw.get(name) if isinstance(raw, Mapping) else None
        for inner in _models(field.annotation, below):
            yield from (f"{name}.{key}" for key in dotted_keys(inner, below))


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)
