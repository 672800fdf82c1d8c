"""Sweeps whose experiment, runs, files or store were deleted, renamed or replaced in MLflow."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from stories import SWEEP, Logged, Story, elsewhere

from mnist_sweep.common.errors import UserError
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import SweepStarted, WinnerTested
from mnist_sweep.tracking import identity, store
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import PARENT_TAG, TAG_ID, TAG_KIND
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.tracking.uri import file_path


@pytest.fixture
def lost(told: Story, logged: Logged, tmp_path: Path, template: Path) -> Lost:
    """A store of its own that has the sweep, from which a test may delete."""
    view, uri = elsewhere(told, tmp_path, template)
    view.handle(*told.events)
    return Lost(told, logged, uri, tmp_path)


@dataclasses.dataclass
class Lost:
    story: Story
    whole: Logged
    uri: str
    folder: Path

    @property
    def now(self) -> Logged:
        return Logged(self.uri)

    def recorder(self, **more: Any) -> Recorder:
        changed = {"uri": self.uri, "artifacts": str(self.folder / "artifacts")}
        tracking = self.story.settings.tracking.model_copy(update=changed)
        settings = dataclasses.replace(self.story.settings, tracking=tracking)
        return Recorder(settings, self.story.folder, load_plots, **more)

    def synced(self) -> Recorder:
        """Does what `sync` does, and checks that the store has everything once."""
        recorder = self.recorder(repair=True)
        recorder.handle(*self.story.events)
        assert self.now.everything() == self.whole.everything()
        return recorder


def test_a_deleted_experiment_is_restored_with_its_runs(lost: Lost) -> None:
    client, ids = lost.now.client, {run.info.run_id for run in lost.now.runs}
    client.delete_experiment(lost.now.parent.info.experiment_id)
    recorder = lost.synced()
    assert {run.info.run_id for run in lost.now.runs} == ids
    assert str(recorder.mended) == f"the deleted experiment story and {len(ids)} deleted runs"


def test_a_deleted_run_is_restored_and_not_logged_twice(lost: Lost) -> None:
    client, ids = lost.now.client, {run.info.run_id for run in lost.now.runs}
    for run in (lost.now.parent, lost.now.trials[0], lost.now.trials[3]):
        client.delete_run(run.info.run_id)
    assert str(lost.synced().mended) == "3 deleted runs"
    assert {run.info.run_id for run in lost.now.runs} == ids
    assert str(lost.synced().mended) == ""


def test_a_resumed_sweep_restores_them_too(lost: Lost) -> None:
    lost.now.client.delete_experiment(lost.now.parent.info.experiment_id)
    recorder = lost.recorder()
    recorder.handle(*lost.story.events)
    assert lost.now.everything() == lost.whole.everything()
    assert "the deleted experiment story" in str(recorder.mended)


def test_a_renamed_experiment_is_found(lost: Lost) -> None:
    client, parent = lost.now.client, lost.now.parent
    client.rename_experiment(parent.info.experiment_id, "keep")
    recorder = lost.recorder(repair=True)
    recorder.handle(*lost.story.events)
    assert client.get_experiment_by_name("story") is None
    client.rename_experiment(parent.info.experiment_id, "story")
    assert lost.now.everything() == lost.whole.everything()
    assert lost.now.parent.info.run_id == parent.info.run_id


def test_a_sweep_stays_in_its_experiment_when_another_one_has_got_its_name(lost: Lost) -> None:
    client, parent = lost.now.client, lost.now.parent
    client.rename_experiment(parent.info.experiment_id, "keep")
    client.create_experiment("story")
    lost.recorder(repair=True).handle(*lost.story.events)
    assert lost.now.runs == []
    assert client.get_run(parent.info.run_id).info.lifecycle_stage == "active"


def test_a_new_sweep_is_not_logged_to_a_deleted_experiment(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    client, number = lost.now.client, lost.now.parent.info.experiment_id
    client.delete_experiment(number)
    message = (
        f"name=story: this experiment is deleted in {lost.uri}; choose another name, or restore it with its runs: "
        f"MLFLOW_TRACKING_URI={lost.uri} python -m mlflow experiments restore --experiment-id {number}"
    )
    started = lost.story.events[0]
    assert isinstance(started, SweepStarted)
    with pytest.raises(UserError) as caught:
        lost.recorder().handle(dataclasses.replace(started, sweep="story/2025-02-02_10-00-00"))
    assert str(caught.value) == message
    # The same before the sweep starts.
    with pytest.raises(UserError) as caught:
        identity.check_experiment(lost.uri, "story")
    assert str(caught.value) == message
    monkeypatch.chdir(lost.folder)
    (lost.folder / "experiments" / "story" / "1").mkdir(parents=True)
    (lost.folder / "experiments" / "story" / "1" / "journal.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="with its runs: python -m mnist_sweep sync story$"):
        identity.check_experiment(lost.uri, "story")
    for uri, name in ((lost.uri, "other"), (f"sqlite:///{lost.folder}/none.db", "story"), ("http://box", "story")):
        identity.check_experiment(uri, name)


def test_trials_get_the_new_run_of_a_sweep_whose_own_was_deleted_for_good(lost: Lost) -> None:
    old = lost.now.parent.info.run_id
    _delete_for_good(lost, old)
    recorder = lost.synced()
    assert lost.now.parent.info.run_id != old
    assert {run.data.tags[PARENT_TAG] for run in lost.now.trials.values()} == {lost.now.parent.info.run_id}
    assert str(recorder.mended) == ""


def test_a_second_own_run_that_an_early_version_made_is_used_by_all_trials(lost: Lost) -> None:
    client, old = lost.now.client, lost.now.parent
    client.delete_run(old.info.run_id)
    tags = {key: value for key, value in old.data.tags.items() if key not in ("mlflow.runName",)}
    new = client.create_run(old.info.experiment_id, tags=tags, run_name=old.info.run_name).info.run_id
    lost.recorder(repair=True).handle(*lost.story.events)
    assert lost.now.parent.info.run_id == new
    assert {run.data.tags[PARENT_TAG] for run in lost.now.trials.values()} == {new}


def test_lost_files_are_written_again(lost: Lost) -> None:
    folder = file_path(lost.now.trials[0].info.artifact_uri)
    assert folder is not None
    (folder / "model.h5").unlink()
    assert str(lost.synced().mended) == "1 lost file"
    assert lost.now.read(lost.now.trials[0], "model.h5") == b"model 0"
    shutil.rmtree(lost.folder / "artifacts")
    recorder = lost.synced()
    assert recorder.mended.files > 10
    assert recorder.lost == []


def test_models_that_the_sweep_folder_lacks_too_are_named(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(lost.folder / "artifacts")
    monkeypatch.setattr(lost.story, "folder", lost.folder / "moved")
    recorder = lost.recorder(repair=True)
    recorder.handle(*lost.story.events)
    # The others have no score.
    assert recorder.lost == [0, 1, 4]


def test_models_that_were_not_to_be_kept_are_not_missed(make_story: Any) -> None:
    story = make_story(keep_models="best")
    story.starts()
    for number, score in enumerate((0.25, 0.75, 0.5)):
        story.trial(number)
        story.ends(number, score)
    story.ended()
    story.logged()
    recorder = Recorder(story.settings, story.folder, load_plots, repair=True)
    recorder.handle(*story.events)
    assert recorder.lost == []


def test_what_is_deleted_while_the_sweep_runs_is_restored_afterwards(
    told: Story, logged: Logged, make_story: Any
) -> None:
    story = make_story()
    view = Recorder(story.settings, told.folder, load_plots)
    refused = 0
    for number, event in enumerate(told.events):
        if number == 5:
            experiment = Logged(story.uri).parent.info.experiment_id
            Logged(story.uri).client.delete_experiment(experiment)
        try:
            view.handle(event)
        except Exception:
            refused += 1
    assert refused > 5
    again = Recorder(story.settings, told.folder, load_plots, repair=True)
    again.handle(*told.events)
    assert Logged(story.uri).everything() == logged.everything()


def test_the_tracker_says_what_was_deleted_and_what_it_has_restored(make_story: Any) -> None:
    story = make_story()
    story.starts()
    story.trial(0)
    parent = story.logged().parent.info.run_id
    client = store.connect(story.uri)
    client.delete_run(parent)
    tracker = Tracker(story.settings, story.folder, load_plots)
    for event in story.events:
        tracker.handle(event)
    story.tracker = tracker
    while tracker.behind:
        time.sleep(0.01)
    assert tracker.mended == "1 deleted run"
    client.delete_run(parent)
    story.ended()
    tracker.close()
    assert "its run or experiment was deleted while the sweep ran; python -m mnist_sweep sync restores it" in str(
        tracker.refusals
    )


def test_a_sweep_of_the_same_name_from_another_machine_is_another_sweep(
    short: Story, tmp_path: Path, template: Path
) -> None:
    shutil.copy(template, tmp_path / "mlflow.db")
    lost = Lost(short, Logged(f"sqlite:///{tmp_path}/mlflow.db"), f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    for given in ("one", "two"):
        events = [dataclasses.replace(e, id=given) if isinstance(e, SweepStarted) else e for e in short.events]
        lost.recorder().handle(*events)
    runs = lost.now.runs
    own = [run for run in runs if run.data.tags[TAG_KIND] == "sweep"]
    assert {run.data.tags[TAG_ID] for run in own} == {"one", "two"}
    parents = {run.data.tags[TAG_ID]: run.info.run_id for run in own}
    trials = [run for run in runs if run.data.tags[TAG_KIND] == "trial"]
    assert {(run.data.tags[TAG_ID], run.data.tags[PARENT_TAG]) for run in trials} == set(parents.items())


def test_a_store_that_is_deleted_while_the_sweep_runs_is_not_written_to(make_story: Any) -> None:
    story = make_story()
    story.starts()
    story.trial(0)
    story.tracker.close()
    view = Recorder(story.settings, story.folder, load_plots)
    view.handle(*story.events)
    path = Path(story.uri.removeprefix("sqlite:///"))
    for left in path.parent.glob("mlflow.db*"):
        left.unlink()
    with pytest.raises(UserError, match="was deleted or replaced while the sweep ran"):
        view.handle(WinnerTested(story.now, 0, {"test_accuracy": 0.5}, [[1]]))
    assert not path.exists()


def test_sweeps_whose_own_run_is_open_are_named(lost: Lost) -> None:
    client = store.connect(lost.uri)
    assert identity.open_sweeps(client) == set()
    client.update_run(lost.now.parent.info.run_id, status="RUNNING")
    assert identity.open_sweeps(client) == {SWEEP}


def _delete_for_good(lost: Lost, run: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    lost.now.client.delete_run(run)
    opened: Any = SqlAlchemyStore
    opened(lost.uri, str(lost.folder))._hard_delete_run(run)
