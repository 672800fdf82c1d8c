"""Makes `curves.npz`: trains two grids with this program's own command line, and keeps their learning curves.

Then it measures how long Keras's own `fit` takes for each kind of setting. Leave the machine alone meanwhile:
`python -m benchmarks.search_quality.record` takes a quarter of an hour on two cores. `--from FOLDER` takes the journals
of sweeps that were run before, in FOLDER/experiments/.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import cores
from benchmarks.search_quality.curves import FILE, KERAS, OURS, TRAINERS, seconds_keys
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import EpochEnded, TrialEnded, TrialStarted

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
_PASSES = 2
# What an epoch costs depends on these, and not on the learning rate.
_SIZES = ("model.layers", "model.units", "model.filters", "model.dense.units", "model.dropout", "optimizer.name")


_Kind = tuple[Any, ...]


@dataclass
class _Recorded:
    values: dict[str, Any]
    epochs: int
    started: float
    accuracy: dict[int, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0

    @property
    def kind(self) -> _Kind:
        return tuple(self.values.get(name) for name in _SIZES)

    @property
    def traced(self) -> float:
        return self.phases["trace"]

    @property
    def epoch(self) -> float:
        """Seconds of training and validation, for each epoch."""
        return (self.phases["train"] + self.phases["validate"]) / self.epochs

    @property
    def startup(self) -> float:
        """Seconds beside the epochs, from its being handed out to its end: building, tracing, saving."""
        return self.ended - self.started - self.epoch * self.epochs


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


def keras_seconds(dataset: str, settings: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """How long Keras's `fit` takes, measured twice on one thread for each core side by side, as trials are run.

    Args:
        dataset: A key of `SPACES`.
        settings: What to train.

    Returns:
        Of each setting, seconds of an epoch, and beside the epochs: the lesser of the two.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", "benchmarks.search_quality.keras_fit", *_FIXED[dataset], *SPACES[dataset]]
    side_by_side = min(cores(), len(settings))
    shares = [settings[first::side_by_side] for first in range(side_by_side)]
    found = np.full((len(settings), 2), np.inf)
    for _ in range(_PASSES):
        with ThreadPoolExecutor(side_by_side) as threads:
            printed = list(threads.map(lambda share: _fed([*command, *_COMMON], share), shares))
        for first, lines in enumerate(printed):
            measured = np.array([json.loads(line) for line in lines])
            found[first::side_by_side] = np.minimum(found[first::side_by_side], measured)
    return [(float(epoch), float(startup)) for epoch, startup in found]


def _fed(command: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    lines = "".join(f"{json.dumps(values)}\n" for values in settings)
    return subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def convert(dataset: str, folder: Path) -> dict[str, NDArray[Any]]:
    """One grid's journal as arrays, with the seconds of Keras's `fit` beside.

    Seconds are noisy. So each setting is given the median of its kind: of the settings with the same layers, units,
    dropout and optimizer. Beside their epochs, those that had to be traced count apart from the others: what was traced
    for one trial serves later ones of the same architecture, and how often a search draws the same one depends on the
    search. Keras's `fit` traces each.

    Args:
        dataset: A key of `SPACES`.
        folder: Where `run` ran.

    Returns:
        By name: the space and the settings as JSON; images classified correctly by setting and epoch, -1 from the epoch
        on at which the loss was not finite; seconds of an epoch, and beside the epochs, with tracing and without, by
        setting, of this program and of Keras (`curves.seconds_keys`).

    Raises:
        subprocess.CalledProcessError: Keras's `fit` could not be measured.
    """
    sweep = folders.sweeps(folder / "experiments" / f"curves_{dataset}")[-1]
    trials: dict[int, _Recorded] = {}
    finished: set[int] = set()
    for event in journal.read(sweep):
        if isinstance(event, TrialStarted):
            trials[event.trial.number] = _Recorded(event.trial.values, event.trial.epochs, event.time)
        elif isinstance(event, EpochEnded):
            trials[event.trial].accuracy[event.epoch] = event.metrics["val_accuracy"]
        elif isinstance(event, TrialEnded):
            trials[event.trial].phases, trials[event.trial].ended = event.outcome.phases, event.time
            finished.add(event.trial)
    ended = [trials[number] for number in sorted(finished)]
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
    arrays: dict[str, NDArray[Any]] = {
        f"{dataset}_settings": np.array(json.dumps(settings)),
        f"{dataset}_correct": correct,
    }
    kinds: dict[_Kind, list[_Recorded]] = defaultdict(list)
    for trial in ended:
        if len(trial.accuracy) == trial.epochs:
            kinds[trial.kind].append(trial)
    ours = _seconds(kinds)
    fits = keras_seconds(dataset, [like[0].values for like in kinds.values()])
    keras = {kind: (epoch, startup, startup) for kind, (epoch, startup) in zip(kinds, fits, strict=True)}
    for trainer, seconds in ((OURS, ours), (KERAS, keras)):
        for key, column in zip(
            seconds_keys(dataset, trainer), np.array([seconds[trial.kind] for trial in ended]).T, strict=True
        ):
            arrays[key] = column.astype(np.float32)
    return arrays


def _seconds(kinds: dict[_Kind, list[_Recorded]]) -> dict[_Kind, tuple[float, float, float]]:
    anew: dict[_Kind, list[float]] = defaultdict(list)
    again: dict[_Kind, list[float]] = defaultdict(list)
    for kind, like in kinds.items():
        most = max(trial.traced for trial in like)
        for trial in like:
            (anew if trial.traced > most / 2 else again)[kind].append(trial.startup)
    # Of a few kinds every setting was traced; without that, all kinds take about as long.
    usual = [statistics.median(seconds) for seconds in again.values()]
    return {
        kind: (
            statistics.median(trial.epoch for trial in like),
            statistics.median(anew[kind]),
            statistics.median(again[kind] or usual),
        )
        for kind, like in kinds.items()
    }


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
        for trainer in TRAINERS:
            epoch, startup, again = (np.median(arrays[key]) for key in seconds_keys(dataset, trainer))
            print(f"  {trainer}: median {epoch:.3f} s for an epoch, {startup:.2f} and {again:.2f} s beside")
    print(f"{options.to}: {options.to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
