"""The sweeps that the page can show: how they are found, and what the overview says of each."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.cli.watch.live import Live
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.files import FILE
from mnist_sweep.journal.folders import SWEEPS, is_running, sweeps
from mnist_sweep.journal.leaderboard import score_text

# Sweeps that the overview shows, and those of them that run of which it shows more.
_SHOWN, _FOLLOWED = 200, 12
# Seconds after which a sweep that no page shows is forgotten.
_UNUSED = 120.0
_FIND = 2.0


class Sweeps:
    """Finds sweeps, and follows those that pages show."""

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        """Takes the folders of the sweeps to show.

        Args:
            folders: The folders; None for all of the project.
        """
        self._given, self._lock = folders, threading.Lock()
        self._names: dict[str, Path] = {}
        self._lives: dict[str, Live] = {}
        self._glances: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._found = -math.inf
        self._ordered: list[str] = []

    def live(self, name: str) -> Live | None:
        """Follows a sweep; None if it is not to be shown.

        Args:
            name: As the overview names it.
        """
        with self._lock:
            self._forget()
            if name not in self._names:
                self._find()
            if name not in self._lives and name in self._names:
                self._lives[name] = Live(self._names[name], name)
            return self._lives.get(name)

    def overview(self) -> dict[str, Any]:
        """Describes the sweeps: those that run first, then those that were written to last."""
        with self._lock:
            if time.monotonic() - self._found > _FIND:
                self._find()
            names = list(self._ordered)
        running = [name for name in names if is_running(self._names[name])]
        ended = [name for name in names if name not in running]
        shown = [*running, *ended][:_SHOWN]
        rows = []
        for name in shown:
            live = self.live(name) if name in running[:_FOLLOWED] else None
            found = _summary(live) if live is not None else self._glance(name, running=name in running)
            if found:
                rows.append({"name": name, **found})
        return {"sweeps": rows, "more": len(names) - len(shown)}

    def _find(self) -> None:
        folders = sweeps(SWEEPS) if self._given is None else self._given
        self._ordered = [name_of(folder) for folder in reversed(folders)]
        self._names = {name_of(folder): folder for folder in folders}
        self._found = time.monotonic()

    def _forget(self) -> None:
        for name, live in list(self._lives.items()):
            if time.monotonic() - live.used > _UNUSED:
                del self._lives[name]

    def _glance(self, name: str, *, running: bool) -> dict[str, Any]:
        folder = self._names[name]
        try:
            stat = (folder / FILE).stat()
            key = stat.st_size, stat.st_mtime_ns
            if folder not in self._glances or self._glances[folder][0] != key:
                self._glances[folder] = key, glance(folder)
        except OSError:
            return {}
        found = self._glances[folder][1]
        return {**found, "phase": "running"} if running and found else found


def name_of(folder: Path) -> str:
    """Returns how a command names a sweep: `NAME/TIME`, or its folder."""
    return str(folder.relative_to(SWEEPS)) if folder.is_relative_to(SWEEPS) else str(folder)


def _summary(live: Live) -> dict[str, Any]:
    live.update()
    return live.summary()


def glance(folder: Path) -> dict[str, Any]:
    """Reads of a sweep's journal what the overview shows, without the epochs.

    Args:
        folder: The sweep's folder.

    Returns:
        As `Live.summary`; empty if the journal is damaged.

    Raises:
        OSError: The journal cannot be read.
    """
    outcomes: dict[int, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    end: dict[str, Any] = {}
    started = last = 0.0
    retraining: set[int] = set()
    try:
        with open(folder / FILE, "rb") as file:
            for line in file:
                if line.startswith(b'{"event": "epoch_ended"') or not line.endswith(b"\n"):
                    continue
                event = json.loads(line)
                end, last = (event if event["event"] == "sweep_ended" else {}), event["time"]
                match event["event"]:
                    case "sweep_started" | "sweep_resumed":
                        config, started = event["config"], last
                    case "trial_started" if event["trial"].get("confirms") is not None:
                        retraining.add(event["trial"]["number"])
                    case "trial_ended":
                        outcomes[event["trial"]] = event["outcome"]
                    case "trials_retried":
                        for number in event["trials"]:
                            outcomes.pop(number, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    objective = _objective(config)
    searched = {n: o for n, o in outcomes.items() if n not in retraining and o.get("status") != "refused"}
    scores = {n: outcome["score"] for n, outcome in searched.items() if outcome.get("score") is not None}
    best = end.get("winner")
    if best not in scores and scores and objective is not None:
        best = max(scores, key=lambda number: objective.sign * scores[number])
    score = scores.get(best) if best is not None else None
    status = end.get("status")
    return {
        "phase": {"completed": "complete", "failed": "failed", None: "interrupted"}.get(status, "stopped"),
        "time": last,
        "ended": len(searched),
        "most": None,
        "running": 0,
        "started": started,
        "until": last,
        "left": None,
        "objective": objective.name if objective else "",
        "best": None if score is None or objective is None else {"trial": best, "score": score_text(objective, score)},
        "failed": sum(outcome.get("status") == "failed" for outcome in outcomes.values()),
        "reason": end.get("reason", ""),
    }


def _objective(config: dict[str, Any]) -> Objective | None:
    from mnist_sweep.config.settings import check_settings

    try:
        return check_settings(config).objective
    except (UserError, KeyError, TypeError):
        # Of an earlier version.
        return None
