"""MLflow's calls, as the view of a sweep needs them."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mnist_sweep.common.files import remove, write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, one_line, printable
from mnist_sweep.config.settings import TrackingConfig
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import saved_view, store, uri
from mnist_sweep.tracking.names import TAG_METRIC, TAG_PARAM, key_of, keys_of
from mnist_sweep.tracking.tags import TAG_BEGUN, TAG_DONE, TAG_STORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput, Metric, Run

_LOG = logging.getLogger(__name__)
_MLFLOW_STATUS = {
    Status.COMPLETED: "FINISHED",
    Status.STOPPED: "KILLED",
    Status.REFUSED: "KILLED",
    Status.FAILED: "FAILED",
}


# What MLflow takes in one call.
_MOST_PARAMS, _MOST_METRICS = 100, 500
# Tags that say that everything is there, which it is not where a part was refused.
_MARKS = {TAG_BEGUN, TAG_DONE}
# The characters that it keeps of a value, and of a run's name.
_LONGEST_PARAM, _LONGEST_TAG, _LONGEST_NAME = 6000, 8000, 250
# Codes with which MLflow says that it cannot answer, or not this user: that is no event's fault, and may pass.
_OUTAGES = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "RESOURCE_LIMIT_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "IO_ERROR",
    "ENDPOINT_NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
}
# libyaml's is ten times as fast, where PyYAML was built with it.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def is_refusal(error: BaseException) -> bool:
    """Whether an exception says that MLflow will never take what it was given, rather than that it cannot be reached.

    Args:
        error: What a call of MLflow's client raised.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import DataError, IntegrityError

    if isinstance(error, MlflowException):
        if error.__cause__ is not None and error.error_code in ("INTERNAL_ERROR", "BAD_REQUEST"):
            # Whatever a database's driver says is one of these two.
            return is_refusal(error.__cause__)
        return error.error_code not in _OUTAGES
    refusals = (DataError, IntegrityError, ValueError, TypeError, LookupError, OverflowError)
    return isinstance(error, refusals) and not isinstance(error, RequestException)


@dataclass
class _Waiting:
    """What is to be written to a run."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, float, int, int], Metric] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int | None] | None = None
    input: bool = False


class Writer:
    """Writes to one experiment of a store.

    Runs are created, and files are written, at once; all else waits for `flush`, which needs few calls for each run.
    """

    def __init__(self, tracking: TrackingConfig, name: str) -> None:
        """Takes the store's place, and the experiment's name."""
        self._tracking, self._name = tracking, name
        self._waiting: dict[str, _Waiting] = {}
        self._places: dict[str, str] = {}

    def open(self, tags: Mapping[str, str], data: Mapping[str, Any]) -> None:
        """Opens the store, and creates it and the experiment if need be.

        Args:
            tags: What every run is tagged with.
            data: About the data that every run was trained on: `name`, `digest`, `source` and sizes.
        """
        tracking = self._tracking
        self._client = store.connect(tracking.uri, create=True)
        self._tags, self._dataset = dict(tags), _dataset(data)
        experiment = self._client.get_experiment_by_name(self._name)
        if experiment is not None:
            self.experiment = experiment.experiment_id
        else:
            # A tracking server keeps artifacts in its own place; a database knows none, so it is told one.
            local = not tracking.uri.startswith(("http", "databricks"))
            place = (Path(tracking.artifacts) / self._name).absolute().as_uri() if local else None
            path = uri.sqlite_path(tracking.uri)
            about = {} if path is None else {TAG_STORE: str(path.resolve())}
            self.experiment = self._create_experiment(place, about)

    def _create_experiment(self, place: str | None, tags: dict[str, Any]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.create_experiment(self._name, artifact_location=place, tags=tags))
        except MlflowException:
            # Another sweep of the same name may have begun at the same time.
            there = self._client.get_experiment_by_name(self._name)
            if there is None:
                raise
            return str(there.experiment_id)

    def tag_new_runs(self, tags: Mapping[str, str]) -> None:
        """Changes what every run is tagged with that is created from now on."""
        self._tags |= tags

    def create_run(self, name: str, tags: Mapping[str, str], time: float) -> str:
        """Creates a run, which began at `time`, and gives its id."""
        storable = {key_of(key): printable(value, _LONGEST_TAG) for key, value in {**self._tags, **tags}.items()}
        run = self._client.create_run(
            self.experiment,
            start_time=_milliseconds(time),
            tags=storable,
            run_name=one_line(name, _LONGEST_NAME),
        )
        self._places[run.info.run_id] = run.info.artifact_uri
        return str(run.info.run_id)

    def find(self, query: str) -> Iterator[Run]:
        """The experiment's runs that match."""
        for run in store.search_runs(self._client, [self.experiment], query):
            self._places[run.info.run_id] = run.info.artifact_uri
            yield run

    def reopen(self, run: str) -> None:
        """Lets a run that had ended go on."""
        self._to(run).status = ("RUNNING", None)

    def end_run(self, run: str, status: Status, time: float) -> None:
        """Ends a run."""
        self._to(run).status = (_MLFLOW_STATUS[status], _milliseconds(time))

    def tag(self, run: str, key: str, value: str) -> None:
        """Sets a tag."""
        self._to(run).tags[key_of(key)] = printable(value, _LONGEST_TAG)

    def view(self, tags: Mapping[str, str]) -> None:
        """Saves a view of the experiment, as `mlflow_view.tags` gives it; a store that refuses it goes without."""
        from mlflow.exceptions import MlflowException

        try:
            for key, value in tags.items():
                self._client.set_experiment_tag(self.experiment, key, value)
            for key in saved_view.outdated(self._client.get_experiment(self.experiment)):
                self._client.delete_experiment_tag(self.experiment, key)
        except MlflowException as error:
            _LOG.warning("MLflow takes no saved view: %s", masked(first_line(error)))

    def input(self, run: str) -> None:
        """Notes which data a run was trained on."""
        self._to(run).input = True

    def params(self, run: str, params: Mapping[str, Any]) -> None:
        """Logs parameters, numbers rounded to 6 digits."""
        keys = self._keys(run, params, TAG_PARAM)
        self._to(run).params |= {keys[name]: _shown(value) for name, value in params.items()}

    def metrics(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics; the same again changes nothing."""
        from mlflow.entities import Metric

        waiting, stamp, keys = self._to(run).metrics, _milliseconds(time), self._keys(run, metrics, TAG_METRIC)
        for name, value in metrics.items():
            waiting[keys[name], float(value), stamp, step] = Metric(keys[name], float(value), stamp, step)

    def _keys(self, run: str, names: Mapping[str, Any], begins: str) -> dict[str, str]:
        """MLflow's keys for metrics or parameters; a tag tells what each is called whose own name MLflow refuses."""
        keys = keys_of(names)
        for name, key in keys.items():
            if key != name:
                self.tag(run, f"{begins}{key}", name)
        return keys

    def summary(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics as MLflow's tables are to show them: 0.9325 instead of 0.9325000047683716."""
        self.metrics(run, {name: _shortest(value) for name, value in metrics.items()}, step, time)

    def flush(self) -> None:
        """Writes what waits.

        A run gets its tags last, and one that is tagged as wholly logged is written after the runs below it: what a tag
        says to be there is there, wherever writing breaks off.

        Raises:
            Exception: The first refusal (see `is_refusal`), when all else is written; an outage at once.
        """
        refusals: list[Exception] = []
        for run in sorted(self._waiting, key=lambda run: TAG_DONE in self._waiting[run].tags):
            self._write(run, self._waiting[run], refusals)
        self._waiting.clear()
        if refusals:
            raise refusals[0]

    def discard(self) -> None:
        """Forgets what waits, as it will be told again."""
        self._waiting.clear()

    def _to(self, run: str) -> _Waiting:
        return self._waiting.setdefault(run, _Waiting())

    def _write(self, run: str, waiting: _Waiting, refusals: list[Exception]) -> None:
        from mlflow.entities import Param, RunTag

        already = len(refusals)

        def asked(call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
            """Whether MLflow took something; what it refused joins the refusals."""
            try:
                call(*args, **kwargs)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refusals.append(error)
                return False
            return True

        if waiting.input:
            asked(self._client.log_inputs, run, datasets=[self._dataset])
        if waiting.status is not None:
            status, ended = waiting.status
            if ended is None:
                asked(self._client.update_run, run, status=status)
            else:
                asked(self._client.set_terminated, run, status, end_time=ended)
        params = [Param(key, value) for key, value in waiting.params.items()]
        metrics = list(waiting.metrics.values())
        tags = [RunTag(key, value) for key, value in waiting.tags.items()]
        batches: list[dict[str, list[Any]]] = []
        while len(params) > _MOST_PARAMS or len(metrics) > _MOST_METRICS:
            batches.append({"params": params[:_MOST_PARAMS], "metrics": metrics[:_MOST_METRICS]})
            params, metrics = params[_MOST_PARAMS:], metrics[_MOST_METRICS:]
        batches.append({"params": params, "metrics": metrics, "tags": tags})
        for batch in batches:
            if len(refusals) > already:
                batch["tags"] = [tag for tag in batch.get("tags", ()) if tag.key not in _MARKS]
            if not asked(self._client.log_batch, run, **batch):
                # A batch is taken whole or not at all: one by one, only what is refused itself is missing.
                singles = [(kind, one) for kind, several in batch.items() for one in several]
                for kind, one in singles if len(singles) > 1 else ():
                    if kind != "tags" or one.key not in _MARKS:
                        asked(self._client.log_batch, run, **{kind: [one]})

    # ---- files --------------------------------------------------------------------------------------------------

    def yaml(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a YAML file."""
        given: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}
        try:
            text = yaml.dump(dict(content), Dumper=_DUMPER, **given)
        except UnicodeEncodeError:
            # libyaml takes no lone surrogate, such as a file's name may have; PyYAML's own writes an escape.
            text = yaml.dump(dict(content), Dumper=yaml.SafeDumper, **given)
        self.text(run, text, file)

    def json(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a JSON file."""
        self._client.log_dict(run, dict(content), file)

    def text(self, run: str, text: str, file: str) -> None:
        """Writes a text, if there is any."""
        self.bytes(run, printable(text, sys.maxsize).encode(), file)

    def bytes(self, run: str, content: bytes, file: str) -> None:
        """Writes a file, if there is anything in it."""
        folder = self._local(run) if content else None
        if folder is not None:
            write_whole(folder / file, content, flush=False)
        elif content:
            with TemporaryDirectory() as temporary:
                path = Path(temporary) / file
                write_whole(path, content, flush=False)
                self._client.log_artifact(run, str(path))

    def file(self, run: str, path: Path) -> None:
        """Logs a file; where the artifacts lie on the same disk, as a second name of it that takes no room."""
        folder = self._local(run)
        if folder is not None:
            try:
                # Not written over: in a copy that was made of links it is the original's, too.
                remove(folder / path.name)
                os.link(path, folder / path.name)
            except OSError:
                _LOG.info("%s is copied, as it cannot be linked", path)
            else:
                return
        self._client.log_artifact(run, str(path))

    def figure(self, runs: Sequence[str], figure: Figure, file: str) -> None:
        """Writes a picture to each of some runs."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        for run in runs:
            self.bytes(run, drawn.getvalue(), file)

    def delete_artifact(self, run: str, file: str) -> None:
        """Removes a file."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository: Any = get_artifact_repository(self._place(run))
        repository.delete_artifacts(file)

    def _place(self, run: str) -> str:
        """The URI below which a run's files lie."""
        if run not in self._places:
            self._places[run] = self._client.get_run(run).info.artifact_uri
        return self._places[run]

    def _local(self, run: str) -> Path | None:
        """A run's folder, where its files lie on this machine."""
        folder = uri.file_path(self._place(run))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _shown(value: object) -> str:
    # MLflow cuts what is longer without a word.
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value), _LONGEST_PARAM)


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
