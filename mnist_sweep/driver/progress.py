"""Shows a running sweep: as a live table, or a line for each finished trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mnist_sweep.common.tables import Column, fitting
from mnist_sweep.common.text import LONGEST_REASON, format_duration, format_value, one_line, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import SearchConfig
from mnist_sweep.config.units import seconds
from mnist_sweep.journal.events import AttemptFailed, Event, SlotClosed, SlotLost, SlotOpened, TrialEnded
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome, Status, Trial

_ROWS = 14
_COLOURS = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.STOPPED: "yellow",
    Status.REFUSED: "yellow",
    Status.FAILED: "red",
}


@dataclass(frozen=True)
class _Row:
    """A trial: where it runs, what it has reached, and how it ended."""

    trial: Trial
    slot: str
    epoch: int
    execution: int
    best: float | None
    outcome: Outcome | None

    @property
    def status(self) -> Status:
        return Status.RUNNING if self.outcome is None else self.outcome.status


class Progress:
    """How far a running sweep is, and when it is expected to end.

    Attributes:
        state: The state of the sweep.
        started: When this session started.
        most: The most trials that the search can have; None if there is no limit.
        store: Says why MLflow waits; "" if it does not.
    """

    def __init__(
        self, objective: Objective, budget: SearchConfig, slots: int, size: int | None, clock: Callable[[], float]
    ) -> None:
        """Starts the clock.

        Args:
            objective: What is optimized.
            budget: When the sweep ends.
            slots: How many trials run at once.
            size: How many combinations of values the space holds; None if they cannot be counted.
            clock: The time in seconds since 1970.
        """
        self.objective, self.clock, self.started = objective, clock, clock()
        self.state = SweepState((objective,))
        self.store: Callable[[], str] = str
        self._slots = slots
        repeats = budget.algorithm in ("hyperband", "pbt")
        self.most = min((n for n in (budget.max_trials, None if repeats else size) if n is not None), default=None)
        self._seconds = seconds(budget.time_budget) if budget.time_budget else None

    def handle(self, event: Event) -> None:
        """Takes note of an event."""
        self.state.handle(event)

    @property
    def names(self) -> list[str]:
        """The names of the hyperparameters."""
        return list(self.state.started.space) if self.state.started else []

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        return self._slots + self.state.slots_added

    @property
    def running(self) -> list[_Row]:
        """The trials that run now, or wait to be retried."""
        return [self.row(number) for number in self.state.open]

    @property
    def counted(self) -> list[int]:
        """The trials of the search that have ended: without those that were refused, or retrain others."""
        results = self.state.results
        return [number for number in results.trials if number in results.outcomes and number in self.state.searched]

    def row(self, number: int) -> _Row:
        """Returns what is known of a trial that has started."""
        state, results = self.state, self.state.results
        trial, outcome = results.trials[number], results.outcomes.get(number)
        start, latest, best = state.open.get(number), state.latest.get(number), None
        if latest is not None and start is not None and latest.attempt < start.attempt:
            # A new attempt has not reported anything yet.
            latest = None
        if outcome is not None:
            best = outcome.score
        elif latest is not None:
            parts = [state.epochs.get((number, 1 + i), {}) for i in range(latest.execution)]
            for score in (metrics[self.objective.name] for part in parts for metrics in part.values()):
                best = score if self.objective.better(score, best) else best
        slot, epoch, execution = (
            start.slot if start else "",
            latest.epoch if latest else 0,
            latest.execution if latest else 1,
        )
        return _Row(trial, slot, epoch, execution, best, outcome)

    def best(self) -> int | None:
        """The best trial of those that have ended, the first of equal ones."""
        best, score = None, None
        for number in self.counted:
            found = self.state.results.outcomes[number].score
            if found is not None and self.objective.better(found, score):
                best, score = number, found
        return best

    def seconds_left(self) -> float | None:
        """An estimate from the mean duration of the trials so far; None before there is one."""
        elapsed = self.clock() - self.started
        limit = None if self._seconds is None else max(0.0, self._seconds - elapsed)
        done = [outcome.seconds for outcome in self.state.results.outcomes.values() if outcome.seconds > 0]
        if self.most is None or not done:
            return limit
        running = self.running
        if any(row.trial.confirms is not None for row in running):
            return None
        ahead = self.most - len(self.counted) - sum(self._part(row) for row in running)
        estimate = max(0.0, ahead) * sum(done) / len(done) / max(self.slots, 1)
        return estimate if limit is None else min(limit, estimate)

    @staticmethod
    def _part(row: _Row) -> float:
        """How much of a trial is done."""
        executions = max(len(row.trial.executions), 1)
        return (row.execution - 1 + row.epoch / max(row.trial.epochs, 1)) / executions

    def headline(self, *, busy: bool = True) -> str:
        """One line on the sweep so far.

        Args:
            busy: Whether to say how many slots are busy. When a trial has just ended, its slot never is.
        """
        results, done = self.state.results, len(self.counted)
        count = f"{done}" + (f" of {self.most}" if self.most is not None else "")
        parts = [f"{count} trial{'' if count == '1' or self.most == 1 else 's'} done"]
        retrained = [number for number, trial in results.trials.items() if trial.confirms is not None]
        if retrained:
            parts.append(f"{sum(number in results.outcomes for number in retrained)} retrainings of the best done")
        slots = f"{self.slots} slot{'' if self.slots == 1 else 's'}"
        parts.append(f"{len(self.state.open)} of {slots} busy" if busy else slots)
        parts.append(f"{format_duration(self.clock() - self.started)} elapsed")
        left = self.seconds_left()
        if left is not None and self.state.ended is None:
            parts.append(f"about {format_duration(left)} left")
        best = self.best()
        if best is not None:
            parts.append(f"best {self.objective.name} {results.outcomes[best].score:.4f} (trial {best})")
        if store := self.store():
            parts.append(store)
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
                f"trial {event.trial}: {one_line(event.reason, LONGEST_REASON)}; it is retried",
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
        elif isinstance(event, TrialEnded) and event.trial in self.progress.state.results.trials:
            self._print_end(event)

    def _print_end(self, event: TrialEnded) -> None:
        # In a terminal, the table shows all but the failures.
        if not self._console.is_terminal or event.outcome.status is Status.FAILED:
            self._console.print(self._line(self.progress.row(event.trial)), highlight=False, soft_wrap=True)

    def _line(self, row: _Row) -> Text:
        assert row.outcome is not None
        text = Text(f"trial {self._number(row)}  ")
        text.append(str(row.status), style=_COLOURS[row.status])
        if row.best is not None:
            text.append(f"  {self.progress.objective.name} {row.best:.4f} (epoch {row.outcome.best_epoch})")
        if row.outcome.reason:
            text.append(f"  {one_line(row.outcome.reason, LONGEST_REASON)}")
        short = short_names(self.progress.names)
        values = [f"{short.get(name, name)}={format_value(value)}" for name, value in row.trial.values.items()]
        text.append(f"  {format_duration(row.outcome.seconds)}  {' '.join(values)}")
        if not self._console.is_terminal:
            text.append(f"  [{self.progress.headline(busy=False)}]")
        return text

    def _table(self) -> RenderableType:
        progress = self.progress
        finished, running, best = sorted(progress.state.results.outcomes), progress.running, progress.best()
        room = max(1, min(_ROWS, self._console.height - 8) - len(running))
        shown = {*finished[-room:], *([] if best is None else [best])}
        rows = sorted([*map(progress.row, shown), *running], key=lambda row: row.trial.number)
        short = short_names(progress.names)
        columns = [
            Column(
                "trial", [f"{self._number(row)}{' ★' if row.trial.number == best else ''}" for row in rows], weight=2
            ),
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
        title = progress.state.started.sweep if progress.state.started else ""
        table, _ = fitting(columns, title, self._console.width)
        if rows:
            return Group(table, Text(progress.headline()))
        return Text("The workers are starting; importing Keras takes a few seconds.", style="dim")

    @staticmethod
    def _number(row: _Row) -> str:
        retrains = row.trial.confirms
        return f"{row.trial.number}" + ("" if retrains is None else f" (retrains {retrains})")

    @staticmethod
    def _epoch(row: _Row) -> str:
        executions = len(row.trial.executions)
        which = f" ({row.execution}/{executions})" if executions > 1 else ""
        return f"{row.epoch}/{row.trial.epochs}{which}"

    @staticmethod
    def _status(row: _Row) -> Text:
        place = f" on {row.slot}" if row.status is Status.RUNNING else ""
        return Text(f"{row.status}{place}", _COLOURS[row.status])
