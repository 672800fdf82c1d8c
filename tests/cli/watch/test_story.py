"""The story of a sweep, in lines."""

from __future__ import annotations

import pytest
from watching import Story, progress

from mnist_sweep.cli.watch.story import Line, line
from mnist_sweep.driver.progress import Progress
from mnist_sweep.journal.events import (
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    SlotClosed,
    SlotLost,
    SlotsChanged,
    SweepEnded,
    SweepResumed,
    TrialEnded,
    TrialsRetried,
    WinnerTested,
)
from mnist_sweep.journal.trial import Outcome, Status


class Told:
    def __init__(self, to: Progress) -> None:
        self.to, self.lines = to, list[Line]()

    def handle(self, *events: Event) -> None:
        for event in events:
            best = self.to.best()
            self.to.handle(event)
            if told := line(event, self.to, best):
                self.lines.append(told)

    @property
    def last(self) -> tuple[str, str]:
        return self.lines[-1].mark, self.lines[-1].text


@pytest.fixture
def told() -> Told:
    return Told(progress())


def test_a_new_best_and_a_failure_stand_out(told: Told) -> None:
    story = Story(told)
    for number, score in enumerate((0.9, 0.8)):
        story.starts(number)
        story.ends(number, score)
    story.starts(2)
    story.ends(2, None, Status.FAILED, "ValueError: no\nluck")
    assert [one.mark for one in told.lines] == ["sweep", "best", "trial", "bad"]
    assert told.lines[2].text == "Trial 1 completed after 10 s, val_accuracy 0.8000"
    assert told.lines[3].text == "Trial 2 failed after 10 s (ValueError: no luck)"
    story.starts(3, confirms=0)
    story.ends(3, 0.7)
    assert told.last == ("trial", "Trial 3, which retrains trial 0, completed after 10 s, val_accuracy 0.7000")


@pytest.mark.parametrize(
    ("event", "mark", "text"),
    [
        (AttemptFailed(1.0, 0, 1, "killed"), "bad", "Trial 0: killed; it is retried"),
        (TrialsRetried(1.0, [0, 1]), "steered", "Trials 0, 1 are trained again"),
        (SlotLost(1.0, "gpu1", "cannot start"), "bad", "gpu1 cannot start"),
        (SlotClosed(1.0, "gpu1", "given back"), "slot", "gpu1 closed: given back"),
        (SlotsChanged(1.0, "ada@box", 1, 1), "steered", "ada@box limited the sweep to 1 slot"),
        (SweepResumed(1.0, {}), "sweep", "The sweep was resumed"),
        (WinnerTested(1.0, 0, {"test_accuracy": 0.9}, []), "best", "Trial 0 was tested: test_accuracy 0.9000"),
        (WinnerTested(1.0, 0, {}, [], "no model"), "bad", "Trial 0 could not be tested: no model"),
        (SweepEnded(1.0, Status.COMPLETED, "all done", 0), "sweep", "The sweep is complete: all done"),
        (SweepEnded(1.0, Status.FAILED, "no disk", 0), "bad", "The sweep failed: no disk"),
    ],
)  # fmt: skip
def test_other_events_have_a_line(told: Told, event: Event, mark: str, text: str) -> None:
    story = Story(told)
    for number in range(2):
        story.starts(number)
        story.ends(number)
    told.handle(event)
    assert told.last == (mark, text)


def test_the_comparison_of_the_best_is_told(told: Told) -> None:
    story = Story(told)
    story.starts(0)
    story.ends(0)
    told.handle(Confirmed(1.0, [{"trial": 0, "scores": {"1": 0.8}, "mean": 0.8, "std": 0.0}], 0, 0, None))
    assert told.last == ("best", "The best is trial 0: val_accuracy 0.8000 ± 0.0000 on 1 new seed")


def test_what_the_page_shows_elsewhere_has_no_line(told: Told) -> None:
    story = Story(told)
    story.starts(0)
    before = len(told.lines)
    told.handle(EpochEnded(1.0, 0, 1, 1, {"val_accuracy": 0.5}))
    told.handle(TrialEnded(1.0, 7, Outcome(Status.COMPLETED)))
    assert len(told.lines) == before
