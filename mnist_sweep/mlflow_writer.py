"""MLflow's calls, as the view of a sweep needs them."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import yaml

from mnist_sweep import mlflow_store as store
from mnist_sweep import mlflow_view
from mnist_sweep.settings import Tracking
from mnist_sweep.trial import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput, Run

_LOG = logging.getLogger(__name__)
_MLFLOW_STATUS = {
    Status.COMPLETED: "FINISHED",
    Status.STOPPED: "KILLED",
    Status.REFUSED: "KILLED",
    Status.FAILED: "FAILED",
}


class Writer:
    """Writes to one experiment of a store."""

    def __init__(self, tracking: Tracking, name: str, tags: Mapping[str, str], data: Mapping[str, Any]) -> None:
        """Opens the store, and creates it and the experiment if need be.

        Args:
            tracking: Where the store and its artifacts are.
            name: The experiment's.
            tags: What every run is tagged with.
            data: About the data that every run was trained on: `name`, `digest`, `source` and sizes.
        """
        self._client = store.connect(tracking.uri, create=True)
        self._tags, self._dataset = dict(tags), _dataset(data)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            self.experiment = experiment.experiment_id
        else:
            # A tracking server keeps artifacts in its own place; a database knows none, so it is told one.
            local = not tracking.uri.startswith(("http", "databricks"))
            place = (Path(tracking.artifacts) / name).absolute().as_uri() if local else None
            self.experiment = self._client.create_experiment(name, artifact_location=place)

    def create_run(self, name: str, tags: Mapping[str, str], time: float) -> str:
        """Creates a run, which began at `time`, and gives its id."""
        run = self._client.create_run(
            self.experiment, start_time=_milliseconds(time), tags={**self._tags, **tags}, run_name=name
        )
        return str(run.info.run_id)

    def find(self, query: str) -> Iterator[Run]:
        """The experiment's runs that match."""
        return store.search_runs(self._client, [self.experiment], query)

    def reopen(self, run: str) -> None:
        """Lets a run that had ended go on."""
        self._client.update_run(run, status="RUNNING")

    def end_run(self, run: str, status: Status, time: float) -> None:
        """Ends a run."""
        self._client.set_terminated(run, _MLFLOW_STATUS[status], end_time=_milliseconds(time))

    def tag(self, run: str, key: str, value: str) -> None:
        """Sets a tag."""
        self._client.set_tag(run, key, value)

    def view(self, tags: Mapping[str, str]) -> None:
        """Saves a view of the experiment, as `mlflow_view.tags` gives it; a store that refuses it goes without."""
        from mlflow.exceptions import MlflowException

        try:
            for key, value in tags.items():
                self._client.set_experiment_tag(self.experiment, key, value)
            for key in mlflow_view.outdated(self._client.get_experiment(self.experiment)):
                self._client.delete_experiment_tag(self.experiment, key)
        except MlflowException as error:
            _LOG.warning("MLflow takes no saved view: %s", store.without_password(str(error)))

    def input(self, run: str) -> None:
        """Notes which data a run was trained on."""
        self._client.log_inputs(run, datasets=[self._dataset])

    def params(self, run: str, params: Mapping[str, Any]) -> None:
        """Logs parameters, numbers rounded to 6 digits."""
        from mlflow.entities import Param

        entries = [Param(key, _shown(value)) for key, value in params.items()]
        for start in range(0, len(entries), 100):
            self._client.log_batch(run, params=entries[start : start + 100])

    def metrics(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics; the same again changes nothing."""
        from mlflow.entities import Metric

        stamp = _milliseconds(time)
        self._client.log_batch(run, metrics=[Metric(k, float(v), stamp, step) for k, v in metrics.items()])

    def summary(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics as MLflow's tables are to show them: 0.9325 instead of 0.9325000047683716."""
        self.metrics(run, {name: _shortest(value) for name, value in metrics.items()}, step, time)

    def yaml(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a YAML file."""
        self._client.log_text(run, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), file)

    def json(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a JSON file."""
        self._client.log_dict(run, dict(content), file)

    def text(self, run: str, text: str, file: str) -> None:
        """Writes a text, if there is any."""
        if text:
            self._client.log_text(run, text, file)

    def file(self, run: str, path: Path) -> None:
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

    def figure(self, run: str, figure: Figure, file: str) -> None:
        """Writes a picture."""
        self._client.log_figure(run, figure, file)

    def delete_artifact(self, run: str, file: str) -> None:
        """Removes a file."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository: Any = get_artifact_repository(self._client.get_run(run).info.artifact_uri)
        repository.delete_artifacts(file)


def _shown(value: object) -> str:
    # MLflow cuts what is longer than 8,000 characters without a word.
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 6000 else text[:5999] + "…"


def _shortest(value: float) -> float:
    """A 32-bit float in as few digits as tell it from any other; of other numbers 7 digits, but for whole ones."""
    if float(value).is_integer() or not math.isfinite(value):
        return float(value)
    single = np.float32(value)
    return float(str(single)) if float(single) == value else float(f"{value:.7g}")


def _dataset(data: Mapping[str, Any]) -> DatasetInput:
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
