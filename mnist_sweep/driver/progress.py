"""Events → what the user sees while a sweep runs: a live table, or a line for each finished trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mnist_sweep.common.tables import Column, fitting
from mnist_sweep.common.text import LONGEST_REASON, format_duration, format_value, one_line, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import SearchConfig
from mnist_sweep.config.units import seconds
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SlotClosed,
    SlotLost,
    SlotOpened,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialEnded,
    TrialStarted,
)
from mnist_sweep.journal.trial import Outcome, Status, Trial

_ROWS = 14
_COLOURS = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.STOPPED: "yellow",
    Status.REFUSED: "yellow",
    Status.FAILED: "red",
}


@dataclass
class _Row:
    trial: Trial
    slot: str = ""
    attempt: int = 1
    epoch: int = 0
    execution: int = 1
    best: float | None = None
    status: Status = Status.RUNNING
    outcome: Outcome | None = None


class Progress:
    """What is known of a running sweep, and its estimates."""

    def __init__(
        self, objective: Objective, budget: SearchConfig, slots: int, size: int | None, clock: Callable[[], float]
    ) -> None:
        """Starts the clock.

        Args:
            objective: What is optimised.
            budget: When the sweep ends.
            slots: How many trials run at once.
            size: How many settings the space holds; None where they cannot be counted.
            clock: The time in seconds since 1970.
        """
        self.objective, self.clock = objective, clock
        self._places, self._more = slots, 0
        self.rows: dict[int, _Row] = {}
        self.names: list[str] = []
        self.sweep = ""
        self.started = clock()
        self.ended = False
        goes_on = budget.algorithm in ("hyperband", "pbt")
        limits = [n for n in (budget.max_trials, None if goes_on else size) if n is not None]
        self.most = min(limits, default=None)
        self._seconds = seconds(budget.time_budget) if budget.time_budget else None

    def handle(self, event: Event) -> None:
        """Takes note of an event."""
        if isinstance(event, SweepStarted):
            self.sweep, self.names = event.sweep, list(event.space)
        elif isinstance(event, TrialStarted):
            self.rows[event.trial.number] = _Row(event.trial, event.slot, event.attempt)
        elif isinstance(event, EpochEnded):
            row, score = self.rows[event.trial], event.metrics[self.objective.name]
            row.epoch, row.execution = event.epoch, event.execution
            if self.objective.better(score, row.best):
                row.best = score
        elif isinstance(event, TrialEnded) and event.trial in self.rows:
            row = self.rows[event.trial]
            row.status, row.outcome, row.best = event.outcome.status, event.outcome, event.outcome.score
        elif isinstance(event, SlotOpened):
            self._more += 1
        elif isinstance(event, SlotClosed | SlotLost):
            self._more -= 1
        elif isinstance(event, SweepResumed):
            self._more = 0
        elif isinstance(event, SweepEnded):
            self.ended = True

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        return self._places + self._more

    @property
    def finished(self) -> list[_Row]:
        """The trials that have ended."""
        return [row for row in self.rows.values() if row.outcome is not None]

    @property
    def counted(self) -> list[_Row]:
        """Those of the finished that the search has had: not refused, and not confirming others."""
        return [row for row in self.finished if row.trial.confirms is None and row.status is not Status.REFUSED]

    @property
    def running(self) -> list[_Row]:
        """The trials that run now."""
        return [row for row in self.rows.values() if row.status is Status.RUNNING]

    def best(self) -> _Row | None:
        """The best trial so far, of those that have ended."""
        best: _Row | None = None
        for row in self.counted:
            if row.best is not None and self.objective.better(row.best, best.best if best else None):
                best = row
        return best

    def seconds_left(self) -> float | None:
        """An estimate from the mean duration of the trials so far; None before there is one."""
        elapsed = self.clock() - self.started
        limit = None if self._seconds is None else max(0.0, self._seconds - elapsed)
        done = [row.outcome.seconds for row in self.finished if row.outcome and row.outcome.seconds > 0]
        if self.most is None or not done:
            return limit
        ahead = self.most - len(self.counted) - sum(self._part(row) for row in self.running)
        if any(row.trial.confirms is not None for row in self.running):
            return None
        estimate = max(0.0, ahead) * sum(done) / len(done) / max(self.slots, 1)
        return estimate if limit is None else min(limit, estimate)

    @staticmethod
    def _part(row: _Row) -> float:
        """How much of a trial is done."""
        executions = max(len(row.trial.executions), 1)
        return (row.execution - 1 + row.epoch / max(row.trial.epochs, 1)) / executions

    def headline(self, *, busy: bool = True) -> str:
        """One line on how the sweep stands.

        Args:
            busy: Whether to say how many slots are busy. When a trial has just ended, its own never is, which says
                nothing.
        """
        count = f"{len(self.counted)}" + (f" of {self.most}" if self.most is not None else "")
        parts = [f"{count} trial{'' if count == '1' or self.most == 1 else 's'} done"]
        anew = [row for row in self.rows.values() if row.trial.confirms is not None]
        if anew:
            parts.append(f"{sum(row.outcome is not None for row in anew)} of the best trained anew")
        slots = f"{self.slots} slot{'' if self.slots == 1 else 's'}"
        parts.append(f"{len(self.running)} of {slots} busy" if busy else slots)
        parts.append(f"{format_duration(self.clock() - self.started)} elapsed")
        left = self.seconds_left()
        if left is not None and not self.ended:
            parts.append(f"about {format_duration(left)} left")
        best = self.best()
        if best is not None and best.best is not None:
            parts.append(f"best {self.objective.name} {best.best:.4f} (trial {best.trial.number})")
        return " · ".join(parts)


class Screen:
    """Shows a sweep's progress: as a live table in a terminal, else as lines."""

    def __init__(self, progress: Progress, console: Console) -> None:
        """Takes what to show and where."""
        self.progress, self._console = progress, console
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def handle(self, event: Event) -> None:
        """Takes note of an event, and prints its line."""
        self.progress.handle(event)
        if isinstance(event, AttemptFailed):
            self._console.print(
                f"trial {event.trial}: {one_line(event.reason, LONGEST_REASON)}; it is tried again",
                style="yellow",
                markup=False,
                highlight=False,
            )
        elif isinstance(event, SlotLost):
            self._console.print(f"{event.slot} {event.reason}", style="red", markup=False, highlight=False)
        elif isinstance(event, SlotOpened | SlotClosed):
            done = "opened" if isinstance(event, SlotOpened) else "closed"
            line = f"{event.slot} {done}: {event.reason}"
            self._console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
        elif isinstance(event, TrialEnded) and event.trial in self.progress.rows and self._tells(event.outcome):
            self._console.print(self._line(self.progress.rows[event.trial]), highlight=False, soft_wrap=True)

    def _tells(self, outcome: Outcome) -> bool:
        """Whether an end is worth a line: in a terminal, where the table shows the rest, a failure only."""
        return not self._console.is_terminal or outcome.status is Status.FAILED

    def _line(self, row: _Row) -> Text:
        assert row.outcome is not None
        text = Text(f"trial {self._number(row)}  ")
        text.append(str(row.status), style=_COLOURS[row.status])
        if row.best is not None:
            text.append(f"  {self.progress.objective.name} {row.best:.4f} (epoch {row.outcome.best_epoch})")
        if row.outcome.reason:
            text.append(f"  {one_line(row.outcome.reason, LONGEST_REASON)}")
        settings = self._values(row.trial.values)
        text.append(f"  {format_duration(row.outcome.seconds)}  {' '.join(f'{n}={v}' for n, v in settings.items())}")
        if not self._console.is_terminal:
            text.append(f"  [{self.progress.headline(busy=False)}]")
        return text

    def _values(self, values: Mapping[str, Any]) -> dict[str, str]:
        short = short_names(self.progress.names)
        return {short.get(name, name): format_value(value) for name, value in values.items()}

    def _table(self) -> RenderableType:
        progress = self.progress
        finished = sorted(progress.finished, key=lambda row: row.trial.number)
        best = progress.best()
        room = max(1, min(_ROWS, self._console.height - 8) - len(progress.running))
        rows = [
            *([best] if best and best not in finished[-room:] else []),
            *finished[-room:],
            *progress.running,
        ]
        rows.sort(key=lambda row: row.trial.number)
        short = short_names(progress.names)
        columns = [
            Column("trial", [f"{self._number(row)}{' ★' if row is best else ''}" for row in rows], weight=2),
            *(
                Column(end, [format_value(row.trial.values.get(name, "–")) for row in rows], weight=1)
                for name, end in short.items()
            ),
            Column("epoch", [self._epoch(row) for row in rows], weight=2),
            Column(
                progress.objective.name,
                ["" if row.best is None else f"{row.best:.4f}" for row in rows],
                weight=2,
            ),
            Column("status", [self._status(row) for row in rows], weight=1),
        ]
        table, _ = fitting(columns, progress.sweep, self._console.width)
        if rows:
            return Group(table, Text(progress.headline()))
        return Text("The workers are starting; importing Keras takes some seconds.", style="dim")

    @staticmethod
    def _number(row: _Row) -> str:
        again = row.trial.confirms
        return f"{row.trial.number}" + ("" if again is None else f" ({again} anew)")

    @staticmethod
    def _epoch(row: _Row) -> str:
        executions = len(row.trial.executions)
        which = f" ({row.execution}/{executions})" if executions > 1 else ""
        return f"{row.epoch}/{row.trial.epochs}{which}"

    @staticmethod
    def _status(row: _Row) -> Text:
        place = f" on {row.slot}" if row.status is Status.RUNNING else ""
        return Text(f"{row.status}{place}", _COLOURS[row.status])
