"""What the page is told of a sweep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from watching import Clock, Story

from mnist_sweep.cli.watch import live as live_module
from mnist_sweep.cli.watch.live import Live
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SweepEnded,
    SweepPaused,
    SweepResumed,
    TrialAdded,
    TrialsRetried,
    TrialStopped,
)
from mnist_sweep.journal.files import FILE
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status

SPACE = {"model.units": "choice(16, 64)", "optimizer.name": "choice(adam, sgd)"}
BY = (1001.0, "ada@box", 7)


@pytest.fixture(autouse=True)
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_LOOK", 0.0)


class Told:
    """A sweep that one page follows; `next` is checked to be what a browser can read."""

    def __init__(self, folder: Path, config: dict[str, Any], *, space: dict[str, str] | None = None) -> None:
        self.journal = Journal(folder)
        self.story = Story(self.journal, SPACE if space is None else space, config)
        self.clock = Clock()
        self.live = Live(folder, "mlp/now", self.clock)
        self.page = self.live.page()

    def next(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.page.next(), allow_nan=False))

    def handle(self, *events: Event) -> None:
        self.journal.handle(*events)


@pytest.fixture
def told(tmp_path: Path, compose_config) -> Told:
    return Told(tmp_path, compose_config("search.max_trials=20", "model.units=int(interval(1, 99))"))


def test_a_page_gets_everything_first_then_what_has_changed(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, 0.5)
    told.story.starts(1)
    first = told.next()
    assert first["all"]
    assert [row["n"] for row in first["trials"]] == [0, 1]
    assert first["curves"] == [[0, 1, 0, [0.5]]]
    assert first["head"]["phase"] == "running"
    assert (first["head"]["ended"], first["head"]["most"], first["head"]["running"]) == (0, 20, 2)
    assert [one["short"] for one in first["space"]] == ["units", "optimizer"]
    assert told.next() == {}
    told.story.epoch(0, 2, 0.6)
    then = told.next()
    assert then["curves"] == [[0, 1, 1, [0.6]]]
    assert [row["n"] for row in then["trials"]] == [0]
    assert not {"all", "space", "order", "story"} & then.keys()
    told.story.ends(0, 0.6)
    ended = told.next()
    assert ended["order"] == {"trials": [0], "ranks": 1}
    assert ended["trials"][0]["s"] == "completed"
    assert ended["head"]["best"]["score"] == "0.6000"
    assert ended["story"][0][1:] == ["best", "Trial 0 completed after 10 s, val_accuracy 0.6000, the best so far"]


def test_pages_that_open_later_get_everything_too(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, 0.5)
    told.next()
    late = told.live.page().next()
    assert late["all"]
    assert late["curves"] == [[0, 1, 0, [0.5]]]
    assert late["story"]


def test_the_curve_of_a_retried_trial_is_that_of_its_new_attempt(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, 0.5)
    told.story.epoch(0, 2, 0.6)
    told.next()
    told.handle(AttemptFailed(1001.0, 0, 1, "killed by SIGKILL"))
    told.story.starts(0, attempt=2)
    # A GPU may give other numbers.
    told.story.epoch(0, 1, 0.5, attempt=2)
    told.story.epoch(0, 2, 0.61, attempt=2)
    assert told.next()["curves"] == [[0, 1, 0, [0.5, 0.61]]]
    told.story.ends(0, None, Status.FAILED, "no luck")
    told.next()
    told.handle(TrialsRetried(1002.0, [0]))
    assert told.next()["curves"] == [[0, 1, 0, []]]


def test_executions_follow_each_other_in_one_curve(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, 0.5)
    told.handle(EpochEnded(1001.0, 0, 1, 1, {"val_accuracy": 0.7}, execution=2))
    assert told.next()["curves"] == [[0, 1, 0, [0.7]]]


def test_a_trial_that_continues_another_begins_at_its_epoch(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 3, 0.5)
    told.story.epoch(0, 4, 0.6)
    assert told.next()["curves"] == [[0, 3, 0, [0.5, 0.6]]]


def test_numbers_that_json_lacks_are_left_out(told: Told) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, math.nan)
    told.story.epoch(0, 2, math.inf)
    told.story.epoch(0, 3, 0.5)
    assert told.next()["curves"] == [[0, 1, 0, [None, None, 0.5]]]


def test_what_users_have_changed_is_told(told: Told) -> None:
    told.story.starts(0)
    told.handle(
        TrialStopped(*BY, 0), SweepPaused(*BY), TrialAdded(*BY, 1, {"model.units": 64, "optimizer.name": "sgd"})
    )
    message = told.next()
    assert message["head"]["paused"]
    assert message["head"]["queued"] == [{"trial": 1, "values": [["units", 64], ["optimizer", "sgd"]], "by": "ada@box"}]
    assert message["trials"][0]["stopping"] == "ada@box"
    assert [line[2] for line in message["story"]][-3:] == [
        "ada@box stopped trial 0", "ada@box paused the sweep", "ada@box added trial 1: units=64 optimizer=sgd",
    ]  # fmt: skip


def test_a_session_that_searches_something_else_is_sent_as_a_whole(told: Told, compose_config) -> None:
    told.story.starts(0)
    told.next()
    config = compose_config("search.max_trials=30", "model.units=int(interval(1, 199))")
    told.handle(SweepResumed(1001.0, config, space={**SPACE, "model.units": "choice(16, 64, 128)"}))
    message = told.next()
    assert message["all"]
    assert message["head"]["most"] == 30
    assert message["space"][0]["options"] == ["16", "64", "128"]
    assert [row["n"] for row in message["trials"]] == [0]


def test_slots_of_an_earlier_session_are_not_idle_in_this_one(told: Told, compose_config) -> None:
    for number in range(2):
        told.story.starts(number, f"cpu{number}")
    assert told.next()["head"]["slots"] == 2
    for number in range(2):
        told.story.ends(number)
    told.handle(SweepResumed(1001.0, compose_config("model.units=int(interval(1, 99))")))
    told.story.starts(2, "cpu0")
    message = told.next()
    assert message["head"]["slots"] == 1
    assert [one["name"] for one in message["slots"]] == ["cpu0"]


def test_a_pareto_front_leads_the_leaderboard(tmp_path: Path, compose_config) -> None:
    config = compose_config("search=random", "objective=[val_accuracy max,parameters min]", "model.units=16,64")
    told = Told(tmp_path, config)
    for number in range(2):
        told.story.starts(number)
        told.story.ends(number, 0.5 + number / 10)
    order = told.next()["order"]
    assert order["others"] == ["parameters"]
    # Neither has a size here, so that neither has a rank.
    assert (order["trials"], order["ranks"], order["front"]) == ([1, 0], 0, [])


def test_time_stands_still_when_a_sweep_has_ended_or_was_killed(told: Told, tmp_path: Path) -> None:
    told.story.starts(0)
    told.story.epoch(0, 1, 0.5, at=1300.0)
    told.clock.now = 5000.0
    assert told.next()["head"]["until"] is None
    with told.journal:
        pass
    head = told.next()["head"]
    assert (head["phase"], head["until"], head["left"]) == ("interrupted", 1300.0, None)
    assert head["resume"].endswith("-m mnist_sweep resume mlp/now")
    with Journal(tmp_path, resume=True) as journal:
        journal.handle(SweepEnded(1400.0, Status.COMPLETED, "all trials are done", 0))
    head = told.next()["head"]
    assert (head["phase"], head["until"], head["resume"]) == ("complete", 1400.0, "")
    assert told.live.why_not() == "the sweep is not running"


def test_a_damaged_journal_is_said_and_does_not_end_the_page(told: Told, tmp_path: Path) -> None:
    told.story.starts(0)
    told.next()
    with open(tmp_path / FILE, "a") as file:
        file.write("not an event\n")
    assert told.next()["head"]["trouble"].startswith("The journal cannot be read (")
    told.story.epoch(0, 1, 0.5)
    assert told.next()["curves"] == [[0, 1, 0, [0.5]]]


def test_a_sweep_that_has_not_started_yet_is_waited_for(tmp_path: Path) -> None:
    live = Live(tmp_path, "mlp/now", Clock())
    page = live.page()
    assert page.next()["head"]["phase"] == "starting"
    assert page.next() == {}
    assert live.summary() == {}


def test_a_summary_has_the_best_score_so_far_of_few_trials(told: Told) -> None:
    for number in range(130):
        told.story.starts(number)
        told.story.ends(number, 0.1 if number % 2 else number / 1000)
    told.live.update()
    scores = told.live.summary()["scores"]
    assert len(scores) <= 60
    assert scores == sorted(scores)
    assert scores[-1] == 0.128


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux")
def test_only_the_owner_can_steer(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.story.starts(0)
    assert told.next()["why"] == ""
    monkeypatch.setattr(live_module.os, "getuid", lambda: 12345)
    assert told.next()["why"] == "only the user who runs the sweep can steer it"
