"""Searches that need no oracle: every combination, and a single run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.search.base import Answer, Result, Search, Suggestion


class InOrder(Search):
    """Tries given settings one after another, whatever comes of them.

    keras-tuner's own grid waits for each trial's end before it knows the next point, so that all slots but one idle.
    """

    def __init__(self, settings: Iterator[Values]) -> None:
        """Takes the settings, which are drawn as they are asked for."""
        self._settings = settings

    def ask(self, number: int) -> Suggestion | Answer:
        """The next setting."""
        values = next(self._settings, None)
        return Answer.FINISHED if values is None else Suggestion(values)

    def tell(self, number: int, result: Result) -> None:
        """Nothing depends on a trial's end."""


def grid(space: Space, enqueued: Sequence[Values] = ()) -> Search:
    """`search=grid`: every combination once.

    Args:
        space: The search space.
        enqueued: The ones to begin with.
    """
    first = {identity(values) for values in enqueued}
    return InOrder(itertools.chain(enqueued, (v for v in space.grid() if identity(v) not in first)))


def single() -> Search:
    """`search=none`: one run of a config without sweeps."""
    return InOrder(iter([{}]))
