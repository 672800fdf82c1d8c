"""Runs or resumes one simulated sweep in this process, and prints what it took as JSON."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from rich.console import Console

from benchmarks.loop_cost import SPACE
from benchmarks.scale.pool import Clock, Simulated
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.driver import launch
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.plan import Plan
from mnist_sweep.journal import files, journal
from mnist_sweep.tracking.tracker import Tracker
from mnist_sweep.workers.base import Pool


def simulate(
    folder: Path,
    overrides: Sequence[str],
    slots: int,
    seconds: float,
    *,
    real: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Runs a sweep as its command does, on simulated slots.

    Args:
        folder: The sweep's folder, which exists.
        overrides: The command line.
        slots: How many trials run at once.
        seconds: How long an epoch takes.
        real: Whether waits take their time, for what other threads do meanwhile.
        resume: Whether to resume the sweep in the folder.

    Returns:
        The figures; times in seconds.
    """
    clock, marks = Clock(), dict[str, float]()
    own = ["data=mnist_5k", "workers.devices=cpu", f"workers.count={slots}", "tracking.register=false"]
    config = compose.defaults(quote_sweeps([*SPACE, *own, *overrides]))
    simulated = Simulated(slots, seconds, clock, real=real)
    pool: Pool = simulated
    run, close = Sweep.run, Tracker.close

    def measured_run(sweep: Sweep) -> Any:
        marks["begin"], worked = clock(), time.process_time()
        try:
            return run(sweep)
        finally:
            marks["end"], marks["cpu"] = clock(), time.process_time() - worked

    def measured_close(tracker: Tracker) -> None:
        marks["behind"], start = tracker.behind, time.monotonic()
        close(tracker)
        marks["lag"] = time.monotonic() - start

    with (
        mock.patch.object(Plan, "start_workers", return_value=pool),
        mock.patch.object(launch, "SteadyClock", return_value=clock),
        mock.patch.object(Sweep, "run", measured_run),
        mock.patch.object(Tracker, "close", measured_close),
        open(os.devnull, "w") as nowhere,
    ):
        code = launch.run(config, folder, Console(file=nowhere, width=120), resume=resume)
    assert code == 0, f"exit code {code}"
    size = (folder / files.FILE).stat().st_size
    figures = {"journal MiB": size / 2**20, "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if resume:
        # Since the start of this process, imports included.
        return {"s to the first trial": simulated.first_task - psutil.Process().create_time(), **figures}
    events = sum(1 for _ in journal.read(folder))
    span, trials, epochs = marks["end"] - marks["begin"], config["search"]["max_trials"], config["training"]["epochs"]
    return {
        "trials": trials,
        "s": span,
        "× the minimum": span / (math.ceil(trials / slots) * epochs * seconds),
        "cores": marks["cpu"] / span,
        "ms of work per trial": 1000 * marks["cpu"] / trials,
        "events per s": events / span,
        **figures,
        "events behind": marks["behind"],
        "s behind": marks["lag"],
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(simulate(Path(given.pop("folder")), **given)))
