"""Finds a trial in MLflow, fetches its run's files, and loads its model."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import make_folder
from mnist_sweep.common.invocation import command
from mnist_sweep.common.reading import check_digest, read_yaml
from mnist_sweep.common.secrets import masked
from mnist_sweep.config import backend
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.journal.files import CODE, MODEL_FILE, SAMPLE_FILE, trial_folder
from mnist_sweep.journal.folders import SWEEPS
from mnist_sweep.journal.trial import WITHOUT_RESULT
from mnist_sweep.results.runs import local
from mnist_sweep.results.runs.find import SweepRuns, find_sweep, store_of
from mnist_sweep.tracking import store
from mnist_sweep.tracking import tags as keys
from mnist_sweep.tracking.faults import fault_of_files, is_missing
from mnist_sweep.tracking.tags import TAG_MODEL_SHA256, TAG_SWEEP, TAG_TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from numpy.typing import NDArray

    from mnist_sweep.data.schema import Schema

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_ID = re.compile(r"[0-9a-f]{6,32}")
_ENDED = {"failed": "failed", "refused": "was refused", "stopped": "was stopped before it had trained"}


@dataclass(frozen=True)
class ModelRun:
    """A trial's run in MLflow, with its model and other files. A sweep's own run has files, too, but no model.

    Attributes:
        client: The store that the run is in.
        run: The run.
    """

    client: MlflowClient
    run: Run

    @property
    def sweep(self) -> str:
        """The sweep, `name/time`."""
        return str(self.run.data.tags[TAG_SWEEP])

    @property
    def trial(self) -> int:
        """The trial's number."""
        return int(self.run.data.tags[TAG_TRIAL])

    @property
    def _who(self) -> str:
        number = self.run.data.tags.get(TAG_TRIAL)
        return f"{'its own run' if number is None else f'trial {number}'} ({self.run.info.run_id})"

    def fetch(self, name: str, folder: Path) -> Path:
        """Downloads one of the run's artifacts.

        Args:
            name: The artifact's name.
            folder: Where to put it. The folder exists.

        Raises:
            UserError: The artifact does not exist, or its store cannot be read.
        """
        try:
            return Path(self.client.download_artifacts(self.run.info.run_id, name, str(folder)))
        except Exception as error:
            if not is_missing(error):
                raise self._out_of_reach(f"{name} of {self._who}", error) from error
            here = local.last(self.sweep)
            text = f"{self.sweep}: {self._who} has no artifact {name} in MLflow"
            if here is not None and self._is_in(here.folder, name):
                text += f"; to bring it back: {here.sync(self.client.tracking_uri)}"
            raise UserError(text) from None

    def files(self) -> set[str]:
        """The names of the run's artifacts; none if their folder is out of reach.

        Raises:
            UserError: Their store cannot be read.
        """
        try:
            return {artifact.path for artifact in self.client.list_artifacts(self.run.info.run_id)}
        except Exception as error:
            raise self._out_of_reach(f"the artifacts of {self._who}", error) from error

    def _out_of_reach(self, what: str, error: Exception) -> UserError:
        place = masked(str(self.run.info.artifact_uri))
        return UserError(f"{self.sweep}: {what} cannot be read from {place}: {fault_of_files(error)[0]}")

    def _is_in(self, folder: Path, name: str) -> bool:
        """Whether `sync` can log an artifact of the run again: from a file in the sweep's folder, or its journal."""
        if name not in (MODEL_FILE, SAMPLE_FILE) or TAG_TRIAL not in self.run.data.tags:
            return name == "config.yaml"
        return (trial_folder(folder, self.trial) / name).exists()

    def fetch_model(self, folder: Path) -> Path:
        """Downloads the trial's model.

        Args:
            folder: Where to put it. The folder exists.

        Raises:
            UserError: There is no model, which says why; or it was changed or damaged since it was written, which is
                unknown for sweeps of early versions.
        """
        self.check_has_model()
        path = self.fetch(MODEL_FILE, folder)
        instead = f"train it again with `{self._retrain}`, or take another trial"
        check_digest(path, self.run.data.tags.get(TAG_MODEL_SHA256, ""), self.what(MODEL_FILE), instead)
        return path

    def check_has_model(self) -> None:
        """Refuses a trial without a model, before anything else is loaded.

        Raises:
            UserError: It says why there is no model, and how to get one.
        """
        files = self.files()
        # Without any file, the store's artifacts are out of reach: `fetch` reports that.
        if MODEL_FILE in files or not files:
            return
        status, reason = (self.run.data.tags.get(key, "") for key in (keys.TAG_STATUS, keys.TAG_REASON))
        who = f"{self.sweep}: trial {self.trial}"
        if self.run.info.status == "RUNNING":
            raise UserError(f"{who} has no model yet: it is still running")
        if status in WITHOUT_RESULT or (status == "stopped" and SAMPLE_FILE not in files):
            raise UserError(f"{who} has no model: it {_ENDED[status]}{f' ({reason})' if reason else ''}")
        raise UserError(
            f"{who} has no model any more: tracking.keep_models keeps only the best; train it again with "
            f"`{self._retrain}`"
        )

    @property
    def _retrain(self) -> str:
        return command(f"retrain {shlex.quote(self.sweep)} {self.trial}")

    def on_the_same_data(self) -> Iterator[ModelRun]:
        """Yields the run of its sweep, which has the files about the data that its winner has.

        If the trial retrains one of another sweep on the same data, that sweep's run follows.
        """
        tags = self.run.data.tags
        if parent := tags.get(keys.PARENT_TAG):
            yield ModelRun(self.client, self.client.get_run(parent))
        if retrains := tags.get(keys.TAG_RETRAINS):
            with suppress(UserError):
                earlier = find_sweep(retrains, self.client.tracking_uri).parent
                if earlier.data.tags.get("data.digest") == tags.get("data.digest"):
                    yield ModelRun(self.client, earlier)

    def what(self, name: str) -> str:
        """Names one of the run's artifacts, for messages."""
        return f"{self.sweep}: {name} of {self._who}"

    def config(self, folder: Path, groups: Sequence[str] = ("model",)) -> dict[str, Any]:
        """The trial's config, as it was logged.

        Args:
            folder: Where to put the file.
            groups: The groups that the caller needs.

        Raises:
            UserError: There is no config, or it is damaged.
        """
        config = read_yaml(self.fetch("config.yaml", folder), self.what("config.yaml"))
        if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
            raise UserError(f"{self.what('config.yaml')}: is not a trial's config")
        return config

    def load(self, folder: Path, *, on_cpu: bool = True) -> Any:
        """Loads the model, which imports its backend. If Keras is imported already, its backend is used.

        Args:
            folder: Where to put the files that are fetched.
            on_cpu: Whether to hide the GPUs from this process, as a running sweep may be using them.

        Returns:
            A `keras.Model` from images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).

        Raises:
            UserError: The run has no model, it was changed or damaged since it was written, or the user's module that
                built it cannot be imported.
        """
        path, config = self.fetch_model(folder), self.config(folder, ("model", "training"))
        if on_cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        if "keras" not in sys.modules:
            os.environ["KERAS_BACKEND"] = backend.to_load(config)
        code = self.fetch_code(config, folder)
        with quiet():
            from mnist_sweep.training import saved

            for key in ("builder", "hypermodel"):
                if name := config["model"].get(key):
                    # Importing the user's module registers the model's custom layers.
                    sys.path[:0] = [os.getcwd(), *([] if code is None else [str(code)])]
                    _import(key, name)
            return saved.load(path)

    def fetch_code(self, config: Mapping[str, Any], folder: Path) -> Path | None:
        """Fetches the modules of the sweep's own functions, if it carries them: from a notebook, or a script.

        Args:
            config: The trial's config.
            folder: Where to put it. The folder exists.

        Returns:
            The folder to import them from; None if they are the user's own modules.

        Raises:
            UserError: The store cannot be read.
        """
        functions = (made_by(config["model"]), config.get("data", {}).get("loader"))
        modules = {name.partition(":")[0] for name in functions if name}
        files = sorted(f"{module}.py" for module in modules if "." not in module)
        parent = self.run.data.tags.get(keys.PARENT_TAG)
        if not files or parent is None:
            return None
        own = ModelRun(self.client, self.client.get_run(parent))
        carried = [file for file in files if file in own.files()]
        if not carried:
            return None
        make_folder(folder / CODE)
        for file in carried:
            own.fetch(file, folder / CODE)
        return folder / CODE

    def load_quick(self, folder: Path, schema: Schema) -> Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]:
        """Loads the model as `load` does, to predict one row at a time quickly.

        Args:
            folder: Where to put the files that are fetched.
            schema: What the model takes.

        Returns:
            A function from inputs (N, …) by name to predictions (N, …).

        Raises:
            UserError: As for `load`.
        """
        model = self.load(folder)
        # Imported only now, as `load` chooses the backend.
        from mnist_sweep.training import saved

        return saved.quick(model, schema)


def find_trial(what: str | None = None, trial: int | None = None, tracking_uri: str | None = None) -> ModelRun:
    """Finds the trial that a command is about.

    Args:
        what: A sweep, as for `load_runs`; the ID of an MLflow run, or at least its first 6 digits; or a registered
            model, `models:/NAME@champion` or `models:/NAME/VERSION`. None for the last sweep.
        trial: A trial of that sweep; None for its best. The run of an execution stands for its trial, and the run of a
            sweep for the sweep.
        tracking_uri: As for `load_runs`.

    Raises:
        UserError: There is no such sweep, trial, run or model.
    """
    if what is not None and what.startswith("models:"):
        if trial is not None:
            raise UserError(f"{what}: names a model, so leave out the trial {trial}")
        return _registered(what, tracking_uri)
    sweep, run = find_named(what, trial, tracking_uri)
    return ModelRun(sweep.client, sweep.winner() if run is None else run)


def find_named(what: str | None, trial: int | None, tracking_uri: str | None) -> tuple[SweepRuns, Run | None]:
    """Finds a sweep, and the trial of it that was named.

    Args:
        what: As for `find_trial`, but not a registered model.
        trial: As for `find_trial`.
        tracking_uri: As for `load_runs`.

    Returns:
        The sweep, and the trial's run; None if none was named.

    Raises:
        UserError: There is no such sweep, trial or run.
    """
    run = None
    if what is not None and _ID.fullmatch(what) and not (SWEEPS / what).exists():
        run, tracking_uri = _by_id(what, tracking_uri)
    elif what is not None and what.isdecimal() and not (SWEEPS / what).exists():
        raise UserError(f"{what}: name the sweep before the trial, or write --trial {what} for the last sweep")
    if run is None:
        sweep = find_sweep(what, tracking_uri)
        return sweep, None if trial is None else sweep.run_of(trial)
    sweep, number = find_sweep(run.data.tags[TAG_SWEEP], tracking_uri), run.data.tags.get(TAG_TRIAL)
    if trial is not None and number is not None:
        raise UserError(f"{what}: is the run of trial {number} of {sweep.sweep}, so leave out the trial {trial}")
    number = number if trial is None else str(trial)
    return sweep, None if number is None else sweep.run_of(int(number))


def _by_id(beginning: str, tracking_uri: str | None) -> tuple[Run | None, str]:
    """Returns the run whose ID begins like this, and the store; no run if an experiment has this name."""
    found_in = store_of(tracking_uri, None)
    experiments = found_in.read(lambda source: source.experiments())
    if beginning in experiments:
        return None, found_in.uri
    matches = f"attributes.run_id LIKE '{beginning}%'"
    found = list(store.search_runs(found_in.client, list(experiments.values()), matches))
    where = masked(found_in.uri)
    if not found:
        raise UserError(f"{beginning}: no run ID in {where} starts with it; write a run ID, or SWEEP TRIAL")
    if len(found) > 1:
        raise UserError(f"{beginning}: {len(found)} run IDs in {where} start with it; write more digits")
    if TAG_SWEEP not in found[0].data.tags:
        raise UserError(f"{beginning}: mnist_sweep did not log this run")
    return found[0], found_in.uri


def _registered(what: str, tracking_uri: str | None) -> ModelRun:
    from mlflow.exceptions import MlflowException

    named = _REGISTERED.fullmatch(what)
    if named is None:
        raise UserError(f"{what}: write models:/NAME@champion or models:/NAME/VERSION")
    client = store_of(tracking_uri, None).client
    try:
        if named["alias"]:
            version = client.get_model_version_by_alias(named["name"], named["alias"])
        else:
            version = client.get_model_version(named["name"], named["version"])
        return ModelRun(client, client.get_run(str(version.run_id)))
    except MlflowException:
        raise UserError(f"{what}: no such model in {masked(client.tracking_uri)}") from None


def _import(key: str, name: str) -> None:
    try:
        importlib.import_module(name.partition(":")[0])
    except ImportError as error:
        raise UserError(f"model.{key}={name}: cannot be imported from here ({error})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Hides TensorFlow's notes about the machine, which no log level silences."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
