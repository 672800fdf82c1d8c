"""Finds the value at a dotted key, and the member of a domain that equals a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_sweep.config.grammar import Choice, Interval, is_number
from mnist_sweep.config.space import identity

MISSING = object()


def value_at(node: Any, name: str) -> Any:
    """Returns the value at a dotted key, or `MISSING`; a value for all layers is the value of each layer."""
    if isinstance(node, Mapping):
        path = split_key(node, name)
        return MISSING if path is None else value_at(node[path[0]], path[1]) if path[1] else node[path[0]]
    if not name.isdigit():
        return MISSING
    if isinstance(node, list):
        return node[int(name) - 1] if 0 < int(name) <= len(node) else MISSING
    return node


def split_key(node: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """Splits a dotted key into its first part and the rest; a part may contain dots, as in hypermodels' keys."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        if ".".join(parts[:i]) in node:
            return ".".join(parts[:i]), ".".join(parts[i:])
    return None


def member(domain: Choice | Interval, value: Any) -> Any:
    """Returns the domain's member that equals a value, such as 0.0 for 0; `MISSING` if there is none."""
    number = is_number(value)
    if isinstance(domain, Interval):
        fits = number and domain.low <= value <= domain.high and not (domain.integer and value != round(value))
        return domain.clamp(value) if fits else MISSING
    if value is MISSING:
        return MISSING
    same = [o for o in domain.options if identity({"": o}) == identity({"": value})]
    if number:
        same += [o for o in domain.options if type(o) in (int, float) and o == value]
    return next(iter(same), MISSING)
