"""A trial's model as an MLflow model, made where TensorFlow is loaded: in a worker, or in a process of its own.

The latter is `python -m mnist_sweep.training.packaged FOLDER`; the folder holds what the trial's run has in MLflow.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import check_digest, read_npz, read_yaml
from mnist_sweep.config import backend
from mnist_sweep.journal.files import MODEL_FILE, PACKAGE, SAMPLE_FILE

_EXAMPLES = 2
_REQUIREMENTS = ("tensorflow", "keras", "numpy")


def package(folder: Path, to: Path, made_by: str | None, digest: str = "") -> None:
    """Writes an MLflow model from raw images (N, H, W, C), float32 in 0..255, to probabilities.

    Args:
        folder: Holds the trial's model, and its sample of images and predictions.
        to: The folder to make; there is nothing of that name yet.
        made_by: The user's own `package.module:name` that built the model.
        digest: The SHA-256 of the model's file as it was written; empty where that is not known.

    Raises:
        UserError: TensorFlow is not installed, or a file was changed or damaged.
    """
    check_digest(folder / MODEL_FILE, digest, str(folder / MODEL_FILE))
    # It registers the layers of its own that the model is made of, and goes with it.
    own = importlib.import_module(made_by.partition(":")[0]) if made_by else None
    if not backend.is_installed("tensorflow"):
        raise UserError("MLflow needs TensorFlow for that; tracking.register=false leaves it out")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import tensorflow
    from mlflow.models import infer_signature

    from mnist_sweep.training import saved

    model = saved.of_raw_images(saved.load(folder / MODEL_FILE))
    images = read_npz(folder / SAMPLE_FILE, str(folder / SAMPLE_FILE)).get("images")
    if images is None or images.shape[1:] != model.input_shape[1:]:
        raise UserError(f"{folder / SAMPLE_FILE}: does not hold images as the model takes them")
    example = saved.to_raw(images[:_EXAMPLES])
    tensorflow.save_model(
        model,
        str(to),
        signature=infer_signature(example, np.asarray(model(example, training=False))),
        input_example=example,
        # Asked for them, MLflow looks for what a model needs for 11 s.
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS],
        code_paths=None if own is None else [_code(own)],
    )


def _code(module: ModuleType) -> str:
    """The file of a user's module, or the folder of the package that it is in."""
    top = sys.modules[module.__name__.partition(".")[0]]
    file = Path(str(top.__file__))
    return str(file.parent if file.name == "__init__.py" else file)


def main(folder: Path) -> None:
    """Writes `package/` beside a trial's model, its sample and its `config.yaml`."""
    built: dict[str, Any] = read_yaml(folder / "config.yaml", "config.yaml")["model"]
    package(folder, folder / PACKAGE, built.get("builder") or built.get("hypermodel"))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        # Its last line is what the sweep tells.
        sys.exit(str(error))
