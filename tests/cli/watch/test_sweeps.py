"""Which sweeps the page shows, and what the overview says of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from watching import Story

from mnist_sweep.cli.watch import sweeps as sweeps_module
from mnist_sweep.cli.watch.sweeps import Sweeps, glance
from mnist_sweep.journal.events import SweepEnded
from mnist_sweep.journal.files import FILE
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status


@pytest.fixture(autouse=True)
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps_module, "_FIND", -1.0)


@pytest.fixture
def config(compose_config) -> dict:
    return compose_config("search.max_trials=20", "model.units=int(interval(1, 99))")


def ended(name: str, config: dict, when: float, status: Status | None = Status.COMPLETED) -> Path:
    folder = Path("experiments") / name
    folder.mkdir(parents=True)
    with Journal(folder) as journal:
        story = Story(journal, config=config)
        for number, score in enumerate((0.5, 0.7, None, 0.6)):
            story.starts(number)
            story.epoch(number, 1, 0.1)
            story.ends(number, score, Status.FAILED if score is None else Status.COMPLETED)
        story.starts(4, confirms=1)
        story.ends(4, 0.9)
        if status is not None:
            journal.handle(SweepEnded(1500.0, status, "why", 1))
    os.utime(folder / FILE, (when, when))
    return folder


def test_running_sweeps_come_first_then_the_last_ones(config: dict) -> None:
    ended("a/old", config, 1000.0)
    ended("b/new", config, 2000.0, Status.STOPPED)
    running = Path("experiments/c/running")
    running.mkdir(parents=True)
    with Journal(running) as journal:
        Story(journal, config=config).starts(0)
        os.utime(running / FILE, (500.0, 500.0))
        found = Sweeps().overview()
    assert [(one["name"], one["phase"]) for one in found["sweeps"]] == [
        ("c/running", "running"), ("b/new", "stopped"), ("a/old", "complete"),
    ]  # fmt: skip
    assert found["sweeps"][0]["running"] == 1
    assert found["sweeps"][0]["most"] == 20


def test_sweeps_that_start_later_are_found(config: dict) -> None:
    sweeps = Sweeps()
    assert sweeps.overview() == {"sweeps": [], "more": 0}
    assert sweeps.live("a/later") is None
    ended("a/later", config, 1000.0)
    assert [one["name"] for one in sweeps.overview()["sweeps"]] == ["a/later"]
    live = sweeps.live("a/later")
    assert live is not None
    assert live is sweeps.live("a/later")


def test_only_the_sweeps_that_were_named_are_shown(config: dict) -> None:
    one, _ = ended("a/one", config, 1000.0), ended("a/two", config, 1000.0)
    sweeps = Sweeps([one])
    assert [found["name"] for found in sweeps.overview()["sweeps"]] == ["a/one"]
    assert sweeps.live("a/two") is None


def test_many_sweeps_are_cut_off(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps_module, "_SHOWN", 1)
    ended("a/one", config, 1000.0)
    ended("a/two", config, 2000.0)
    found = Sweeps().overview()
    assert ([one["name"] for one in found["sweeps"]], found["more"]) == (["a/two"], 1)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.STOPPED, None])
def test_a_glance_says_the_same_as_the_whole_journal(config: dict, status: Status | None) -> None:
    folder = ended("a/one", config, 1000.0, status)
    live = Sweeps([folder]).live("a/one")
    assert live is not None
    live.update()
    summary, quick = live.summary(), glance(folder)
    assert quick["best"] == {"trial": 1, "score": "0.7000"}
    assert summary["best"] == {**summary["best"], **quick["best"]}
    # The size of the budget is not read.
    same = quick.keys() - {"best", "most"}
    assert {key: summary[key] for key in same} == {key: quick[key] for key in same}


def test_a_damaged_journal_is_left_out(config: dict) -> None:
    folder = ended("a/one", config, 1000.0)
    (folder / FILE).write_text('{"event": "sweep_started"}\n[]\n')
    assert glance(folder) == {}
    assert Sweeps().overview()["sweeps"] == []


def test_a_sweep_of_which_nothing_is_shown_any_more_is_forgotten(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    ended("a/one", config, 1000.0)
    sweeps = Sweeps()
    first = sweeps.live("a/one")
    monkeypatch.setattr(sweeps_module, "_UNUSED", -1.0)
    assert sweeps.live("a/one") is not first
