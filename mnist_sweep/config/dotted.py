"""The values of a config by their dotted keys, such as `model.units`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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


def put(node: Any, name: str, value: object) -> None:
    """Replaces the value at a dotted key; does nothing if there is none."""
    path = split_key(node, name) if isinstance(node, dict) else None
    if path is not None and path[1]:
        put(node[path[0]], path[1], value)
    elif path is not None:
        node[path[0]] = value


def replaced(config: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """Returns a copy of a config with another value at a dotted key, which exists."""
    result: dict[str, Any] = json.loads(json.dumps(config))
    put(result, name, value)
    return result


def split_key(node: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """Splits a dotted key into its first part and the rest; a part may contain dots, as in hypermodels' keys."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        if ".".join(parts[:i]) in node:
            return ".".join(parts[:i]), ".".join(parts[i:])
    return None
