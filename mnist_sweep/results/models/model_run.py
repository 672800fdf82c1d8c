"""Finds a model in MLflow, fetches its run's files, and loads it."""

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
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, trial_folder
from mnist_sweep.results.runs import local
from mnist_sweep.results.runs.find import find_sweep, store_of
from mnist_sweep.tracking.tags import TAG_MODEL_SHA256, TAG_SWEEP, TAG_TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from numpy.typing import NDArray

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


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
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the model takes."""
        height, width, channels = map(int, self.run.data.tags["data.image"].split("x"))
        return height, width, channels

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
            UserError: The artifact does not exist.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(self.run.info.run_id, name, str(folder)))
        except (MlflowException, OSError):
            here = local.last(self.sweep)
            error = f"{self.sweep}: {self._who} has no artifact {name} in MLflow"
            if here is not None and self._is_in(here.folder, name):
                error += f"; to bring it back: {here.sync(self.client.tracking_uri)}"
            raise UserError(error) from None

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
            UserError: There is no model, or it was changed or damaged since it was written, which is unknown for
                sweeps of early versions.
        """
        path = self.fetch(MODEL_FILE, folder)
        instead = f"train it again with `python -m mnist_sweep rerun {self.sweep} {self.trial}`, or take another trial"
        check_digest(path, self.run.data.tags.get(TAG_MODEL_SHA256, ""), self.what(MODEL_FILE), instead)
        return path

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

    def load(self, folder: Path) -> Any:
        """Loads the model. This imports its backend, on the CPU, as a running sweep may be using the GPU.

        Args:
            folder: Where to put the files that are fetched.

        Returns:
            A `keras.Model` from images (N, H, W, C), float32 in 0..1, to probabilities (N, classes).

        Raises:
            UserError: The run has no model, it was changed or damaged since it was written, or the user's module that
                built it cannot be imported.
        """
        path, config = self.fetch_model(folder), self.config(folder, ("model", "training"))
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND=backend.to_load(config))
        with quiet():
            from mnist_sweep.training import saved

            for key in ("builder", "hypermodel"):
                if name := config["model"].get(key):
                    # Importing the user's module registers the model's custom layers.
                    sys.path.insert(0, os.getcwd())
                    _import(key, name)
            return saved.load(path)

    def load_quick(self, folder: Path, shape: tuple[int, int, int]) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Loads the model as `load` does, to predict one image at a time.

        Args:
            folder: Where to put the files that are fetched.
            shape: Height, width and channels of the images.

        Returns:
            A function from an image of that shape, float32 in 0..1, to its probabilities (classes,).

        Raises:
            UserError: As for `load`.
        """
        model = self.load(folder)
        # Imported only now, as `load` chooses the backend.
        from mnist_sweep.training import saved

        return saved.quick(model, shape)


def find_model(what: str | None = None, tracking_uri: str | None = None) -> ModelRun:
    """Finds a model.

    Args:
        what: A sweep, as for `load_runs`, for its best model; or a registered model, `models:/NAME@champion` or
            `models:/NAME/VERSION`. None for the last sweep.
        tracking_uri: As for `load_runs`.

    Raises:
        UserError: The sweep or model does not exist.
    """
    if what is None or not what.startswith("models:"):
        found = find_sweep(what, tracking_uri)
        return ModelRun(found.client, found.winner())
    from mlflow.exceptions import MlflowException

    named = _REGISTERED.fullmatch(what)
    if named is None:
        raise UserError(f"{what}: write models:/NAME@champion or models:/NAME/VERSION")
    client = store_of(None, tracking_uri).client
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
