"""`python -m mnist_sweep.registry_package FOLDER`: a trial's model as an MLflow model, in a process of its own.

The driver does not import TensorFlow. Here it is, as MLflow keeps Keras models by it; on the CPU, as a GPU may be busy
with another sweep.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from mnist_sweep import backend
from mnist_sweep.trial import MODEL_FILE, SAMPLE_FILE

PACKAGE = "package"
_EXAMPLES = 2
_REQUIREMENTS = ("tensorflow", "keras", "numpy")


def package(folder: Path) -> None:
    """Writes `package/`: an MLflow model from raw images (N, H, W, C), float32 in 0..255, to probabilities.

    Args:
        folder: Holds the trial's model, its sample of images and predictions, and its `config.yaml`.
    """
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["model"]
    # It registers the layers of its own that the model is made of, and goes with it.
    own = [importlib.import_module(config[k].partition(":")[0]) for k in ("builder", "hypermodel") if config.get(k)]
    if not backend.is_installed("tensorflow"):
        raise SystemExit("MLflow needs TensorFlow for that; tracking.register=false leaves it out")
    from mlflow import tensorflow
    from mlflow.models import infer_signature

    from mnist_sweep.training import saved

    model = saved.of_raw_images(saved.load(folder / MODEL_FILE))
    with np.load(folder / SAMPLE_FILE, allow_pickle=False) as sample:
        images = np.asarray(sample["images"][:_EXAMPLES])
    example = saved.to_raw(images)
    tensorflow.save_model(
        model,
        str(folder / PACKAGE),
        signature=infer_signature(example, np.asarray(model(example, training=False))),
        input_example=example,
        # Asked for them, MLflow looks for what a model needs for 11 s.
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS],
        code_paths=sorted({_code(module) for module in own}) or None,
    )


def _code(module: ModuleType) -> str:
    """The file of a user's module, or the folder of the package that it is in."""
    top = sys.modules[module.__name__.partition(".")[0]]
    file = Path(str(top.__file__))
    return str(file.parent if file.name == "__init__.py" else file)


if __name__ == "__main__":
    package(Path(sys.argv[1]))
