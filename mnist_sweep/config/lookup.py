"""Finds the member of a domain that equals a value."""

from __future__ import annotations

from typing import Any

from mnist_sweep.config.dotted import MISSING
from mnist_sweep.config.grammar import Choice, Interval, is_number
from mnist_sweep.config.space import identity


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
