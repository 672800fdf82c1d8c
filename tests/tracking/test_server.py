"""Several runs at once are written to a tracking server, and no mark is wrong when that is interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stories import Logged, Story
from tracking_server import TrackingServer, serving

from mnist_sweep.common.parallel import each
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import EpochEnded, ExecutionEnded
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import TAG_DONE


@pytest.fixture
def server(tmp_path: Path, template: Path) -> Iterator[TrackingServer]:
    shutil.copy(template, tmp_path / "server.db")
    with serving(f"sqlite:///{tmp_path}/server.db", tmp_path / "files") as server:
        yield server


def recorder(story: Story, server: TrackingServer, *, repair: bool = False) -> Recorder:
    tracking = story.settings.tracking.model_copy(update={"uri": server.uri})
    return Recorder(dataclasses.replace(story.settings, tracking=tracking), story.folder, load_plots, repair=repair)


def test_server_gets_the_same_as_a_file_with_several_calls_at_once(told, logged, server):
    both, created = threading.Barrier(2), itertools.count()

    def waits(part: str) -> None:
        # The first two trials' runs are created at once, after the experiment and the sweep's own run.
        if part == "create" and next(created) in (2, 3):
            both.wait(20)

    server.before = waits
    recorder(told, server).handle(*told.events)
    assert Logged(server.uri).everything() == logged.everything()
    assert server.asked.count("create") == 2 + len(logged.trials)


def test_server_gets_the_executions_of_trials(make_story, server):
    story = make_story()
    story.starts()
    for number in range(2):
        story.trial(number, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
        for execution in (1, 2):
            story.tell(EpochEnded, number, 1, 1, {"val_accuracy": 0.5, "loss": 1.0}, execution)
            outcome = Outcome(Status.COMPLETED, score=0.5, best_epoch=1, seconds=1.0)
            story.tell(ExecutionEnded, number, execution, outcome)
        story.ends(number, 0.5, scores=[0.5, 0.5])
    story.ended()
    recorder(story, server).handle(*story.events)
    assert Logged(server.uri).everything() == story.logged().everything()


@pytest.mark.parametrize("calls", [9, 16, 23])
def test_interrupted_catching_up_leaves_no_wrong_mark_and_is_completed(told, logged, server, calls):
    wanted, left = logged.everything(), [calls]

    def fails(part: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("killed")

    server.before = fails
    with pytest.raises(Exception, match="500|killed"):
        recorder(told, server).handle(*told.events)
    server.before = lambda part: None
    there = Logged(server.uri)
    assert there.everything() != wanted
    marked = {run.info.run_name for run in there.runs if TAG_DONE in run.data.tags}
    assert {name: about for name, about in there.everything().items() if name in marked}.items() <= wanted.items()
    recorder(told, server, repair=True).handle(*told.events)
    assert Logged(server.uri).everything() == wanted


def test_files_of_complete_runs_are_looked_for_once_each(told, server):
    for _ in range(2):
        server.asked.clear()
        again = recorder(told, server, repair=True)
        again.handle(*told.events)
    assert not str(again.mended)
    assert server.asked.count("create") == 0


def test_each_stops_after_an_error_and_raises_it():
    called = list[int]()

    def call(number: int) -> None:
        called.append(number)
        if number == 2:
            raise ValueError("two")

    with pytest.raises(ValueError, match="two"):
        each(call, range(9), 1)
    assert called == [0, 1, 2]
    called.clear()
    each(called.append, range(100), 8)
    assert sorted(called) == list(range(100))
    each(called.append, [], 8)
