"""What a sweep does waits for its journal."""

from __future__ import annotations

from mnist_sweep.driver.outbox import Outbox
from mnist_sweep.journal.events import Event, TrialAsked


class Written:
    """A listener that notes its calls."""

    def __init__(self, name: str, notes: list[object]) -> None:
        self._name, self._notes = name, notes

    def handle(self, *events: Event) -> None:
        self._notes.append((self._name, [event.time for event in events]))


def test_the_events_of_a_turn_are_written_at_once_and_acted_on_afterwards():
    notes: list[object] = []
    outbox = Outbox([Written("journal", notes), Written("screen", notes)])
    outbox.add(TrialAsked(1.0, 0))
    outbox.then(lambda: notes.append("start"))
    outbox.add(TrialAsked(2.0, 1))
    outbox.then(lambda: notes.append("stop"))
    assert notes == []
    outbox.send()
    assert notes == [("journal", [1.0, 2.0]), ("screen", [1.0, 2.0]), "start", "stop"]
    outbox.send()
    assert len(notes) == 4


def test_without_an_event_that_waits_something_is_done_at_once():
    notes: list[object] = []
    Outbox([Written("journal", notes)]).then(lambda: notes.append("done"))
    assert notes == ["done"]
