"""What a trial needs to go on from its last finished epoch as if it had never been interrupted."""

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
from mnist_sweep.data.images import Array


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


@dataclass(frozen=True)
class _About:
    progress: Progress
    optimizer: str
    slots: list[str]


_ABOUT = TypeAdapter(_About)


@dataclass(frozen=True)
class _State:
    progress: Progress
    optimizer: str
    slots: list[str]
    arrays: dict[str, Any]

    def values(self, kind: str) -> list[Array]:
        count = sum(name.startswith(f"{kind}_") for name in self.arrays)
        return [self.arrays[f"{kind}_{i}"] for i in range(count)]


def save(path: Path, model: keras.Model, progress: Progress, best_weights: list[Array] | None) -> None:
    """Writes weights, optimizer state and progress to a file that appears only when it is whole.

    It is not forced onto the disk: after a power cut an older state, or none, gives the same metrics again, only later.

    Args:
        path: An `.npz` file.
        model: The compiled model after its last finished epoch.
        progress: How far it has come.
        best_weights: Those of the best epoch.
    """
    slots, rates = _variables(model)
    arrays = {f"weight_{i}": np.asarray(v) for i, v in enumerate(model.weights)}
    arrays |= {f"slot_{i}": np.asarray(v) for i, v in enumerate(slots)}
    arrays |= {f"rate_{i}": np.asarray(v) for i, v in enumerate(rates)}
    arrays |= {f"best_{i}": v for i, v in enumerate(best_weights or [])}
    about = {"progress": asdict(progress), "optimizer": _name(model), "slots": _kinds(slots)}
    everything = {**arrays, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    write_whole(path, lambda target: np.savez(target, allow_pickle=False, **everything), flush=False)


def restore(path: Path, model: keras.Model) -> tuple[Progress, list[Array] | None] | None:
    """Puts a trial's own saved state into its freshly compiled model.

    Args:
        path: What `save` wrote.
        model: A model of the same config.

    Returns:
        The progress and the best epoch's weights; None where there is no state, or it cannot be used, and the model is
        as it was.
    """
    found = _read(path)
    if found is None:
        return None
    slots, rates = _variables(model)
    same = found.optimizer == _name(model) and found.slots == _kinds(slots) and len(found.values("rate")) == len(rates)
    if not same or not _fits(found, model):
        return None
    _assign(found, model)
    for variable, value in zip(rates, found.values("rate"), strict=True):
        variable.assign(value)
    return found.progress, found.values("best") or None


def inherit(path: Path, model: keras.Model) -> int:
    """Puts another trial's saved state into a freshly compiled model, whose own hyperparameters hold.

    The learning rate stays the model's own, though Keras counts a constant one among the optimizer's variables; a
    schedule goes on from the other trial's step.

    Args:
        path: What `save` wrote for the other trial.
        model: A model of the same layers, with the same kind of optimizer; other hyperparameters may differ.

    Returns:
        The epochs that the other trial has trained.

    Raises:
        UserError: The state cannot be read, or was left by other layers or another optimizer.
    """
    found = _read(path)
    if found is None:
        raise UserError(f"{path}: the state to go on from cannot be read")
    if not _fits(found, model):
        raise UserError(
            f"model: cannot go on from {path}, which a model of other layers has left; "
            "do not search the layers with an algorithm whose trials go on from others"
        )
    name = _name(model)
    if found.optimizer != name or found.slots != _kinds(_variables(model)[0]):
        which = f"{name} with other arguments" if found.optimizer == name else found.optimizer
        raise UserError(
            f"optimizer={name}: cannot go on from {path}, which {which} has left; "
            "do not search the optimizer with an algorithm whose trials go on from others"
        )
    _assign(found, model)
    return found.progress.epoch


def _read(path: Path) -> _State | None:
    try:
        arrays: dict[str, Any] = dict(reading.read_npz(path, str(path)))
        about = _ABOUT.validate_python(json.loads(arrays["about"].tobytes()))
        found = _State(about.progress, about.optimizer, about.slots, arrays)
        # One file's own parts may not fit together, where it was put together by hand.
        shapes = [str(value.shape) for value in found.values("slot")]
        whole = shapes == [kind[kind.index("(") :] for kind in found.slots]
        return found if whole and all(value.shape == () for value in found.values("rate")) else None
    except (UserError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _fits(found: _State, model: keras.Model) -> bool:
    shapes = [tuple(w.shape) for w in model.weights]
    return [w.shape for w in found.values("weight")] == shapes and [b.shape for b in found.values("best")] in (
        [],
        shapes,
    )


def _assign(found: _State, model: keras.Model) -> None:
    model.set_weights(found.values("weight"))
    for variable, value in zip(_variables(model)[0], found.values("slot"), strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> tuple[list[Any], list[Any]]:
    """The optimizer's variables but for its learning rate; and that, where it is constant."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    slots: list[Any] = []
    rates: list[Any] = []
    for variable in model.optimizer.variables:
        (rates if variable.name == "learning_rate" else slots).append(variable)
    return slots, rates


def _name(model: keras.Model) -> str:
    # What mixed precision wraps around it adds variables of its own, which tell the two apart.
    return type(getattr(model.optimizer, "inner_optimizer", model.optimizer)).__name__.lower()


def _kinds(slots: list[Any]) -> list[str]:
    """What tells one optimizer's variables from another's: `momentum(784, 16)`, whatever the layer's name."""
    return [re.sub(r"_\d+$", "", v.name).rpartition("_")[2] + str(tuple(v.shape)) for v in slots]
