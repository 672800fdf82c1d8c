"""Holds back what a sweep does until the journal has the events that have led to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mnist_sweep.journal.events import Event, Listener


class Outbox:
    """Events that the listeners have not got yet, and what is to be done once the journal has them.

    So everything that happens in one turn of the loop waits for the disk once.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """Takes the listeners, the journal first."""
        self._listeners = listeners
        self._events: list[Event] = []
        self._acts: list[Callable[[], None]] = []

    def add(self, event: Event) -> None:
        """Adds an event."""
        self._events.append(event)

    def then(self, act: Callable[[], None]) -> None:
        """Does something once the events so far are on the disk: at once, if none waits."""
        if self._events:
            self._acts.append(act)
        else:
            act()

    def send(self) -> None:
        """Hands the events to one listener after another, then does what has waited for that."""
        events, self._events = self._events, []
        for listener in self._listeners if events else ():
            listener.handle(*events)
        acts, self._acts = self._acts, []
        for act in acts:
            act()
