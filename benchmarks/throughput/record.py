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
from benchmarks.throughput.peers import Plan
from mnist_sweep.journal.trial import Status

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
        wanted = [shapes.values(shape, setting) for setting in settings]
        curves = {
            wanted.index(trial.values): list(trial.accuracy.values())
            for trial in sweeps.trained(swept.events)
            if trial.values in wanted and trial.outcome and trial.outcome.status is Status.COMPLETED
        }
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
