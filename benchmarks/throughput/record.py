"""Runs one process of one system, and reads what it has trained."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import machine, processes, sweeps
from benchmarks.throughput import shapes
from benchmarks.throughput.peers import Curves, Plan
from mnist_sweep.trial import EpochEnded, Event, Status, TrialEnded, TrialStarted

OURS = "mnist_sweep"
PEERS = ("keras-tuner", "optuna", "ray")
SYSTEMS = (OURS, *PEERS)


def run(
    system: str, shape: str, epochs: int, arrays: sweeps.Arrays, options: Namespace, folder: Path
) -> dict[str, Any]:
    """Runs one process of a system, in a folder that is removed at the end unless a trial failed.

    Returns:
        What it took (`processes.Usage`), the number of `trials` and of those that were trained to their end (`ended`),
        the `best` validation accuracy of any epoch, and the `mean` over the trials of the last epoch's.

    Raises:
        RuntimeError: It failed.
    """
    folder, settings = folder / system, shapes.settings(shape, options.trials)
    if system == OURS:
        experiment = shapes.experiment(shape, options.trials, epochs)
        swept = sweeps.run(
            options.override, folder, experiment=experiment, images=arrays.whole, timeout=options.timeout
        )
        usage = swept.usage
        curves = our_curves(swept.events, [shapes.values(shape, setting) for setting in settings])
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        gpu_share = 1 / options.trials_per_gpu if machine.gpus() else 0.0
        plan = Plan(settings, epochs, str(arrays.split.absolute()), machine.cores(), gpu_share)
        (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
        command = [sys.executable, "-m", "benchmarks.throughput.peers", system, "plan.pickle"]
        usage = processes.run(command, folder, sweeps.environment(), timeout=options.timeout)
        curves = {int(index): curve for index, curve in json.loads((folder / "curves.json").read_text()).items()}
    ended = [curve for curve in curves.values() if len(curve) == epochs]
    if not ended:
        raise RuntimeError(f"{system}, {shape}: no trial was trained to its end; see {folder / 'log.txt'}")
    if len(ended) == len(settings):
        shutil.rmtree(folder)
    return {
        **usage.figures(),
        "trials": len(settings),
        "ended": len(ended),
        "best": max(max(curve) for curve in ended),
        "mean": sum(curve[-1] for curve in ended) / len(ended),
    }


def our_curves(events: list[Event], wanted: list[dict[str, Any]]) -> Curves:
    """Returns the curves of the completed trials among the wanted ones, by their index there."""
    indices: dict[int, int] = {}
    curves: dict[int, list[float]] = {}
    completed: set[int] = set()
    for event in events:
        if isinstance(event, TrialStarted) and event.trial.values in wanted:
            indices[event.trial.number] = wanted.index(event.trial.values)
            curves[event.trial.number] = []
        elif isinstance(event, EpochEnded) and event.trial in curves:
            curves[event.trial].append(event.metrics["val_accuracy"])
        elif isinstance(event, TrialEnded) and event.outcome.status is Status.COMPLETED:
            completed.add(event.trial)
    return {index: curves[number] for number, index in indices.items() if number in completed}
