"""Runs or resumes one simulated sweep in this process, and prints what it took as JSON."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from benchmarks.loop_cost import SPACE
from benchmarks.scale.pool import Clock, Simulated
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.driver import launch
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.plan import Plan
from mnist_sweep.journal import files


def simulate(
    folder: Path, overrides: list[str], slots: int, epoch_seconds: float, *, real: bool, resume: bool
) -> dict[str, Any]:
    """Runs a sweep with `launch.run`, on simulated slots.

    Args:
        folder: The sweep's folder.
        overrides: The sweep's command line, after the search space.
        slots: How many slots.
        epoch_seconds: How long an epoch takes.
        real: Whether waits take their time, for what another thread does meanwhile.
        resume: Whether to resume the sweep in the folder.
    """
    clock, marks = Clock(), dict[str, float]()
    base = ["data=mnist_5k", f"workers.count={slots}", "workers.devices=cpu", "tracking.register=false"]
    config = compose.defaults(quote_sweeps([*SPACE, *base, *overrides]))
    run = Sweep.run

    def started(sweep: Sweep) -> Any:
        marks["begin"], marks["cpu"] = clock(), time.process_time()
        try:
            return run(sweep)
        finally:
            marks["end"], marks["cpu_end"] = clock(), time.process_time()

    begin = time.monotonic()
    with (
        mock.patch.object(Plan, "start_workers", lambda *_: Simulated(slots, epoch_seconds, clock, real=real)),
        mock.patch.object(launch, "SteadyClock", lambda: clock),
        mock.patch.object(Sweep, "run", started),
        open(os.devnull, "w") as nowhere,
    ):
        at = time.monotonic()
        launch.run(config, folder, Console(file=nowhere, width=120), resume=resume)
    return {
        "span": marks["end"] - marks["begin"],
        "cpu": marks["cpu_end"] - marks["cpu"],
        "before": clock_seconds(marks["begin"], clock, begin),
        "wall": time.monotonic() - at,
        "journal": (folder / files.FILE).stat().st_size,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def clock_seconds(mark: float, clock: Clock, begin: float) -> float:
    return mark - clock._offset - begin


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["folder"] = Path(given["folder"])
    print(json.dumps(simulate(**given)))
