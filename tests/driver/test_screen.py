"""What the user sees while a sweep runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from watching import Clock, Story, budget, progress

from mnist_sweep.driver.progress import Progress
from mnist_sweep.driver.screen import Screen
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepEnded,
    SweepPaused,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.trial import Execution, Status, Trial

STAMP = re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d  ")


@pytest.fixture(autouse=True)
def in_a_terminal_that_is_not_a_notebooks(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)


class Terminal(StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


# ---- lines ------------------------------------------------------------------------------------------------------


def lines(
    tell: Callable[[Story, Screen], None], width: int = 80, seen: Progress | None = None, **more: Any
) -> list[str]:
    """Returns what is printed where there is no terminal, without the time of each line."""
    file = StringIO()
    with Screen(seen or progress(), Console(file=file, width=width)) as screen:
        tell(Story(screen, **more), screen)
    assert "\x1b" not in file.getvalue()
    printed = file.getvalue().splitlines()
    assert all(STAMP.match(line) and len(line) <= 160 for line in printed)
    return [STAMP.sub("", line) for line in printed]


def test_without_a_terminal_each_end_is_a_line():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0)
        story.epoch(0, 1, 0.5)
        story.ends(0, 0.91236, seconds=2.44)
        story.starts(1)
        story.ends(1, 0.5, seconds=2.44)

    assert lines(tell) == [
        "trial 0  completed  val_accuracy 0.9124 (epoch 2, the best so far)  2.4 s  units=64 optimizer=adam …  "
        "[1 of 20 trials, about 23 s left]",
        "trial 1  completed  val_accuracy 0.5000 (epoch 2)  2.4 s  units=64 optimizer=adam learning_rate=0.001235  "
        "[2 of 20 trials, about 22 s left]",
    ]


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


def test_a_long_reason_is_several_lines():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0, **{f"model.field_number_{i}": i for i in range(40)})
        story.ends(0, None, Status.FAILED, "the layer cannot be built " * 20)

    first, *others = lines(tell)
    assert first.startswith("trial 0  failed  the layer cannot")
    assert 1 <= len(others) <= 3
    assert all(line.startswith("  ") for line in others)


def test_a_line_says_each_minute_what_runs_until_a_trial_has_ended_and_then_each_ten():
    clock = Clock()

    def tell(story: Story, screen: Screen) -> None:
        def wait(seconds: int) -> None:
            for _ in range(seconds):
                clock.now += 1
                screen.tick()

        wait(11)
        story.starts(0)
        story.starts(1)
        story.epoch(0, 3, 0.5, at=1041.0)
        wait(120)
        story.ends(0)
        wait(1300)
        screen.handle(SweepEnded(1000.0, Status.COMPLETED, "", 0))
        wait(1300)

    starting, first, second, end, *others = lines(tell, seen=progress(clock))
    assert starting == "The workers are starting; importing Keras takes a few seconds."
    assert first == (
        "0 of 20 trials done · 1 min 10 s elapsed · about 8 min 46 s left · trial 0 epoch 3/4, trial 1 epoch 0/4"
    )
    assert second.startswith("0 of 20 trials done · 2 min 10 s elapsed")
    assert end.startswith("trial 0  completed")
    assert len(others) == 2


def test_a_line_on_many_running_trials_names_as_many_as_fit():
    clock = Clock()

    def tell(story: Story, screen: Screen) -> None:
        for number in range(64):
            story.starts(number)
        clock.now += 60
        screen.tick()

    (line,) = lines(tell, seen=progress(clock, slots=64))
    assert line.endswith("trial 4 epoch 0/4, …")


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

    assert lines(tell) == ["trial 3: its worker was killed by SIGKILL [out of memory?]; it is retried"]


def test_lost_slot_is_printed_and_no_longer_counted():
    clock = Clock()
    seen = progress(clock)

    def tell(story: Story, screen: Screen) -> None:
        screen.handle(SlotLost(1000.0, "gpu1", "cannot start: it ended with exit code 1"))
        seen.handle(SlotLost(1000.0, "gpu1", "cannot start"))

    assert lines(tell) == ["gpu1 cannot start: it ended with exit code 1"]
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


def test_what_a_user_changes_is_printed_with_the_user():
    def tell(_: Story, screen: Screen) -> None:
        screen.handle(SweepPaused(1.0, "ada@box", 7))
        screen.handle(TrialAdded(1.0, "ada@box", 7, 3, {"model.units": 64, "optimizer.name": "sgd"}))

    assert [STAMP.sub("", line) for line in lines(tell)] == [
        "ada@box paused the sweep",
        "ada@box added trial 3: units=64 optimizer=sgd",
    ]


def test_other_events_print_nothing():
    def tell(story: Story, screen: Screen) -> None:
        story.starts(0)
        story.epoch(0, 1, 0.5)
        story.ends(7, None, Status.STOPPED, "it never started")
        screen.handle(WinnerTested(1000.0, 0, {"test_accuracy": 0.9}, [[1]]))
        screen.handle(SweepEnded(1000.0, Status.COMPLETED, "", 0))

    assert lines(tell) == []


# ---- a single run ------------------------------------------------------------------------------------------------

FIGURES = {"loss": 0.51234, "accuracy": 0.81234, "val_loss": 0.4, "val_accuracy": 0.86}


def run_alone(story: Story, screen: Screen, **more: float) -> None:
    story.starts(0, epochs=10)
    for epoch in (1, 2):
        metrics = {**FIGURES, **more, "learning_rate": 0.001, "epoch_seconds": 1.25}
        screen.handle(EpochEnded(1000.0 + 2 * epoch, 0, 1, epoch, metrics))
    story.ends(0, reason="no better val_accuracy for 3 epochs")


def test_a_single_run_has_a_line_for_each_epoch_with_training_and_validation_figures():
    assert lines(run_alone, seen=progress(single=True, budget=budget(max_trials=1), slots=1), space={}) == [
        "epoch  1/10  loss 0.5123  accuracy 0.8123  val_loss 0.4000  val_accuracy 0.8600  1.2 s  about 18 s left",
        "epoch  2/10  loss 0.5123  accuracy 0.8123  val_loss 0.4000  val_accuracy 0.8600  1.2 s  about 16 s left",
        "Completed after 10 s: no better val_accuracy for 3 epochs",
    ]


def test_in_a_terminal_a_single_run_has_the_same_lines_as_far_as_they_fit():
    file = Terminal()
    seen = progress(single=True, budget=budget(max_trials=1), slots=1)
    with Screen(seen, Console(file=file, width=80, color_system=None)) as screen:
        run_alone(Story(screen, {}), screen, val_top_k_categorical_accuracy=1e-7)
    first, second, end = file.getvalue().splitlines()
    assert first == "epoch  1/10  loss 0.5123  accuracy 0.8123  val_loss 0.4000  val_accuracy 0.8600"
    assert second.startswith("epoch  2/10")
    assert end.startswith("Completed after")


def test_a_single_run_that_is_trained_several_times_says_which_training_it_is():
    def tell(_: Story, screen: Screen) -> None:
        screen.handle(TrialStarted(1000.0, Trial(0, {}, {}, 3, executions=[Execution(1), Execution(2)]), 1, "cpu0"))
        screen.handle(EpochEnded(1000.0, 0, 1, 1, {"val_accuracy": 0.5}, execution=2))
        screen.handle(AttemptFailed(1000.0, 0, 1, "its worker died"))

    seen = progress(single=True, budget=budget(max_trials=1), slots=1)
    assert lines(tell, seen=seen, space={}) == [
        "training 2/2  epoch 1/3  val_accuracy 0.5000",
        "its worker died; it is retried",
    ]


# ---- where nothing can be redrawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{"JPY_PARENT_PID": "12"}, {"TERM": "dumb"}, {"TERM": "unknown"}])
def test_in_a_notebook_and_a_dumb_terminal_lines_are_printed(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    with Screen(progress(), Console(file=file, width=80, color_system=None)) as screen:
        story = Story(screen)
        story.starts(0)
        story.ends(0)
    (line,) = file.getvalue().splitlines()
    assert STAMP.match(line)
    assert "\x1b" not in line


def test_a_pipe_gets_lines_even_if_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = StringIO()
    with Screen(progress(), Console(file=file, width=80)) as screen:
        Story(screen)
    assert file.getvalue() == ""


# ---- the live table ---------------------------------------------------------------------------------------------


def table(seen: Progress, width: int, height: int = 40) -> list[str]:
    """Returns the last state of the live table."""
    file = Terminal()
    console = Console(file=file, width=width, height=height, color_system=None)
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


def test_the_thread_that_draws_the_table_waits_while_an_event_changes_what_it_shows():
    seen = ended(3, progress())
    drawn, taken = threading.Event(), threading.Event()
    screen = Screen(seen, Console(file=Terminal()))
    seen.store = lambda: str(drawn.set() or "")
    with seen.lock:
        for task in (screen._table, lambda: (seen.handle(SweepResumed(1.0, {})), taken.set())):
            threading.Thread(target=task, daemon=True).start()
        assert not drawn.wait(0.1)
        assert not taken.is_set()
    assert drawn.wait(10)
    assert taken.wait(10)


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


def test_narrow_table_keeps_trial_score_and_status_whatever_else_it_drops():
    space = {f"model.field_number_{i}": "1, 2" for i in range(10)}
    seen = progress()
    seen.handle(SweepStarted(1000.0, "mlp/now", {}, space, {}, {}))
    seen.handle(TrialStarted(1000.0, Trial(0, dict.fromkeys(space, 1), {}, 3), 1, "cpu0"))
    wide, narrow, tiny = (table(seen, width)[1].split() for width in (220, 80, 35))
    assert wide == ["trial", *(f"field_number_{i}" for i in range(10)), "epoch", "val_accuracy", "status"]
    assert narrow == ["trial", "field_number_0", "epoch", "val_accuracy", "status"]
    assert tiny == ["trial", "val_accuracy", "status"]


def test_in_a_terminal_only_failures_have_a_line_above_the_table():
    file = Terminal()
    console = Console(file=file, width=200, height=40, color_system=None)
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


def test_table_of_many_slots_shows_the_trials_that_started_last():
    seen = progress(budget=budget(max_trials=1000), slots=100)
    story = Story(seen)
    for number in range(100):
        story.starts(number, f"cpu{number}")
    shown = table(seen, 120, 24)
    assert [line.split()[0] for line in shown if "running on" in line] == [str(n) for n in range(85, 100)]
    assert any("85 more trials are running" in line for line in shown)
    assert any("100 of 100 slots busy" in line for line in shown)
