"""An epoch in calls of some seconds each, so that a trial whose loss is no number ends soon."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds in one call, after which the loss is looked at.
_CHUNK = 2.0
_FIRST = 8


def run(
    batches: int, most: int | None, call: Callable[[int, int], dict[str, float]], seen: Callable[[float], bool]
) -> dict[str, float]:
    """Runs an epoch.

    Args:
        batches: How many it has.
        most: Batches in one call; None for as many as take some seconds.
        call: Trains on the batches from the first number, counted from 0, to the one before the second; returns the
            metrics of the epoch so far.
        seen: Called with the mean loss so far after each call; whether training goes on.

    Returns:
        What the last call has returned.
    """
    at, chunk = 0, most or _FIRST
    logs: dict[str, float] = {}
    while at < batches:
        end, started = min(at + chunk, batches), time.perf_counter()
        logs = call(at, end)
        if not seen(logs["loss"]):
            break
        if most is None:
            chunk = max(1, int((end - at) * _CHUNK / max(time.perf_counter() - started, 1e-6)))
        at = end
    return logs


def count(images: int, batch_size: int) -> int:
    """Batches that hold so many images; the last may have fewer."""
    return -(-images // batch_size)
