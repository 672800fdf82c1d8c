"""Turns a trial's model into an MLflow model, in a worker."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import check_digest, read_npz
from mnist_sweep.config import backend
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE

_EXAMPLES = 2
_REQUIREMENTS = ("tensorflow", "keras", "numpy")


def package(folder: Path, to: Path, made_by: str | None, digest: str = "") -> None:
    """Writes an MLflow model that takes raw images (N, H, W, C), float32 in 0..255, and returns probabilities.

    Args:
        folder: The folder with the trial's model, and its sample of images and predictions.
        to: The folder to create.
        made_by: The user's `package.module:name` that built the model.
        digest: The SHA-256 of the model's file when it was written; empty if unknown.

    Raises:
        UserError: TensorFlow is not installed, or a file was changed or damaged.
    """
    check_digest(folder / MODEL_FILE, digest, str(folder / MODEL_FILE))
    # Importing the user's module registers the model's custom layers. Its code is packaged with the model.
    custom = importlib.import_module(made_by.partition(":")[0]) if made_by else None
    if not backend.is_installed("tensorflow"):
        raise UserError("MLflow needs TensorFlow to package a model; tracking.register=false skips it")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import tensorflow
    from mlflow.models import infer_signature

    from mnist_sweep.training import saved

    model = saved.of_raw_images(saved.load(folder / MODEL_FILE))
    images = read_npz(folder / SAMPLE_FILE, str(folder / SAMPLE_FILE)).get("images")
    if images is None or images.shape[1:] != model.input_shape[1:]:
        raise UserError(f"{folder / SAMPLE_FILE}: does not contain images that the model takes")
    example = saved.to_raw(images[:_EXAMPLES])
    tensorflow.save_model(
        model,
        str(to),
        signature=infer_signature(example, np.asarray(model(example, training=False))),
        input_example=example,
        # Without this list, MLflow takes 11 s to find out what the model needs.
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS],
        code_paths=None if custom is None else [_code(custom)],
    )


def _code(module: ModuleType) -> str:
    """The file of a user's module, or the folder of the package that it is in."""
    top = sys.modules[module.__name__.partition(".")[0]]
    file = Path(str(top.__file__))
    return str(file.parent if file.name == "__init__.py" else file)
