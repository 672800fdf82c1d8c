"""Events → MLflow, in a thread of its own; the only writer of MLflow."""

from __future__ import annotations

import getpass
import logging
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mnist_sweep import mlflow_store as store
from mnist_sweep.settings import Objective, Settings
from mnist_sweep.trial import (
    AttemptFailed,
    EpochEnded,
    Event,
    Outcome,
    Status,
    SweepEnded,
    SweepStarted,
    Trial,
    TrialEnded,
    TrialStarted,
    WinnerTested,
    trial_folder,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput

_LOG = logging.getLogger(__name__)
_MODEL = "model.h5"
_MLFLOW_STATUS = {Status.COMPLETED: "FINISHED", Status.STOPPED: "KILLED", Status.FAILED: "FAILED"}


class Tracker:
    """Takes events without making anyone wait, and logs them in the background."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Starts the thread, which imports MLflow and opens the store.

        Args:
            settings: The sweep's settings.
            folder: The sweep's folder, from which models are logged.
        """
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._view = _View(settings, folder)
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def handle(self, event: Event) -> None:
        """Takes an event, to be logged soon."""
        self._events.put(event)

    def close(self) -> str | None:
        """Waits until everything is logged.

        Returns:
            The parent run's id; None where it could not be created.
        """
        self._events.put(None)
        self._thread.join()
        return self._view.parent

    @property
    def behind(self) -> int:
        """How many events are waiting."""
        return self._events.qsize()

    @property
    def experiment_id(self) -> str | None:
        """The MLflow experiment; None where it could not be opened."""
        return self._view.experiment

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._view.handle(event)
            except Exception as error:
                # The sweep goes on: its results are in the journal, and the user is told at the end.
                _LOG.exception("MLflow")
                self.error = error


class _View:
    """Writes one event after another."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._objective: Objective = settings.objective
        self.experiment: str | None = None
        self.parent: str | None = None
        self._runs: dict[int, str] = {}
        self._epochs: dict[int, dict[int, Mapping[str, float]]] = {}
        self._scores: dict[int, float] = {}
        self._logged_models: set[int] = set()
        self._best: float | None = None
        self._ended = 0
        self._common: dict[str, str] = {}
        self._dataset: DatasetInput | None = None

    def handle(self, event: Event) -> None:
        if isinstance(event, SweepStarted):
            self._sweep_started(event)
        elif isinstance(event, TrialStarted) and event.attempt == 1:
            self._trial_started(event.trial, event)
        elif isinstance(event, EpochEnded):
            self._epoch_ended(event)
        elif isinstance(event, AttemptFailed):
            self._client.set_tag(self._runs[event.trial], f"mnist_sweep.attempt_{event.attempt}", event.reason)
        elif isinstance(event, TrialEnded) and event.trial in self._runs:
            self._trial_ended(event.trial, event.outcome, event.time)
        elif isinstance(event, WinnerTested):
            self._winner_tested(event)
        elif isinstance(event, SweepEnded):
            self._sweep_ended(event)

    # ---- the sweep ----------------------------------------------------------------------------------------------

    def _sweep_started(self, event: SweepStarted) -> None:
        tracking, name = self._settings.tracking, self._settings.name
        self._client = store.connect(tracking.uri, create=True)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            self.experiment = experiment.experiment_id
        else:
            # A tracking server keeps artifacts in its own place; a database knows none, so it is told one.
            local = not tracking.uri.startswith(("http", "databricks"))
            place = (Path(tracking.artifacts) / name).absolute().as_uri() if local else None
            self.experiment = self._client.create_experiment(name, artifact_location=place)
        self._common = {
            store.TAG_SWEEP: event.sweep,
            store.TAG_OBJECTIVE: f"{self._objective.name} {self._objective.direction}",
            **{f"data.{key}": str(value) for key, value in event.data.items() if value is not None},
            **{f"version.{package}": version for package, version in event.versions.items() if package != "commit"},
        }
        self._common |= {"mlflow.user": getpass.getuser(), "mlflow.source.name": "mnist_sweep"}
        if "commit" in event.versions:
            self._common["mlflow.source.git.commit"] = event.versions["commit"]
        self._dataset = _dataset(event.data)
        self._shared_config = {key: event.config[key] for key in ("name", "seed", "objective", "data")}
        note = self._settings.description or f"A sweep of {name}."
        tags = {store.TAG_KIND: "sweep", "mlflow.note.content": note}
        self.parent = self._create_run(event.sweep.rpartition("/")[2], tags, event)
        self._params(self.parent, {**_flat(event.config), **{f"space.{k}": v for k, v in event.space.items()}})
        self._text(self.parent, event.config, "config.yaml")
        self._text(self.parent, event.space, "space.yaml")

    def _sweep_ended(self, event: SweepEnded) -> None:
        assert self.parent is not None
        self._client.set_tag(self.parent, store.TAG_STATUS, str(event.status))
        if event.reason:
            self._client.set_tag(self.parent, store.TAG_REASON, event.reason)
        self._end_run(self.parent, event.status, event.time)
        # MLflow has the models now; until here, they were wanted for the test and for trials that go on from others.
        for number in self._runs:
            shutil.rmtree(trial_folder(self._folder, number), ignore_errors=True)

    # ---- trials -------------------------------------------------------------------------------------------------

    def _trial_started(self, trial: Trial, event: Event) -> None:
        assert self.parent is not None
        tags = {store.TAG_KIND: "trial", store.TAG_TRIAL: str(trial.number), store.PARENT_TAG: self.parent}
        if trial.parent is not None:
            tags["mnist_sweep.goes_on_from"] = f"trial {trial.parent}"
        run = self._create_run(f"trial {trial.number}", tags, event)
        self._runs[trial.number] = run
        self._epochs[trial.number] = {}
        self._params(run, hyperparameters(trial))
        self._text(run, {**self._shared_config, **trial.config}, "config.yaml")

    def _epoch_ended(self, event: EpochEnded) -> None:
        known = self._epochs[event.trial]
        if event.epoch in known:
            # Tried again, it gives the same metrics again, which MLflow would show twice.
            return
        known[event.epoch] = event.metrics
        self._metrics(self._runs[event.trial], event.metrics, event.epoch, event.time)

    def _trial_ended(self, number: int, outcome: Outcome, time: float) -> None:
        assert self.parent is not None
        run, name = self._runs[number], f"best_{self._objective.name}"
        final: dict[str, float] = {"seconds": outcome.seconds}
        if outcome.score is not None and outcome.best_epoch is not None:
            final |= {name: outcome.score, "best_epoch": outcome.best_epoch}
        if outcome.parameters is not None:
            final["parameters"] = outcome.parameters
        self._metrics(run, final, outcome.best_epoch or 0, time)
        self._client.set_tag(run, store.TAG_STATUS, str(outcome.status))
        if outcome.reason:
            self._client.set_tag(run, store.TAG_REASON, outcome.reason)
        epochs = self._epochs[number]
        if epochs:
            from mnist_sweep.results.plots import learning_curves

            self._figure(run, learning_curves(epochs, outcome.best_epoch, f"Trial {number}"), "learning_curves.png")
        if outcome.score is not None:
            self._keep_model(number, outcome.score)
            if self._objective.better(outcome.score, self._best):
                self._best = outcome.score
        self._ended += 1
        if self._best is not None:
            self._metrics(self.parent, {name: self._best}, self._ended, time)
        self._end_run(run, outcome.status, time)

    def _keep_model(self, number: int, score: float) -> None:
        """Logs a trial's model if it is among those to keep, and drops the one that no longer is."""
        self._scores[number] = score
        keep = self._settings.tracking.keep_models
        ranked = sorted(self._scores, key=lambda n: self._scores[n], reverse=self._objective.direction == "max")
        kept = ranked if keep == "all" else ranked[: 1 if keep == "best" else keep]
        folder = trial_folder(self._folder, number)
        self._client.log_artifact(self._runs[number], str(folder / "sample_predictions.npz"))
        if number in kept:
            self._client.log_artifact(self._runs[number], str(folder / _MODEL))
            self._logged_models.add(number)
        for dropped in self._logged_models - set(kept):
            self._delete_artifact(self._runs[dropped], _MODEL)
        for dropped in set(self._scores) - set(kept):
            (trial_folder(self._folder, dropped) / _MODEL).unlink(missing_ok=True)
        self._logged_models &= set(kept)

    def _winner_tested(self, event: WinnerTested) -> None:
        from mnist_sweep.results.plots import confusion_matrix

        assert self.parent is not None
        for run in (self._runs[event.trial], self.parent):
            self._metrics(run, event.metrics, 0, event.time)
            title = f"Trial {event.trial} on the test images: accuracy {event.metrics['test_accuracy']:.4f}"
            self._figure(run, confusion_matrix(event.confusion, title), "confusion_matrix.png")
            self._client.log_dict(run, {"rows are true classes": event.confusion}, "confusion_matrix.json")
        self._client.set_tag(self._runs[event.trial], store.TAG_WINNER, "true")
        self._client.set_tag(self.parent, store.TAG_WINNER, str(event.trial))

    # ---- MLflow's calls -----------------------------------------------------------------------------------------

    def _create_run(self, name: str, tags: Mapping[str, str], event: Event) -> str:
        assert self.experiment is not None
        run = self._client.create_run(
            self.experiment,
            start_time=_milliseconds(event.time),
            tags={**self._common, **tags},
            run_name=name,
        )
        if self._dataset is not None:
            self._client.log_inputs(run.info.run_id, datasets=[self._dataset])
        return str(run.info.run_id)

    def _end_run(self, run: str, status: Status, time: float) -> None:
        self._client.set_terminated(run, _MLFLOW_STATUS[status], end_time=_milliseconds(time))

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, _shown(value)) for key, value in params.items()]
        for start in range(0, len(entries), 100):
            self._client.log_batch(run, params=entries[start : start + 100])

    def _metrics(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        from mlflow.entities import Metric

        stamp = _milliseconds(time)
        self._client.log_batch(run, metrics=[Metric(k, float(v), stamp, step) for k, v in metrics.items()])

    def _text(self, run: str, content: Mapping[str, Any], file: str) -> None:
        self._client.log_text(run, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), file)

    def _figure(self, run: str, figure: Figure, file: str) -> None:
        self._client.log_figure(run, figure, file)

    def _delete_artifact(self, run: str, file: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository: Any = get_artifact_repository(self._client.get_run(run).info.artifact_uri)
        repository.delete_artifacts(file)


def hyperparameters(trial: Trial) -> dict[str, Any]:
    """A trial's config as flat parameters; what was searched but is inactive, or unused, is left out.

    Args:
        trial: The trial.

    Returns:
        Dotted names and plain values: `model.units`, and `model.units.1` where each layer was searched apart.
    """
    flat = {key: value for key, value in _flat(trial.config).items() if value not in (None, [], {})}
    apart = {name.rpartition(".")[0] for name in trial.values if name.rpartition(".")[2].isdigit()}
    unused = apart | set(trial.inactive)
    return {key: value for key, value in flat.items() if key not in unused} | trial.values


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: object) -> str:
    # MLflow cuts what is longer than 8,000 characters without a word.
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 6000 else text[:5999] + "…"


def _dataset(data: Mapping[str, Any]) -> DatasetInput:
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    sizes = {key: value for key, value in data.items() if key not in ("name", "digest", "source")}
    dataset = Dataset(
        name=data["name"],
        digest=data["digest"],
        source_type="local",
        source=json.dumps({"uri": data["source"]}),
        profile=json.dumps(sizes),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _milliseconds(time: float) -> int:
    return int(time * 1000)
