"""Events, trials and outcomes as plain data."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_sweep.journal.events import (
    KINDS,
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SettingsChanged,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SlotsChanged,
    SweepContinued,
    SweepEnded,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialAsked,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
    WinnerTested,
    event_from_json,
)
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.trial import Execution, Outcome, Status, Trial

TRIAL = Trial(
    3,
    {"model.layers": 1, "model.units.1": 64, "optimizer.name": "adam", "model.dropout": 0.25},
    {"model": {"layers": 1, "units": [64]}, "optimizer": {"name": "adam", "momentum": None}},
    epochs=9,
    initial_epoch=3,
    parent=1,
    inactive=["model.units.2"],
)
OUTCOME = Outcome(Status.STOPPED, "a budget", 0.75, 2, {"val_accuracy": 0.75, "loss": 0.5}, 1234, 6.5)
EVENTS: list[Event] = [
    SweepStarted(
        1.5, "mlp/now", {"name": "mlp", "data": {"path": None}}, {"a": "1, 2"}, {"digest": "d"}, {"keras": "3"}
    ),
    TrialAsked(2.0, 3),
    TrialStarted(2.5, TRIAL, 1, "gpu0.1"),
    TrialStarted(2.5, Trial(0, {}, {}, 1), 2, "cpu0"),
    EpochEnded(3.0, 3, 1, 4, {"loss": 0.1 + 0.2, "val_loss": 1e-17, "learning_rate": 5e-324}),
    EpochEnded(3.0, 3, 1, 4, {"loss": math.inf}),
    AttemptFailed(3.5, 3, 1, "its worker was killed by SIGKILL – out of memory?", "line\n\tline größe"),
    TrialEnded(4.0, 3, OUTCOME),
    TrialEnded(4.0, 4, Outcome(Status.FAILED), "Traceback\n"),
    SweepResumed(4.5, {"name": "mlp", "search": {"max_trials": 40}}),
    EpochEnded(3.0, 3, 1, 4, {"loss": 0.5}, execution=2),
    ExecutionEnded(3.2, 3, 2, OUTCOME),
    TrialStarted(4.6, Trial(5, {}, {}, 1, executions=[Execution(1, 2, 5), Execution(7)], confirms=3), 1, "cpu0"),
    TrialsRetried(4.7, [0]),
    Confirmed(4.8, [{"trial": 3, "scores": {"1001": 0.5}, "mean": 0.5, "std": 0.0}], 3, 5, None),
    WinnerTested(5.0, 3, {"test_loss": 0.1, "test_accuracy": 0.9}, [[5, 1], [0, 4]]),
    SlotOpened(5.4, "gpu0.1", "gpu0 has trained one trial at a time so far"),
    SlotClosed(5.45, "gpu0.1", "a trial ran out of memory while it shared the GPU"),
    SlotLost(5.5, "gpu1", "cannot start: it ended with exit code 1"),
    TrialStopped(5.6, "ada@box", 17, 3),
    TrialAdded(5.6, "ada@box", 17, 6, {"model.units": 64}),
    SweepPaused(5.7, "ada@box", 17),
    SweepContinued(5.8, "ada@box", 17),
    SettingsChanged(5.8, "ada@box", 17, {"search.max_trials": None, "model.units": "choice(16, 32)"}),
    SlotsChanged(5.9, "ada@box", 17, 1),
    SweepEnded(6.0, Status.COMPLETED, "", 3),
    SweepEnded(6.0, Status.FAILED, "no trial has a result", None),
]


def ids(event: Event) -> str:
    return event.kind


@pytest.mark.parametrize("event", EVENTS, ids=ids)
def test_event_is_the_same_after_conversion_to_json_and_back(event):
    assert event_from_json(json.loads(event.to_json())) == event


def test_every_kind_of_event_is_tested():
    assert {type(event) for event in EVENTS} == set(KINDS.values())


@pytest.mark.parametrize("event", EVENTS, ids=ids)
def test_reading_an_event_does_not_change_the_data(event):
    raw = json.loads(event.to_json())
    before = copy.deepcopy(raw)
    event_from_json(raw)
    assert raw == before


def test_status_is_read_as_a_status():
    ended = event_from_json(json.loads(TrialEnded(1.0, 0, OUTCOME).to_json()))
    assert isinstance(ended, TrialEnded)
    assert ended.outcome.status is Status.STOPPED


def test_an_outcome_of_an_earlier_version_has_no_digest():
    raw = json.loads(TrialEnded(1.0, 0, replace(OUTCOME, digest="c0ffee")).to_json())
    assert event_from_json(copy.deepcopy(raw)).outcome.digest == "c0ffee"
    del raw["outcome"]["digest"]
    assert event_from_json(raw).outcome.digest == ""


def _without(event: Event, field: str) -> dict[str, object]:
    raw = json.loads(event.to_json())
    del raw[field]
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "unknown event None"),
        ({"event": "coffee"}, "unknown event 'coffee'"),
        (_without(TrialAsked(1.0, 2), "time"), "trial_asked needs the fields ['time', 'trial']"),
        ({**json.loads(TrialAsked(1.0, 2).to_json()), "more": 1}, "trial_asked needs the fields ['time', 'trial']"),
        (
            {**json.loads(SweepEnded(1.0, Status.STOPPED, "", 1).to_json()), "status": "tired"},
            "sweep_ended.status: Input should be 'running', 'completed', 'stopped', 'diverged', 'failed' or 'refused'",
        ),
    ],
)
def test_anything_but_an_event_is_refused(raw, message):
    with pytest.raises(ValueError, match=".") as caught:
        event_from_json(raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(("number", "name"), [(0, "0000"), (17, "0017"), (12345, "12345")])
def test_the_folders_of_trials_sort_by_number(number, name):
    assert trial_folder(Path("experiments/mlp/now"), number) == Path(f"experiments/mlp/now/trials/{name}")
