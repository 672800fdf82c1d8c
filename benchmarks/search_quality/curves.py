"""The recorded learning curves: one table of settings for each kind of model."""

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
    """What training every setting of a grid gave.

    Attributes:
        space: The sweeps of the grid, as on the command line: `model.layers=1,2,3`.
        values: Each setting's hyperparameters.
        accuracy: Validation accuracy by setting and epoch, NaN from the epoch on at which a setting diverged.
        epoch_seconds: What an epoch of each setting takes.
        startup_seconds: What each setting takes beside its epochs: building and tracing the model, saving it.
        again_seconds: The same where its worker still has what was traced for another setting of its architecture.
    """

    space: list[str]
    values: list[dict[str, Any]]
    accuracy: NDArray[np.float64]
    epoch_seconds: NDArray[np.float64]
    startup_seconds: NDArray[np.float64]
    again_seconds: NDArray[np.float64]

    @property
    def epochs(self) -> int:
        """How many epochs each setting was trained."""
        return int(self.accuracy.shape[1])

    @property
    def best(self) -> NDArray[np.float64]:
        """Each setting's best accuracy over all epochs; 0 where it has none."""
        best: NDArray[np.float64] = np.nan_to_num(self.accuracy).max(axis=1)
        return best

    def target(self, percentile: float) -> float:
        """The accuracy that so many percent of the settings never reach."""
        return float(np.percentile(self.best, percentile, method="higher"))

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """From a setting's identity to its row."""
        return {identity(values): row for row, values in enumerate(self.values)}

    def row(self, values: dict[str, Any]) -> int:
        """The row of a setting."""
        return self.rows[identity(values)]

    @functools.cached_property
    def architectures(self) -> list[str]:
        """Of each setting; those of the same one can be trained by what was traced for one of them."""
        return [identity({k: v for k, v in values.items() if k != "optimizer.learning_rate"}) for values in self.values]

    def options(self) -> dict[str, list[Any]]:
        """Each hyperparameter's values, in the grid's order."""
        return {name: list(dict.fromkeys(v[name] for v in self.values)) for name in self.values[0]}


def seconds_keys(dataset: str, trainer: str) -> tuple[str, str, str]:
    """The names of the arrays of an epoch's seconds, of the start-up's and of a later start-up's, by setting."""
    epoch, startup, again = (f"{dataset}_{trainer}_{what}_seconds" for what in ("epoch", "startup", "again"))
    return epoch, startup, again


def load(dataset: str, *, trainer: str = OURS, epoch_scale: float = 1.0, file: Path = FILE) -> Curves:
    """Reads one table.

    Args:
        dataset: One of `DATASETS`.
        trainer: Whose seconds: `OURS` for this program's workers, `KERAS` for `model.fit` as Keras has it.
        epoch_scale: What to multiply the epochs' seconds by, as if there were so many times as many images.
        file: The data file.
    """
    with np.load(file, allow_pickle=False) as stored:
        about = json.loads(str(stored[f"{dataset}_settings"]))
        counts = stored[f"{dataset}_correct"].astype(float)
        counts[counts < 0] = np.nan
        epoch, startup, again = (stored[key].astype(float) for key in seconds_keys(dataset, trainer))
        return Curves(
            space=about["space"],
            values=[dict(zip(about["names"], row, strict=True)) for row in about["values"]],
            accuracy=counts / about["validation_images"],
            epoch_seconds=epoch * epoch_scale,
            startup_seconds=startup,
            again_seconds=again,
        )
