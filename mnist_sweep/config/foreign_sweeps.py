"""Reads a search space as other tools write it, to show how it is written here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
# `tune.loguniform(…)`, `hp.Int(…)`, `trial.suggest_float(…)`, `loguniform[…]`.
_CALL = re.compile(r"(?:\w+\.)*(?:suggest_)?(\w+)\s*[(\[](.*)[)\]]", re.DOTALL)
_LOG = ["log", "loguniform", "qloguniform", "logrange", "logspace", "geomspace", "reverseloguniform"]
_REAL = ["uniform", "float", "quniform", "linspace", "discreteuniform"]
_INTEGER = ["randint", "int", "integer", "intuniform", "uniformint", "qrandint"]
_LOG_INTEGER = ["lograndint", "qlograndint"]
_RANGE = ["range", "arange"]
_CHOICE = ["choice", "choices", "categorical", "gridsearch", "values", "list"]
# Names of the same argument.
_LOW = ("low", "min", "min_value", "start", "lower", "minval")
_HIGH = ("high", "max", "max_value", "stop", "end", "upper", "maxval")
_STEP = ("step", "q")
_VALUES = ("values", "choices", "options", "categories", "grid_search", "_value", "value")


def from_call(text: str) -> str | None:
    """Returns a call of another tool's function as a sweep of Hydra's grammar.

    Args:
        text: Such as `tune.loguniform(1e-4, 1e-1)` or `hp.Int("units", 16, 64, step=16)`.

    Returns:
        The sweep; None if the text is not such a call.

    Example:
        >>> from_call("tune.loguniform(1e-4, 1e-1)")
        'tag(log,interval(1e-4,1e-1))'
    """
    call = _CALL.fullmatch(text.strip())
    if call is None:
        return None
    function, arguments = call[1].lower().replace("_", ""), _split(call[2])
    if function in _CHOICE:
        # The name of the hyperparameter may come first.
        inner = next((a for a in arguments if a.startswith(("[", "("))), None)
        named = inner or next((a.partition("=")[2] for a in arguments if a.partition("=")[0] in _VALUES), None)
        values = _split(named.strip()[1:-1]) if named else arguments
        return ",".join(values) if values else None
    given = dict(a.partition("=")[::2] for a in arguments if "=" in a)
    numbers = [a for a in arguments if re.fullmatch(_NUMBER, a, re.IGNORECASE)]
    low, high = _first(given, _LOW, numbers, 0), _first(given, _HIGH, numbers, 1)
    if low is None or high is None:
        return _of_range(numbers[:1]) if function in _RANGE and numbers else None
    log = function in _LOG + _LOG_INTEGER or given.get("log") == "True" or "log" in given.get("sampling", "")
    step = None if log or function not in _RANGE + _INTEGER else _first(given, _STEP, numbers, 2)
    if function in _RANGE:
        return _of_range([low, high, *([step] if step else [])])
    if function in _INTEGER + _LOG_INTEGER:
        # Here, the end of a range is not one of its values.
        if step is not None and step != "1":
            return _of_range([low, str(int(float(high)) + 1), step])
        return _interval(low, high, integer=True, log=log)
    return _interval(low, high, integer=False, log=log) if function in _LOG + _REAL else None


def meant_as_sweep(value: Any) -> str | None:
    """Returns a value that is wrong as it is, but would be a search space in another tool, as a sweep.

    Args:
        value: A list, a mapping such as W&B's `{min: 1, max: 9}`, or a text such as `16:64:16`, `16..64` or `16 32`.

    Returns:
        The sweep; None if the value is none of these.

    Example:
        >>> meant_as_sweep([16, 32])
        '16,32'
        >>> meant_as_sweep("16:64:16")
        'range(16,64,16)'
    """
    if isinstance(value, list | tuple):
        plain = all(isinstance(v, str | int | float) and str(v).strip() for v in value)
        plain = plain and len(set(map(str, value))) == len(value) > 1
        return ",".join(map(_written, value)) if plain else None
    if isinstance(value, Mapping):
        return _of_mapping({str(key): inner for key, inner in value.items()})
    return _of_text(value.strip()) if isinstance(value, str) else None


def _of_mapping(value: Mapping[str, Any]) -> str | None:
    values = next((value[name] for name in _VALUES if isinstance(value.get(name), list)), None)
    if values is not None:
        return meant_as_sweep(values)
    low, high = (next((value[name] for name in names if name in value), None) for names in (_LOW, _HIGH))
    if not all(isinstance(end, int | float) for end in (low, high)):
        return None
    log = "log" in str(value.get("distribution", "")) or value.get("sampling") == "log" or value.get("log") is True
    return _interval(_written(low), _written(high), integer=isinstance(low, int) and isinstance(high, int), log=log)


def _of_text(text: str) -> str | None:
    call = from_call(text)
    if call is not None:
        return call
    parts = re.fullmatch(rf"\[?({_NUMBER})\s*(?::|\.\.+|-|to)\s*({_NUMBER})(?::({_NUMBER}))?\]?", text, re.IGNORECASE)
    if parts is not None:
        low, high, step = parts.groups()
        if step is not None:
            return _of_range([low, high, step])
        return _interval(low, high, integer=low.isdecimal() and high.isdecimal(), log=False)
    values = re.split(r"\s*[|;/,]\s*|\s+", text.strip("[](){}"))
    return (
        ",".join(values) if len(values) > 1 and all(re.fullmatch(_NUMBER, v, re.IGNORECASE) for v in values) else None
    )


def _interval(low: str, high: str, *, integer: bool, log: bool) -> str:
    sweep = f"interval({low},{high})"
    sweep = f"int({sweep})" if integer else sweep
    return f"tag(log,{sweep})" if log else sweep


def _of_range(numbers: list[str]) -> str:
    return f"range({','.join(numbers)})"


def _first(given: Mapping[str, str], names: tuple[str, ...], numbers: list[str], place: int) -> str | None:
    named = next((given[name] for name in names if name in given), None)
    return named if named is not None else next(iter(numbers[place : place + 1]), None)


def _split(text: str) -> list[str]:
    """Splits at the commas that are not inside brackets, and removes spaces."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [re.sub(r"^(\w+)\s*=\s*", r"\1=", part.strip()) for part in parts if part.strip()]


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
