"""Parses durations and amounts of memory, as users write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator


@functools.cache
def seconds(duration: str) -> float:
    """Parses a duration.

    Args:
        duration: A text such as `90s`, `15m`, `2h` or `1h30m`.

    Returns:
        The duration in seconds.

    Raises:
        ValueError: The text is not a duration, or is zero.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", duration)
    if not parts or "".join(n + u for n, u in parts) != duration.replace(" ", ""):
        raise ValueError("must be a duration such as 90s, 15m, 2h or 1h30m")
    total = sum(float(n) * units[u] for n, u in parts)
    if total <= 0:
        raise ValueError("must be longer than zero")
    return total


def size(text: str) -> int:
    """Parses an amount of memory.

    Args:
        text: A text such as `512MB` or `2GB`; 1 kB is 1,000 bytes.

    Returns:
        The amount in bytes.

    Raises:
        ValueError: The text is not an amount of memory, or is zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(k|M|G)?B", text)
    amount = int(float(found.group(1)) * {None: 1, "k": 10**3, "M": 10**6, "G": 10**9}[found.group(2)]) if found else 0
    if amount <= 0:
        raise ValueError("must be an amount of memory such as 512MB or 2GB")
    return amount


def _checked_by(parse: Callable[[str], float]) -> BeforeValidator:
    def check(value: object) -> object:
        parse(str(value))
        return value

    return BeforeValidator(check)


Duration = Annotated[str, _checked_by(seconds)]
"""Text that `seconds` parses."""
Size = Annotated[str, _checked_by(size)]
"""Text that `size` parses."""
