"""A clock that no change of the system's time can move."""

from __future__ import annotations

import time


class SteadyClock:
    """The time in seconds since 1970, as it was when the clock was made, and counted on from there.

    The difference between two of its times is true whatever happens to the system's clock in between, so budgets,
    timeouts and the times of events can all be taken from it. It stands still while the machine sleeps (see
    `CLOCK_MONOTONIC` in clock_gettime(2)), when no worker could have said anything.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """The time now, in seconds since 1970."""
        return self._offset + time.monotonic()
