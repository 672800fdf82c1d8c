"""What a trial's time is spent on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by name; what is measured within another measurement does not count for that."""

    def __init__(self) -> None:
        """Begins at zero."""
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measures what is done within."""
        self._lap()
        self._running.append(name)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """The sums so far, to the microsecond."""
        return {name: round(seconds, 6) for name, seconds in self._seconds.items()}

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
