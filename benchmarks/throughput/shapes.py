"""What is trained: for each shape a list of settings, which every system is given."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import yaml

_SEED = 20
_RATES = (1e-4, 1e-2)
_MIXED_RATES = (5e-4, 5e-2)
_DROPOUTS = (0.0, 0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Setting:
    """One trial's hyperparameters.

    Attributes:
        filters: Of each 3×3 convolution; a 2×2 maximum pooling and a dropout of a quarter follow the last.
        units: Of each hidden dense layer.
        activation: Of the dense layers.
        dropout: Behind each hidden dense layer.
        optimizer: Its name in Keras.
        learning_rate: Its learning rate.
        batch_size: Images.
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
        name: Its name.
        title: For people.
        epochs: Of each trial, where the command line does not say.
        group: This program's group `model`.
        model: Values of that group; those of the searched ones are domains.
        images: Training images, those to be held out among them, where the command line does not say; None for all.
    """

    name: str
    title: str
    epochs: int
    group: str
    model: dict[str, Any]
    images: int | None = None


def _choice(options: tuple[Any, ...]) -> str:
    return f"choice({', '.join(map(str, options))})"


_LAYERS, _UNITS = (1, 2, 3), (16, 32, 64, 128, 256, 512)
_ACTIVATIONS, _OPTIMIZERS, _BATCHES = ("relu", "tanh", "gelu"), ("adam", "rmsprop", "sgd"), (32, 64, 128, 256)
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small", "Dense 16-16", 3, "mlp", {"layers": 2, "units": 16, "dropout": _choice(_DROPOUTS)}),
        Shape("large", "Dense 512-512", 1, "mlp", {"layers": 2, "units": 512, "dropout": _choice(_DROPOUTS)}),
        Shape(
            "cnn",
            "Conv 32-64, Dense 128",
            1,
            "cnn",
            {
                "layers": 2,
                "filters": [32, 64],
                "kernel_size": 3,
                "dropout": [0.0, 0.25],
                "dense": {"layers": 1, "units": 128, "dropout": _choice(_DROPOUTS)},
            },
            images=6000,
        ),
        Shape(
            "mixed",
            "1 to 3 layers of 16 to 512 units",
            2,
            "mlp",
            {
                "layers": _choice(_LAYERS),
                "units": _choice(_UNITS),
                "activation": _choice(_ACTIVATIONS),
                "dropout": _choice(_DROPOUTS),
            },
        ),
    )
}


def settings(shape: str, trials: int) -> list[Setting]:
    """The trials of a shape: random draws, always the same; fewer trials are the first of more.

    Args:
        shape: A name of `SHAPES`.
        trials: How many.
    """
    rng = random.Random(f"{shape} {_SEED}")
    found: list[Setting] = []
    while len(found) < trials:
        low, high = _MIXED_RATES if shape == "mixed" else _RATES
        rate = float(f"{low * (high / low) ** rng.random():.3g}")
        dropout = rng.choice(_DROPOUTS)
        if shape == "mixed":
            layers = rng.choice(_LAYERS)
            drawn = Setting(
                (),
                (rng.choice(_UNITS),) * layers,
                rng.choice(_ACTIVATIONS),
                dropout,
                rng.choice(_OPTIMIZERS),
                rate,
                rng.choice(_BATCHES),
            )
        else:
            filters, units = {"small": ((), (16, 16)), "large": ((), (512, 512)), "cnn": ((32, 64), (128,))}[shape]
            drawn = Setting(filters, units, "relu", dropout, "adam", rate, 128)
        if drawn not in found:
            found.append(drawn)
    return found


def values(shape: str, setting: Setting) -> dict[str, Any]:
    """The searched hyperparameters of a setting, by their names in this program."""
    if shape == "cnn":
        return {"model.dense.dropout": setting.dropout, "optimizer.learning_rate": setting.learning_rate}
    found: dict[str, Any] = {"model.dropout": setting.dropout, "optimizer.learning_rate": setting.learning_rate}
    if shape == "mixed":
        found |= {
            "model.layers": len(setting.units),
            "model.units": setting.units[0],
            "model.activation": setting.activation,
            "optimizer.name": setting.optimizer,
            "training.batch_size": setting.batch_size,
        }
    return found


def experiment(shape: str, trials: list[Setting], epochs: int) -> str:
    """An experiment file for this program: the space, and the trials as `search.enqueue`.

    Args:
        shape: A name of `SHAPES`.
        trials: The settings.
        epochs: Of each.
    """
    mixed = shape == "mixed"
    low, high = _MIXED_RATES if mixed else _RATES
    content = {
        "defaults": [{"override /model": SHAPES[shape].group}],
        "model": SHAPES[shape].model,
        "optimizer": {
            "name": _choice(_OPTIMIZERS) if mixed else "adam",
            "learning_rate": f"tag(log, interval({low}, {high}))",
        },
        "training": {"batch_size": _choice(_BATCHES) if mixed else 128, "epochs": epochs},
        "search": {"max_trials": len(trials), "enqueue": [values(shape, setting) for setting in trials]},
    }
    return "# @package _global_\n" + yaml.safe_dump(content, sort_keys=False)
