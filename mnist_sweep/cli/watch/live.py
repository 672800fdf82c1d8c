"""A sweep as the page shows it: everything at first, then what has changed."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_sweep.cli.watch import form
from mnist_sweep.cli.watch.slots import slots
from mnist_sweep.cli.watch.story import Line, line
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.text import first_line, short_names
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver.progress import Progress
from mnist_sweep.driver.watched import Watched
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    ExecutionEnded,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepResumed,
    SweepStarted,
    TrialAdded,
    TrialEnded,
    TrialsRetried,
    TrialStarted,
    TrialStopped,
)
from mnist_sweep.journal.files import LOCK, SOCKET
from mnist_sweep.journal.leaderboard import leaderboard, metrics_text, score_text, verdict
from mnist_sweep.journal.ranking import Ranking

# The last lines of the story that the page gets.
_STORY = 300
# Seconds between two looks at the journal, however many pages are open.
_LOOK = 0.25
# Points of a sweep's line on the overview.
_STEPS = 60

_UNFINISHED = ("stopped", "failed", "interrupted")

Message = dict[str, Any]


@dataclass
class _Curve:
    """The objective of each epoch of a trial's execution.

    Attributes:
        execution: Which execution, counted from 1.
        first: The first epoch.
        born: When it began to differ from what was known before.
    """

    execution: int
    first: int
    born: int
    values: list[float | None] = field(default_factory=list)


class Live:
    """Follows a sweep for any number of pages.

    Attributes:
        folder: The sweep's folder.
        name: Its name, `NAME/TIME` or its folder.
        used: When a page has asked last, as `time.monotonic` says it.
    """

    def __init__(self, folder: Path, name: str, clock: Callable[[], float] = time.time) -> None:
        """Takes the sweep's folder."""
        self.folder, self.name, self._clock = folder, name, clock
        self.used = time.monotonic()
        self._watched, self._lock = Watched(folder, clock), threading.Lock()
        # Counts the looks at the journal: what has changed at which.
        self._version, self._looked = 0, -math.inf
        # A session may search other hyperparameters, so that everything is sent again.
        self._session = 0
        self._changed: dict[int, int] = {}
        self._curves: dict[int, _Curve] = {}
        self._story: deque[tuple[int, Line]] = deque(maxlen=_STORY)
        self._gone: set[str] = set()
        self._ranking: Ranking | None = None
        self._ranked = 0
        self._order: tuple[int, Message] = (0, {})
        self._trouble = ""

    def page(self) -> Page:
        """Returns what one page is told."""
        return Page(self)

    def update(self) -> None:
        """Reads what has happened since the last look, unless that was a moment ago."""
        with self._lock:
            self.used = now = time.monotonic()
            if now - self._looked < _LOOK:
                return
            self._version += 1
            try:
                best = self._watched.progress.best() if self._watched.progress else None
                for event in self._watched.new():
                    self._handle(event, best)
                    best = self._watched.progress.best() if self._watched.progress else None
            except (OSError, ValueError, UserError) as error:
                self._trouble = f"The journal cannot be read ({first_line(error, 200)})"
            self._looked = time.monotonic()

    def _handle(self, event: Event, best: int | None) -> None:
        progress = self._watched.progress
        if progress is None:
            return
        match event:
            case SweepStarted() | SweepResumed():
                self._session += 1
                objectives = check_settings(event.config).objectives
                results = progress.state.results
                # Those of this session are not known before a trial starts on them.
                self._gone |= progress.state.slots
                # The progress ranks by the first objective only.
                self._ranking = Ranking(objectives, results.trials, results.outcomes)
                self._ranked = self._version
            case TrialStarted():
                self._changed[event.trial.number] = self._version
                self._gone.discard(event.slot)
            case EpochEnded():
                self._changed[event.trial] = self._version
                self._grow(event, progress)
            case TrialEnded():
                self._changed[event.trial] = self._ranked = self._version
            case AttemptFailed() | ExecutionEnded() | TrialStopped() | TrialAdded():
                self._changed[event.trial] = self._version
            case TrialsRetried():
                self._changed |= dict.fromkeys(event.trials, self._version)
                self._ranked = self._version
                for number in event.trials:
                    self._curves.pop(number, None)
            case SlotLost() | SlotClosed():
                self._gone.add(event.slot)
            case SlotOpened():
                self._gone.discard(event.slot)
            case _:
                # Such as the retraining of the best.
                self._ranked = self._version
        if told := line(event, progress, best):
            self._story.append((self._version, told))

    def _grow(self, event: EpochEnded, progress: Progress) -> None:
        value = event.metrics.get(progress.objective.name)
        curve = self._curves.get(event.trial)
        place = 0 if curve is None else event.epoch - curve.first
        if curve is None or curve.execution != event.execution or not 0 <= place <= len(curve.values):
            curve = self._curves[event.trial] = _Curve(event.execution, event.epoch, self._version)
            place = 0
        shown = value if value is not None and math.isfinite(value) else None
        if place < len(curve.values) and curve.values[place] != shown:
            # A new attempt, which went another way.
            del curve.values[place:]
            curve.born = self._version
        if place == len(curve.values):
            curve.values.append(shown)

    # ---- what the page is told ----------------------------------------------------------------------------------

    def head(self) -> Message:
        """Returns what the top of the page shows."""
        watched, progress = self._watched, self._watched.progress
        phase = watched.phase
        head: Message = {"name": self.name, "phase": phase, "trouble": self._trouble, "now": self._clock()}
        if progress is None:
            return head
        state, results = progress.state, progress.state.results
        ended = state.ended
        last = state.last.time if state.last is not None and phase != "running" else None
        left = progress.seconds_left() if phase == "running" else None
        retraining = [n for n, trial in results.trials.items() if trial.confirms is not None]
        return head | {
            "objective": progress.objective.name,
            "maximize": progress.objective.maximize,
            "single": state.single,
            "ended": len(progress.counted),
            "most": progress.most,
            "retrained": sum(n in results.outcomes for n in retraining),
            "retraining": bool(retraining),
            "running": len(state.open),
            "slots": len((state.slots - self._gone) | {start.slot for start in state.open.values() if start.slot}),
            "limit": state.most_slots,
            "paused": state.paused,
            "started": progress.started,
            "until": last,
            "left": None if left is None else round(left, 1),
            "best": self._best(progress),
            "failed": len(state.failed),
            "refused": len(state.refused),
            "reason": ended.reason if ended else "",
            "tested": metrics_text(state.tested.metrics) if state.tested and state.tested.metrics else "",
            "resume": command(f"resume {shlex.quote(self.name)}") if phase in _UNFINISHED else "",
            "budget": form.budget(state),
            "queued": [
                {"trial": number, "values": _values(event.values), "by": event.by}
                for number, event in state.added.items()
            ],
        }

    def _best(self, progress: Progress) -> Message | None:
        number = progress.best()
        if number is None:
            return None
        results = progress.state.results
        score = results.outcomes[number].score
        return {
            "trial": number,
            "score": None if score is None else score_text(progress.objective, score),
            "verdict": verdict(results) if results.confirmed else "",
            "values": _values(results.trials[number].values),
        }

    def summary(self) -> Message:
        """Returns what the overview shows; empty before the sweep's first event."""
        with self._lock:
            progress = self._watched.progress
            if progress is None:
                return {}
            state, head = progress.state, self.head()
            kept = ("phase", "ended", "most", "running", "paused", "started", "until", "objective", "best", "failed")
            scores = [outcome.score for outcome in state.results.outcomes.values() if outcome.score is not None]
            return {
                **{key: head[key] for key in (*kept, "reason", "left", "slots", "retraining", "single")},
                "time": state.last.time if state.last is not None else 0.0,
                "maximize": head["maximize"],
                "scores": _steps(scores, maximize=progress.objective.maximize),
            }

    def slots(self) -> list[Message]:
        """Returns what each slot does, while the sweep runs."""
        watched = self._watched
        if watched.progress is None or watched.phase != "running":
            return []
        return slots(self.folder, watched.progress.state, self._gone, self._clock())

    def trial(self, number: int) -> Message:
        """Returns what the page shows of a trial that has started."""
        assert self._watched.progress is not None
        row, state = self._watched.progress.row(number), self._watched.progress.state
        outcome = row.outcome
        names = list(state.space)
        values = row.trial.values
        found = {
            "n": number,
            "s": str(row.status),
            "v": [form.value_of(values[name]) if name in values else None for name in names],
            "score": None if row.best is None or not math.isfinite(row.best) else row.best,
            "e": row.epoch,
            "of": row.trial.epochs,
            "place": row.place,
            "slot": row.slot,
            "confirms": row.trial.confirms,
            "parent": row.trial.parent,
            "by": row.trial.added_by,
            "stopping": state.stopped_by.get(number, "") if outcome is None else "",
        }
        if outcome is not None:
            found |= {
                "best": outcome.best_epoch,
                "size": outcome.parameters,
                "time": round(outcome.seconds, 2),
                "reason": outcome.reason,
            }
        return {key: value for key, value in found.items() if value not in (None, "") or key == "score"}

    def order(self) -> Message:
        """Returns the trials of the leaderboard, the best first, and what only the leaderboard knows of them."""
        if self._order[0] != self._ranked and self._ranking is not None:
            assert self._watched.progress is not None
            self._ranking.confirmed = self._watched.progress.state.results.confirmed
            rows = leaderboard(self._ranking).rows
            objective = self._ranking.objectives[0]
            order: Message = {"trials": [row.trial for row in rows], "ranks": sum(row.rank is not None for row in rows)}
            if len(self._ranking.objectives) > 1:
                order["others"] = [objective.name for objective in self._ranking.objectives[1:]]
                order["scores"] = {row.trial: list(row.scores[1:]) for row in rows}
                order["front"] = [row.trial for row in rows if row.on_front]
            again = {
                row.trial: score_text(objective, row.retrained, row.retrained_spread)
                for row in rows
                if row.retrained is not None
            }
            self._order = self._ranked, order | ({"again": again} if again else {})
        return self._order[1]

    def why_not(self) -> str:
        """Says why this process cannot steer the sweep; empty if it can."""
        if self._watched.phase not in ("running", "starting"):
            return "the sweep is not running"
        for name in (SOCKET, LOCK):
            try:
                owner = (self.folder / name).stat().st_uid
            except OSError:
                continue
            return "" if owner == os.getuid() else "only the user who runs the sweep can steer it"
        return "the sweep is starting"


class Page:
    """What one page has been told of a sweep."""

    def __init__(self, live: Live) -> None:
        """Starts before the first message."""
        self._live, self._seen, self._session = live, 0, -1
        # Of each curve: when it was born, and how many of its values were sent.
        self._sent: dict[int, tuple[int, int]] = {}
        self._last: Message = {}

    def next(self) -> Message:
        """Returns what has changed since the last call; everything at the first one. Empty if nothing has."""
        live = self._live
        live.update()
        with live._lock:
            message: Message = {}
            if live._session != self._session:
                self._session, self._seen, self._last = live._session, 0, {}
                self._sent.clear()
                message["all"] = True
            progress = live._watched.progress
            if progress is not None:
                self._add_trials(message, progress)
            parts: Message = {"head": live.head(), "slots": live.slots(), "why": live.why_not(), "order": live.order()}
            if progress is not None:
                parts["space"] = form.hyperparameters(progress.state)
            for name, part in parts.items():
                if _without_clock(part) != self._last.get(name):
                    message[name] = part
                    self._last[name] = _without_clock(part)
            self._seen = live._version
            return message

    def _add_trials(self, message: Message, progress: Progress) -> None:
        live = self._live
        known = progress.state.results.trials
        changed = [number for number, version in live._changed.items() if version > self._seen and number in known]
        if changed:
            message["trials"] = [live.trial(number) for number in changed]
            message["curves"] = [curve for number in changed if (curve := self._curve(number))]
        if lines := [told for version, told in live._story if version > self._seen]:
            message["story"] = lines

    def _curve(self, number: int) -> list[Any] | None:
        """Returns a trial, the first epoch, how many values are kept, and the values after those."""
        curve, (born, count) = self._live._curves.get(number), self._sent.get(number, (0, 0))
        if curve is None:
            self._sent.pop(number, None)
            return [number, 1, 0, []] if count else None
        kept = count if born == curve.born else 0
        self._sent[number] = curve.born, len(curve.values)
        new = curve.values[kept:]
        return [number, curve.first, kept, new] if new or kept != count else None


def _without_clock(part: Any) -> Any:
    """Returns what is compared to tell whether a part has changed: the page's own clock goes on by itself."""
    if isinstance(part, Mapping) and "now" in part:
        # The estimate changes all the time, a little.
        return {**part, "now": 0, "left": None if part.get("left") is None else round(math.log1p(part["left"]), 1)}
    return part


def _steps(scores: Sequence[float], *, maximize: bool) -> list[float]:
    """Returns the best score so far, of each of at most `_STEPS` trials evenly spread."""
    best = list(itertools.accumulate(filter(math.isfinite, scores), max if maximize else min))
    every = max(1, math.ceil(len(best) / _STEPS))
    return best[::-every][::-1]


def _values(values: Mapping[str, Any]) -> list[list[Any]]:
    short = short_names(list(values))
    return [[short[name], form.value_of(value)] for name, value in values.items()]
