"""A clock that changes of the system's time do not affect."""

from __future__ import annotations

import time


class SteadyClock:
    """The time in seconds since 1970, read from the system's clock once and counted on monotonically.

    The difference between two of its times is correct even when the system's clock is changed in between, so budgets,
    timeouts and the times of events all use it. It stops while the machine sleeps (see `CLOCK_MONOTONIC` in
    clock_gettime(2)), when no worker can send anything either.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Returns the current time, in seconds since 1970."""
        return self._offset + time.monotonic()
