"""How far a running sweep is, and when it is expected to end."""

from __future__ import annotations

import pytest
from watching import MAX, MIN, Clock, Story, budget, progress

from mnist_sweep.config.settings import ConfirmConfig
from mnist_sweep.journal.events import (
    AttemptFailed,
    SettingsChanged,
    SlotClosed,
    SlotsChanged,
    SweepContinued,
    SweepEnded,
    SweepPaused,
    SweepResumed,
)
from mnist_sweep.journal.trial import Status

# ---- estimates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "size", "most"),
    [
        ({"max_trials": 20}, None, 20),
        ({"max_trials": 20}, 6, 6),
        ({"max_trials": 20}, 600, 20),
        ({}, 6, 6),
        ({}, None, None),
        ({"algorithm": "bayesian"}, 8, 8),
        # Hyperband trains one setting in several trials.
        ({"algorithm": "hyperband"}, 6, None),
        ({"algorithm": "hyperband", "max_trials": 20}, 6, 20),
    ],
)
def test_the_number_of_trials_is_limited_by_the_budget_and_the_space(limits, size, most):
    assert progress(budget=budget(**limits), size=size).most == most


def test_refused_trials_are_not_among_those_that_a_space_has_left():
    seen = progress(size=8)
    story = Story(seen)
    for number in range(3):
        story.starts(number)
        story.ends(number, None, Status.REFUSED, "too large")
    assert seen.most == 5


def test_without_a_finished_trial_there_is_no_estimate():
    seen = progress()
    story = Story(seen)
    story.starts(0)
    story.epoch(0, 1, 0.5)
    assert seen.seconds_left() is None


def test_estimate_is_based_on_the_mean_duration_and_the_number_of_slots():
    seen = progress(budget=budget(max_trials=10), slots=2)
    story = Story(seen)
    for number, seconds in ((0, 10.0), (1, 30.0)):
        story.starts(number)
        story.ends(number, seconds=seconds)
    assert seen.seconds_left() == pytest.approx(8 * 20 / 2)
    # A running trial counts as far as it is.
    story.starts(2, epochs=4)
    story.epoch(2, 1, 0.5)
    assert seen.seconds_left() == pytest.approx((8 - 1 / 4) * 20 / 2)


def test_running_trials_give_an_estimate_before_the_first_has_ended():
    seen = progress(budget=budget(max_trials=4), slots=1)
    story = Story(seen)
    story.starts(0, epochs=4)
    story.epoch(0, 1, 0.5, at=1010.0)
    assert seen.seconds_left() == pytest.approx(4 * 40 - 10)


def test_estimate_counts_the_trials_that_retrain_the_best():
    seen = progress(budget=budget(max_trials=3), slots=2, confirm=ConfirmConfig(top=2, seeds=3))
    story = Story(seen)
    story.starts(0)
    story.ends(0, seconds=10.0)
    assert seen.seconds_left() == pytest.approx(2 * 10 / 2 + 6 * 10 / 2)
    # One that was stopped early is shorter than a retraining.
    story.starts(1)
    story.ends(1, 0.5, Status.STOPPED, "why", seconds=2.0)
    assert seen.seconds_left() == pytest.approx(6 + 30)
    story.starts(2)
    story.ends(2, 0.7, seconds=10.0)
    story.starts(3, confirms=0)
    assert seen.seconds_left() == pytest.approx(30)
    story.epoch(3, 2, 0.5)
    assert seen.seconds_left() == pytest.approx(5.5 * 10 / 2)
    for number, retrains in ((3, 0), (4, 2), (5, 0), (6, 2), (7, 0)):
        story.starts(number, confirms=retrains)
        story.ends(number, seconds=10.0)
    assert "5 retrainings of the best done" in seen.headline()
    story.starts(8, confirms=2)
    # Two slots do not make one trial faster.
    assert seen.seconds_left() == pytest.approx(10)
    story.ends(8)
    assert seen.seconds_left() == 0


def test_one_trial_that_is_left_takes_as_long_as_one():
    seen = progress(budget=budget(max_trials=3), slots=8)
    story = Story(seen)
    for number in (0, 1):
        story.starts(number)
        story.ends(number, seconds=60.0)
    assert seen.seconds_left() == 60


def test_time_budget_limits_the_estimate():
    clock = Clock()
    seen = progress(clock, budget=budget(max_trials=1000, time_budget="2m"), slots=1)
    story = Story(seen)
    assert seen.seconds_left() == 120
    clock.now += 50
    assert seen.seconds_left() == 70
    story.starts(0)
    story.ends(0, seconds=50)
    assert seen.seconds_left() == 70
    clock.now += 100
    assert seen.seconds_left() == 0


def test_estimate_may_be_shorter_than_the_time_budget():
    seen = progress(budget=budget(max_trials=3, time_budget="1h"), slots=1)
    story = Story(seen)
    story.starts(0)
    story.ends(0, seconds=7)
    assert seen.seconds_left() == 14


def test_estimate_is_never_negative():
    seen = progress(budget=budget(max_trials=1), slots=1)
    story = Story(seen)
    for number in (0, 1):
        story.starts(number)
        story.ends(number)
    assert seen.seconds_left() == 0


# ---- the headline -----------------------------------------------------------------------------------------------


def test_headline_at_the_start():
    assert progress().headline() == "0 of 20 trials done · 0 of 2 slots busy · 0 s elapsed"


def test_headline_in_the_middle():
    clock = Clock()
    seen = progress(clock)
    story = Story(seen)
    story.starts(0)
    story.ends(0, 0.91236, seconds=20)
    story.starts(1)
    clock.now += 75
    assert seen.headline() == (
        "1 of 20 trials done · 1 of 2 slots busy · 1 min 15 s elapsed · about 3 min 10 s left · "
        "best val_accuracy 0.9124 (trial 0)"
    )


def test_headline_of_an_endless_search_has_no_estimate():
    seen = progress(budget=budget(), slots=1)
    story = Story(seen)
    story.starts(0)
    story.ends(0, 0.5)
    assert seen.headline() == "1 trial done · 0 of 1 slot busy · 0 s elapsed · best val_accuracy 0.5000 (trial 0)"


def test_headline_of_one_trial_is_in_the_singular():
    assert progress(budget=budget(max_trials=1), slots=1).headline() == (
        "0 of 1 trial done · 0 of 1 slot busy · 0 s elapsed"
    )


def test_headline_at_the_end_has_no_estimate():
    seen = progress()
    story = Story(seen)
    story.starts(0)
    story.ends(0, None, Status.FAILED, "the loss became nan")
    seen.handle(SweepEnded(1000.0, Status.FAILED, "no trial has a result", None))
    assert seen.headline() == "1 of 20 trials done · 0 of 2 slots busy · 0 s elapsed"


@pytest.mark.parametrize(
    ("objective", "scores", "best"),
    [
        (MAX, {0: 0.5, 1: 0.9, 2: 0.7}, 1),
        (MIN, {0: 0.5, 1: 0.9, 2: 0.7}, 0),
        (MAX, {0: 0.9, 1: 0.9}, 0),
        (MAX, {0: None, 1: 0.1}, 1),
        (MAX, {0: None}, None),
        (MAX, {}, None),
    ],
)
def test_best_is_the_best_trial_that_has_ended(objective, scores, best):
    seen = progress(objective=objective)
    story = Story(seen)
    for number, score in scores.items():
        story.starts(number)
        story.ends(number, score)
    story.starts(9)
    story.epoch(9, 1, 1.0 if objective is MAX else 0.0, name=objective.name)
    assert seen.best() == best


def test_retried_trial_starts_at_epoch_zero():
    seen = progress()
    story = Story(seen)
    story.starts(0, "cpu0")
    story.epoch(0, 3, 0.8)
    seen.handle(AttemptFailed(1000.0, 0, 1, "its worker died"))
    story.starts(0, "cpu1", attempt=2)
    (row,) = seen.running
    assert (row.slot, row.epoch, row.best) == ("cpu1", 0, None)


def test_trial_that_never_started_is_ignored():
    seen = progress()
    story = Story(seen)
    story.ends(4, None, Status.STOPPED, "stopped by Ctrl-C")
    assert seen.running == []
    assert seen.counted == set()


def test_headline_of_a_steered_sweep_says_that_it_is_paused_and_how_many_slots_it_has():
    clock = Clock()
    seen = progress(clock)
    told = Story(seen)
    seen.handle(SweepResumed(1000.0, {"search": {"max_trials": 20, "time_budget": None}}))
    told.starts(0)
    told.ends(0)
    seen.handle(SweepPaused(1.0, "ada@box", 7))
    assert (
        seen.headline()
        == "1 of 20 trials done · paused · 0 of 2 slots busy · 0 s elapsed · best val_accuracy 0.9000 (trial 0)"
    )
    seen.handle(SweepContinued(2.0, "ada@box", 7))
    seen.handle(SlotsChanged(3.0, "ada@box", 7, 1))
    seen.handle(SlotClosed(3.0, "cpu1", "the sweep may use 1 slot"))
    seen.handle(SettingsChanged(4.0, "ada@box", 7, {"search.max_trials": 5}))
    assert "1 of 5 trials done · 0 of 1 slot busy, 1 given back" in seen.headline()
    assert "1 slot in use, 1 given back" in seen.headline(busy=False)
    assert seen.most == 5
