"""What the user sees while a sweep runs."""

from __future__ import annotations

import functools
import re
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mnist_sweep.common.text import format_duration, format_value, short_names
from mnist_sweep.config import compose
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import SearchConfig
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver.progress import Progress, Screen
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.trial import Outcome, Status, Trial

MAX = Objective("val_accuracy", "max")
MIN = Objective("val_loss", "min")
SPACE = {"model.units": "16, 64", "optimizer.name": "adam, sgd", "optimizer.learning_rate": "1e-4 … 1e-1"}


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@functools.cache
def _shipped(algorithm: str) -> SearchConfig:
    return check_settings(compose.defaults((f"search={algorithm}",))).search


def budget(max_trials: int | None = None, time_budget: str | None = None, algorithm: str = "random") -> SearchConfig:
    """Returns the shipped config of an algorithm with another budget."""
    return _shipped(algorithm).model_copy(update={"max_trials": max_trials, "time_budget": time_budget})


def trial(number: int, epochs: int = 4, **values: Any) -> Trial:
    settings = {"model.units": 64, "optimizer.name": "adam", "optimizer.learning_rate": 0.00123456, **values}
    return Trial(number, settings, {}, epochs)


class Story:
    """Sends events to a progress or a screen."""

    def __init__(self, to: Progress | Screen) -> None:
        self._to = to
        to.handle(SweepStarted(1000.0, "mlp/2025-01-01_10-00-00", {}, SPACE, {}, {}))

    def starts(self, number: int, slot: str = "cpu0", attempt: int = 1, **more: Any) -> None:
        self._to.handle(TrialAsked(1000.0, number))
        self._to.handle(TrialStarted(1000.0, trial(number, **more), attempt, slot))

    def epoch(self, number: int, epoch: int, score: float, attempt: int = 1, name: str = "val_accuracy") -> None:
        self._to.handle(EpochEnded(1000.0, number, attempt, epoch, {name: score, "loss": 0.1}))

    def ends(
        self,
        number: int,
        score: float | None = 0.9,
        status: Status = Status.COMPLETED,
        reason: str = "",
        seconds: float = 10.0,
        best_epoch: int | None = 2,
    ) -> None:
        outcome = Outcome(status, reason, score, None if score is None else best_epoch, seconds=seconds)
        self._to.handle(TrialEnded(1000.0, number, outcome))


def progress(clock: Clock | None = None, **changes: Any) -> Progress:
    given = {"objective": MAX, "budget": budget(max_trials=20), "slots": 2, "size": None, **changes}
    return Progress(**given, clock=clock or Clock())


# ---- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.5, "0.5 s"),
        (2.44, "2.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (45.4, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_duration_is_written_in_readable_units(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123456, "0.001235"),
        (1e-7, "1e-07"),
        (64, "64"),
        (123456, "123456"),
        (True, "True"),
        ("relu", "relu"),
        ([512, 256], "[512, 256]"),
        (1.0, "1"),
    ],
)
def test_value_is_shown_with_few_digits(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["model.units"], ["units"]),
        (["optimizer.name"], ["optimizer"]),
        (["optimizer.name", "optimizer.learning_rate"], ["optimizer", "learning_rate"]),
        (["model.units", "model.dense.units"], ["model.units", "dense.units"]),
        (["model.units", "training.seed"], ["units", "seed"]),
        (["model.layers", "model.dense.layers", "model.units"], ["model.layers", "dense.layers", "units"]),
        # A layer's number alone says nothing.
        (["model.units.1", "model.units.2"], ["units.1", "units.2"]),
        (["model.units.1", "model.dense.units.1"], ["model.units.1", "dense.units.1"]),
        (["model.subunits", "model.units"], ["subunits", "units"]),
    ],
)
def test_names_are_as_short_as_they_can_be_without_ambiguity(names, expected):
    assert short_names(names) == dict(zip(names, expected, strict=True))
    assert len(set(short_names(names).values())) == len(names)


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
    assert seen.counted == []


# ---- lines ------------------------------------------------------------------------------------------------------


def lines(tell: Any, width: int = 80) -> list[str]:
    file = StringIO()
    with Screen(progress(), Console(file=file, width=width)) as screen:
        tell(Story(screen), screen)
    assert "\x1b" not in file.getvalue()
    return file.getvalue().splitlines()


def test_trials_that_fail_alike_are_explained_once():
    def tell(story: Story, screen: Screen) -> None:
        for number in range(6):
            story.starts(number)
            status = Status.REFUSED if number % 2 else Status.FAILED
            story.ends(number, None, status, f"cannot build layer_{number}")

    found = [re.sub("  units=.*", "", line) for line in lines(tell)]
    assert found == [
        "trial 0  failed  cannot build layer_0  10 s",
        "trial 1  refused  cannot build layer_1  10 s",
        "trial 2  failed  like trial 0  10 s",
        "trial 4  failed  like trial 0  10 s",
    ]


def test_refused_trials_are_not_among_those_that_a_space_has_left():
    seen = progress(size=8)
    story = Story(seen)
    for number in range(3):
        story.starts(number)
        story.ends(number, None, Status.REFUSED, "too large")
    assert seen.most == 5


def test_without_a_terminal_each_end_is_a_line():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0)
        story.epoch(0, 1, 0.5)
        story.ends(0, 0.91236, seconds=2.44)

    assert lines(tell) == [
        "trial 0  completed  val_accuracy 0.9124 (epoch 2)  2.4 s  units=64 optimizer=adam learning_rate=0.001235  "
        "[1 of 20 trials done · 2 slots · 0 s elapsed · about 23 s left · best val_accuracy 0.9124 (trial 0)]"
    ]


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (Status.FAILED, "the loss became nan in epoch 1", "trial 0  failed  the loss became nan in epoch 1  10 s  "),
        (Status.STOPPED, "stopped by Ctrl-C", "trial 0  stopped  stopped by Ctrl-C  10 s  "),
        (Status.FAILED, "cannot build [dense] layer", "trial 0  failed  cannot build [dense] layer  10 s  "),
    ],
)
def test_line_says_why_a_trial_has_no_score(status, reason, expected):
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0)
        story.ends(0, None, status, reason)

    (line,) = lines(tell)
    assert line.startswith(expected)


def test_worker_that_died_is_printed():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(3)
        screen.handle(AttemptFailed(1000.0, 3, 1, "its worker was killed by SIGKILL [out of memory?]"))

    assert lines(tell, width=200) == ["trial 3: its worker was killed by SIGKILL [out of memory?]; it is retried"]


def test_lost_slot_is_printed_and_no_longer_counted():
    clock = Clock()
    seen = progress(clock)

    def tell(story: Story, screen: Screen) -> None:
        screen.handle(SlotLost(1000.0, "gpu1", "cannot start: it ended with exit code 1"))
        seen.handle(SlotLost(1000.0, "gpu1", "cannot start"))

    assert lines(tell, width=200) == ["gpu1 cannot start: it ended with exit code 1"]
    assert "0 of 1 slot busy" in seen.headline()
    seen.handle(SweepResumed(2000.0, {}))
    assert "0 of 2 slots busy" in seen.headline()


def test_opened_and_closed_shares_are_printed_and_counted():
    clock = Clock()
    seen = progress(clock)
    events = [
        SlotOpened(1000.0, "gpu0.1", "why"),
        SlotOpened(1001.0, "gpu0.2", "2.00"),
        SlotClosed(1002.0, "gpu0.2", "0.9"),
    ]

    def tell(story: Story, screen: Screen) -> None:
        for event in events:
            screen.handle(event)
            seen.handle(event)

    assert lines(tell) == ["gpu0.1 opened: why", "gpu0.2 opened: 2.00", "gpu0.2 closed: 0.9"]
    assert "0 of 3 slots busy" in seen.headline()
    seen.handle(SweepResumed(2000.0, {}))
    assert "0 of 2 slots busy" in seen.headline()


def test_other_events_print_nothing():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0)
        story.epoch(0, 1, 0.5)
        story.ends(7, None, Status.STOPPED, "it never started")
        screen.handle(WinnerTested(1000.0, 0, {"test_accuracy": 0.9}, [[1]]))
        screen.handle(SweepEnded(1000.0, Status.COMPLETED, "", 0))

    assert lines(tell) == []


# ---- the live table ---------------------------------------------------------------------------------------------


def table(seen: Progress, width: int, height: int = 40) -> list[str]:
    """Returns the last state of the live table."""
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=height, color_system=None)
    with Screen(seen, console):
        pass
    # What comes after the last line of the last picture takes it away again.
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).replace("\r", "")
    return [line.strip() for line in text.splitlines() if line.strip(" ─")]


def ended(count: int, seen: Progress) -> Progress:
    story = Story(seen)
    for number in range(count):
        story.starts(number, "cpu0", **({"optimizer.learning_rate": 0.001} if number % 2 else {}))
        for epoch in (1, 2):
            story.epoch(number, epoch, 0.5)
        story.ends(number, 0.5 + (0.4 if number == 1 else number / 1000))
    return seen


@pytest.mark.parametrize("width", [80, 200])
def test_before_the_first_trial_a_line_says_that_the_workers_start(width):
    seen = progress()
    Story(seen)
    assert table(seen, width) == ["The workers are starting; importing Keras takes a few seconds."]


def test_table_shows_running_and_ended_trials():
    seen = progress(slots=2)
    story = Story(seen)
    story.starts(0, "gpu0")
    story.ends(0, 0.91236)
    story.starts(1, "gpu0")
    story.ends(1, None, Status.FAILED, "the loss became nan")
    story.starts(2, "gpu1", **{"model.units": 16})
    story.epoch(2, 1, 0.25)
    story.epoch(2, 2, 0.125)
    shown_lines = table(seen, 200)
    assert [re.split(r"\s{2,}", line) for line in shown_lines[1:-1]] == [
        ["trial", "units", "optimizer", "learning_rate", "epoch", "val_accuracy", "status"],
        ["0 ★", "64", "adam", "0.001235", "0/4", "0.9124", "completed"],
        ["1", "64", "adam", "0.001235", "0/4", "failed"],
        ["2", "16", "adam", "0.001235", "2/4", "0.2500", "running on gpu1"],
    ]
    assert shown_lines[0] == "mlp/2025-01-01_10-00-00"
    assert shown_lines[-1].startswith("2 of 20 trials done · 1 of 2 slots busy")


def test_inactive_hyperparameter_is_a_dash():
    seen = progress()
    seen.handle(SweepStarted(1000.0, "mlp/now", {}, {"model.units.1": "1, 2", "model.units.2": "1, 2"}, {}, {}))
    seen.handle(TrialStarted(1000.0, Trial(0, {"model.units.1": 2}, {}, 3), 1, "cpu0"))
    cells = [re.split(r"\s{2,}", line) for line in table(seen, 200)]
    assert ["0", "2", "–", "0/3", "running on cpu0"] in cells


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("trials", [3, 100])
def test_table_fits_into_the_terminal(width, trials):
    seen = ended(trials, progress(budget=budget(max_trials=trials)))
    shown_lines = table(seen, width)
    assert max(map(cell_len, shown_lines)) <= width
    assert sum("completed" in line or " 0.5" in line for line in shown_lines) <= 15
    assert not any("…" in line for line in shown_lines[1:])


@pytest.mark.parametrize(("height", "most"), [(40, 15), (24, 15), (12, 5), (5, 2)])
def test_table_of_a_hundred_trials_shows_the_last_and_the_best(height, most):
    shown_lines = table(ended(100, progress(budget=budget(max_trials=100))), 200, height)
    rows = [line.split()[0] for line in shown_lines if "completed" in line]
    assert len(rows) <= most
    assert rows[0] == "1"
    assert rows[1:] == [str(number) for number in range(100 - len(rows) + 1, 100)]
    assert [line.split()[:2] for line in shown_lines if "★" in line] == [["1", "★"]]


def test_narrow_table_keeps_trial_and_score_and_drops_status_and_then_hyperparameters():
    space = {f"model.field_number_{i}": "1, 2" for i in range(10)}
    seen = progress()
    seen.handle(SweepStarted(1000.0, "mlp/now", {}, space, {}, {}))
    seen.handle(TrialStarted(1000.0, Trial(0, dict.fromkeys(space, 1), {}, 3), 1, "cpu0"))
    wide, narrow, tiny = (table(seen, width)[1].split() for width in (220, 80, 35))
    assert wide == ["trial", *(f"field_number_{i}" for i in range(10)), "epoch", "val_accuracy", "status"]
    assert narrow == ["trial", "field_number_0", "field_number_1", "epoch", "val_accuracy"]
    assert tiny == ["trial", "epoch", "val_accuracy"]


def test_in_a_terminal_only_failures_have_a_line_above_the_table():
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=200, height=40, color_system=None)
    with Screen(progress(), console) as screen:
        story = Story(screen)
        for number, status in enumerate((Status.COMPLETED, Status.STOPPED, Status.FAILED)):
            story.starts(number)
            story.ends(number, None if status is Status.FAILED else 0.75, status, "why")
    text = file.getvalue()
    assert "trial 2  failed  why  10 s  units=64 optimizer=adam learning_rate=0.001235" in text
    assert "trial 0  completed" not in text
    assert "trial 1  stopped" not in text
    # The headline belongs to the table then.
    assert "[3 of 20" not in text
    assert "3 of 20 trials done" in text
