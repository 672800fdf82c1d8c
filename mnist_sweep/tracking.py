"""Events → MLflow, in a thread of its own; the only writer of MLflow."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import queue
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from mnist_sweep import mlflow_store as store
from mnist_sweep.settings import Objective, Settings
from mnist_sweep.trial import (
    MODEL_FILE,
    SAMPLE_FILE,
    AttemptFailed,
    EpochEnded,
    Event,
    Outcome,
    Status,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    Trial,
    TrialEnded,
    TrialStarted,
    WinnerTested,
    trial_folder,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput, Run

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0
_MLFLOW_STATUS = {Status.COMPLETED: "FINISHED", Status.STOPPED: "KILLED", Status.FAILED: "FAILED"}


class Tracker:
    """Takes events without making anyone wait, and logs them in the background.

    Where MLflow cannot be reached, events wait and are tried again; the sweep does not notice.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Starts the thread, which imports MLflow and opens the store.

        Args:
            settings: The sweep's settings.
            folder: The sweep's folder, from which models are logged.
        """
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._view = View(settings, folder)
        self._closing = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def handle(self, event: Event) -> None:
        """Takes an event, to be logged soon."""
        self._events.put(event)

    def close(self) -> None:
        """Waits until everything is logged, or `error` tells why it cannot be."""
        self._events.put(None)
        self._closing.set()
        self._thread.join()

    @property
    def behind(self) -> int:
        """How many events are waiting."""
        return self._events.qsize()

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            if not self._log(event):
                return

    def _log(self, event: Event) -> bool:
        pause = 1.0
        while True:
            last = self._closing.is_set()
            try:
                self._view.handle(event)
            except Exception as error:
                _LOG.error("MLflow: %s", store.without_password(traceback.format_exc()))
                self.error = error
                if last:
                    return False
            else:
                self.error = None
                return True
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class View:
    """Writes one event after another.

    An event that was written before, wholly or in part, may be written again: runs are found by their tags, and MLflow
    drops a metric that it has with the same time and value. So a journal can be replayed into any store.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Takes the sweep's settings, and the folder from which models are logged."""
        self._settings, self._folder = settings, folder
        self._objective: Objective = settings.objective
        self._experiment = self._parent = ""
        self._runs: dict[int, str] = {}
        self._epochs: dict[int, dict[int, Mapping[str, float]]] = {}
        self._scores: dict[int, float] = {}
        self._best: float | None = None
        self._winner: int | None = None
        self._ended: set[int] = set()
        self._known: dict[int, Run] = {}
        self._begun: set[str] = set()
        self._common: dict[str, str] = {}
        self._dataset: DatasetInput | None = None
        self._unsure = False

    def handle(self, event: Event) -> None:
        """Writes an event; one that was not written, or not wholly, may be handed over again."""
        try:
            self._write(event)
        except Exception:
            # A server that fell while it answered may have done what it was asked.
            self._unsure = True
            raise
        self._unsure = False

    def _write(self, event: Event) -> None:
        if isinstance(event, SweepStarted):
            self._sweep_started(event)
        elif isinstance(event, SweepResumed):
            self._reopen(self._parent)
        elif isinstance(event, TrialStarted):
            self._trial_started(event.trial, event)
        elif isinstance(event, EpochEnded):
            self._epoch_ended(event)
        elif isinstance(event, AttemptFailed):
            self._client.set_tag(self._runs[event.trial], f"mnist_sweep.attempt_{event.attempt}", event.reason)
            self._log_text(self._runs[event.trial], event.log, f"attempt_{event.attempt}.log")
        elif isinstance(event, TrialEnded) and event.trial in self._runs:
            self._trial_ended(event.trial, event.outcome, event)
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
            self._experiment = experiment.experiment_id
        else:
            # A tracking server keeps artifacts in its own place; a database knows none, so it is told one.
            local = not tracking.uri.startswith(("http", "databricks"))
            place = (Path(tracking.artifacts) / name).absolute().as_uri() if local else None
            self._experiment = self._client.create_experiment(name, artifact_location=place)
        self._common = {
            store.TAG_SWEEP: event.sweep,
            store.TAG_OBJECTIVE: f"{self._objective.name} {self._objective.direction}",
            **{f"data.{key}": str(value) for key, value in event.data.items() if value is not None},
            **{f"version.{package}": version for package, version in event.versions.items() if package != "commit"},
        }
        self._common["mlflow.source.name"] = "mnist_sweep"
        with contextlib.suppress(OSError, KeyError):
            # In a container, a user may have no name.
            self._common["mlflow.user"] = getpass.getuser()
        if "commit" in event.versions:
            self._common["mlflow.source.git.commit"] = event.versions["commit"]
        self._dataset = _dataset(event.data)
        self._shared_config = {key: event.config[key] for key in ("name", "seed", "objective", "data")}
        found = list(self._find(f"tags.`{store.TAG_KIND}` = 'sweep' and tags.`{store.TAG_SWEEP}` = '{event.sweep}'"))
        if found:
            self._parent = found[0].info.run_id
            trials = self._find(f"tags.`{store.PARENT_TAG}` = '{self._parent}'")
            self._known = {int(run.data.tags[store.TAG_TRIAL]): run for run in trials}
            self._reopen(self._parent)
            self._begun |= {
                run.info.run_id for run in [found[0], *self._known.values()] if store.TAG_BEGUN in run.data.tags
            }
            self._begin_sweep(event)
            return
        note = self._settings.description or f"A sweep of {name}."
        tags = {store.TAG_KIND: "sweep", "mlflow.note.content": note}
        self._parent = self._create_run(event.sweep.partition("/")[2], tags, event)
        self._begin_sweep(event)

    def _begin_sweep(self, event: SweepStarted) -> None:
        if self._parent in self._begun:
            return
        shared = {key: value for key, value in event.config.items() if key != "tracking"}
        self._params(self._parent, {**flat(shared), **{f"space.{k}": v for k, v in event.space.items()}})
        self._text(self._parent, shared, "config.yaml")
        self._text(self._parent, event.space, "space.yaml")
        self._mark_begun(self._parent)

    def _sweep_ended(self, event: SweepEnded) -> None:
        self._client.set_tag(self._parent, store.TAG_STATUS, str(event.status))
        self._client.set_tag(self._parent, store.TAG_REASON, event.reason)
        for number, run in self._runs.items():
            if number not in self._ended:
                # Resting: it goes on when the sweep is resumed.
                self._client.set_tag(run, store.TAG_STATUS, str(Status.STOPPED))
                self._client.set_tag(run, store.TAG_REASON, event.reason)
                self._end_run(run, Status.STOPPED, event.time)
        self._end_run(self._parent, event.status, event.time)

    # ---- trials -------------------------------------------------------------------------------------------------

    def _trial_started(self, trial: Trial, event: Event) -> None:
        known = self._known.get(trial.number)
        self._epochs.setdefault(trial.number, {})
        if known is not None:
            self._runs[trial.number] = known.info.run_id
        if self._done(trial.number):
            return
        if trial.number in self._runs:
            self._reopen(self._runs[trial.number])
        else:
            tags = {store.TAG_KIND: "trial", store.TAG_TRIAL: str(trial.number), store.PARENT_TAG: self._parent}
            if trial.parent is not None:
                tags["mnist_sweep.goes_on_from"] = f"trial {trial.parent}"
            created = self._created(trial.number) if self._unsure else None
            self._runs[trial.number] = created or self._create_run(f"trial {trial.number}", tags, event)
        run = self._runs[trial.number]
        if run not in self._begun:
            self._params(run, hyperparameters(trial))
            self._text(run, {**self._shared_config, **trial.config}, "config.yaml")
            self._mark_begun(run)

    def _created(self, number: int) -> str | None:
        """A trial's run, where the call that created it failed afterwards."""
        mine = f"tags.`{store.PARENT_TAG}` = '{self._parent}' and tags.`{store.TAG_TRIAL}` = '{number}'"
        return next((run.info.run_id for run in self._find(mine)), None)

    def _mark_begun(self, run: str) -> None:
        """Notes that a run has its parameters, config and data, so that an event that failed halfway is told again."""
        if self._dataset is not None:
            self._client.log_inputs(run, datasets=[self._dataset])
        self._client.set_tag(run, store.TAG_BEGUN, "true")
        self._begun.add(run)

    def _epoch_ended(self, event: EpochEnded) -> None:
        self._epochs[event.trial][event.epoch] = event.metrics
        if not self._done(event.trial):
            self._metrics(self._runs[event.trial], event.metrics, event.epoch, event.time)

    def _trial_ended(self, number: int, outcome: Outcome, event: TrialEnded) -> None:
        run, name = self._runs[number], f"best_{self._objective.name}"
        self._ended.add(number)
        if outcome.score is not None:
            self._scores[number] = outcome.score
            if self._objective.better(outcome.score, self._best):
                self._best = outcome.score
        if self._best is not None:
            self._metrics(self._parent, {name: self._best}, len(self._ended), event.time)
        if self._done(number):
            return
        final: dict[str, float] = {"seconds": outcome.seconds}
        if outcome.score is not None and outcome.best_epoch is not None:
            final |= {name: outcome.score, "best_epoch": outcome.best_epoch}
        if outcome.parameters is not None:
            final["parameters"] = outcome.parameters
        self._metrics(run, final, outcome.best_epoch or 0, event.time)
        self._client.set_tag(run, store.TAG_STATUS, str(outcome.status))
        self._client.set_tag(run, store.TAG_REASON, outcome.reason)
        self._log_text(run, event.log, "worker.log")
        epochs = self._epochs[number]
        if epochs:
            from mnist_sweep.results.plots import learning_curves

            self._figure(run, learning_curves(epochs, outcome.best_epoch, f"Trial {number}"), "learning_curves.png")
        if outcome.score is not None:
            self._keep_model(number)
        self._client.set_tag(run, store.TAG_DONE, "true")
        self._end_run(run, outcome.status, event.time)

    def _done(self, number: int) -> bool:
        """Whether a trial was logged to its end before the events were replayed."""
        return number in self._known and store.TAG_DONE in self._known[number].data.tags

    def _keep_model(self, number: int) -> None:
        """Logs a trial's model if it is among those to keep, and drops the one that no longer is."""
        keep = self._settings.tracking.keep_models
        # Of equal trials the earlier is the better, as in `Results.ranking`, in whatever order they ended.
        numbers = sorted(self._scores)
        ranked = sorted(numbers, key=lambda n: self._scores[n], reverse=self._objective.direction == "max")
        kept = ranked if keep == "all" else ranked[: 1 if keep == "best" else keep]
        folder = trial_folder(self._folder, number)
        self._file(self._runs[number], folder / SAMPLE_FILE)
        # Replayed into another store, a model that was best once may be gone since.
        if number in kept and (folder / MODEL_FILE).exists():
            self._file(self._runs[number], folder / MODEL_FILE)
        for dropped in set(self._scores) - set(kept):
            model = trial_folder(self._folder, dropped) / MODEL_FILE
            if dropped != number and model.exists():
                self._delete_artifact(self._runs[dropped], MODEL_FILE)
            model.unlink(missing_ok=True)

    def _winner_tested(self, event: WinnerTested) -> None:
        from mnist_sweep.results.plots import confusion_matrix

        for run in (self._runs[event.trial], self._parent) if not event.error else ():
            self._metrics(run, event.metrics, 0, event.time)
            title = f"Trial {event.trial} on the test images: accuracy {event.metrics['test_accuracy']:.4f}"
            self._figure(run, confusion_matrix(event.confusion, title), "confusion_matrix.png")
            self._client.log_dict(run, {"rows are true classes": event.confusion}, "confusion_matrix.json")
        if self._winner is not None:
            # A resumed sweep may have found a better one.
            self._client.set_tag(self._runs[self._winner], store.TAG_WINNER, "false")
        self._winner = event.trial
        self._client.set_tag(self._runs[event.trial], store.TAG_WINNER, "true")
        self._client.set_tag(self._parent, store.TAG_WINNER, str(event.trial))

    # ---- MLflow's calls -----------------------------------------------------------------------------------------

    def _create_run(self, name: str, tags: Mapping[str, str], event: Event) -> str:
        run = self._client.create_run(
            self._experiment,
            start_time=_milliseconds(event.time),
            tags={**self._common, **tags},
            run_name=name,
        )
        return str(run.info.run_id)

    def _find(self, query: str) -> Iterator[Run]:
        return store.search_runs(self._client, [self._experiment], query)

    def _reopen(self, run: str) -> None:
        self._client.update_run(run, status="RUNNING")

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

    def _log_text(self, run: str, text: str, file: str) -> None:
        if text:
            self._client.log_text(run, text, file)

    def _file(self, run: str, path: Path) -> None:
        """Logs a file; where the artifacts lie on the same disk, as a second name of it that takes no room."""
        uri = self._client.get_run(run).info.artifact_uri
        target = Path(url2pathname(urlsplit(uri).path)) / path.name
        if uri.startswith("file:"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                os.link(path, target)
            except OSError:
                _LOG.info("%s is copied, as it cannot be linked", path)
            else:
                return
        self._client.log_artifact(run, str(path))

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
    values = {key: value for key, value in flat(trial.config).items() if value not in (None, [], {})}
    apart = {name.rpartition(".")[0] for name in trial.values if name.rpartition(".")[2].isdigit()}
    unused = apart | set(trial.inactive)
    return {key: value for key, value in values.items() if key not in unused} | trial.values


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one mapping from dotted keys.

    Args:
        tree: The groups; an empty one is a value.
        prefix: What each key begins with.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return result


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
