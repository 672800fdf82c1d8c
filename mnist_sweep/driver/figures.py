"""What the slots use while a sweep runs: for the live page, and for MLflow."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mnist_sweep.common.files import remove, write_whole
from mnist_sweep.journal.events import Event, TrialEnded, TrialStarted
from mnist_sweep.journal.files import SLOTS
from mnist_sweep.workers.devices import node_of
from mnist_sweep.workers.figures import EVERY, Figures

# Seconds after which a slot that sends no figures is left out.
_LASTS = 5 * EVERY
_MEGABYTE = 1e6
Log = Callable[[int, Mapping[str, float]], None]


class SlotFigures:
    """Takes what the slots use, writes the last figures of each to a file, and logs some of them for its trial."""

    def __init__(self, folder: Path, every: float, log: Log, clock: Callable[[], float]) -> None:
        """Has no figures yet.

        Args:
            folder: The sweep's folder.
            every: Seconds between two times that are logged for a trial. They are the means of what was measured.
            log: Takes the number of a trial and its figures, by MLflow's names.
            clock: The time in seconds since 1970.
        """
        self._path, self._every, self._log, self._clock = folder / SLOTS, every, log, clock
        self._last: dict[str, tuple[float, Figures]] = {}
        self._due: dict[int, float] = {}
        self._readings: dict[int, list[dict[str, float]]] = defaultdict(list)
        # The slots of the trials without figures, and such trials that have ended, by slot.
        self._without: dict[int, str] = {}
        self._ended: dict[str, list[int]] = defaultdict(list)

    def handle(self, *events: Event) -> None:
        """Takes the events of the sweep."""
        for event in events:
            if isinstance(event, TrialStarted) and event.trial.number not in self._due:
                self._without[event.trial.number] = event.slot
            elif isinstance(event, TrialEnded):
                slot = self._without.pop(event.trial, None)
                if slot:
                    # It was shorter than the time between two measurements: it gets the next one, which includes it.
                    self._ended[slot].append(event.trial)
                self._due.pop(event.trial, None)
                self._readings.pop(event.trial, None)

    def take(self, found: Iterable[Figures]) -> None:
        """Takes what was measured."""
        now = self._clock()
        for one in (found := list(found)):
            self._last[one.slot] = now, one
            metrics = logged(one)
            for trial in self._ended.pop(one.slot, ()):
                self._log(trial, metrics)
            if one.trial is not None and self._has_begun(one.trial):
                self._take(one.trial, metrics, now)
        if found:
            self._write(now)

    def _has_begun(self, trial: int) -> bool:
        return trial in self._without or trial in self._due

    def _take(self, trial: int, metrics: dict[str, float], now: float) -> None:
        self._without.pop(trial, None)
        readings = self._readings[trial]
        readings.append(metrics)
        if now >= self._due.get(trial, 0.0):
            self._due[trial] = now + self._every
            self._log(trial, {name: fmean(one[name] for one in readings if name in one) for name in metrics})
            readings.clear()

    def _write(self, now: float) -> None:
        self._last = {slot: last for slot, last in self._last.items() if now - last[0] < _LASTS}
        rows = [row(number, self._last[slot][1]) for number, slot in enumerate(sorted(self._last))]
        # Nothing depends on this file.
        with contextlib.suppress(OSError):
            write_whole(self._path, json.dumps({"time": now, "slots": rows}), flush=False)

    def close(self) -> None:
        """Logs the last figures of a slot for trials that have ended since, and removes the file."""
        for slot, trials in self._ended.items():
            for trial in trials if slot in self._last else ():
                self._log(trial, logged(self._last[slot][1]))
        self._ended.clear()
        with contextlib.suppress(OSError):
            remove(self._path)


def row(number: int, one: Figures) -> dict[str, Any]:
    """Returns a slot's figures as the file has them; those that are not known are left out."""
    measured = {
        "cpu_percent": one.cpu,
        "memory_bytes": one.memory,
        "memory_total_bytes": one.memory_total,
        "gpu_percent": one.gpu,
        "gpu_memory_bytes": one.gpu_memory,
        "gpu_memory_total_bytes": one.gpu_memory_total,
        "watts": one.watts,
    }
    return {
        "slot": number,
        "name": one.slot,
        "node": node_of(one.slot),
        "device": one.device,
        "trial": one.trial,
        **{key: round(value, 1) for key, value in measured.items() if value is not None},
    }


def logged(one: Figures) -> dict[str, float]:
    """Returns a slot's figures by the names that MLflow's own metrics of the system have."""
    found = {
        "cpu_utilization_percentage": one.cpu,
        "system_memory_usage_megabytes": None if one.memory is None else one.memory / _MEGABYTE,
        "system_memory_usage_percentage": _percentage(one.memory, one.memory_total),
    }
    if one.device.startswith("GPU "):
        gpu = f"gpu_{one.device.removeprefix('GPU ')}"
        found |= {
            f"{gpu}_utilization_percentage": one.gpu,
            f"{gpu}_memory_usage_megabytes": None if one.gpu_memory is None else one.gpu_memory / _MEGABYTE,
            f"{gpu}_memory_usage_percentage": _percentage(one.gpu_memory, one.gpu_memory_total),
            f"{gpu}_power_usage_watts": one.watts,
        }
    return {name: round(value, 1) for name, value in found.items() if value is not None}


def _percentage(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole
