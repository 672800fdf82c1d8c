"""The thread that logs: its queue, outages and refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from stories import failing, whole_story

from mnist_sweep.common.errors import UnreachableError
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.tracking import files, opening, store, tracker
from mnist_sweep.tracking.tags import TAG_REASON
from mnist_sweep.tracking.writer import Writer


def test_a_store_that_cannot_be_written_is_an_error_only_at_the_end(make_story, tmp_path):
    (tmp_path / "file").touch()
    story = make_story(uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ends(0, 0.5)
    story.ended()
    story.tracker.close()
    assert str(story.tracker.error) == (
        f"tracking.uri=sqlite:///{tmp_path}/file/mlflow.db: cannot be written (File exists)"
    )
    # The only copy of a model is not deleted.
    assert (trial_folder(story.folder, 0) / "model.h5").exists()


def test_events_that_could_not_be_written_can_be_replayed_later(make_story, monkeypatch):
    story = make_story()
    write = Writer.file

    def refuses(self: Writer, run: str, path: Path) -> None:
        if path.parent == trial_folder(story.folder, 1):
            raise OSError("the disk is full")
        write(self, run, path)

    monkeypatch.setattr(Writer, "file", refuses)
    story.starts()
    for number in (0, 1):
        story.trial(number)
        story.epoch(number, 1, val_accuracy=0.5, loss=1.0)
        story.ends(number, 0.5)
    story.trial(2)
    story.ended()
    logged = story.logged()
    assert story.tracker.error is not None
    assert list(logged.trials) == [0, 1]
    assert logged.trials[0].info.status == "FINISHED"
    monkeypatch.setattr(Writer, "file", write)
    again = story.replay()
    assert [run.info.status for run in again.trials.values()] == ["FINISHED", "FINISHED", "KILLED"]
    assert again.history(again.trials[0], "val_accuracy") == [(1, 0.5)]
    assert again.history(again.trials[1], "val_accuracy") == [(1, 0.5)]
    assert again.parent.info.status == "FINISHED"


def test_after_an_outage_everything_is_logged(make_story, monkeypatch):
    monkeypatch.setattr(store, "connect", failing(1, store.connect, ConnectionError("refused")))
    story = make_story()
    story.starts()
    until = time.monotonic() + 30
    while story.tracker.error is None and time.monotonic() < until:
        time.sleep(0.01)
    assert str(story.tracker.error) == "refused"
    assert story.tracker.status() == "MLflow does not answer, and is tried again"
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ends(0, 0.5)
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert story.tracker.complete
    assert story.tracker.status() == ""
    assert story.said == []
    assert logged.parent.info.status == logged.trials[0].info.status == "FINISHED"


def test_an_event_that_cannot_be_written_delays_only_later_events(make_story, monkeypatch):
    gate = threading.Event()
    real = Writer.file

    def refuses(self: Writer, run: str, path: Path) -> None:
        if "0001" in path.parts:
            raise PermissionError(path)
        real(self, run, path)

    def slow(*args: Any, _real: Any = store.connect, **kwargs: Any) -> MlflowClient:
        assert gate.wait(30)
        return _real(*args, **kwargs)

    monkeypatch.setattr(Writer, "file", refuses)
    monkeypatch.setattr(store, "connect", slow)
    story = make_story()
    story.starts()
    for number in (0, 1, 2):
        story.trial(number)
        story.ends(number, 0.5)
    gate.set()
    logged = story.logged()
    assert isinstance(story.tracker.error, PermissionError)
    assert {n: run.info.status for n, run in logged.trials.items()} == {0: "FINISHED", 1: "RUNNING"}


def test_handling_an_event_does_not_wait_for_mlflow(make_story, monkeypatch):
    gate = threading.Event()
    real = store.connect

    def slow(*args: Any, **kwargs: Any) -> MlflowClient:
        assert gate.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "connect", slow)
    story = make_story()
    story.starts()
    story.trial(0)
    story.ended(winner=None)
    assert story.tracker.behind >= 3
    gate.set()
    story.tracker.close()
    assert story.tracker.behind == 0
    assert story.tracker.error is None


def refusing(monkeypatch: pytest.MonkeyPatch, key: str, error: Exception) -> None:
    """Makes MLflow refuse each batch with a tag, a metric or a parameter of that name."""
    real = MlflowClient.log_batch

    def call(self: MlflowClient, run_id: str, **batch: Any) -> None:
        if any(one.key == key for several in batch.values() for one in several):
            raise error
        real(self, run_id, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", call)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("no such thing\nmore", INVALID_PARAMETER_VALUE),
        MlflowException("no such thing", BAD_REQUEST),
        ValueError("no such thing"),
        TypeError("no such thing"),
        UnicodeEncodeError("utf-8", "\udce9", 0, 1, "no such thing"),
    ],
)
@pytest.mark.parametrize("key", ["model.units", "val_accuracy", TAG_REASON])
def test_everything_but_what_mlflow_refuses_is_logged(make_story, monkeypatch, caplog, error, key):
    refusing(monkeypatch, key, error)
    story = make_story()
    logged = whole_story(story)
    assert story.tracker.error is None
    assert story.tracker.refusals.count >= 2
    assert "no such thing" in str(story.tracker.refusals)
    assert "\n" not in str(story.tracker.refusals)
    # One line, however many events are affected.
    assert len([line for line in caplog.messages if "MLflow rejects" in line]) == 1
    assert story.said == [
        f"MLflow rejects a part of what is logged: {story.tracker.refusals.reason}. Everything else is logged."
    ]
    assert not story.tracker.complete
    assert [run.info.status for run in logged.trials.values()] == ["FINISHED", "FINISHED"]
    for run in logged.trials.values():
        assert key not in {**run.data.params, **run.data.metrics, **run.data.tags}
        assert run.data.metrics["loss"] == 1.0
        assert run.data.params["training.epochs"] == "3"
        assert "model.h5" in logged.artifacts(run)
    assert logged.parent.data.metrics["best_val_accuracy"] == 0.75


def test_a_start_that_mlflow_refuses_is_not_retried(make_story, monkeypatch):
    monkeypatch.setattr(
        store, "connect", failing(99, store.connect, MlflowException("it was deleted", INVALID_PARAMETER_VALUE))
    )
    story = make_story()
    story.starts()
    story.trial(0)
    story.tracker._thread.join(20)
    assert not story.tracker._thread.is_alive()
    assert story.said == [opening.unusable("it was deleted")]
    story.tracker.close()
    assert str(story.tracker.error) == "it was deleted"


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_fault_that_lasts_is_told_once_while_the_sweep_runs_and_its_end_too(make_story, monkeypatch):
    denied = MlflowException("not yours", PERMISSION_DENIED)
    monkeypatch.setattr(store, "connect", failing(2, store.connect, denied))
    story = make_story()
    story.starts()
    wait_until(lambda: len(story.said) == 2)
    told, mended = story.said
    assert told.startswith(opening.unusable("the server does not allow it (403)"))
    assert mended == "MLflow: works again, and gets everything that was waiting."
    story.ended(winner=None)
    assert story.logged().parent.info.status == "FINISHED"
    assert story.tracker.complete
    assert len(story.said) == 2


def test_a_store_that_never_answers_does_not_keep_the_sweep_from_ending(make_story, monkeypatch):
    monkeypatch.setattr(tracker, "_PATIENCE", 0.2)
    asked, gate = threading.Event(), threading.Event()
    real = MlflowClient.log_batch

    def hangs(*args: Any, **kwargs: Any) -> None:
        asked.set()
        assert gate.wait(30)
        real(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", hangs)
    story = make_story()
    story.starts()
    assert asked.wait(30)
    story.ended(winner=None)
    story.tracker.close()
    given_up = story.tracker.error
    assert str(given_up) == "it does not answer within 0 s"
    gate.set()
    story.tracker._thread.join(30)
    # What it answers afterwards no longer counts.
    assert story.tracker.error is given_up


def test_a_store_that_times_out_is_not_asked_again_at_the_end(make_story, monkeypatch):
    asked, gate = [], threading.Event()

    def times_out(*_: Any, **__: Any) -> MlflowClient:
        asked.append(1)
        assert gate.wait(30)
        raise UnreachableError("it does not answer within 9 s")

    monkeypatch.setattr(store, "connect", times_out)
    story = make_story()
    story.starts()
    wait_until(lambda: asked)
    story.ended(winner=None)
    story.tracker._closing.set()
    gate.set()
    story.tracker.close()
    assert len(asked) == 1
    assert isinstance(story.tracker.error, UnreachableError)
    assert story.said == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "no such thing"),
        OSError(122, "no such thing"),
        ModuleNotFoundError("no such thing", name="boto3"),
        MlflowException("no such thing", PERMISSION_DENIED),
    ],
)
def test_files_that_cannot_be_logged_do_not_keep_the_rest_from_being_logged(make_story, monkeypatch, error):
    def refuses(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_here", refuses)
        story = make_story()
        story.starts()
        wait_until(lambda: story.said)
        for number in (0, 1):
            story.trial(number)
            story.epoch(number, 1, val_accuracy=0.5 + number / 4, loss=1.0)
            story.ends(number, 0.5 + number / 4)
        story.ended()
        logged = story.logged()
    assert story.tracker.error is None
    assert not story.tracker.complete
    (said,) = story.said
    assert said.startswith(f"MLflow's files cannot be written to file://{story.artifacts}/story: ")
    assert said.endswith("; everything else is logged, and they are tried again")
    assert any(text in said for text in ("no such thing", "quota", "(403)", "needs the Python package boto3"))
    assert story.tracker.without_files.startswith("8 files could not be written to file://")
    for run in (logged.parent, *logged.trials.values()):
        assert run.info.status == "FINISHED"
        assert logged.artifacts(run) == []
    assert [run.data.metrics["best_val_accuracy"] for run in logged.trials.values()] == [0.5, 0.75]
    again = story.replay()
    assert all("model.h5" in again.artifacts(run) for run in again.trials.values())


def test_a_store_that_rejects_a_tag_of_a_new_run_gets_the_run_with_its_other_tags(make_story, monkeypatch):
    real, batch = MlflowClient.create_run, MlflowClient.log_batch
    error = MlflowException("no such tag", INVALID_PARAMETER_VALUE)

    def create(self: MlflowClient, *args: Any, tags: dict[str, str], **more: Any) -> Any:
        if "version.keras" in tags:
            raise error
        return real(self, *args, tags=tags, **more)

    def log(self: MlflowClient, run_id: str, **more: Any) -> None:
        if any(tag.key == "version.keras" for tag in more.get("tags", ())):
            raise error
        batch(self, run_id, **more)

    monkeypatch.setattr(MlflowClient, "create_run", create)
    monkeypatch.setattr(MlflowClient, "log_batch", log)
    story = make_story()
    logged = whole_story(story)
    assert story.tracker.error is None
    assert [run.info.status for run in logged.trials.values()] == ["FINISHED", "FINISHED"]
    for run in (logged.parent, *logged.trials.values()):
        assert "version.keras" not in run.data.tags
        assert run.data.tags["version.python"]


def test_a_server_without_the_call_that_logs_data_gets_everything_else(make_story, monkeypatch):
    def missing(*_: Any, **__: Any) -> None:
        raise MlflowException("no such endpoint", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "log_inputs", missing)
    story = make_story()
    logged = whole_story(story)
    assert story.tracker.error is None
    assert [run.info.status for run in logged.trials.values()] == ["FINISHED", "FINISHED"]


def test_an_outage_is_told_once_and_that_it_has_passed(make_story, monkeypatch):
    monkeypatch.setattr(tracker, "_SOON", 0.0)
    gate, real = threading.Event(), store.connect

    def connect(*args: Any, **kwargs: Any) -> MlflowClient:
        if not gate.is_set():
            raise ConnectionError("http://me:secret12@box refused")
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "connect", connect)
    story = make_story()
    story.starts()
    wait_until(lambda: story.tracker.error)
    for _ in range(3):
        story.tracker.tick()
    (said,) = story.said
    assert said == (
        "MLflow does not answer, and is tried again (http://***@box refused); training continues, and the journal "
        "keeps everything"
    )
    gate.set()
    wait_until(lambda: story.tracker.behind == 0)
    story.tracker.tick()
    assert story.said[1:] == ["MLflow answers again, and has everything."]
    story.tracker.tick()
    assert len(story.said) == 2


def test_a_store_that_is_slow_is_told_and_shown_with_how_far_it_is_behind(make_story, monkeypatch):
    monkeypatch.setattr(tracker, "_LATE", 0.05)
    monkeypatch.setattr(tracker, "_PATIENCE", 0.2)
    gate, real = threading.Event(), MlflowClient.log_batch

    def slow(*args: Any, **kwargs: Any) -> None:
        assert gate.wait(30)
        real(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    story = make_story()
    story.starts()
    wait_until(lambda: story.tracker.status().startswith("MLflow is 0."))
    assert story.tracker.status().endswith(" s behind")
    story.tracker.tick()
    wait_until(lambda: story.tracker.status().startswith("MLflow has not answered for 0."))
    story.tracker.tick()
    (said,) = story.said
    assert said.endswith(" s behind; training continues, and the journal keeps everything")
    gate.set()
    wait_until(lambda: story.tracker.behind == 0)
    assert story.tracker.status() == ""


def test_the_wait_for_a_store_ends_when_the_sweeps_own_run_is_there_or_the_time_is_up(make_story, monkeypatch):
    story = make_story()
    story.tracker.opened(0.01)
    story.starts()
    story.tracker.opened(30)
    assert story.logged().parent
    monkeypatch.setattr(store, "connect", failing(99, store.connect, ConnectionError("refused")))
    other = make_story()
    other.starts()
    other.tracker.opened(30)
    assert str(other.tracker.error) == "refused"


def test_what_slots_use_is_dropped_while_the_store_does_not_answer(make_story, monkeypatch):
    monkeypatch.setattr(store, "connect", failing(1, store.connect, ConnectionError("refused")))
    story = make_story()
    story.starts()
    until = time.monotonic() + 30
    while story.tracker.error is None and time.monotonic() < until:
        time.sleep(0.01)
    behind = story.tracker.behind
    story.tracker.measured(0, {"cpu_utilization_percentage": 75.0}, story.now)
    assert story.tracker.behind == behind
    story.ended()
    assert story.logged().parent.info.status == "FINISHED"
