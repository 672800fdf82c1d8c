"""The recorder gets events again, or several at once, while calls of MLflow fail.

These tests cover `recorder` and `writer` together.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from stories import Logged, elsewhere, failing

from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import EpochEnded, ExecutionEnded
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import TAG_DONE, TAG_TRIAL


def test_replaying_events_changes_nothing(told, logged):
    before = logged.everything()
    assert told.replay().everything() == before


def test_replaying_events_to_another_store_gives_the_same(told, logged, tmp_path, template):
    shutil.copy(template, tmp_path / "mlflow.db")
    again = told.replay(f"sqlite:///{tmp_path}/mlflow.db")
    assert again.everything() == logged.everything()
    assert {run.info.run_id for run in again.runs}.isdisjoint(run.info.run_id for run in logged.runs)


def test_events_may_be_replayed_several_times(short, tmp_path, template):
    shutil.copy(template, tmp_path / "mlflow.db")
    expected = short.logged().everything()
    for _ in range(3):
        assert short.replay(f"sqlite:///{tmp_path}/mlflow.db").everything() == expected


@pytest.mark.parametrize("count", [1, 3, 4])
def test_after_a_partial_replay_all_events_can_be_replayed(short, tmp_path, template, count):
    shutil.copy(template, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    short.replay(uri, count)
    assert short.replay(uri).everything() == short.logged().everything()


CALLS = [
    (0, MlflowClient, "create_experiment"),
    (0, MlflowClient, "create_run"),
    (0, MlflowClient, "log_inputs"),
    (0, MlflowClient, "log_batch"),
    (0, Path, "write_bytes"),
    (1, MlflowClient, "create_run"),
    (1, MlflowClient, "log_inputs"),
    (1, MlflowClient, "log_batch"),
    (1, Path, "write_bytes"),
    (2, MlflowClient, "log_batch"),
    (3, MlflowClient, "log_batch"),
    (3, MlflowClient, "set_terminated"),
    (3, Path, "write_bytes"),
    (4, Path, "write_bytes"),
    (5, MlflowClient, "log_batch"),
    (5, MlflowClient, "set_terminated"),
]


@pytest.mark.parametrize(("position", "owner", "call"), CALLS)
def test_an_event_that_failed_halfway_is_complete_after_a_retry(
    short, tmp_path, template, monkeypatch, position, owner, call
):
    view, uri = elsewhere(short, tmp_path, template)
    for i, event in enumerate(short.events):
        if i == position:
            with monkeypatch.context() as patch:
                patch.setattr(owner, call, failing(1, getattr(owner, call), ConnectionError("refused")))
                # A file waits for its store on its own.
                with contextlib.nullcontext() if owner is Path else pytest.raises(ConnectionError):
                    view.handle(event)
        view.handle(event)
    view.finish()
    assert Logged(uri).everything() == short.logged().everything()


def test_a_run_is_not_created_twice_if_the_server_fails_after_creating_it(short, tmp_path, template, monkeypatch):
    view, uri = elsewhere(short, tmp_path, template)
    create, fallen = MlflowClient.create_run, set()

    def falls_while_it_answers(self: MlflowClient, *args: Any, **kwargs: Any) -> Run:
        run = create(self, *args, **kwargs)
        if kwargs["run_name"] not in fallen:
            fallen.add(kwargs["run_name"])
            raise ConnectionError("the server is gone")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", falls_while_it_answers)
    for event in short.events:
        try:
            view.handle(event)
        except ConnectionError:
            view.handle(event)
    assert len(fallen) == 2
    assert Logged(uri).everything() == short.logged().everything()


def test_events_handled_together_give_the_same_as_one_by_one(told, logged, tmp_path, template):
    view, uri = elsewhere(told, tmp_path, template)
    view.handle(*told.events)
    assert Logged(uri).everything() == logged.everything()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("call", "count"), [("create_run", 3), ("log_batch", 2), ("log_batch", 4)])
def test_events_that_failed_together_can_be_retried_together_or_one_by_one(
    told, logged, tmp_path, template, monkeypatch, call, count, at_once
):
    view, uri = elsewhere(told, tmp_path, template)
    real, calls = getattr(MlflowClient, call), 0

    def fails_while_it_answers(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = real(*args, **kwargs)
        if calls == count:
            raise ConnectionError("the server is gone")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, fails_while_it_answers)
        view.handle(told.events[0])
        with pytest.raises(ConnectionError):
            view.handle(*told.events[1:])
    for events in [told.events[1:]] if at_once else [[event] for event in told.events[1:]]:
        view.handle(*events)
    assert Logged(uri).everything() == logged.everything()


def test_a_batch_of_ended_trials_takes_few_calls_each(make_story, monkeypatch):
    story = make_story()
    story.starts()
    story.tracker.close()
    first = len(story.events)
    for number in range(4):
        story.trial(number)
        for epoch in range(1, 6):
            story.epoch(number, epoch, val_accuracy=epoch / 10, loss=1.0)
        story.ends(number, 0.5)
    view = Recorder(story.settings, story.folder, load_plots)
    view.handle(*story.events[:first])
    calls: list[str] = []
    for name in [name for name in dir(MlflowClient) if not name.startswith("_")]:
        real = getattr(MlflowClient, name)
        if callable(real):
            counted = lambda *args, _name=name, _real=real, **kwargs: (calls.append(_name), _real(*args, **kwargs))[1]  # noqa: E731
            monkeypatch.setattr(MlflowClient, name, counted)
    view.handle(*story.events[first:])
    # And one for the parent run.
    assert sorted(calls) == sorted(["create_run", "log_inputs", "log_batch", "set_terminated"] * 4 + ["log_batch"])


def test_a_trial_is_marked_as_logged_only_after_its_executions(make_story, monkeypatch):
    story = make_story()
    story.starts()
    story.tracker.close()
    story.trial(0, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
    for execution in (1, 2):
        story.tell(EpochEnded, 0, 1, 1, {"val_accuracy": 0.5}, execution)
        story.tell(ExecutionEnded, 0, execution, Outcome(Status.COMPLETED, score=0.5, best_epoch=1))
    story.ends(0, 0.5, scores=[0.5, 0.5])
    view = Recorder(story.settings, story.folder, load_plots)
    left = 3

    def breaks_off(self: MlflowClient, *args: Any, _real: Any = MlflowClient.log_batch, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise ConnectionError("refused")
        _real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", breaks_off)
    # The first call is for the parent run, the next two for the executions.
    with pytest.raises(ConnectionError):
        view.handle(*story.events)
    tags = [run.data.tags for run in Logged(story.uri).runs if TAG_TRIAL in run.data.tags]
    assert not any(TAG_DONE in given for given in tags)


def test_missing_files_do_not_keep_the_rest_from_being_logged(short, tmp_path, template):
    view, uri = elsewhere(short, tmp_path, template)
    view._folder = tmp_path / "gone"
    view.handle(*short.events)
    trial = Logged(uri).trials[0]
    assert trial.data.metrics["best_val_accuracy"] == 0.5
    assert "sample_predictions.npz" not in Logged(uri).artifacts(trial)
