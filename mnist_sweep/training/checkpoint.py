"""A trial's saved state, from which it continues after its last finished epoch as if it had never been interrupted."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import TypeAdapter

from mnist_sweep.common import reading
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.data.dataset import Array


@dataclass
class Progress:
    """How far a trial has come.

    Attributes:
        epoch: The last finished epoch, counted from 1.
        first: The first epoch that this trial trained.
        history: The metrics of every epoch that it trained, in order.
        best: The metrics of the best epoch.
        best_epoch: The best epoch.
        bar: The score that early stopping compares with.
        waited: Epochs since a score last beat the bar.
    """

    epoch: int = 0
    first: int = 1
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    bar: float | None = None
    waited: int = 0


@dataclass(frozen=True)
class _Checkpoint:
    """Arrays and what describes them; `slots` are the optimizer's variables without its learning rate."""

    progress: Progress
    optimizer: str
    slots: list[str]
    arrays: dict[str, Any]

    def values(self, kind: str) -> list[Array]:
        count = sum(name.startswith(f"{kind}_") for name in self.arrays)
        return [self.arrays[f"{kind}_{i}"] for i in range(count)]


_CHECKPOINT = TypeAdapter(_Checkpoint)


def save(path: Path, model: keras.Model, progress: Progress, best_weights: list[Array] | None) -> None:
    """Writes weights, optimizer state and progress to a file that appears only once it is complete.

    The file is not flushed to disk: after a power failure, an older checkpoint or none leads to the same metrics.

    Args:
        path: An `.npz` file.
        model: The compiled model after its last finished epoch.
        progress: How far the trial has come.
        best_weights: The weights of the best epoch.
    """
    slots, rates = _variables(model)
    arrays = {f"weight_{i}": np.asarray(v) for i, v in enumerate(model.weights)}
    arrays |= {f"slot_{i}": np.asarray(v) for i, v in enumerate(slots)}
    arrays |= {f"rate_{i}": np.asarray(v) for i, v in enumerate(rates)}
    arrays |= {f"best_{i}": v for i, v in enumerate(best_weights or [])}
    about = {"progress": asdict(progress), "optimizer": _optimizer(model), "slots": _kinds(slots)}
    everything = {**arrays, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    write_whole(path, lambda target: np.savez(target, allow_pickle=False, **everything), flush=False)


def restore(path: Path, model: keras.Model) -> tuple[Progress, list[Array] | None] | None:
    """Loads a trial's own checkpoint into its freshly compiled model.

    Args:
        path: What `save` wrote.
        model: A model of the same config.

    Returns:
        The progress and the best epoch's weights. None if there is no usable checkpoint; the model is then unchanged.
    """
    found = _read(path)
    if found is None:
        return None
    slots, rates = _variables(model)
    same_optimizer = found.optimizer == _optimizer(model) and found.slots == _kinds(slots)
    if not same_optimizer or len(found.values("rate")) != len(rates) or not _same_layers(found, model):
        return None
    _assign(found, model)
    for variable, value in zip(rates, found.values("rate"), strict=True):
        variable.assign(value)
    return found.progress, found.values("best") or None


def inherit(path: Path, model: keras.Model) -> int:
    """Loads another trial's checkpoint into a freshly compiled model, which keeps its own hyperparameters.

    The learning rate stays the model's own, although Keras counts a constant one among the optimizer's variables. A
    schedule continues from the other trial's step.

    Args:
        path: What `save` wrote for the other trial.
        model: A model of the same layers, with the same kind of optimizer; other hyperparameters may differ.

    Returns:
        How many epochs the other trial has trained.

    Raises:
        UserError: The checkpoint cannot be read, or is of other layers or another optimizer.
    """
    found = _read(path)
    if found is None:
        raise UserError(f"{path}: the parent trial's state cannot be read")
    if not _same_layers(found, model):
        raise UserError(
            f"model: cannot continue from {path}, which belongs to a model with different layers; "
            "do not search the layers with an algorithm whose trials continue from others"
        )
    name = _optimizer(model)
    if found.optimizer != name or found.slots != _kinds(_variables(model)[0]):
        other = f"{name} with different arguments" if found.optimizer == name else found.optimizer
        raise UserError(
            f"optimizer={name}: cannot continue from {path}, which belongs to {other}; "
            "do not search the optimizer with an algorithm whose trials continue from others"
        )
    _assign(found, model)
    return found.progress.epoch


def _read(path: Path) -> _Checkpoint | None:
    try:
        arrays = reading.read_npz(path, str(path))
        found = _CHECKPOINT.validate_python({**json.loads(arrays["about"].tobytes()), "arrays": arrays})
        # In a damaged or edited file, arrays may not match their description.
        shapes = [str(value.shape) for value in found.values("slot")]
        complete = shapes == [kind[kind.index("(") :] for kind in found.slots]
        return found if complete and all(value.shape == () for value in found.values("rate")) else None
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _same_layers(found: _Checkpoint, model: keras.Model) -> bool:
    shapes = [tuple(w.shape) for w in model.weights]
    best = [b.shape for b in found.values("best")]
    return [w.shape for w in found.values("weight")] == shapes and best in ([], shapes)


def _assign(found: _Checkpoint, model: keras.Model) -> None:
    model.set_weights(found.values("weight"))
    for variable, value in zip(_variables(model)[0], found.values("slot"), strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> tuple[list[Any], list[Any]]:
    """Returns the optimizer's variables without its learning rate, and the learning rate if it is constant."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    slots: list[Any] = []
    rates: list[Any] = []
    for variable in model.optimizer.variables:
        (rates if variable.name == "learning_rate" else slots).append(variable)
    return slots, rates


def _optimizer(model: keras.Model) -> str:
    # Mixed precision wraps the optimizer and adds variables, which `_kinds` tells apart.
    return type(getattr(model.optimizer, "inner_optimizer", model.optimizer)).__name__.lower()


def _kinds(slots: list[Any]) -> list[str]:
    """Describes an optimizer's variables without their layers' names: `momentum(784, 16)`."""
    return [re.sub(r"_\d+$", "", v.name).rpartition("_")[2] + str(tuple(v.shape)) for v in slots]
