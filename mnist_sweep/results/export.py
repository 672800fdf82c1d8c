"""`python -m mnist_sweep export`: a sweep's best model as files that have been checked."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mnist_sweep.errors import UserError
from mnist_sweep.launch import versions
from mnist_sweep.results.runs import SweepRuns, find_sweep

if TYPE_CHECKING:
    from mlflow.entities import Run

_TOLERANCE = 1e-5
_FILES = ("model.h5", "model.keras")


def export(sweep: str | None, tracking_uri: str | None, to: Path) -> None:
    """Writes the best model as `.h5` and `.keras`, with a manifest.

    Both files are loaded again and must give the predictions that the tracked run gave, before anything appears in
    the folder.

    Args:
        sweep: As for `load_runs`.
        tracking_uri: As for `load_runs`.
        to: The folder; created if need be. Files of an earlier export are replaced.

    Raises:
        UserError: There is no such sweep or no model in it, the files' predictions differ, or the folder cannot be
            written.
    """
    found = find_sweep(sweep, tracking_uri)
    run = found.winner()
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=to) as temporary:
            folder = Path(temporary)
            tracked = {
                name: _download(found, run.info.run_id, name, folder)
                for name in ("model.h5", "sample_predictions.npz", "config.yaml")
            }
            config = yaml.safe_load(tracked["config.yaml"].read_text(encoding="utf-8"))
            differences = _convert(tracked["model.h5"], tracked["sample_predictions.npz"], config["model"], folder)
            manifest = _manifest(found, run, config, folder, differences)
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            for name in (*_FILES, "manifest.json"):
                (folder / name).replace(to / name)
    except OSError as error:
        raise UserError(f"--to={to}: cannot be written ({error.strerror or error})") from None
    print(f"exported trial {manifest['trial']} of {found.sweep} to {to}: {', '.join(_FILES)}, manifest.json")
    print(f"its predictions agree with the tracked run's (largest difference {max(differences.values()):.1e})")


def _download(found: SweepRuns, run: str, name: str, folder: Path) -> Path:
    from mlflow.exceptions import MlflowException

    try:
        return Path(found.client.download_artifacts(run, name, str(folder)))
    except (MlflowException, OSError):
        raise UserError(f"{found.sweep}: its best run ({run}) has no artifact {name} in MLflow") from None


def _convert(model: Path, sample: Path, config: dict[str, Any], folder: Path) -> dict[str, float]:
    """Writes the other format, and compares both with the tracked run's predictions."""
    with np.load(sample, allow_pickle=False) as arrays:
        images, tracked = arrays["images"], arrays["predictions"]
    # Converting needs no GPU, which a running sweep may be using.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with _quiet():
        from mnist_sweep.training import saved

        for key in ("builder", "hypermodel"):
            if config.get(key):
                # It registers the layers of its own that the model is made of.
                sys.path.insert(0, os.getcwd())
                _import(key, config[key])
        saved.load(model).save(folder / "model.keras")
        predictions = {name: saved.predict(saved.load(folder / name), images) for name in _FILES}
    differences = {}
    for name in _FILES:
        difference = float(np.abs(predictions[name] - tracked).max())
        if not difference <= _TOLERANCE:
            raise UserError(
                f"{name}: its predictions differ from the tracked run's by {difference:.2g}; nothing was exported"
            )
        differences[name] = difference
    return differences


def _import(key: str, name: str) -> None:
    try:
        importlib.import_module(name.partition(":")[0])
    except ImportError as error:
        raise UserError(f"model.{key}={name}: cannot be imported from here ({error})") from None


@contextmanager
def _quiet() -> Iterator[None]:
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


def _manifest(
    found: SweepRuns, run: Run, config: dict[str, Any], folder: Path, differences: dict[str, float]
) -> dict[str, Any]:
    data = run.data
    return {
        "sweep": found.sweep,
        "trial": int(data.tags["mnist_sweep.trial"]),
        "run_id": run.info.run_id,
        "hyperparameters": config,
        "scores": {k: v for k, v in data.metrics.items() if k.startswith(("best_", "test_"))},
        "data": {
            k.removeprefix("data."): int(v) if v.isdigit() else v
            for k, v in data.tags.items()
            if k.startswith("data.") and k != "data.digest"
        }
        | {"digest": data.tags["data.digest"]},
        "input": "float32 in 0..1 (0..255 divided by 255), shape (N, height, width, channels)",
        "output": "float32, the probability of each class, shape (N, classes)",
        "versions": {
            "trained": {k.removeprefix("version."): v for k, v in data.tags.items() if k.startswith("version.")},
            "exported": versions(),
        },
        "files": {
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "largest_difference": differences[name],
            }
            for name in _FILES
        },
    }
