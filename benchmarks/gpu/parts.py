"""What `make gpu` measures, the most valuable parts first."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pickle
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu.plan import Part
from benchmarks.gpu.watch import Watch
from benchmarks.harness import machine, processes, sweeps
from benchmarks.overhead import activities
from benchmarks.overhead.measure import NOTHING_AFTER
from benchmarks.throughput import shapes
from benchmarks.throughput.peers import Plan
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SlotLost,
    SlotOpened,
    SweepEnded,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.workers import devices

SHAPES = ("large", "cnn", "small")
SHARING = ("1", "4", "auto", "8", "2")
_JAX = ("training.backend=jax", *NOTHING_AFTER)
_NOT_DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}
# The trial after whose start its worker is killed.
_KILLED = 2


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        trials: Of each sweep, and of keras-tuner.
        epochs: Of each trial.
        images: Training images, including those for validation; None for all.
        stacks: Numbers of lanes.
        steps: After which the metrics of lanes and single trials are compared.
        sweep: The most seconds of a sweep; half of them are for its trials.
        fused: The most seconds of a network's stacks.
    """

    trials: int
    epochs: int
    images: int | None
    stacks: tuple[int, ...]
    steps: int
    sweep: float
    fused: float


REAL = Size(trials=24, epochs=1, images=None, stacks=(8, 32, 128, 512, 1), steps=100, sweep=50, fused=75)
TINY = Size(trials=3, epochs=1, images=1500, stacks=(2,), steps=3, sweep=200, fused=200)


@dataclass(frozen=True)
class Setup:
    """What the parts share.

    Attributes:
        size: How much to measure.
        arrays: The images.
        folder: For everything that the parts write.
    """

    size: Size
    arrays: sweeps.Arrays
    folder: Path

    def parts(self) -> list[Part]:
        """Returns all parts in their order."""
        size = self.size
        fused = [Part("fused", shape, size.fused, partial(self.fused, shape)) for shape in SHAPES]
        swept = [
            Part("sweep", f"{shape}, {sharing}", size.sweep, partial(self.sweep, shape, sharing))
            for sharing in SHARING
            for shape in SHAPES
        ]
        stock = [Part("keras-tuner", shape, size.sweep, partial(self.keras_tuner, shape)) for shape in SHAPES]
        faults = [
            Part("fault", "killed", size.sweep, self.killed),
            Part("fault", "out of memory", size.sweep, self.out_of_memory),
        ]
        free = [
            Part("not deterministic", shape, size.sweep, partial(self.not_deterministic, shape)) for shape in SHAPES
        ]
        alone, first = len(SHAPES), 2 * len(SHAPES)
        return [
            Part("device", "all", 15, self.device),
            *itertools.chain(*zip(fused, swept[:alone], strict=True)),
            *swept[alone:first],
            *faults,
            *stock[:1],
            *free,
            *swept[first : first + alone],
            *stock[1:],
            *swept[first + alone :],
        ]

    # ---- parts ------------------------------------------------------------------------------------------------------

    def device(self, seconds: float) -> dict[str, Any]:
        """Returns which GPUs the driver, this program and JAX see, and what a process takes of a GPU's memory."""
        code = "import jax; jax.numpy.ones(9).sum().block_until_ready(); print(jax.__version__, jax.devices())"
        environment = {**sweeps.environment(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with Watch() as watch:
            jax = _output([sys.executable, "-c", code], seconds, environment)
        gpus = devices.visible_gpus()
        return {
            "gpus": machine.gpus(),
            "visible": gpus,
            "identities": [devices.identity_of(gpu) for gpu in gpus],
            "memory_mib": [None if found is None else found[1] / 2**20 for found in map(devices.memory, gpus)],
            "jax": jax,
            "nvidia-smi": _output(["nvidia-smi"], seconds, environment) if shutil.which("nvidia-smi") else None,
            "python": platform.python_version(),
            **watch.figures(),
        }

    def fused(self, shape: str, seconds: float) -> dict[str, Any]:
        """Measures stacks of trials against single ones."""
        return self._stacks(shape, seconds, self.size.stacks)

    def not_deterministic(self, shape: str, seconds: float) -> dict[str, Any]:
        """Measures a single trial without the flag that makes results reproducible."""
        return self._stacks(shape, seconds, (), _NOT_DETERMINISTIC)

    def sweep(self, shape: str, sharing: str, seconds: float) -> dict[str, Any]:
        """Measures a sweep."""
        # To decide, `auto` needs more trials than the others.
        trials = self.size.trials * (3 if sharing == "auto" else 1)
        return self._sweep(shapes.experiment(shape, trials, self.size.epochs), (*_JAX, *_shared(sharing)), seconds)

    def killed(self, seconds: float) -> dict[str, Any]:
        """Kills the worker of a trial; every trial must end as in the same sweep without that."""
        text = shapes.experiment("small", self.size.trials, self.size.epochs)
        return self._sweep(text, (*_JAX, *_shared("1")), seconds, disturb=_kill_worker)

    def out_of_memory(self, seconds: float) -> dict[str, Any]:
        """Runs a sweep in which the weights of one trial need more memory than there is; the others must complete."""
        gpus = devices.visible_gpus()
        found = devices.memory(gpus[0]) if gpus else None
        # Four times the memory, so that it is refused at once.
        total = 4 * (psutil.virtual_memory().total if found is None else found[1])
        units = [16, math.isqrt(total // 4), 24]
        text = shapes.experiment_file(
            {
                "model": {"layers": 2, "units": f"choice({', '.join(map(str, units))})", "dropout": 0.0},
                "training": {"batch_size": 128, "epochs": self.size.epochs},
                "search": {"max_trials": len(units), "enqueue": [{"model.units": count} for count in units]},
            }
        )
        return self._sweep(text, (*_JAX, *_shared("2")), seconds)

    def keras_tuner(self, shape: str, seconds: float) -> dict[str, Any]:
        """Runs stock keras-tuner on JAX in one process on a sweep's trials, until they or the time are over."""
        folder = _emptied(self.folder / "keras-tuner")
        settings = shapes.settings(shape, self.size.trials)
        plan = Plan(settings, self.size.epochs, str(self.arrays.split.absolute()), machine.cores(), 0.0)
        (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
        command = [sys.executable, "-m", "benchmarks.throughput.peers", "keras-tuner", "plan.pickle"]
        begin, stopped = time.time(), False
        with Watch() as watch:
            try:
                processes.run(command, folder, {**sweeps.environment(), "KERAS_BACKEND": "jax"}, timeout=seconds - 2)
            except RuntimeError:
                stopped = True
        # keras-tuner writes this file when a trial starts, and again with its status when it has ended.
        ended = [
            path.stat().st_mtime
            for path in folder.glob("keras_tuner/it/trial_*/trial.json")
            if json.loads(path.read_text())["status"] == "COMPLETED"
        ]
        if not ended:
            raise RuntimeError(f"no trial has ended; see {folder / 'log.txt'}")
        span = max(ended) - begin
        return {
            "trials": len(ended),
            "of": len(settings),
            "wall_seconds": span,
            "per_minute": 60 * len(ended) / span,
            "stopped": stopped,
            **watch.figures(begin, max(ended)),
        }

    # ---- how -------------------------------------------------------------------------------------------------------

    def _stacks(
        self, shape: str, seconds: float, stacks: Sequence[int], more: dict[str, str] | None = None
    ) -> dict[str, Any]:
        folder = _emptied(self.folder / "fused")
        command = [sys.executable, "-m", "benchmarks.gpu.fused", shape, str(self.arrays.whole.absolute())]
        command += ["--steps", str(self.size.steps), "--seconds", str(0.8 * seconds), "--stacks", *map(str, stacks)]
        error: dict[str, str] = {}
        environment = {**sweeps.environment(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **(more or {})}
        with Watch() as watch:
            try:
                processes.run(command, folder, environment, timeout=seconds)
            except RuntimeError as failure:
                error = {"error": str(failure)}
        lines = (folder / "fused.jsonl").read_text().splitlines() if (folder / "fused.jsonl").exists() else []
        return {"stacks": [json.loads(line) for line in lines if line.endswith("}")], **watch.figures(), **error}

    def _sweep(
        self,
        text: str,
        arguments: Sequence[str],
        seconds: float,
        disturb: Callable[[Path, threading.Event], None] | None = None,
    ) -> dict[str, Any]:
        """Runs a sweep; if it fails or is too slow, its journal is read all the same, and `error` says why."""
        folder = self.folder / "sweep"
        error: dict[str, str] = {}
        shutil.rmtree(folder, ignore_errors=True)
        begin, over = time.time(), threading.Event()
        with Watch() as watch:
            if disturb is not None:
                threading.Thread(target=disturb, args=(folder, over), daemon=True).start()
            try:
                sweeps.run(
                    [*arguments, f"search.time_budget={seconds / 2:.0f}s"],
                    folder,
                    experiment=text,
                    images=self.arrays.whole,
                    timeout=seconds,
                )
            except RuntimeError as failure:
                error = {"error": str(failure)}
            finally:
                over.set()
        found = folders.sweeps(folder / "experiments")
        if not found:
            raise RuntimeError(error.get("error", f"there is no sweep in {folder}"))
        events = list(journal.read(found[-1]))
        return {**figures(events, begin, watch), **error}


def figures(events: Sequence[Event], begin: float, watch: Watch) -> dict[str, Any]:
    """Returns what to record of a sweep.

    Args:
        events: Its journal.
        begin: When its command started, in seconds since 1970.
        watch: What was read of the GPU in the meantime.
    """
    started = [event for event in events if isinstance(event, TrialStarted)]
    ended = [event for event in events if isinstance(event, TrialEnded)]
    values = {event.trial.number: json.dumps(event.trial.values, sort_keys=True) for event in started}
    results: dict[str, list[dict[str, float]]] = {}
    for event in events:
        if isinstance(event, EpochEnded) and event.trial in values:
            metrics = {name: value for name, value in event.metrics.items() if name != "epoch_seconds"}
            results.setdefault(values[event.trial], []).append(metrics)
    found: dict[str, Any] = {
        "slots": len({event.slot for event in started}),
        "opened": [event.reason for event in events if isinstance(event, SlotOpened)],
        "lost": [event.reason for event in events if isinstance(event, SlotLost)],
        "attempts_failed": [event.reason for event in events if isinstance(event, AttemptFailed)],
        "status": [_ended(e.status, e.reason) for e in events if isinstance(e, SweepEnded)][-1:],
        "outcomes": {values[e.trial]: _ended(e.outcome.status, e.outcome.reason) for e in ended},
        "results": results,
    }
    if not ended:
        return {**found, "error": "no trial has ended"}
    first, last = started[0].time, ended[-1].time
    return {
        **found,
        "trials": len(ended),
        "first_trial": first - begin,
        "per_minute": 60 * len(ended) / (last - first),
        "compile_seconds": sum(event.outcome.phases.get("trace", 0.0) for event in ended),
        **_step_share(events, begin, last),
        **watch.figures(first, last),
    }


def _ended(status: str, reason: str) -> str:
    return f"{status}: {reason}" if reason else str(status)


def _step_share(events: Sequence[Event], begin: float, last: float) -> dict[str, float]:
    try:
        slots = activities.by_slot(events, begin, last)
    except ValueError:
        # It was killed in the middle of a trial.
        return {}
    return {"step_share": activities.shares(activities.together(slots)).within}


def _shared(sharing: str) -> list[str]:
    """Returns the settings for so many trials at a time: on a GPU, or without one on as many cores."""
    if devices.visible_gpus():
        return [f"workers.trials_per_gpu={sharing}"]
    return [f"workers.count={min(int(sharing), 2)}"] if sharing.isdigit() else []


def _kill_worker(folder: Path, over: threading.Event) -> None:
    """Waits until some trials of the sweep in a folder have started, and kills a worker that trains."""
    started: list[TrialStarted] = []
    while len(started) < _KILLED:
        if over.wait(0.02):
            return
        found = folders.sweeps(folder / "experiments")
        started = [event for event in (journal.read(found[-1]) if found else ()) if isinstance(event, TrialStarted)]
    for process in psutil.Process().children(recursive=True):
        # Every worker writes to its slot's log.
        with contextlib.suppress(OSError, psutil.Error):
            if Path(os.readlink(f"/proc/{process.pid}/fd/1")).name == f"{started[-1].slot}.log":
                process.kill()


def _output(command: Sequence[str], seconds: float, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    return done.stdout.strip()[-2000:]


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
