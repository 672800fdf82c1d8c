"""The state of a sweep after its events."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import (
    NO_SLOT,
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome, Status, Trial

STARTED = SweepStarted(0.0, "a/b", {"seed": 1}, {}, {}, {"keras": "1", "numpy": "2"})
EVENTS: list[Event] = [
    STARTED,
    TrialStarted(1.0, Trial(0, {}, {}, 3), 1, "cpu0"),
    TrialStarted(1.0, Trial(1, {}, {}, 3), 1, "cpu1"),
    EpochEnded(2.0, 0, 1, 1, {"val_accuracy": 0.5}),
    EpochEnded(3.0, 0, 1, 2, {"val_accuracy": 0.7}),
    AttemptFailed(3.0, 1, 1, "its worker died"),
    TrialEnded(4.0, 0, Outcome(Status.COMPLETED, score=0.7)),
    SlotOpened(4.0, "cpu2", "why not"),
]


def facts(state: SweepState) -> dict[str, Any]:
    return {name: value for name, value in vars(state).items() if name != "slots_added"}


def test_events_that_are_handled_again_change_nothing() -> None:
    once, twice = SweepState.after(EVENTS), SweepState.after([*EVENTS, *EVENTS[1:]])
    assert facts(twice) == facts(once)


def test_a_trial_is_open_until_it_ends_and_a_failure_counts_its_attempts() -> None:
    state = SweepState.after(EVENTS, [Objective("val_accuracy", "max")])
    assert {number: start.attempt for number, start in state.open.items()} == {1: 2}
    assert (state.results.winner(), state.next, state.slots) == (0, 2, {"cpu0", "cpu1"})
    assert (state.last_epoch(0), state.last_epoch(1), state.latest[0].epoch) == (2, 0, 2)


def test_executions_are_known_until_their_trial_ends() -> None:
    ended = ExecutionEnded(2.0, 1, 2, Outcome(Status.COMPLETED))
    state = SweepState.after([*EVENTS, ended])
    assert state.executions == {1: {2: ended.outcome}}
    state.handle(TrialEnded(3.0, 1, Outcome(Status.COMPLETED)))
    assert not state.executions


def test_refused_trials_and_retrainings_do_not_count_in_the_budget() -> None:
    state = SweepState.after([*EVENTS, TrialStarted(5.0, Trial(2, {}, {}, 3, confirms=0), 1, "cpu0")])
    assert state.searched == {0, 1}
    state.handle(TrialEnded(6.0, 1, Outcome(Status.REFUSED)))
    assert (state.searched, state.refused) == ({0}, {1})


def test_a_trial_that_was_refused_at_once_has_no_slot() -> None:
    state = SweepState.after([*EVENTS, TrialStarted(5.0, Trial(2, {}, {}, 3), 1, NO_SLOT)])
    assert NO_SLOT not in state.slots


def test_a_trial_that_never_started_has_no_outcome() -> None:
    assert SweepState.after([TrialEnded(1.0, 7, Outcome(Status.STOPPED))]).results.outcomes == {}


def test_slots_are_counted_from_the_start_of_the_session() -> None:
    state = SweepState.after(
        [*EVENTS, SlotOpened(5.0, "cpu3", ""), SlotClosed(6.0, "cpu3", ""), SlotLost(7.0, "x", "")]
    )
    assert state.slots_added == 0
    state.handle(SlotLost(8.0, "y", ""))
    assert state.slots_added == -1
    state.handle(SweepResumed(9.0, {}))
    assert state.slots_added == 0


def test_a_session_replaces_the_config_and_adds_its_versions() -> None:
    state = SweepState.after([*EVENTS, SweepResumed(9.0, {"seed": 2}, {"keras": "3"})])
    assert state.started is STARTED
    assert (state.config, state.versions) == ({"seed": 2}, {"keras": "3", "numpy": "2"})


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.STOPPED])
def test_a_sweep_has_ended_until_it_is_resumed(status: Status) -> None:
    state = SweepState.after([*EVENTS, end := SweepEnded(9.0, status, "", 0)])
    assert (state.ended, state.completed) == (end, status is Status.COMPLETED)
    state.handle(SweepResumed(10.0, {}))
    assert (state.ended, state.completed) == (None, False)


def test_a_journal_that_does_not_begin_with_the_start_has_none() -> None:
    assert SweepState.after(EVENTS[1:]).started is None
    assert SweepState.after([EVENTS[1], STARTED]).started is None


def test_the_last_test_of_the_winner_counts() -> None:
    tests = [WinnerTested(9.0, number, {}, []) for number in (0, 1)]
    state = SweepState.after([*EVENTS, *tests])
    assert (state.tests, state.tested) == (tests, tests[-1])
