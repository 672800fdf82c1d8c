"""One sweep, run from its command line, and what it tells of itself."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import machine
from benchmarks.overhead import activities
from benchmarks.overhead.watch import Sample, Watch
from mnist_sweep.journal import folders, journal
from mnist_sweep.journal.events import EpochEnded, Event, SweepStarted, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Status

ROOT = Path(__file__).parents[2]
# What comes when a sweep is over, once, however long it was.
NOTHING_AFTER = ("tracking.report=false", "tracking.register=false")
_TINY = 80


@dataclass(frozen=True)
class Swept:
    """A sweep that was run.

    Attributes:
        events: Its journal.
        begin: When its command was given, in seconds since 1970.
        usage: What it took.
        driver_seconds: Processor time of its driver.
        samples: The memory of its workers, where that was asked for.
    """

    events: list[Event]
    begin: float
    usage: machine.Usage
    driver_seconds: float
    samples: list[Sample]

    def figures(self) -> dict[str, Any]:
        """What is kept of it, as plain data, times in seconds from its command."""
        slots = activities.by_slot(self.events, self.begin, self.begin + self.usage.wall_seconds)
        started = [event for event in self.events if isinstance(event, TrialStarted)]
        ended = [event for event in self.events if isinstance(event, TrialEnded)]
        return {
            **asdict(self.usage),
            "driver_seconds": self.driver_seconds,
            "trials": len(ended),
            "trial_seconds": sorted(event.outcome.seconds for event in ended)[len(ended) // 2],
            "slots": len(slots),
            "cores": machine.cores(),
            "begun": next(e.time for e in self.events if isinstance(e, SweepStarted)) - self.begin,
            "first_trial": started[0].time - self.begin,
            "last_trial": ended[-1].time - self.begin,
            "activities": activities.together(slots),
        }

    def first_step(self, batches: int) -> tuple[float, float]:
        """When the first step began and ended, in seconds from the command; the trials have one epoch.

        Args:
            batches: Of an epoch.
        """
        first = next(event for event in self.events if isinstance(event, EpochEnded))
        outcome = next(e.outcome for e in self.events if isinstance(e, TrialEnded) and e.trial == first.trial)
        begun = first.time - self.begin - sum(outcome.phases[name] for name in activities.STEPS)
        return begun, begun + outcome.phases["train"] / batches

    def memory(self) -> list[dict[str, Any]]:
        """The memory in MiB and the process of the only worker, when each trial had ended."""
        # What the workers are forked from has a log, too.
        slots = {event.slot for event in self.events if isinstance(event, TrialStarted)}
        samples = [sample for sample in self.samples if sample.slot in slots]
        found = []
        for event in self.events:
            if isinstance(event, TrialEnded):
                until = [sample for sample in samples if sample.time <= event.time]
                if not until:
                    raise RuntimeError("the worker was not found: it writes to workers/SLOT.log no more?")
                found.append({"rss": until[-1].rss, "pss": until[-1].pss, "pid": until[-1].pid})
        return found


def run(
    experiment: str,
    data: Path,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    off: str = "",
    memory: bool = False,
    keep: bool = False,
    timeout: float,
) -> Swept:
    """Runs a sweep.

    Args:
        experiment: The text of an experiment file.
        data: A Keras-style `.npz`.
        folder: For all that it writes; what is there is removed first.
        overrides: More of its command line.
        off: What it is to do without, `mlflow` or `mlflow,files` (`off/sitecustomize.py`).
        memory: Whether to look at its workers' memory.
        keep: Whether to keep the folder.
        timeout: Seconds.

    Raises:
        RuntimeError: It failed, a trial of it did, or it did what it was to do without.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "measured.yaml").write_text(experiment)
    log = folder / "log.txt"
    # The name of a set of one's own would be taken from its file's.
    arguments = ["+experiment=measured", "data=mnist", f"data.path={data.absolute()}", *overrides]
    with Watch(memory=memory) as watch:
        begin = time.time()
        usage = machine.measure(
            [sys.executable, "-m", "mnist_sweep", *arguments],
            cwd=folder,
            env=environment(off),
            log=log,
            timeout=timeout,
        )
    if usage.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"ended with {usage.returncode}: {' '.join(arguments)}; {log} ends with\n{tail}")
    events = list(journal.read(folders.sweeps(folder / "experiments")[-1]))
    lost = [e.outcome for e in events if isinstance(e, TrialEnded) and e.outcome.status is not Status.COMPLETED]
    if lost:
        raise RuntimeError(f"{len(lost)} trials were not completed, the first as {lost[0].reason}; see {folder}")
    unwanted = ["**/mlflow.db"] if off else []
    unwanted += ["**/model.h5", "**/state.npz"] if "files" in off else []
    if found := [path for pattern in unwanted for path in folder.glob(pattern)]:
        raise RuntimeError(f"{found[0]} is there, though it was to do without; mend off/sitecustomize.py")
    if not keep:
        shutil.rmtree(folder)
    return Swept(events, begin, usage, watch.driver_seconds, watch.samples)


def environment(off: str = "") -> dict[str, str]:
    """For the program: this one's, without another MLflow store, and with what it is to do without."""
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    hook = [str(Path(__file__).with_name("off"))] if off else []
    env["PYTHONPATH"] = os.pathsep.join([*hook, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env["PARTS_OFF"] = off
    return env


def same(trials: int, epochs: int = 1) -> str:
    """An experiment file: trials of Dense 16-16 whose learning rates differ, from a random search.

    Args:
        trials: How many.
        epochs: Of each.
    """
    return written(
        {
            "model": {"layers": 2, "units": 16, "dropout": 0.0},
            "optimizer": {"name": "adam", "learning_rate": "tag(log, interval(0.0001, 0.01))"},
            "training": {"batch_size": 128, "epochs": epochs},
            "search": {"max_trials": trials},
        }
    )


def written(content: Mapping[str, Any]) -> str:
    """An experiment file."""
    return "# @package _global_\n" + yaml.safe_dump(dict(content), sort_keys=False)


def tiny(path: Path) -> Path:
    """Writes images of noise, so few that an epoch is a single step.

    Args:
        path: The `.npz` to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", _TINY), ("test", _TINY // 4)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
    np.savez(path, allow_pickle=False, **arrays)
    return path
