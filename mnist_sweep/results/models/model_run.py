"""Models that a store holds: finding one, fetching its files, loading it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import check_digest, read_yaml
from mnist_sweep.common.secrets import masked
from mnist_sweep.config import backend
from mnist_sweep.journal.files import MODEL_FILE
from mnist_sweep.results.runs.find import find_sweep
from mnist_sweep.tracking import store
from mnist_sweep.tracking.tags import TAG_MODEL_SHA256, TAG_SWEEP, TAG_TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from numpy.typing import NDArray

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class ModelRun:
    """A trial's model as MLflow has it.

    Attributes:
        client: The store it is in.
        run: The trial's run.
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

    def fetch(self, name: str, folder: Path) -> Path:
        """Brings one of the run's artifacts here.

        Args:
            name: The artifact's.
            folder: Where to put it; it exists.

        Raises:
            UserError: There is no such artifact.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(self.run.info.run_id, name, str(folder)))
        except (MlflowException, OSError):
            # The run of a whole sweep has files, too.
            number = self.run.data.tags.get(TAG_TRIAL)
            which = "its own run" if number is None else f"trial {number}"
            raise UserError(
                f"{self.sweep}: {which} ({self.run.info.run_id}) has no artifact {name} in MLflow"
            ) from None

    def fetch_model(self, folder: Path) -> Path:
        """Brings the trial's model here.

        Args:
            folder: Where to put it; it exists.

        Raises:
            UserError: There is none, or it was changed or damaged since it was written. Of the sweeps of earlier
                versions that is not known.
        """
        path = self.fetch(MODEL_FILE, folder)
        again = f"train it again with `python -m mnist_sweep rerun {self.sweep} {self.trial}`, or take another trial"
        check_digest(path, self.run.data.tags.get(TAG_MODEL_SHA256, ""), self.what(MODEL_FILE), again)
        return path

    def what(self, name: str) -> str:
        """One of the run's artifacts, for a message."""
        number = self.run.data.tags.get(TAG_TRIAL)
        which = "its own run" if number is None else f"trial {number}"
        return f"{self.sweep}: {name} of {which} ({self.run.info.run_id})"

    def config(self, folder: Path, groups: Sequence[str] = ("model",)) -> dict[str, Any]:
        """The trial's whole config, as it was logged.

        Args:
            folder: Where to put the file.
            groups: Those that the caller needs.

        Raises:
            UserError: There is none, or it is damaged.
        """
        config = read_yaml(self.fetch("config.yaml", folder), self.what("config.yaml"))
        if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
            raise UserError(f"{self.what('config.yaml')}: is not a trial's config")
        return config

    def load(self, folder: Path) -> Any:
        """Loads the model, which imports its backend, without a GPU, that a running sweep may be using.

        Args:
            folder: Where to put the files that are fetched for it.

        Returns:
            A `keras.Model` from images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).

        Raises:
            UserError: The run has no model, it was changed or damaged since it was written, or the user's own module
                that built it cannot be imported.
        """
        path, whole = self.fetch_model(folder), self.config(folder, ("model", "training"))
        config = whole["model"]
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND=backend.to_load(whole))
        with quiet():
            from mnist_sweep.training import saved

            for key in ("builder", "hypermodel"):
                if config.get(key):
                    # It registers the layers of its own that the model is made of.
                    sys.path.insert(0, os.getcwd())
                    _import(key, config[key])
            return saved.load(path)

    def load_quick(self, folder: Path, shape: tuple[int, int, int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Loads the model to be asked for one image at a time, as `load` does.

        Args:
            folder: Where to put the files that are fetched for it.
            shape: Height, width and channels of its images.

        Returns:
            From an image of that shape, float32 in 0..1, to its probabilities (classes,).

        Raises:
            UserError: As `load` does.
        """
        model = self.load(folder)
        # Only now, as `load` has chosen the backend.
        from mnist_sweep.training import saved

        return saved.quick(model, shape)


def find_model(what: str | None = None, tracking_uri: str | None = None) -> ModelRun:
    """Finds a model.

    Args:
        what: A sweep, as for `load_runs`, whose best model is meant; or a registered model, `models:/NAME@champion` or
            `models:/NAME/VERSION`. None for the last sweep.
        tracking_uri: As for `load_runs`.

    Raises:
        UserError: There is no such sweep or model.
    """
    if what is None or not what.startswith("models:"):
        found = find_sweep(what, tracking_uri)
        return ModelRun(found.client, found.winner())
    from mlflow.exceptions import MlflowException

    named = _REGISTERED.fullmatch(what)
    if named is None:
        raise UserError(f"{what}: write models:/NAME@champion or models:/NAME/VERSION")
    if tracking_uri is None:
        from mnist_sweep.config.compose import defaults

        tracking_uri = str(defaults()["tracking"]["uri"])
    client = store.connect(tracking_uri)
    try:
        if named["alias"]:
            version = client.get_model_version_by_alias(named["name"], named["alias"])
        else:
            version = client.get_model_version(named["name"], named["version"])
        return ModelRun(client, client.get_run(str(version.run_id)))
    except MlflowException:
        raise UserError(f"{what}: there is no such model in {masked(tracking_uri)}") from None


def _import(key: str, name: str) -> None:
    try:
        importlib.import_module(name.partition(":")[0])
    except ImportError as error:
        raise UserError(f"model.{key}={name}: cannot be imported from here ({error})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps TensorFlow's notes on the machine, which no log level silences, from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
