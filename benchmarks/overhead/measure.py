"""Measures one sweep, or one short command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import sweeps
from benchmarks.harness.sweeps import Swept
from benchmarks.overhead import activities
from benchmarks.throughput.shapes import experiment_file
from mnist_sweep.journal.events import EpochEnded, SweepStarted, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Status

# What happens once, after a sweep, however long it was.
NOTHING_AFTER = ("tracking.report=false", "tracking.register=false")
_TINY = 80


def sweep(folder: Path, *, experiment: str, off: str = "", keep: bool = False, **options: Any) -> Swept:
    """Runs a sweep like `sweeps.run`, without report and registry unless `arguments` says otherwise.

    Raises:
        RuntimeError: It or a trial failed, or it did what was switched off.
    """
    options.setdefault("arguments", NOTHING_AFTER)
    swept = sweeps.run(folder=folder, experiment=experiment, off=off, **options)
    lost = [e.outcome for e in swept.events if isinstance(e, TrialEnded) and e.outcome.status is not Status.COMPLETED]
    if lost:
        raise RuntimeError(f"{len(lost)} trials were not completed, the first because {lost[0].reason}; see {folder}")
    unwanted = [*(["mlflow.db"] if off else []), *(["model.h5", "state.npz"] if "files" in off else [])]
    if found := [path for name in unwanted for path in folder.rglob(name)]:
        raise RuntimeError(f"{found[0]} was written, though it is switched off; correct off/sitecustomize.py")
    if not keep:
        shutil.rmtree(folder)
    return swept


def figures(swept: Swept) -> dict[str, Any]:
    """Returns what to record of a sweep; times are in seconds from its command."""
    slots = activities.by_slot(swept.events, swept.begin, swept.begin + swept.usage.wall_seconds)
    started = [event for event in swept.events if isinstance(event, TrialStarted)]
    ended = [event for event in swept.events if isinstance(event, TrialEnded)]
    return {
        **swept.usage.figures(),
        "trials": len(ended),
        "trial_seconds": sorted(event.outcome.seconds for event in ended)[len(ended) // 2],
        "slots": len(slots),
        "begun": next(event.time for event in swept.events if isinstance(event, SweepStarted)) - swept.begin,
        "first_trial": started[0].time - swept.begin,
        "last_trial": ended[-1].time - swept.begin,
        "activities": activities.together(slots),
    }


def first_step(swept: Swept, batches: int) -> tuple[float, float]:
    """Returns when the first step began and ended, in seconds from the command, if trials have one epoch."""
    first = next(event for event in swept.events if isinstance(event, EpochEnded))
    phases = next(e.outcome for e in swept.events if isinstance(e, TrialEnded) and e.trial == first.trial).phases
    begun = first.time - swept.begin - sum(phases[name] for name in activities.STEPS)
    return begun, begun + phases["train"] / batches


def memory(swept: Swept) -> list[dict[str, Any]]:
    """Returns the memory in MiB and the process of the only worker at the end of each trial."""
    # The process that workers are forked from has a log, too.
    slots = {event.slot for event in swept.events if isinstance(event, TrialStarted)}
    samples = [sample for sample in swept.usage.samples if sample.slot in slots]
    found = []
    for event in swept.events:
        if isinstance(event, TrialEnded):
            until = [sample for sample in samples if sample.time <= event.time]
            if not until:
                raise RuntimeError("the worker was not found; does it no longer write to workers/SLOT.log?")
            found.append({"rss": until[-1].rss, "pss": until[-1].pss, "pid": until[-1].pid})
    return found


def same(trials: int) -> str:
    """Returns an experiment file: a random search of one epoch of Dense 16-16 with different learning rates."""
    return experiment_file(
        {
            "model": {"layers": 2, "units": 16, "dropout": 0.0},
            "optimizer": {"name": "adam", "learning_rate": "tag(log, interval(0.0001, 0.01))"},
            "training": {"batch_size": 128, "epochs": 1},
            "search": {"max_trials": trials},
        }
    )


def tiny(path: Path) -> Path:
    """Writes an `.npz` of random images, so few that an epoch is a single step."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", _TINY), ("test", _TINY // 4)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
    np.savez(path, allow_pickle=False, **arrays)
    return path


# ---- short commands ----------------------------------------------------------------------------------------------

# In a small process of its own: what the kernel reports of a process's memory includes its parent's at the start.
_LAUNCHER = """if True:
    import json, os, sys, time
    nowhere = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
    start = time.perf_counter()
    pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
_TENSORFLOW = re.compile(r"^import time:.*\|\s+tensorflow$", re.MULTILINE)


def command(arguments: Sequence[str], folder: Path, returncode: int = 0) -> dict[str, Any]:
    """Runs Python twice and measures the second run.

    Args:
        arguments: Of Python.
        folder: The working directory.
        returncode: The expected exit status.

    Returns:
        Seconds of wall and processor time, the most memory in MiB of its largest process, and whether it loads
        TensorFlow, which the first run reports.

    Raises:
        RuntimeError: It ended with another status.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, *arguments]
    env = {**sweeps.environment(), "PYTHONPROFILEIMPORTTIME": "1"}
    first = subprocess.run(line, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, errors="replace")
    if first.returncode != returncode:
        lines = [line for line in first.stderr.splitlines() if not line.startswith("import time:")]
        raise RuntimeError(f"{' '.join(line)}: ended with {first.returncode}\n" + "\n".join(lines[-20:]))
    launched = [sys.executable, "-E", "-S", "-c", _LAUNCHER, *line]
    done = subprocess.run(launched, cwd=folder, env=sweeps.environment(), stdout=subprocess.PIPE, check=True)
    measured = dict(zip(("wall_seconds", "cpu_seconds", "peak_mib"), json.loads(done.stdout), strict=True))
    return {**measured, "tensorflow": bool(_TENSORFLOW.search(first.stderr))}
