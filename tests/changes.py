"""Changes of a config by dotted key."""

from __future__ import annotations

from typing import Any

MISSING = object()


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes values of a config in place; `MISSING` removes a key."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        if value is MISSING:
            del node[last]
        else:
            node[last] = value
    return config
