"""Makes `curves.npz`: trains two grids with this program's own command line, and keeps their learning curves.

Then it measures how long Keras's own `fit` takes for each kind of configuration. Leave the machine alone in the
meantime: `python -m benchmarks.search_quality.record` takes a quarter of an hour on two cores. `--from FOLDER` reads
the journals of sweeps that were run before, in FOLDER/experiments/.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.benchmark import RESULTS, command_line, parse
from benchmarks.harness.machine import cores
from benchmarks.harness.sweeps import Trained, trained
from benchmarks.search_quality.curves import FILE, KERAS, OURS, TRAINERS, seconds_keys
from mnist_sweep.journal import folders, journal

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
# A small grid whose workers trace only some of the trials.
_QUICK_SPACES = {"mlp": ("model.units=16,32", _RATES), "cnn": ("model.filters=4,8", _RATES)}
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
# What the cost of an epoch depends on, unlike the learning rate.
_SIZES = ("model.layers", "model.units", "model.filters", "model.dense.units", "model.dropout", "optimizer.name")

Kind = tuple[Any, ...]
"""The values of `_SIZES`."""
Seconds = tuple[float, float, float]
"""Seconds of an epoch, and of everything besides the epochs: with tracing, and without."""


def _kind(trial: Trained) -> Kind:
    return tuple(trial.values.get(name) for name in _SIZES)


def _phases(trial: Trained) -> Mapping[str, float]:
    assert trial.outcome is not None
    return trial.outcome.phases


def _epoch(trial: Trained) -> float:
    """Returns the seconds of training and validation, for each epoch."""
    return (_phases(trial)["train"] + _phases(trial)["validate"]) / trial.epochs


def _startup(trial: Trained) -> float:
    """Returns the seconds of everything besides the epochs, from start to end: building, tracing, saving."""
    return trial.ended - trial.started - _epoch(trial) * trial.epochs


def our_seconds(kinds: Mapping[Kind, Sequence[Trained]]) -> dict[Kind, Seconds]:
    """Returns the medians of each kind's trials; one that took more than half of the longest tracing was traced.

    What was traced for one trial serves later ones of the same architecture, and how often a search draws the same one
    depends on the search.
    """
    traced: dict[Kind, list[float]] = defaultdict(list)
    again: dict[Kind, list[float]] = defaultdict(list)
    for kind, like in kinds.items():
        most = max(_phases(trial)["trace"] for trial in like)
        for trial in like:
            (traced if _phases(trial)["trace"] > most / 2 else again)[kind].append(_startup(trial))
    # Every trial of some kinds was traced; without tracing, all kinds take about as long.
    usual = [statistics.median(seconds) for seconds in again.values()]
    return {
        kind: (
            statistics.median(_epoch(trial) for trial in like),
            statistics.median(traced[kind]),
            statistics.median(again[kind] or usual),
        )
        for kind, like in kinds.items()
    }


def keras_seconds(kinds: Mapping[Kind, Sequence[Trained]], overrides: Sequence[str]) -> dict[Kind, Seconds]:
    """Measures Keras's `fit` for each kind twice, on one thread for each core side by side, as trials run.

    Returns:
        The lesser of the two; `fit` traces every trial.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", "benchmarks.search_quality.keras_fit", *overrides]
    lines = [json.dumps(like[0].values) for like in kinds.values()]
    side_by_side = min(cores(), len(lines))

    def measured(first: int) -> list[list[float]]:
        given = "\n".join(lines[first::side_by_side])
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    found = np.full((len(lines), 2), np.inf)
    for _ in range(_PASSES):
        with ThreadPoolExecutor(side_by_side) as threads:
            for first, seconds in enumerate(threads.map(measured, range(side_by_side))):
                found[first::side_by_side] = np.minimum(found[first::side_by_side], seconds)
    return {kind: (epoch, startup, startup) for kind, (epoch, startup) in zip(kinds, found.tolist(), strict=True)}


def convert(dataset: str, space: Sequence[str], sweep: Path) -> dict[str, NDArray[Any]]:
    """Returns one grid's journal as arrays, with the seconds of Keras's `fit`.

    Seconds are noisy. Each configuration therefore gets the median of its kind: of those with the same layers, units,
    dropout and optimizer.

    Args:
        dataset: A key of `SPACES`.
        space: What was searched.
        sweep: The folder of the sweep.

    Returns:
        By name: the space and the configurations as JSON; images classified correctly by configuration and epoch, -1
        from the epoch at which the loss was not finite; and the seconds of both trainers (`curves.seconds_keys`).
    """
    trials = [trial for trial in trained(journal.read(sweep)) if trial.outcome]
    names = list(trials[0].values)
    correct = np.full((len(trials), trials[0].epochs), -1, dtype=np.int16)
    kinds: dict[Kind, list[Trained]] = defaultdict(list)
    for row, trial in enumerate(trials):
        for number, accuracy in trial.accuracy.items():
            correct[row, number - 1] = round(accuracy * _VALIDATION_IMAGES)
        if len(trial.accuracy) == trial.epochs:
            kinds[_kind(trial)].append(trial)
    about = {
        "space": space,
        "validation_images": _VALIDATION_IMAGES,
        "names": names,
        "values": [[trial.values[name] for name in names] for trial in trials],
    }
    arrays: dict[str, NDArray[Any]] = {
        f"{dataset}_settings": np.array(json.dumps(about)),
        f"{dataset}_correct": correct,
    }
    fits = keras_seconds(kinds, [*_FIXED[dataset], *space, *_COMMON])
    for trainer, seconds in ((OURS, our_seconds(kinds)), (KERAS, fits)):
        columns = np.array([seconds[_kind(trial)] for trial in trials], dtype=np.float32).T
        arrays |= zip(seconds_keys(dataset, trainer), columns, strict=True)
    return arrays


def main(arguments: Sequence[str] | None = None) -> None:
    """Records, or reads the journals that exist, and writes the data file."""
    parser = command_line("search_quality.record", __doc__ or "")
    parser.add_argument("--from", dest="folder", type=Path, help="read the journals below this folder")
    parser.add_argument("--to", type=Path, default=FILE, help="the file to write")
    parser.add_argument("--datasets", nargs="+", choices=list(SPACES), default=list(SPACES))
    options = parse(parser, arguments, {"datasets": ["mlp"], "to": RESULTS / "runs" / "quick" / "curves.npz"})
    spaces = _QUICK_SPACES if options.quick else SPACES
    arrays: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for dataset in options.datasets:
            name = f"curves_{dataset}"
            if options.folder is None:
                overrides = [*_COMMON, *_FIXED[dataset], *spaces[dataset], f"name={name}"]
                subprocess.run([sys.executable, "-m", "mnist_sweep", *overrides], cwd=folder, check=True)
            arrays |= convert(dataset, spaces[dataset], folders.sweeps(folder / "experiments" / name)[-1])
    options.to.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.to, allow_pickle=False, **arrays)
    for dataset in options.datasets:
        correct = arrays[f"{dataset}_correct"]
        rows, epochs = correct.shape
        print(f"{dataset}: {rows} configurations, {epochs} epochs, {(correct[:, -1] < 0).sum()} diverged")
        for trainer in TRAINERS:
            epoch, startup, again = (np.median(arrays[key]) for key in seconds_keys(dataset, trainer))
            print(f"  {trainer}: median {epoch:.3f} s for an epoch, {startup:.2f} and {again:.2f} s besides")
    print(f"{options.to}: {options.to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
