"""What is trained: for each shape a list of hyperparameter configurations, the same for every system.

The other systems' processes import this module, so it must not import anything slow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_SEED = 20
_RATES, _MIXED_RATES = (1e-4, 1e-2), (5e-4, 5e-2)
_DROPOUTS, _LAYERS, _UNITS = (0.0, 0.1, 0.2, 0.3), (1, 2, 3), (16, 32, 64, 128, 256, 512)
_ACTIVATIONS, _OPTIMIZERS, _BATCHES = ("relu", "tanh", "gelu"), ("adam", "rmsprop", "sgd"), (32, 64, 128, 256)


@dataclass(frozen=True)
class Setting:
    """One trial's hyperparameters.

    Attributes:
        filters: Of each 3×3 convolution; a 2×2 max pooling and a dropout of 0.25 follow the last one.
        units: Of each hidden dense layer.
        activation: Of the dense layers.
        dropout: After each hidden dense layer.
        optimizer: Its name in Keras.
        learning_rate: Its learning rate.
        batch_size: Images per batch.
    """

    filters: tuple[int, ...]
    units: tuple[int, ...]
    activation: str
    dropout: float
    optimizer: str
    learning_rate: float
    batch_size: int


@dataclass(frozen=True)
class Shape:
    """A kind of model.

    Attributes:
        title: For people.
        epochs: Of each trial, unless the command line says otherwise.
        group: The option of this program's config group `model`.
        model: Values of that group, including the domains of the searched ones.
        filters: Of its convolutions.
        units: Of its dense layers; () if they are searched.
        images: Training images, unless the command line says otherwise; None for all.
    """

    title: str
    epochs: int
    group: str
    model: dict[str, Any]
    filters: tuple[int, ...] = ()
    units: tuple[int, ...] = ()
    images: int | None = None


def _choice(options: tuple[Any, ...]) -> str:
    return f"choice({', '.join(map(str, options))})"


_DROPOUT = _choice(_DROPOUTS)
_CNN = {
    "layers": 2,
    "filters": [32, 64],
    "kernel_size": 3,
    "dropout": [0.0, 0.25],
    "dense": {"layers": 1, "units": 128, "dropout": _DROPOUT},
}
_MIXED = {
    "layers": _choice(_LAYERS),
    "units": _choice(_UNITS),
    "activation": _choice(_ACTIVATIONS),
    "dropout": _DROPOUT,
}
SHAPES = {
    "small": Shape("Dense 16-16", 3, "mlp", {"layers": 2, "units": 16, "dropout": _DROPOUT}, units=(16, 16)),
    "large": Shape("Dense 512-512", 1, "mlp", {"layers": 2, "units": 512, "dropout": _DROPOUT}, units=(512, 512)),
    "cnn": Shape("Conv 32-64, Dense 128", 1, "cnn", _CNN, filters=(32, 64), units=(128,), images=6000),
    "mixed": Shape("1 to 3 layers of 16 to 512 units", 2, "mlp", _MIXED),
}


def settings(shape: str, trials: int) -> list[Setting]:
    """Draws the trials of a shape: always the same ones, and fewer are the first of more."""
    rng = random.Random(f"{shape} {_SEED}")
    found: list[Setting] = []
    while len(found) < trials:
        low, high = _MIXED_RATES if shape == "mixed" else _RATES
        rate = float(f"{low * (high / low) ** rng.random():.3g}")
        dropout = rng.choice(_DROPOUTS)
        if shape == "mixed":
            layers = rng.choice(_LAYERS)
            units, activation = (rng.choice(_UNITS),) * layers, rng.choice(_ACTIVATIONS)
            drawn = Setting((), units, activation, dropout, rng.choice(_OPTIMIZERS), rate, rng.choice(_BATCHES))
        else:
            drawn = Setting(SHAPES[shape].filters, SHAPES[shape].units, "relu", dropout, "adam", rate, 128)
        if drawn not in found:
            found.append(drawn)
    return found


def values(shape: str, setting: Setting) -> dict[str, Any]:
    """Returns the searched hyperparameters of a setting, by their names in this program."""
    dropout = "model.dense.dropout" if shape == "cnn" else "model.dropout"
    found: dict[str, Any] = {dropout: setting.dropout, "optimizer.learning_rate": setting.learning_rate}
    if shape == "mixed":
        found |= {
            "model.layers": len(setting.units),
            "model.units": setting.units[0],
            "model.activation": setting.activation,
            "optimizer.name": setting.optimizer,
            "training.batch_size": setting.batch_size,
        }
    return found


def experiment_file(content: Mapping[str, Any]) -> str:
    """Returns the text of an experiment file."""
    return "# @package _global_\n" + yaml.safe_dump(dict(content), sort_keys=False)


def experiment(shape: str, trials: int, epochs: int) -> str:
    """Returns an experiment file for this program: the space, and the trials as `search.enqueue`."""
    mixed = shape == "mixed"
    low, high = _MIXED_RATES if mixed else _RATES
    return experiment_file(
        {
            "defaults": [{"override /model": SHAPES[shape].group}],
            "model": SHAPES[shape].model,
            "optimizer": {
                "name": _choice(_OPTIMIZERS) if mixed else "adam",
                "learning_rate": f"tag(log, interval({low}, {high}))",
            },
            "training": {"batch_size": _choice(_BATCHES) if mixed else 128, "epochs": epochs},
            "search": {
                "max_trials": trials,
                "enqueue": [values(shape, setting) for setting in settings(shape, trials)],
            },
        }
    )
