"""What a trial needs to go on from its last finished epoch as if it had never been interrupted."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_sweep.files import write_whole
from mnist_sweep.training.data import Array


@dataclass
class Progress:
    """How far a trial has come.

    Attributes:
        epoch: The last finished epoch, counted from 1.
        history: The metrics of every epoch that this trial has trained, in order.
        first: The first of them.
        best: The metrics of the best epoch.
        best_epoch: That epoch.
        bar: The score that early stopping compares with.
        waited: Epochs since the bar was last raised.
    """

    epoch: int = 0
    first: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    bar: float | None = None
    waited: int = 0


def save(path: Path, model: keras.Model, progress: Progress, best_weights: list[Array] | None) -> None:
    """Writes weights, optimizer state and progress to a file that appears only when it is whole.

    It is not forced onto the disk: after a power cut an older state, or none, gives the same metrics again, only later.

    Args:
        path: An `.npz` file.
        model: The compiled model after its last finished epoch.
        progress: How far it has come.
        best_weights: Those of the best epoch.
    """
    arrays = {f"weight_{i}": np.asarray(v) for i, v in enumerate(model.weights)}
    arrays |= {f"optimizer_{i}": np.asarray(v) for i, v in enumerate(model.optimizer.variables)}
    arrays |= {f"best_{i}": v for i, v in enumerate(best_weights or [])}
    text = json.dumps(asdict(progress)).encode()
    everything = {**arrays, "progress": np.frombuffer(text, dtype=np.uint8)}
    write_whole(path, lambda target: np.savez(target, allow_pickle=False, **everything), flush=False)


def restore(path: Path, model: keras.Model) -> tuple[Progress, list[Array] | None] | None:
    """Puts a saved state into a freshly compiled model.

    Args:
        path: What `save` wrote.
        model: A model of the same config.

    Returns:
        The progress and the best epoch's weights; None where there is no state, or it cannot be used, and the model is
        as it was.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        progress = Progress(**json.loads(arrays["progress"].tobytes()))
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile):
        return None
    model.optimizer.build(model.trainable_variables)
    weights, optimizer, best = (_numbered(arrays, kind) for kind in ("weight", "optimizer", "best"))
    variables = model.optimizer.variables
    if [w.shape for w in weights] != [tuple(w.shape) for w in model.weights] or len(optimizer) != len(variables):
        return None
    model.set_weights(weights)
    for variable, value in zip(variables, optimizer, strict=True):
        variable.assign(value)
    return progress, best or None


def _numbered(arrays: dict[str, Any], kind: str) -> list[Array]:
    count = sum(name.startswith(f"{kind}_") for name in arrays)
    return [arrays[f"{kind}_{i}"] for i in range(count)]
