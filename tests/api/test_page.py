"""A sweep as HTML for a notebook's cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import Clock, Story

from mnist_sweep.api import page
from mnist_sweep.driver.watched import Watched
from mnist_sweep.journal.events import SweepEnded
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_nothing_has_happened_yet(folder):
    drawn = page.html(Watched(folder), "mlp/2025-01-01_10-00-00")
    assert "mlp/2025-01-01_10-00-00" in drawn
    assert "The workers are starting." in drawn


def test_running_and_best_trials_are_in_the_table_and_in_the_plots(folder, compose_config):
    watched = Watched(folder, Clock())
    with Journal(folder) as journal:
        story = Story(journal, config=compose_config("search.max_trials=20", "model.units=int(interval(1, 99))"))
        story.starts(0)
        for epoch in (1, 2):
            story.epoch(0, epoch, 0.8 + epoch / 100)
        story.ends(0, 0.82)
        story.starts(1, slot="cpu1")
        story.epoch(1, 1, 0.5)
        watched.update()
        drawn = page.html(watched, "mlp/x", output=["a <b>"])
        assert watched.phase == "running"
    assert "1 of 20 trials done" in drawn
    assert "<td>0 ★</td>" in drawn
    assert "<td>running</td>" in drawn
    assert drawn.count("<svg") == 2
    assert "a &lt;b&gt;" in drawn
    assert "http" not in drawn
    assert "<script" not in drawn
    assert watched.phase == "interrupted"


def test_an_error_is_shown(folder):
    assert "objective: &lt;no&gt;" in page.html(Watched(folder), "mlp/x", "objective: <no>")


def test_what_ended_is_said(folder, compose_config):
    watched = Watched(folder, Clock())
    with Journal(folder) as journal:
        story = Story(journal, config=compose_config())
        story.starts(0)
        story.epoch(0, 1, 0.9)
        story.ends(0, 0.9)
        journal.handle(SweepEnded(1001.0, Status.COMPLETED, "", 0))
    watched.update()
    drawn = page.html(watched, "mlp/x")
    assert "● complete" in drawn
    # A single point on each axis.
    assert "nan" not in drawn
