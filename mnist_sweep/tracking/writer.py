"""Writes runs to an experiment in MLflow, with few calls."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line, one_line, printable
from mnist_sweep.config.settings import TrackingConfig
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import identity, saved_view, store, uri
from mnist_sweep.tracking.faults import fault_of_code
from mnist_sweep.tracking.files import Files
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
# Seconds that a flush waits for files, where nothing else waits for it.
PATIENCE = 30.0
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


@dataclass
class _Pending:
    """What the next flush writes to a run."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, float, int, int], Metric] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int | None] | None = None
    input: bool = False


class Writer:
    """Writes to one experiment of a store.

    Runs are created immediately, and files are written while the rest goes on. All else waits for `flush`, which makes
    few calls per run.

    Attributes:
        files: The files, which may wait for their store.
        notes: What the user should know about where they are, a line each.
        restored_experiment: The name of the experiment if it was deleted, and `open` has restored it.
        waiting_since: When the store was asked for what it has not answered yet, by `time.monotonic`; None if it has
            answered.
    """

    def __init__(self, tracking: TrackingConfig, name: str, patience: float = PATIENCE) -> None:
        """Opens nothing yet.

        Args:
            tracking: The store's config.
            name: The experiment's name.
            patience: Seconds that `flush` waits for files of runs that are otherwise complete, to mark them with the
                same call.
        """
        self._tracking, self._name, self._patience = tracking, name, patience
        self._pending: dict[str, _Pending] = {}
        # The marks of runs that lack nothing but files.
        self._marks: dict[str, dict[str, str]] = {}
        self._artifact_uris: dict[str, str] = {}
        self.files = Files(tracking.uri)
        self.notes: list[str] = []
        self.restored_experiment = ""
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
        self._check_length(str(experiment.artifact_location))
        self.notes = self._about_files(str(experiment.artifact_location), new=named is None and not found)
        return found

    def check_store(self) -> None:
        """Checks that an open SQLite store is still in its place: one that was deleted can still be written to.

        Raises:
            UserError: It was deleted or replaced.
        """
        if store.place(self._tracking.uri) != self._place:
            raise UserError(f"tracking.uri={masked(self._tracking.uri)}: was deleted or replaced while the sweep ran")

    def _new_experiment(self) -> str:
        location, path = self._location, uri.sqlite_path(self._tracking.uri)
        if location is not None:
            self._check_length(location)
        return self._create_experiment(location, {} if path is None else {TAG_STORE: str(path.resolve())})

    @property
    def _location(self) -> str | None:
        """Where a new experiment keeps its files. A tracking server has a place for them; a database does not."""
        tracking = self._tracking
        given = uri.is_database(tracking.uri) or uri.is_elsewhere(tracking.artifacts)
        return uri.files_of(tracking.artifacts, self._name) if given else None

    def _check_length(self, location: str) -> None:
        """Refuses a place whose URIs do not fit into a database. SQLite has no limit; a server's is not known."""
        from mlflow.store.tracking.dbmodels.models import SqlRun

        tracking, most = self._tracking, SqlRun.__table__.c.artifact_uri.type.length
        room = most - len(f"/{'0' * 32}/artifacts")
        if uri.is_database(tracking.uri) and uri.sqlite_path(tracking.uri) is None and len(location) > room:
            raise UserError(
                f"tracking.artifacts={masked(tracking.artifacts)}: the files of {self._name} would be in "
                f"{masked(location)}, which has {len(location)} characters, and the database has room for {room}; "
                "choose a shorter place (and another name, if the experiment exists)"
            )

    def _about_files(self, location: str, *, new: bool) -> list[str]:
        """Tells what differs from what the user may expect about the place of the experiment's files."""
        tracking, notes = self._tracking, []
        if uri.is_elsewhere(tracking.artifacts) and not new and location.rstrip("/") != self._location:
            notes.append(
                f"tracking.artifacts={masked(tracking.artifacts)}: the experiment {self._name} exists, and keeps its "
                f"files in {masked(location)}; to keep them elsewhere, choose another name"
            )
        shared = uri.is_database(tracking.uri) and uri.sqlite_path(tracking.uri) is None
        if shared and (folder := uri.file_path(location)) is not None:
            notes.append(
                f"MLflow's files are in {folder}: other machines that use the database cannot read them unless they "
                "have this folder, too; tracking.artifacts=s3://BUCKET/PATH keeps those of a new experiment elsewhere"
            )
        return notes

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

    def listed(self, run: str) -> set[str] | None:
        """Returns the names of a run's files; None if their store does not answer."""
        return self.files.listed(self._artifact_uri(run))

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

        A run's tags are written last, and a run marked as complete is written after its child runs, and marked when it
        has its files. So if writing is interrupted, no mark is wrong.

        Raises:
            Exception: An outage, immediately; or the first refusal (see `is_refusal`), after all else is written.
        """
        refusals: list[Exception] = []
        marked = [run for run, pending in self._pending.items() if _MARKS & pending.tags.keys()]
        self.files.settle([*marked, *self._marks], self._patience)
        for run in sorted(self._pending, key=lambda run: TAG_DONE in self._pending[run].tags):
            self._write(run, self._pending[run], refusals)
        self._pending.clear()
        self.mark()
        if refusals:
            raise refusals[0]

    @property
    def unmarked(self) -> bool:
        """Whether runs wait for their files to be marked as complete."""
        return bool(self._marks)

    def mark(self) -> None:
        """Marks the runs whose files have been written since."""
        from mlflow.entities import RunTag

        for run in [run for run in self._marks if not self.files.lacks(run)]:
            tags = [RunTag(key, value) for key, value in self._marks[run].items()]
            try:
                with self._asking():
                    self._client.log_batch(run, tags=tags)
            except Exception as error:
                if not is_refusal(error):
                    raise
                # Such as a run that was deleted meanwhile. `sync` completes it.
                _LOG.warning("run %s cannot be marked as complete: %s", run, masked(first_line(error)))
            del self._marks[run]

    def discard(self) -> None:
        """Forgets what is pending, as it will be handed over again."""
        self._pending.clear()

    def _pending_of(self, run: str) -> _Pending:
        return self._pending.setdefault(run, _Pending())

    def _write(self, run: str, pending: _Pending, refusals: list[Exception]) -> None:
        from mlflow.entities import Param, RunTag

        already = len(refusals)

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
        marks = {**self._marks.get(run, {}), **{key: value for key, value in pending.tags.items() if key in _MARKS}}
        lacking = self.files.lacks(run)
        now = {key: value for key, value in pending.tags.items() if key not in _MARKS} | ({} if lacking else marks)
        tags = [RunTag(key, value) for key, value in now.items()]
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
        if lacking and len(refusals) == already and marks:
            self._marks[run] = marks
        else:
            self._marks.pop(run, None)

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
            self.files.write(run, self._artifact_uri(run), content, file)

    def file(self, run: str, path: Path) -> None:
        """Logs a file, as a hard link if the artifacts are on the same disk."""
        self.files.link(run, self._artifact_uri(run), path)

    def figure(self, runs: Sequence[str], figure: Figure, file: str) -> None:
        """Writes a plot to each of some runs."""
        image = io.BytesIO()
        figure.savefig(image, format="png")
        for run in runs:
            self.bytes(run, image.getvalue(), file)

    def delete_artifact(self, run: str, file: str) -> None:
        """Deletes a file."""
        self.files.delete(run, self._artifact_uri(run), file)

    def _artifact_uri(self, run: str) -> str:
        if run not in self._artifact_uris:
            with self._asking():
                self._artifact_uris[run] = self._client.get_run(run).info.artifact_uri
        return self._artifact_uris[run]


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
