"""A sweep as its journal shows it."""

from __future__ import annotations

from watching import Clock, Story

from mnist_sweep.driver.watched import Watched
from mnist_sweep.journal.events import SweepEnded, SweepResumed
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status


def test_it_follows_a_sweep_that_another_process_runs(tmp_path, compose_config):
    watched = Watched(tmp_path, Clock())
    assert not watched.update()
    assert watched.phase == "starting"
    with Journal(tmp_path) as journal:
        story = Story(journal, config=compose_config("search.max_trials=20", "model.units=int(interval(1, 99))"))
        story.starts(0)
        assert watched.update()
        assert not watched.update()
        assert watched.phase == "running"
        assert watched.progress is not None
        assert watched.progress.most == 20
        # Not known from the journal, so those that are in use.
        assert watched.progress.slots == 1
        story.ends(0)
        journal.handle(SweepEnded(1001.0, Status.STOPPED, "stopped by Ctrl-C", 0))
    watched.update()
    assert watched.phase == "stopped"


def test_a_longer_budget_counts_from_when_it_was_given(tmp_path, compose_config):
    watched, config = (
        Watched(tmp_path, Clock()),
        compose_config("search.max_trials=1", "model.units=int(interval(1, 99))"),
    )
    with Journal(tmp_path) as journal:
        story = Story(journal, config=config)
        story.starts(0)
        story.ends(0, 0.9)
        journal.handle(SweepEnded(1001.0, Status.COMPLETED, "", 0))
        watched.update()
        assert watched.phase == "complete"
        journal.handle(SweepResumed(1002.0, {**config, "search": {**config["search"], "max_trials": 3}}))
        watched.update()
    assert watched.progress is not None
    assert watched.progress.most == 3
    assert watched.progress.done() == "1 of 3 trials"


def test_an_event_that_is_being_written_is_read_later(tmp_path, compose_config):
    watched = Watched(tmp_path, Clock())
    with Journal(tmp_path) as journal:
        Story(journal, config=compose_config()).starts(0)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    watched.update()
    assert watched.progress is not None
    assert not watched.progress.state.open
    path.write_bytes(whole)
    watched.update()
    assert list(watched.progress.state.open) == [0]
