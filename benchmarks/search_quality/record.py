"""Makes `curves.npz`: trains two grids with this program's own command line, and keeps their learning curves.

`python -m benchmarks.search_quality.record` takes about an hour on two cores. `--from FOLDER` takes the journals of
sweeps that were run before, in FOLDER/experiments/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_quality.curves import FILE
from mnist_sweep import journal
from mnist_sweep.trial import EpochEnded, TrialEnded, TrialStarted

_COMMON = (
    "search=grid",
    "data=mnist_5k",
    "data.validation_split=0.25",
    "training.batch_size=64",
    "tracking.keep_models=1",
    "search.max_failures=null",
    "workers.retries=0",
)
_RATES = "optimizer.learning_rate=0.0001,0.001,0.01,0.1"
SPACES = {
    "mlp": (
        "model.layers=1,2,3",
        "model.units=16,64,256",
        "model.activation=relu,tanh",
        "model.dropout=0.0,0.3",
        "optimizer.name=adam,sgd,rmsprop",
        _RATES,
    ),
    "cnn": (
        "model.layers=1,2",
        "model.filters=8,16,32",
        "model.dropout=0.0,0.25",
        "model.dense.units=32,128",
        "optimizer.name=adam,sgd",
        _RATES,
    ),
}
_FIXED = {
    "mlp": ("model=mlp", "training.epochs=27"),
    "cnn": (
        "model=cnn",
        "training.epochs=15",
        "model.padding=same",
        "model.pooling.after=all",
        "model.dense.dropout=0.0",
    ),
}
_VALIDATION_IMAGES = 1000
# What an epoch costs depends on these, and not on the learning rate.
_SIZES = ("model.layers", "model.units", "model.filters", "model.dense.units", "model.dropout", "optimizer.name")


@dataclass
class _Recorded:
    values: dict[str, Any]
    epochs: int
    started: float
    accuracy: dict[int, float] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def epoch(self) -> float:
        """Seconds from one epoch's end to the next one's."""
        return statistics.median(later - earlier for earlier, later in pairwise(self.times))

    @property
    def startup(self) -> float:
        """Seconds beside the epochs: before the first one, of which a part is tracing, and after the last one."""
        return self.times[0] - self.started - self.epoch + self.ended - self.times[-1]


def run(dataset: str, folder: Path) -> None:
    """Trains one grid.

    Args:
        dataset: A key of `SPACES`.
        folder: Where to run, and to write `experiments/` and `mlruns/`.

    Raises:
        subprocess.CalledProcessError: The sweep failed.
    """
    overrides = [*_COMMON, *_FIXED[dataset], *SPACES[dataset], f"name=curves_{dataset}"]
    subprocess.run([sys.executable, "-m", "mnist_sweep", *overrides], cwd=folder, check=True)


def convert(dataset: str, folder: Path) -> dict[str, NDArray[Any]]:
    """One grid's journal as arrays.

    Seconds are noisy on a machine that does other things as well. So each setting is given the median of its kind: of
    the settings with the same layers, units, dropout and optimizer.

    Args:
        dataset: A key of `SPACES`.
        folder: Where `run` ran.

    Returns:
        By name: the space and the settings as JSON; images classified correctly by setting and epoch, -1 from the epoch
        on at which the loss was not finite; seconds of an epoch, and beside the epochs, by setting.
    """
    sweep = journal.sweeps(folder / "experiments" / f"curves_{dataset}")[-1]
    trials: dict[int, _Recorded] = {}
    finished: set[int] = set()
    for event in journal.read(sweep):
        if isinstance(event, TrialStarted):
            trials[event.trial.number] = _Recorded(event.trial.values, event.trial.epochs, event.time)
        elif isinstance(event, EpochEnded):
            trial = trials[event.trial]
            trial.accuracy[event.epoch] = event.metrics["val_accuracy"]
            trial.times.append(event.time)
        elif isinstance(event, TrialEnded):
            trials[event.trial].ended = event.time
            finished.add(event.trial)
    ended = [trials[number] for number in sorted(finished)]
    kinds: dict[tuple[Any, ...], list[_Recorded]] = defaultdict(list)
    for trial in ended:
        if len(trial.times) == trial.epochs:
            kinds[_kind(trial)].append(trial)
    epoch = {kind: statistics.median(t.epoch for t in like) for kind, like in kinds.items()}
    startup = {kind: statistics.median(t.startup for t in like) for kind, like in kinds.items()}
    names = list(ended[0].values)
    correct = np.full((len(ended), ended[0].epochs), -1, dtype=np.int16)
    for row, trial in enumerate(ended):
        for number, accuracy in trial.accuracy.items():
            correct[row, number - 1] = round(accuracy * _VALIDATION_IMAGES)
    settings = {
        "space": SPACES[dataset],
        "validation_images": _VALIDATION_IMAGES,
        "names": names,
        "values": [[trial.values[name] for name in names] for trial in ended],
    }
    return {
        f"{dataset}_settings": np.array(json.dumps(settings)),
        f"{dataset}_correct": correct,
        f"{dataset}_epoch_seconds": np.array([epoch[_kind(t)] for t in ended], dtype=np.float32),
        f"{dataset}_startup_seconds": np.array([startup[_kind(t)] for t in ended], dtype=np.float32),
    }


def _kind(trial: _Recorded) -> tuple[Any, ...]:
    return tuple(trial.values.get(name) for name in _SIZES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Records, or takes the journals that are there, and writes the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="take the journals below this folder")
    parser.add_argument("--to", type=Path, default=FILE, help="the file to write")
    parser.add_argument("--datasets", nargs="+", choices=list(SPACES), default=list(SPACES))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        arrays: dict[str, NDArray[Any]] = {}
        for dataset in options.datasets:
            if options.folder is None:
                run(dataset, folder)
            arrays |= convert(dataset, folder)
        np.savez_compressed(options.to, allow_pickle=False, **arrays)
    for dataset in options.datasets:
        correct = arrays[f"{dataset}_correct"]
        print(f"{dataset}: {len(correct)} settings, {correct.shape[1]} epochs, {(correct[:, -1] < 0).sum()} diverged")
    print(f"{options.to}: {options.to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
