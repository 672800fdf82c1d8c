"""Turns a trial's model into an MLflow model, in a worker."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import check_digest, read_npz
from mnist_sweep.common.text import one_line
from mnist_sweep.config import backend
from mnist_sweep.data.schema import ONLY, schema_in
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE

_EXAMPLES = 2
# What a user of the registered model does: MLflow adds the code that was saved with it.
_TRIAL = """
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(model.input_example)
"""
_REQUIREMENTS = ("tensorflow", "keras", "numpy")


def package(folder: Path, to: Path, made_by: str | None, digest: str = "") -> None:
    """Writes an MLflow model that takes what the data consist of, and returns predictions.

    Images are raw, (N, H, W, C), float32 in 0..255; tables are their columns; other arrays are as in the data.

    Args:
        folder: The folder with the trial's model, and its sample of images and predictions.
        to: The folder to create.
        made_by: The user's `package.module:name` that built the model.
        digest: The SHA-256 of the model's file when it was written; empty if unknown.

    Raises:
        UserError: TensorFlow is not installed, a file was changed or damaged, or the model needs user code that cannot
            be imported from the package alone.
    """
    check_digest(folder / MODEL_FILE, digest, str(folder / MODEL_FILE))
    # Importing the user's module registers the model's custom layers. Its code is packaged with the model.
    custom = importlib.import_module(made_by.partition(":")[0]) if made_by else None
    if not backend.is_installed("tensorflow"):
        raise UserError("MLflow needs TensorFlow to package a model; tracking.register=false skips it")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import keras
    from mlflow import tensorflow
    from mlflow.models import infer_signature

    from mnist_sweep.training import raw_columns, saved, user_files

    loaded = saved.with_named_outputs(saved.load(folder / MODEL_FILE))
    sample = read_npz(folder / SAMPLE_FILE, str(folder / SAMPLE_FILE))
    example: Any
    if (schema := schema_in(sample)) is not None and schema.columns:
        some = {name: sample[f"x_{name}"][:_EXAMPLES] for name in schema.inputs}
        model = raw_columns.of_raw_columns(loaded, schema, strings=True)
        example = raw_columns.columns_of(some, schema, strings=True)
    elif "images" in sample or not any(name.startswith("x") for name in sample):
        model, images = saved.of_raw_images(loaded), sample.get("images")
        if images is None or images.shape[1:] != model.input_shape[1:]:
            raise UserError(f"{folder / SAMPLE_FILE}: does not contain images that the model takes")
        example = saved.to_raw(images[:_EXAMPLES])
    else:
        model = loaded
        some = {name.removeprefix("x_"): x[:_EXAMPLES] for name, x in sample.items() if name.startswith("x")}
        example = some.get(ONLY, some)
    known = [f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS]
    tensorflow.save_model(
        model,
        str(to),
        signature=infer_signature(example, keras.tree.map_structure(np.asarray, model(example, training=False))),
        input_example=example,
        # Without this list, MLflow takes 11 s to find out what the model needs.
        pip_requirements=list(dict.fromkeys([*known, *(() if custom is None else user_files.requirements(custom))])),
        code_paths=None if custom is None else list(map(str, user_files.code_paths(custom))),
    )
    if custom is not None:
        _try(to, str(made_by))


def _try(package: Path, made_by: str) -> None:
    """Loads a package and predicts with it in a new process, where nothing but the package has the user's code.

    Raises:
        UserError: It does not work there.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory(prefix="mnist_sweep-") as elsewhere:
        # -P: without the working directory among the folders that Python imports from.
        command = [sys.executable, "-P", "-c", _TRIAL, str(package.resolve())]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(
            f"{made_by}: its model does not work in another folder ({one_line(lines[-1])}); import at the top "
            "of that module what its layers need"
        )
