"""Converts names and search conditions to what MLflow accepts, and names back."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from mnist_sweep.common.text import printable

# Prefixes of the tags with the original name of a metric or parameter whose name MLflow rejects.
TAG_METRIC, TAG_PARAM = "mnist_sweep.metric.", "mnist_sweep.param."
# Metrics whose names begin so are in the tab "System metrics" of a run.
SYSTEM = "system/"
_REFUSED = re.compile(r"[^\w./: -]")
# MLflow allows 250 characters, which must suffice for a tag's prefix, too.
_LONGEST, _KEPT = 250, 200
_Value = TypeVar("_Value")


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Returns MLflow's keys for the metrics or parameters of a run.

    Args:
        names: Any texts; all that are logged together.

    Returns:
        A key for each name: the name itself if MLflow accepts it, else the name with `_` for refused characters, as in
        `top_3` for `top@3`. A hash is appended if that key is taken, too long, empty, or a path to another folder.
    """
    all_names = list(dict.fromkeys(names))
    keys = {name: name for name in all_names if _is_accepted(name)}
    used = set(keys)
    for name in all_names:
        if name not in keys:
            key = _REFUSED.sub("_", name)
            if not _is_accepted(key) or key in used:
                key = f"{key[:_KEPT].replace('/', '_').lstrip('.')}-{_hash(name)}"
            keys[name] = key
            used.add(key)
    return keys


def key_of(name: str) -> str:
    """Returns MLflow's key for a single metric or parameter."""
    return keys_of([name])[name]


def originals(values: Mapping[str, _Value], tags: Mapping[str, str], prefix: str) -> dict[str, _Value]:
    """Returns a run's metrics or parameters under their original names.

    Args:
        values: The values by MLflow's keys.
        tags: The run's tags.
        prefix: `TAG_METRIC` or `TAG_PARAM`.
    """
    return {tags.get(f"{prefix}{key}", key): value for key, value in values.items()}


def tagged(key: str, value: str) -> str:
    """Returns the search condition, in MLflow's language, for runs with a tag.

    Args:
        key: The tag's key in MLflow.
        value: Any text, before it was made printable. MLflow cannot escape quotation marks. If the text contains both
            kinds, any character matches a double one.
    """
    value = printable(value)
    if "'" not in value:
        return f"tags.`{key}` = '{value}'"
    if '"' not in value:
        return f'tags.`{key}` = "{value}"'
    pattern = value.replace('"', "_")
    return f'tags.`{key}` LIKE "{pattern}"'


def _is_accepted(name: str) -> bool:
    """Returns whether MLflow accepts a name. It may become a file name, so it must not be a path to another folder."""
    normal = posixpath.normpath(name) == name and not name.startswith(("..", "/")) and name != "."
    return normal and len(name) <= _LONGEST and not _REFUSED.search(name)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
