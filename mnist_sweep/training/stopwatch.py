"""Measures what a trial's time is spent on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by name. Time in a nested measurement counts for the inner name only."""

    def __init__(self) -> None:
        """Starts at zero."""
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measures the body of a `with` statement."""
        self._lap()
        self._running.append(name)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """The sums so far, rounded to microseconds."""
        return {name: round(seconds, 6) for name, seconds in self._seconds.items()}

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
