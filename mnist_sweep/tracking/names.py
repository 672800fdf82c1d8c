"""Names and conditions as MLflow takes them: every metric has one, and its own comes back when it is read."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from mnist_sweep.common.text import printable

# Begin the tags that tell what a metric or a parameter is called where MLflow refuses its own name.
TAG_METRIC, TAG_PARAM = "mnist_sweep.metric.", "mnist_sweep.param."
_REFUSED = re.compile(r"[^\w./: -]")
# MLflow takes 250 characters; the tag that tells the whole name begins with more than the name.
_LONGEST, _KEPT = 250, 200
_Value = TypeVar("_Value")


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """What MLflow is to call the metrics, or the parameters, of a run.

    Args:
        names: Any texts, all that are logged together.

    Returns:
        A key for each. It is the name itself where MLflow takes it; else the name with `_` for what is refused:
        `top_3` for `top@3`. A digest follows where that is another's, too long, empty, or a path to elsewhere.
    """
    all_names = list(dict.fromkeys(names))
    keys = {name: name for name in all_names if _is_taken(name)}
    used = set(keys)
    for name in all_names:
        if name not in keys:
            key = _REFUSED.sub("_", name)
            if not _is_taken(key) or key in used:
                key = f"{key[:_KEPT].replace('/', '_').lstrip('.')}-{_digest(name)}"
            keys[name] = key
            used.add(key)
    return keys


def key_of(name: str) -> str:
    """What MLflow is to call one metric or parameter, of which no other is called alike."""
    return keys_of([name])[name]


def originals(values: Mapping[str, _Value], tags: Mapping[str, str], begins: str) -> dict[str, _Value]:
    """A run's metrics or parameters under their own names.

    Args:
        values: By MLflow's keys.
        tags: The run's.
        begins: `TAG_METRIC` or `TAG_PARAM`.
    """
    return {tags.get(f"{begins}{key}", key): value for key, value in values.items()}


def tagged(key: str, value: str) -> str:
    """The condition, in MLflow's search language, that a run has a tag.

    Args:
        key: The tag's name, as MLflow takes it.
        value: Any text, as it was before it was made storable. MLflow has no escape for a quotation mark: where a text
            has both kinds, any character may stand for the double ones.
    """
    value = printable(value)
    if "'" not in value:
        return f"tags.`{key}` = '{value}'"
    if '"' not in value:
        return f'tags.`{key}` = "{value}"'
    pattern = value.replace('"', "_")
    return f'tags.`{key}` LIKE "{pattern}"'


def _is_taken(name: str) -> bool:
    """Whether MLflow takes a name, which must not mean another file where it is the name of one."""
    same = posixpath.normpath(name) == name and not name.startswith(("..", "/")) and name != "."
    return same and len(name) <= _LONGEST and not _REFUSED.search(name)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
