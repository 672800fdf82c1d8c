"""The recorded learning curves: one table of hyperparameter configurations for each kind of model."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.config.space import identity

FILE = Path(__file__).with_name("curves.npz")
DATASETS = ("mlp", "cnn")
OURS, KERAS = "ours", "keras"
TRAINERS = (OURS, KERAS)


@dataclass(frozen=True)
class Curves:
    """What training every configuration of a grid gave.

    Attributes:
        space: The domains of the grid, as on the command line: `model.layers=1,2,3`.
        values: Each configuration's hyperparameters.
        accuracy: Validation accuracy by configuration and epoch; NaN from the epoch at which it diverged.
        epoch_seconds: The seconds of an epoch of each configuration.
        startup_seconds: The seconds besides its epochs: building and tracing the model, saving it.
        again_seconds: The same if its worker has traced the same architecture before.
    """

    space: list[str]
    values: list[dict[str, Any]]
    accuracy: NDArray[np.float64]
    epoch_seconds: NDArray[np.float64]
    startup_seconds: NDArray[np.float64]
    again_seconds: NDArray[np.float64]

    @property
    def epochs(self) -> int:
        """How many epochs each configuration was trained."""
        return int(self.accuracy.shape[1])

    @property
    def best(self) -> NDArray[np.float64]:
        """Each configuration's best accuracy over all epochs; 0 if it has none."""
        best: NDArray[np.float64] = np.nan_to_num(self.accuracy).max(axis=1)
        return best

    def target(self, percentile: float) -> float:
        """Returns the accuracy that so many percent of the configurations never reach."""
        return float(np.percentile(self.best, percentile, method="higher"))

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each configuration, by its identity."""
        return {identity(values): row for row, values in enumerate(self.values)}

    def row(self, values: dict[str, Any]) -> int:
        """Returns the row of a configuration."""
        return self.rows[identity(values)]

    @functools.cached_property
    def architectures(self) -> list[str]:
        """The architecture of each configuration: what was traced for one serves all others with the same."""
        return [identity({k: v for k, v in values.items() if k != "optimizer.learning_rate"}) for values in self.values]

    def options(self) -> dict[str, list[Any]]:
        """Returns each hyperparameter's values, in the grid's order."""
        return {name: list(dict.fromkeys(v[name] for v in self.values)) for name in self.values[0]}


def seconds_keys(dataset: str, trainer: str) -> tuple[str, str, str]:
    """Returns the names of the arrays of `epoch_seconds`, `startup_seconds` and `again_seconds`."""
    epoch, startup, again = (f"{dataset}_{trainer}_{what}_seconds" for what in ("epoch", "startup", "again"))
    return epoch, startup, again


def load(dataset: str, *, trainer: str = OURS, epoch_scale: float = 1.0, file: Path = FILE) -> Curves:
    """Reads one table.

    Args:
        dataset: One of `DATASETS`.
        trainer: Whose seconds: `OURS` for this program's workers, `KERAS` for Keras's `model.fit`.
        epoch_scale: Multiplies the epochs' seconds, as if there were so many times as many images.
        file: The data file.
    """
    with np.load(file, allow_pickle=False) as stored:
        about = json.loads(str(stored[f"{dataset}_settings"]))
        counts = stored[f"{dataset}_correct"].astype(float)
        counts[counts < 0] = np.nan
        epoch, startup, again = (stored[key].astype(float) for key in seconds_keys(dataset, trainer))
    values = [dict(zip(about["names"], row, strict=True)) for row in about["values"]]
    return Curves(about["space"], values, counts / about["validation_images"], epoch * epoch_scale, startup, again)
