"""Converts keras-tuner's description of a hypermodel's hyperparameters to the domains and conditions of this project.

keras-tuner has one hyperparameter for each name *and* set of conditions, and accepts any text as a name; a config has
one key for each name. Nothing here loads keras-tuner.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.conditions import Listed
from mnist_sweep.config.grammar import Choice, Domain, Interval, is_number

# With more options than these, a list is useless for people and algorithms alike.
_MOST_OPTIONS = 1000
_OTHER = r"[^A-Za-z0-9_-]+"


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter of a hypermodel.

    Attributes:
        name: Its name in the user's code.
        kind: keras-tuner's class: Boolean, Choice, Fixed, Float or Int.
        domain: Its values.
        default: Its value without a search.
        conditions: Keys of other hyperparameters, with the values for which this one is active.
    """

    name: str
    kind: str
    domain: Domain
    default: Any
    conditions: tuple[Listed, ...]


def key_of(name: str) -> str:
    """Returns the key below `model.values` for a hyperparameter's name, valid on a command line and in MLflow.

    Args:
        name: Any text, such as `dense/units` from keras-tuner's name scopes.

    Returns:
        The name with dots instead of slashes, and underscores instead of characters other than letters, digits, dashes
        and underscores: `dense.units`. Empty if nothing is left.
    """
    parts = (re.sub(rf"^{_OTHER}|{_OTHER}$", "", part) for part in re.split(r"[./]", name))
    return ".".join(re.sub(_OTHER, "_", part) for part in parts if part)


def read(space: Sequence[Mapping[str, Any]], model: str) -> dict[str, Parameter]:
    """Reads the search space of a hypermodel.

    Args:
        space: The entry `space` of `keras_tuner.HyperParameters.get_config()`.
        model: The hypermodel, for error messages.

    Returns:
        The hyperparameters by key, parents before their children. One that is defined under several conditions is
        active if any of them holds.

    Raises:
        UserError: Two of them get the same key, or one cannot be expressed.
    """
    names = {entry["config"]["name"] for entry in space}
    keys: dict[str, str] = {}
    for name in sorted(names):
        key = key_of(name)
        if not key:
            raise UserError(f"model.hypermodel={model}: a hyperparameter is named {name!r}; use letters and digits")
        if key in keys.values():
            other = next(n for n, k in keys.items() if k == key)
            raise UserError(
                f"model.hypermodel={model}: the hyperparameters {other!r} and {name!r} would both be "
                f"model.values.{key}; rename one"
            )
        keys[name] = key
    entries: dict[str, list[Parameter]] = {}
    for entry in space:
        config = entry["config"]
        kind, domain = entry["class_name"], _domain(entry, model)
        conditions: dict[str, tuple[Any, ...]] = {}
        for condition in config["conditions"]:
            parent, allowed = keys[condition["config"]["name"]], tuple(condition["config"]["values"])
            before = conditions.get(parent, allowed)
            conditions[parent] = tuple(v for v in before if v in allowed)
        default = config.get("value") if kind == "Fixed" else config["default"]
        found = Parameter(config["name"], kind, domain, cast(kind, domain, default), tuple(conditions.items()))
        entries.setdefault(keys[config["name"]], []).append(found)
    return {key: _merged(found, model) for key, found in entries.items()}


def _merged(entries: list[Parameter], model: str) -> Parameter:
    """Merges the hyperparameters of one name: the result is active if any of them is."""
    first = entries[0]
    for other in entries[1:]:
        if (other.kind, other.domain) != (first.kind, first.domain):
            raise UserError(
                f"model.hypermodel={model}: {first.name!r} is defined as {first.domain} and as {other.domain}; "
                "give the two different names"
            )
    alternatives = [dict(entry.conditions) for entry in entries]
    while len(alternatives) > 1:
        for a, b in itertools.combinations(alternatives, 2):
            either = _either(a, b)
            if either is not None:
                alternatives = [c for c in alternatives if c is not a and c is not b] + [either]
                break
        else:
            raise UserError(
                f"model.hypermodel={model}: {first.name!r} depends on "
                f"{', or on '.join(' and '.join(a) for a in alternatives)}; give each case its own name"
            )
    return replace(first, conditions=tuple(alternatives[0].items()))


def _either(a: dict[str, tuple[Any, ...]], b: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]] | None:
    """Returns the conjunction that holds if either of two does; None if there is no such conjunction."""
    for one, other in ((a, b), (b, a)):
        if all(parent in one and set(one[parent]) <= set(allowed) for parent, allowed in other.items()):
            return other
    differing = [parent for parent in a if a[parent] != b.get(parent)]
    if a.keys() != b.keys() or len(differing) != 1:
        return None
    (parent,) = differing
    return {**a, parent: (*a[parent], *(v for v in b[parent] if v not in a[parent]))}


def _domain(entry: Mapping[str, Any], model: str) -> Domain:
    kind, config = entry["class_name"], entry["config"]
    if kind == "Fixed":
        return Choice((config["value"],))
    if kind == "Boolean":
        return Choice((True, False))
    if kind == "Choice":
        return Choice(tuple(dict.fromkeys(config["values"])))
    low, high, step, integer = config["min_value"], config["max_value"], config["step"], kind == "Int"
    if low == high:
        return Choice((low,))
    log = config["sampling"] == "log"
    if step is None or (integer and step == 1 and not log):
        return Interval(low, high, integer, log)
    options = tuple(sorted(itertools.islice(steps(config, integer=integer), _MOST_OPTIONS + 1)))
    if len(options) <= _MOST_OPTIONS:
        return Choice(options)
    if integer:
        raise UserError(
            f"model.hypermodel={model}: {config['name']!r} has more than {_MOST_OPTIONS} values; give it a larger "
            "step, or none"
        )
    return Interval(low, high, False, log)


def steps(config: Mapping[str, Any], *, integer: bool) -> Iterator[float]:
    """Yields the values of a number with a step, as keras-tuner documents them; its code omits some maxima.

    Args:
        config: The hyperparameter's config, with `min_value`, `max_value`, `step` and `sampling`.
        integer: Whether the values are whole numbers.
    """
    low, high, step, linear = config["min_value"], config["max_value"], config["step"], config["sampling"] == "linear"
    count = int((high - low) / step + 1e-8) if linear else int(math.log(high / low, step) + 1e-8)
    for i in range(count + 1):
        value = low + i * step if linear else low * step**i
        if config["sampling"] == "reverse_log":
            value = high + low - value
        yield int(value) if integer else float(f"{value:.12g}")


def cast(kind: str, domain: Domain, value: Any) -> Any:
    """Converts a value to the type that keras-tuner would give it."""
    options = domain.options if isinstance(domain, Choice) else ()
    for option in options:
        if is_one_of(value, (option,)) and isinstance(option, bool) == isinstance(value, bool):
            return option
    return float(value) if kind == "Float" or (options and isinstance(options[0], float)) else value


def is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Returns whether a value is in a tuple, ignoring rounding errors."""
    return any(v == value or (is_number(v) and is_number(value) and math.isclose(v, value)) for v in allowed)
