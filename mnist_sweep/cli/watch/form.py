"""What the page needs to know of the search space: for its axes, and for the forms that steer a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import format_setting, format_value, short_names
from mnist_sweep.config.grammar import Choice, Domain, Interval, read_sweep
from mnist_sweep.journal.state import BUDGET, SweepState

# A choice of more numbers than this has a continuous axis.
_MOST_OPTIONS = 12
_BUDGET = ("max_trials", "time_budget", "target", "max_failures")


def hyperparameters(state: SweepState) -> list[dict[str, Any]]:
    """Describes each hyperparameter.

    Args:
        state: The sweep.

    Returns:
        `name`, `short`, `domain` and `when` (its condition) as text. If its domain can be read: `low`, `high` and
        `integer` of an interval, or the `options` of a choice as text for people, as they are `written` on the command
        line, and as `values`. Its `axis`: `linear`, `log` or `choice`. What users have `narrowed` it to.
    """
    short = short_names(list(state.space))
    return [
        {"name": name, "short": short[name], **_field(text), **_narrowed(name, state.narrowed)}
        for name, text in state.space.items()
    ]


def _field(text: str) -> dict[str, Any]:
    domain_text, _, when = text.partition(" if ")
    about: dict[str, Any] = {"domain": domain_text, "when": when, "axis": "choice"}
    domain = _read(domain_text)
    if domain is None:
        return about
    if isinstance(domain, Interval):
        axis = "log" if domain.log else "linear"
        return about | {"axis": axis, "low": domain.low, "high": domain.high, "integer": domain.integer}
    if domain.numeric and domain.size > _MOST_OPTIONS:
        about["axis"] = "linear"
    return about | {
        "options": [format_value("None" if option is None else option) for option in domain.options],
        "written": _written(domain),
        "values": [value_of(option) for option in domain.options],
    }


def _narrowed(name: str, parts: Mapping[str, str]) -> dict[str, Any]:
    if name not in parts:
        return {}
    part = _read(parts[name])
    ends = {"low": part.low, "high": part.high} if isinstance(part, Interval) else {}
    options = {} if part is None or isinstance(part, Interval) else {"written": _written(part)}
    return {"narrowed": {"text": parts[name], **ends, **options}}


def _read(text: str) -> Domain | None:
    try:
        return read_sweep(text, "")
    except UserError:
        # A sweep of an earlier version.
        return None


def _written(domain: Choice) -> list[str]:
    """Returns each option as the command line has it."""
    return [str(Choice((option,))).removeprefix("choice(").removesuffix(")") for option in domain.options]


def value_of(value: Any) -> Any:
    """Returns a hyperparameter's value as the page has it: a number, or text, also for the value null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return format_value("None" if value is None else value)
    return value if math.isfinite(value) else format_value(value)


def budget(state: SweepState) -> dict[str, str]:
    """Returns the budget as a config has it, by key."""
    search = state.config.get("search")
    if not isinstance(search, Mapping):
        return {}
    return {f"{BUDGET}{key}": format_setting(search.get(key)) for key in _BUDGET if key in search}
