"""Nodes that rest: one on which trials fail at once would take trial after trial from those that work."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mnist_sweep.workers.devices import node_of

# How many attempts in a row fail on a node without an epoch before it rests, and for how many seconds; each further
# failure doubles that.
_FAILURES = 2
_SECONDS, _MOST_SECONDS = 60.0, 3600.0


class RestingNodes:
    """Counts the attempts that fail on each node without an epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Starts with no failure; `clock` returns the time in seconds."""
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def failed(self, slot: str) -> None:
        """Takes note of an attempt that has failed before its first epoch."""
        node = node_of(slot)
        if node:
            self._failures[node] = failures = self._failures.get(node, 0) + 1
            if failures >= _FAILURES:
                self._until[node] = self._clock() + min(_SECONDS * 2 ** (failures - _FAILURES), _MOST_SECONDS)

    def worked(self, slot: str) -> None:
        """Takes note of an epoch."""
        self._failures.pop(node_of(slot), None)

    @property
    def any(self) -> bool:
        """Whether a node may rest."""
        return bool(self._until)

    def rests(self, slot: str, slots: Collection[str]) -> bool:
        """Returns whether a slot's node rests; it does so only while another node does not.

        Args:
            slot: The slot.
            slots: All slots.
        """
        return self._resting(slot) and not all(map(self._resting, slots))

    def _resting(self, slot: str) -> bool:
        return self._clock() < self._until.get(node_of(slot), 0.0)
