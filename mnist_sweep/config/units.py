"""Durations and amounts of memory, as users write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator


def seconds(duration: str) -> float:
    """Reads a duration.

    Args:
        duration: Such as `90s`, `15m`, `2h` or `1h30m`.

    Returns:
        Seconds.

    Raises:
        ValueError: It is not of that form, or zero.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", duration)
    if not parts or "".join(n + u for n, u in parts) != duration.replace(" ", ""):
        raise ValueError("must be a duration such as 90s, 15m, 2h or 1h30m")
    total = sum(float(n) * units[u] for n, u in parts)
    if total <= 0:
        raise ValueError("must be more than no time")
    return total


def _duration(value: object) -> object:
    seconds(str(value))
    return value


def size(text: str) -> int:
    """Reads an amount of memory.

    Args:
        text: Such as `512MB` or `2GB`; a kB is 1,000 bytes.

    Returns:
        Bytes.

    Raises:
        ValueError: It is not of that form, or nothing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(k|M|G)?B", text)
    amount = int(float(found.group(1)) * {None: 1, "k": 10**3, "M": 10**6, "G": 10**9}[found.group(2)]) if found else 0
    if amount <= 0:
        raise ValueError("must be an amount of memory such as 512MB or 2GB")
    return amount


def _size(value: object) -> object:
    size(str(value))
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
"""Text that `seconds` reads."""
Size = Annotated[str, BeforeValidator(_size)]
"""Text that `size` reads."""
