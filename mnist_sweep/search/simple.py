"""Searches that do not need an oracle: grid search, and a single trial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mnist_sweep.config.space import Values, identity
from mnist_sweep.search.base import Answer, Problem, Result, Search, Suggestion


class ListSearch(Search):
    """Suggests given hyperparameter values one after another, whatever the results.

    keras-tuner's grid search computes the next point when a trial ends, so all slots but one would idle.
    """

    def __init__(self, values: Iterator[Values]) -> None:
        """Takes the values, which are read one at a time."""
        self._values = values
        self._restored: set[str] = set()

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Leaves out values that were suggested before, maybe in a smaller space."""
        self._restored.add(identity(suggestion.values))

    def add(self, number: int, suggestion: Suggestion) -> None:
        """Leaves out values that a user has added."""
        self._restored.add(identity(suggestion.values))

    def ask(self, number: int) -> Suggestion | Answer:
        """Returns the next values."""
        values = next((values for values in self._values if identity(values) not in self._restored), None)
        return Answer.FINISHED if values is None else Suggestion(values)

    def tell(self, number: int, result: Result) -> None:
        """Does nothing: suggestions do not depend on results."""


def grid(problem: Problem) -> Search:
    """`search=grid`: every combination once, the enqueued ones first, without those of earlier sweeps.

    Also `search=none`, if there is only one.
    """
    earlier = {identity(trial["values"]) for trial in problem.earlier}
    first = [dict(values) for values in problem.enqueued if identity(values) not in earlier]
    known = earlier.union(map(identity, first))
    rest = (values for values in problem.space.grid() if identity(values) not in known)
    return ListSearch(itertools.chain(first, rest))


def single() -> Search:
    """One trial, for a config without sweeps, whatever the algorithm."""
    return ListSearch(iter([{}]))
