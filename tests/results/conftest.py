"""A project with three made-up sweeps in its MLflow store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.config import compose
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver.publish import load_plots
from mnist_sweep.journal.events import (
    EpochEnded,
    Event,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.tracking import store
from mnist_sweep.tracking.tracker import Tracker

START = 1_700_000_000.0
OLD, NEW, OTHER = "alpha/2025-01-01_10-00-00", "alpha/2025-01-02_10-00-00", "beta/2025-01-01_12-00-00"


@dataclass
class Made:
    """A made-up trial: its hyperparameter values, and its objective at each epoch."""

    values: dict[str, Any]
    scores: list[float] = field(default_factory=list)
    status: Status = Status.COMPLETED
    reason: str = ""
    inactive: list[str] = field(default_factory=list)


def _adam(units: int, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "model.units": units,
        "model.batch_normalization": units > 100,
        "optimizer.name": "adam",
        "optimizer.learning_rate": rate,
        **more,
    }


_SGD = {**_adam(128, 0.1), "optimizer.name": "sgd", "optimizer.momentum": 0.5}

SWEEPS: dict[str, tuple[str, dict[int, Made]]] = {
    OLD: ("val_accuracy max", {0: Made(_adam(32, 0.001), [0.5]), 1: Made(_adam(64, 0.001), [0.625])}),
    NEW: (
        "val_accuracy max",
        {
            0: Made(_adam(64, 0.001), [0.5, 0.75, 0.625], inactive=["optimizer.momentum"]),
            1: Made(_SGD, [0.5, 0.875]),
            2: Made(
                _adam(256, 1.0), [], Status.FAILED, "the loss became nan in epoch 1", inactive=["optimizer.momentum"]
            ),
            3: Made(_adam(16, 0.0123456789), [0.25], Status.STOPPED, "stopped", inactive=["optimizer.momentum"]),
            4: Made({**_SGD, "model.units": 16, "optimizer.momentum": 0.0}, [0.875]),
        },
    ),
    OTHER: (
        "val_loss min",
        {
            0: Made(_adam(32, 0.5), [0.75, 0.5]),
            1: Made(_adam(32, 0.25), [0.375, 0.25]),
            2: Made(_adam(32, 0.125), [1.0]),
        },
    ),
}


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {"model": {"kind": "mlp"}, "optimizer": {}, "training": {"epochs": 3}}
    for name, value in values.items():
        group, key = name.split(".")
        config[group][key] = value
    return config


def tell(project: Path, sweep: str, objective: str, trials: dict[int, Made], start: float) -> None:
    """Logs a sweep to the project's store, and writes its journal."""
    name = sweep.partition("/")[0]
    folder = project / "experiments" / sweep
    folder.mkdir(parents=True)
    config = compose.defaults((f"name={name}", f"objective={objective}", "tracking.uri=sqlite:///mlruns/mlflow.db"))
    tracking = {
        "uri": f"sqlite:///{project}/mlruns/mlflow.db",
        "artifacts": str(project / "mlruns" / "artifacts"),
        "keep_models": "all",
    }
    settings = check_settings({**config, "tracking": tracking})
    score_name, better = settings.objective.name, max if settings.objective.direction == "max" else min
    tracker = Tracker(settings, folder, load_plots)
    now = start

    def at(event: type[Event], *fields: Any) -> Event:
        nonlocal now
        now += 1
        return event(now, *fields)

    sizes = {"training_images": 90, "validation_images": 10, "test_images": 20, "image": "28x28x1", "classes": 10}
    data = {"name": "mnist_5k", "digest": name * 4, "source": "here", **sizes}
    with Journal(folder) as journal:
        space = dict.fromkeys((name for made in trials.values() for name in made.values), "choice(…)")
        started = at(SweepStarted, sweep, config, space, data, {})
        journal.handle(started)
        tracker.handle(started)
    for number, made in trials.items():
        trial = Trial(number, made.values, _nested(made.values), 3, inactive=made.inactive)
        tracker.handle(at(TrialStarted, trial, 1, "cpu0"))
        for epoch, score in enumerate(made.scores, start=1):
            metrics = {"loss": 1 / epoch, score_name: score, "learning_rate": 0.5, "epoch_seconds": 1.5}
            tracker.handle(at(EpochEnded, number, 1, epoch, metrics))
        best = better(made.scores) if made.scores else None
        if best is not None:
            files = trial_folder(folder, number)
            files.mkdir(parents=True)
            (files / "model.h5").write_bytes(b"model")
            np.savez(files / "sample_predictions.npz", predictions=np.ones(1))
        epoch_of_best = None if best is None else made.scores.index(best) + 1
        parameters = None if best is None else 1000 + number
        outcome = Outcome(made.status, made.reason, best, epoch_of_best, {}, parameters, 2.5 * (number + 1))
        tracker.handle(at(TrialEnded, number, outcome))
    if sweep == NEW:
        tracker.handle(at(WinnerTested, 1, {"test_loss": 0.5, "test_accuracy": 0.8125}, [[3, 1], [0, 4]]))
    tracker.handle(at(SweepEnded, Status.COMPLETED, "", 0))
    tracker.close()
    assert tracker.error is None


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture(scope="session")
def _project(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "mlruns").mkdir()
    (folder / "mlruns" / "mlflow.db").write_bytes(template.read_bytes())
    for i, (sweep, (objective, trials)) in enumerate(SWEEPS.items()):
        tell(folder, sweep, objective, trials, START + 1000 * i)
    return folder


@pytest.fixture
def project(_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, as the working directory. Tests do not change it."""
    monkeypatch.chdir(_project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return _project


@pytest.fixture
def old() -> str:
    """The older of the experiment alpha's two sweeps."""
    return OLD


@pytest.fixture
def new() -> str:
    """The newer of the experiment alpha's two sweeps: five trials, one of which failed and one was stopped."""
    return NEW


@pytest.fixture
def other() -> str:
    """The only sweep of the experiment beta, and the last of all. It minimizes val_loss."""
    return OTHER
