"""Writes runs to an experiment in MLflow, with few calls."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import remove, write_whole
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, one_line, os_reason, printable
from mnist_sweep.config.settings import TrackingConfig
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import identity, saved_view, store, uri
from mnist_sweep.tracking.faults import fault_of_code
from mnist_sweep.tracking.names import TAG_METRIC, TAG_PARAM, key_of, keys_of
from mnist_sweep.tracking.tags import IDENTIFYING, TAG_BEGUN, TAG_DONE, TAG_STORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput, Metric, Run

_LOG = logging.getLogger(__name__)
_MLFLOW_STATUS = {
    Status.COMPLETED: "FINISHED",
    Status.DIVERGED: "FINISHED",
    Status.STOPPED: "KILLED",
    Status.REFUSED: "KILLED",
    Status.FAILED: "FAILED",
}
# What MLflow accepts per call.
_MOST_PARAMS, _MOST_METRICS = 100, 500
# Tags that mark a run as complete; not set if a part was refused.
_MARKS = {TAG_BEGUN, TAG_DONE}
# The most characters that MLflow stores of a value, and of a run's name.
_LONGEST_PARAM, _LONGEST_TAG, _LONGEST_NAME = 6000, 8000, 250
# Error codes of an outage or missing permissions, which may be temporary and not an event's fault.
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
# libyaml's dumper is ten times as fast, if PyYAML was built with it.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def is_refusal(error: BaseException) -> bool:
    """Returns whether MLflow has refused its input for good, rather than being unreachable.

    Args:
        error: The exception that a call of MLflow's client has raised.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import DataError, IntegrityError

    if isinstance(error, MlflowException):
        if error.__cause__ is not None and error.error_code in ("INTERNAL_ERROR", "BAD_REQUEST"):
            # MLflow wraps every error of a database driver in one of these two.
            return is_refusal(error.__cause__)
        return error.error_code not in _OUTAGES
    refusals = (DataError, IntegrityError, ValueError, TypeError, LookupError, OverflowError)
    return isinstance(error, refusals) and not isinstance(error, RequestException)


class RefusedFileError(ValueError):
    """A store takes a run, but not its files."""


def is_refused_file(error: Exception) -> bool:
    """Returns whether a file cannot be logged, although the rest of its run can: a full or forbidden artifact store.

    Args:
        error: The exception that writing the file, or a call of MLflow's client, has raised.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return is_refusal(error) or fault_of_code(error) is not None
    # The libraries of S3, Azure and others have their own exceptions.
    outage = isinstance(error, ConnectionError | TimeoutError | RequestException | SQLAlchemyError)
    return not outage and not re.search("Connect|Timeout", type(error).__name__)


@dataclass
class _Pending:
    """What the next flush writes to a run."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, float, int, int], Metric] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int | None] | None = None
    input: bool = False
    refusals: list[Exception] = field(default_factory=list)


class Writer:
    """Writes to one experiment of a store.

    Runs are created and files are written immediately. All else waits for `flush`, which makes few calls per run.
    """

    def __init__(self, tracking: TrackingConfig, name: str) -> None:
        """Takes the store's config and the experiment's name."""
        self._tracking, self._name = tracking, name
        self._pending: dict[str, _Pending] = {}
        self._artifact_uris: dict[str, str] = {}
        # The name of the experiment if it was deleted, and `open` has restored it.
        self.restored_experiment = ""
        # When the store was asked for what it has not answered yet, by `time.monotonic`; None if it has answered.
        self.waiting_since: float | None = None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        self.waiting_since = time.monotonic()
        try:
            yield
        finally:
            self.waiting_since = None

    def open(self, sweep: str, tags: Mapping[str, str], data: Mapping[str, Any], *, repair: bool = False) -> list[Run]:
        """Opens the store and the sweep's experiment, and creates or restores them if needed.

        Args:
            sweep: The sweep, `name/time`.
            tags: Tags of every run.
            data: Describes the data that every run is trained on: `name`, `digest`, `source` and sizes.
            repair: Whether to restore the experiment even if it has no run of the sweep.

        Returns:
            The sweep's runs that the store has, including deleted ones.

        Raises:
            UserError: The store cannot be opened, or the experiment is deleted.
        """
        tracking = self._tracking
        self._client = store.connect(tracking.uri, create=True)
        self._place = store.place(tracking.uri)
        self._tags, self._dataset = dict(tags), _dataset(data)
        with self._asking():
            named = self._client.get_experiment_by_name(self._name)
        with self._asking():
            found = identity.find_runs(self._client, sweep, None if named is None else named.experiment_id)
        if found:
            self.experiment = found[0].info.experiment_id
        else:
            self.experiment = self._new_experiment() if named is None else named.experiment_id
        with self._asking():
            experiment = self._client.get_experiment(self.experiment)
        if identity.is_deleted(experiment):
            if not (found or repair):
                raise identity.experiment_deleted(tracking.uri, self._name, self.experiment)
            self._client.restore_experiment(self.experiment)
            self.restored_experiment = experiment.name
        self._artifact_uris |= {run.info.run_id: run.info.artifact_uri for run in found}
        return found

    def check_store(self) -> None:
        """Checks that an open SQLite store is still in its place: one that was deleted can still be written to.

        Raises:
            UserError: It was deleted or replaced.
        """
        if store.place(self._tracking.uri) != self._place:
            raise UserError(f"tracking.uri={masked(self._tracking.uri)}: was deleted or replaced while the sweep ran")

    def _new_experiment(self) -> str:
        tracking = self._tracking
        # A tracking server has its own artifact store; a database does not.
        local = uri.is_database(tracking.uri)
        location = (Path(tracking.artifacts) / self._name).absolute().as_uri() if local else None
        path = uri.sqlite_path(tracking.uri)
        return self._create_experiment(location, {} if path is None else {TAG_STORE: str(path.resolve())})

    def _create_experiment(self, location: str | None, tags: dict[str, Any]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            with self._asking():
                return str(self._client.create_experiment(self._name, artifact_location=location, tags=tags))
        except MlflowException:
            # Another sweep of the same name may have started at the same time.
            experiment = self._client.get_experiment_by_name(self._name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def tag_new_runs(self, tags: Mapping[str, str]) -> None:
        """Changes the tags of runs that are created from now on."""
        self._tags |= tags

    def create_run(self, name: str, tags: Mapping[str, str], time: float) -> str:
        """Creates a run that started at `time`, and returns its id."""
        storable = {key_of(key): printable(value, _LONGEST_TAG) for key, value in {**self._tags, **tags}.items()}
        about: dict[str, Any] = {"start_time": _milliseconds(time), "run_name": one_line(name, _LONGEST_NAME)}
        later: dict[str, str] = {}
        with self._asking():
            try:
                run = self._client.create_run(self.experiment, tags=storable, **about)
            except Exception as error:
                if not is_refusal(error):
                    raise
                # Perhaps the store rejects one of the tags. These make it this run; the others are set one by one.
                identifying = {key: storable[key] for key in IDENTIFYING if key in storable}
                run = self._client.create_run(self.experiment, tags=identifying, **about)
                later = {key: value for key, value in storable.items() if key not in identifying}
        self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        self._pending_of(run.info.run_id).tags |= later
        return str(run.info.run_id)

    def find(self, query: str) -> Iterator[Run]:
        """Yields the experiment's runs that match a query."""
        with self._asking():
            found = list(store.search_runs(self._client, [self.experiment], query))
        for run in found:
            self._artifact_uris[run.info.run_id] = run.info.artifact_uri
            yield run

    def restore(self, run: str) -> None:
        """Restores a deleted run."""
        with self._asking():
            self._client.restore_run(run)

    def files(self, run: str) -> set[str]:
        """Returns the names of a run's files."""
        with self._asking():
            return {file.path for file in self._client.list_artifacts(run)}

    def reopen(self, run: str) -> None:
        """Sets a run that has ended to running again."""
        self._pending_of(run).status = ("RUNNING", None)

    def end_run(self, run: str, status: Status, time: float) -> None:
        """Ends a run."""
        self._pending_of(run).status = (_MLFLOW_STATUS[status], _milliseconds(time))

    def tag(self, run: str, key: str, value: str) -> None:
        """Sets a tag."""
        self._pending_of(run).tags[key_of(key)] = printable(value, _LONGEST_TAG)

    def view(self, tags: Mapping[str, str]) -> None:
        """Saves a view from `saved_view.tags` and deletes outdated ones; skipped if the store refuses it."""
        from mlflow.exceptions import MlflowException

        try:
            with self._asking():
                for key, value in tags.items():
                    self._client.set_experiment_tag(self.experiment, key, value)
                for key in saved_view.outdated(self._client.get_experiment(self.experiment)):
                    self._client.delete_experiment_tag(self.experiment, key)
        except MlflowException as error:
            _LOG.warning("MLflow rejects the saved view: %s", masked(first_line(error)))

    def input(self, run: str) -> None:
        """Logs the data as the run's input."""
        self._pending_of(run).input = True

    def params(self, run: str, params: Mapping[str, Any]) -> None:
        """Logs parameters, with floats rounded to 6 digits."""
        keys = self._keys(run, params, TAG_PARAM)
        self._pending_of(run).params |= {keys[name]: _param_text(value) for name, value in params.items()}

    def metrics(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics. Logging the same metrics again changes nothing."""
        from mlflow.entities import Metric

        pending, stamp, keys = self._pending_of(run).metrics, _milliseconds(time), self._keys(run, metrics, TAG_METRIC)
        for name, value in metrics.items():
            pending[keys[name], float(value), stamp, step] = Metric(keys[name], float(value), stamp, step)

    def _keys(self, run: str, names: Mapping[str, Any], prefix: str) -> dict[str, str]:
        """Returns MLflow's keys for metrics or parameters. If MLflow rejects a name, a tag stores the original."""
        keys = keys_of(names)
        for name, key in keys.items():
            if key != name:
                self.tag(run, f"{prefix}{key}", name)
        return keys

    def summary(self, run: str, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Logs metrics rounded for MLflow's tables: 0.9325 instead of 0.9325000047683716."""
        self.metrics(run, {name: _rounded(value) for name, value in metrics.items()}, step, time)

    def flush(self) -> None:
        """Writes everything that is pending.

        A run's tags are written last, and a run marked as complete is written after its child runs. So if writing is
        interrupted, no mark is wrong.

        Raises:
            Exception: An outage, immediately; or the first refusal (see `is_refusal`), after all else is written.
        """
        refusals: list[Exception] = []
        for run in sorted(self._pending, key=lambda run: TAG_DONE in self._pending[run].tags):
            self._write(run, self._pending[run], refusals)
        self._pending.clear()
        if refusals:
            raise refusals[0]

    def discard(self) -> None:
        """Forgets what is pending, as it will be handed over again."""
        self._pending.clear()

    def _pending_of(self, run: str) -> _Pending:
        return self._pending.setdefault(run, _Pending())

    def _write(self, run: str, pending: _Pending, refusals: list[Exception]) -> None:
        from mlflow.entities import Param, RunTag

        already = len(refusals)
        refusals += pending.refusals

        def accepted(call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
            """Returns whether MLflow accepted a call; a refusal is added to `refusals`."""
            try:
                with self._asking():
                    call(*args, **kwargs)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refusals.append(error)
                return False
            return True

        if pending.input:
            accepted(self._log_input, run)
        if pending.status is not None:
            status, ended = pending.status
            if ended is None:
                accepted(self._client.update_run, run, status=status)
            else:
                accepted(self._client.set_terminated, run, status, end_time=ended)
        params = [Param(key, value) for key, value in pending.params.items()]
        metrics = list(pending.metrics.values())
        tags = [RunTag(key, value) for key, value in pending.tags.items()]
        batches: list[dict[str, list[Any]]] = []
        while len(params) > _MOST_PARAMS or len(metrics) > _MOST_METRICS:
            batches.append({"params": params[:_MOST_PARAMS], "metrics": metrics[:_MOST_METRICS]})
            params, metrics = params[_MOST_PARAMS:], metrics[_MOST_METRICS:]
        batches.append({"params": params, "metrics": metrics, "tags": tags})
        for batch in batches:
            if len(refusals) > already:
                batch["tags"] = [tag for tag in batch.get("tags", ()) if tag.key not in _MARKS]
            if not accepted(self._client.log_batch, run, **batch):
                # MLflow rejects a batch as a whole. Log its items one by one, so that only refused ones are missing.
                items = [(kind, item) for kind, values in batch.items() for item in values]
                for kind, item in items if len(items) > 1 else ():
                    if kind != "tags" or item.key not in _MARKS:
                        accepted(self._client.log_batch, run, **{kind: [item]})

    def _log_input(self, run: str) -> None:
        try:
            self._client.log_inputs(run, datasets=[self._dataset])
        except Exception as error:
            if fault_of_code(error) is None:
                raise
            # Old servers, and those in front of them, may lack this endpoint only.
            raise ValueError(f"the data as the run's input ({first_line(error)})") from error

    # ---- files --------------------------------------------------------------------------------------------------

    def yaml(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a YAML file."""
        given: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}
        try:
            text = yaml.dump(dict(content), Dumper=_DUMPER, **given)
        except UnicodeEncodeError:
            # libyaml refuses lone surrogates, which file names may contain; PyYAML's dumper escapes them.
            text = yaml.dump(dict(content), Dumper=yaml.SafeDumper, **given)
        self.text(run, text, file)

    def json(self, run: str, content: Mapping[str, Any], file: str) -> None:
        """Writes data as a JSON file."""
        self.text(run, json.dumps(dict(content), indent=2, default=str), file)

    def text(self, run: str, text: str, file: str) -> None:
        """Writes a text file, unless the text is empty."""
        self.bytes(run, printable(text, sys.maxsize).encode(), file)

    def bytes(self, run: str, content: bytes, file: str) -> None:
        """Writes a file, unless it is empty."""
        if content:
            self._log_file(run, partial(self._write_bytes, run, content, file))

    def file(self, run: str, path: Path) -> None:
        """Logs a file, as a hard link if the artifacts are on the same disk."""
        self._log_file(run, partial(self._link_or_copy, run, path))

    def _log_file(self, run: str, log: Callable[[], None]) -> None:
        """Logs a file. If that is refused, all else of the run is logged, and `flush` raises the error."""
        try:
            with self._asking():
                log()
        except Exception as error:
            if not is_refused_file(error):
                raise
            reason = fault_of_code(error) or (os_reason(error) if isinstance(error, OSError) else first_line(error))
            # Without the file's path, so that the reason is the same for all files.
            self._pending_of(run).refusals.append(RefusedFileError(f"files cannot be logged ({reason})"))
            _LOG.info("a file of run %s cannot be logged", run, exc_info=True)

    def _write_bytes(self, run: str, content: builtins.bytes, file: str) -> None:
        folder = self._local_folder(run)
        if folder is not None:
            write_whole(folder / file, content, flush=False)
            return
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / file
            write_whole(path, content, flush=False)
            self._client.log_artifact(run, str(path))

    def _link_or_copy(self, run: str, path: Path) -> None:
        folder = self._local_folder(run)
        if folder is not None:
            try:
                # Removed first: in a copy made of hard links, overwriting would change the original, too.
                remove(folder / path.name)
                os.link(path, folder / path.name)
            except OSError:
                _LOG.info("%s cannot be linked and is copied", path)
            else:
                return
        self._client.log_artifact(run, str(path))

    def figure(self, runs: Sequence[str], figure: Figure, file: str) -> None:
        """Writes a plot to each of some runs."""
        image = io.BytesIO()
        figure.savefig(image, format="png")
        for run in runs:
            self.bytes(run, image.getvalue(), file)

    def delete_artifact(self, run: str, file: str) -> None:
        """Deletes a file."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        def delete() -> None:
            repository: Any = get_artifact_repository(self._artifact_uri(run), self._client.tracking_uri)
            repository.delete_artifacts(file)

        self._log_file(run, delete)

    def _artifact_uri(self, run: str) -> str:
        if run not in self._artifact_uris:
            self._artifact_uris[run] = self._client.get_run(run).info.artifact_uri
        return self._artifact_uris[run]

    def _local_folder(self, run: str) -> Path | None:
        """Returns the folder of a run's files if it is on this machine; creates it if needed."""
        folder = uri.file_path(self._artifact_uri(run))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _param_text(value: object) -> str:
    # MLflow would silently cut a longer value.
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value), _LONGEST_PARAM)


def _rounded(value: float) -> float:
    """Rounds a 32-bit float to the fewest digits that identify it, and other floats that are not whole to 7 digits."""
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
