"""Files whose store is elsewhere, slow, or down, while everything else is logged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import URI, ArtifactStore
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from stories import Logged, Story, whole_story

from mnist_sweep.driver.publish import load_plots
from mnist_sweep.tracking import files, tracker
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import TAG_BEGUN, TAG_DONE

DOWN = ConnectionError("refused")
OF_A_TRIAL = ["config.yaml", "model.h5", "sample_predictions.npz"]


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    for name, seconds in (("_FIRST_PAUSE", 0.02), ("_LONGEST_PAUSE", 0.2), ("_LONGEST_REST", 0.2)):
        monkeypatch.setattr(files, name, seconds)
    return ArtifactStore(tmp_path / "bucket", monkeypatch)


@pytest.fixture
def story(make_story, artifacts: ArtifactStore) -> Story:
    """A sweep whose database works, and whose files are to be in an object store."""
    made: Story = make_story(artifacts=URI)
    return made


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def waiting(story: Story) -> int:
    """How many files wait, if all events have been handled."""
    tracker = story.tracker
    return len(tracker._recorder.files) if tracker._events.empty() and not tracker._taken else -1


def marks(logged: Logged) -> list[tuple[bool, bool]]:
    """Whether each trial's run is marked as begun, and as logged completely."""
    return [(TAG_BEGUN in run.data.tags, TAG_DONE in run.data.tags) for run in logged.trials.values()]


def test_they_go_through_mlflow_and_its_runs_are_then_complete(story, artifacts) -> None:
    logged = whole_story(story)
    assert story.tracker.complete
    assert story.said == []
    assert marks(logged) == [(True, True), (True, True)]
    assert logged.artifacts(logged.trials[1]) == OF_A_TRIAL
    assert logged.read(logged.trials[1], "model.h5") == b"model 1"
    assert logged.artifacts(logged.parent) == ["config.yaml", "space.yaml"]
    # Under the experiment's name.
    assert [folder.name for folder in (artifacts.folder / "files").iterdir()] == ["story"]


def test_while_their_store_is_down_the_rest_is_logged_and_then_they_are(story, artifacts) -> None:
    with artifacts.down(DOWN):
        story.starts()
        for number in (0, 1):
            story.trial(number)
            story.epoch(number, 1, val_accuracy=0.5, loss=1.0)
            story.ends(number, 0.5)
        wait_until(lambda: waiting(story) == 8)
        now = Logged(story.uri)
        assert [run.info.status for run in now.trials.values()] == ["FINISHED", "FINISHED"]
        assert now.history(now.trials[1], "val_accuracy") == [(1, 0.5)]
        # A process that is killed here has claimed nothing that is not there.
        assert marks(now) == [(False, False), (False, False)]
        assert not story.tracker.complete
    wait_until(lambda: story.tracker.behind == 0)
    wait_until(lambda: marks(Logged(story.uri)) == [(True, True), (True, True)])
    story.ended()
    logged = story.logged()
    assert story.tracker.complete
    assert [logged.artifacts(run) for run in logged.trials.values()] == [OF_A_TRIAL, OF_A_TRIAL]


def test_what_their_store_does_not_take_until_the_end_is_brought_later(story, artifacts, monkeypatch) -> None:
    monkeypatch.setattr(tracker, "_SOON", 0.0)
    with artifacts.down(DOWN):
        story.starts()
        wait_until(lambda: waiting(story) == 2 and story.tracker.status())
        assert story.tracker.status() == "2 files wait for MLflow's file store"
        story.trial(0)
        story.ends(0, 0.5)
        story.ended()
        logged = story.logged()
    assert story.tracker.error is None
    assert not story.tracker.complete
    assert story.tracker.without_files.startswith("5 files could not be written to s3://bucket/files/story: ")
    assert story.tracker.without_files.endswith(": refused")
    assert len(story.said) == 1
    assert (logged.parent.info.status, marks(logged)) == ("FINISHED", [(False, False)])
    again = Recorder(story.settings, story.folder, load_plots, repair=True)
    again.handle(*story.events)
    again.finish()
    assert again.files.missing == ""
    logged = Logged(story.uri)
    assert marks(logged) == [(True, True)]
    assert logged.artifacts(logged.trials[0]) == OF_A_TRIAL


@pytest.mark.parametrize("count", range(1, 10))
def test_a_process_that_is_killed_at_any_file_leaves_nothing_unsaid(story, artifacts, count: int) -> None:
    story.tracker.close()
    story.starts()
    story.trial(0)
    story.ends(0, 0.5)
    story.ended()
    left = count

    def dies(call: str) -> Exception | None:
        nonlocal left
        left -= 1
        return None if left > 0 else DOWN

    artifacts.refuse = dies
    view = Recorder(story.settings, story.folder, load_plots, patience=0.1)
    view.handle(*story.events)
    view.files._threads = []
    artifacts.refuse = lambda call: None
    again = Recorder(story.settings, story.folder, load_plots)
    again.handle(*story.events)
    again.finish()
    logged = Logged(story.uri)
    assert logged.artifacts(logged.trials[0]) == OF_A_TRIAL
    assert logged.artifacts(logged.parent) == ["config.yaml", "space.yaml"]
    assert marks(logged) == [(True, True)]


def test_a_file_that_is_rejected_does_not_keep_the_others_waiting(story, artifacts) -> None:
    artifacts.refuse = lambda call: ValueError("too large") if call == "log model.h5" else None
    story.starts()
    for number in range(3):
        story.trial(number)
        story.ends(number, 0.5)
    story.ended()
    logged = story.logged()
    assert [logged.artifacts(run) for run in logged.trials.values()] == [["config.yaml", "sample_predictions.npz"]] * 3
    assert [done for _, done in marks(logged)] == [False] * 3
    assert story.tracker.without_files.startswith("3 files could not be written")


def test_a_model_that_is_no_longer_kept_is_not_written_any_more(make_story, artifacts) -> None:
    story = make_story(artifacts=URI, keep_models="best")
    with artifacts.down(DOWN):
        story.starts()
        for number, score in enumerate((0.25, 0.75, 0.5)):
            story.trial(number)
            story.ends(number, score)
        # Those of the sweep, and the configs and samples; of the models, the best one and two that are not to be there.
        wait_until(lambda: waiting(story) >= 10)
    story.ended()
    logged = story.logged()
    assert story.tracker.complete
    assert [n for n, run in logged.trials.items() if "model.h5" in logged.artifacts(run)] == [1]
    assert "log model.h5" in artifacts.calls


def test_a_lost_file_of_a_trial_that_has_only_begun_is_brought_back(story, artifacts) -> None:
    story.starts()
    story.trial(0)
    story.tracker.close()
    (lost,) = [path for path in artifacts.folder.rglob("config.yaml") if b"units: 64" in path.read_bytes()]
    lost.unlink()
    again = Recorder(story.settings, story.folder, load_plots, repair=True)
    again.handle(*story.events)
    again.finish()
    assert lost.exists()


def test_a_reason_is_told_once_and_that_it_is_gone(story, artifacts) -> None:
    with artifacts.down(MlflowException("An error occurred (AccessDenied) when …", PERMISSION_DENIED)):
        story.starts()
        story.tracker.opened(20)
        (said,) = story.said
        assert said.startswith("MLflow's files cannot be written to s3://bucket/files/story: ")
        assert "(403)" in said
    wait_until(lambda: story.tracker.behind == 0)
    assert story.said[1:] == ["MLflow's file store takes files again; those that were waiting are written."]


def test_a_short_outage_is_not_told_unless_it_is_at_the_start(story, artifacts) -> None:
    with artifacts.down(DOWN):
        story.starts()
        wait_until(lambda: story.said)
    wait_until(lambda: len(story.said) == 2)
    assert story.said == [
        "MLflow's files cannot be written to s3://bucket/files/story: refused; everything else is logged, and they are "
        "tried again",
        "MLflow's file store takes files again; those that were waiting are written.",
    ]
    with artifacts.down(DOWN):
        story.trial(0)
        wait_until(lambda: story.tracker._recorder.files.error)
    wait_until(lambda: story.tracker.behind == 0)
    assert len(story.said) == 2


def test_a_store_that_never_answers_does_not_keep_the_sweep_from_ending(story, artifacts, monkeypatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.2)
    gate = threading.Event()

    def hangs(call: str) -> None:
        gate.wait(30)

    artifacts.refuse = hangs
    story.starts()
    story.ended(winner=None)
    story.tracker.close()
    assert story.tracker.without_files.endswith(": it does not answer within 0 s")
    gate.set()


def test_of_several_contents_the_last_one_counts(artifacts, tmp_path) -> None:
    given = files.Files("sqlite:///x.db")
    with artifacts.down(DOWN):
        for number in range(3):
            given.write("run", f"{URI}/run", b"%d" % number, "a.txt")
        wait_until(lambda: given.error)
        assert len(given) <= 2
    given.finish()
    assert (artifacts.folder / "files" / "run" / "a.txt").read_bytes() == b"2"
    assert len(given) == 0


def test_a_file_that_is_gone_when_its_store_is_back_is_left_out(artifacts, tmp_path) -> None:
    given, path = files.Files("sqlite:///x.db"), tmp_path / "model.h5"
    path.write_bytes(b"model")
    with artifacts.down(DOWN):
        given.link("run", f"{URI}/run", path)
        wait_until(lambda: given.error)
        path.unlink()
    wait_until(lambda: not given)
    assert artifacts.files() == []


def test_those_of_many_runs_are_written_side_by_side(artifacts) -> None:
    given, together = files.Files("sqlite:///x.db"), threading.Barrier(3, timeout=30)
    given.write("first", f"{URI}/first", b"1", "a.txt")
    wait_until(lambda: not given)

    def waits(call: str) -> None:
        together.wait()

    artifacts.refuse = waits
    for number in range(3):
        given.write(f"{number}", f"{URI}/{number}", b"1", "a.txt")
    given.finish()
    assert len(artifacts.files()) == 4
