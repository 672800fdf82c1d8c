"""Shows a running sweep: as a live table in a terminal, else as lines."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mnist_sweep.common.tables import PROGRESS_LINE, Column, can_redraw, fitting, progress_printer
from mnist_sweep.common.text import LONGEST_REASON, counted, format_duration, format_value, one_line, short_names
from mnist_sweep.driver.progress import Progress, Row
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SlotClosed,
    SlotLost,
    SlotOpened,
    Steered,
    SweepEnded,
    TrialEnded,
)
from mnist_sweep.journal.steering import what
from mnist_sweep.journal.trial import WITHOUT_RESULT, Status, Trial

_ROWS = 14
_COLOURS = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.STOPPED: "yellow",
    Status.DIVERGED: "yellow",
    Status.REFUSED: "yellow",
    Status.FAILED: "red",
}
_STARTING = "The workers are starting; importing Keras takes a few seconds."
# Seconds without a line after which one says what runs: at first, before the first trial has ended, and later.
_SOON, _SILENCE, _LONG_SILENCE = 10.0, 60.0, 600.0
# Narrower tables say what a trial does, but not where.
_WITH_SLOTS = 60
# Seconds that are not rounded to nothing.
_WORTH_SAYING = 0.05
# Characters that the hyperparameters get at least in the line of a trial.
_VALUES = 30


class Screen:
    """Shows a sweep's progress: as a live table in a terminal; as lines with a time in a file, a pipe or a notebook.

    A single run has a line for each epoch in both.
    """

    def __init__(self, progress: Progress, console: Console) -> None:
        """Takes what to show and where."""
        self.progress, self._console = progress, console
        self._redraws, self._print = can_redraw(console), progress_printer(console)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)
        self._has_table = self._redraws and not progress.single
        self._told, self._silence = progress.clock(), _SOON

    def __enter__(self) -> Screen:
        if self._has_table:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_table:
            self._live.stop()

    def handle(self, *events: Event) -> None:
        """Takes note of events, and prints their lines."""
        for event in events:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        before = self.progress.best()
        self.progress.handle(event)
        trials = self.progress.state.results.trials
        if isinstance(event, AttemptFailed):
            which = "" if self.progress.single else f"trial {event.trial}: "
            self._say(f"{which}{one_line(event.reason, LONGEST_REASON)}; it is retried", "yellow")
        elif isinstance(event, SlotLost):
            self._say(f"{event.slot} {one_line(event.reason)}", "red")
        elif isinstance(event, SlotOpened | SlotClosed):
            done = "opened" if isinstance(event, SlotOpened) else "closed"
            self._say(f"{event.slot} {done}: {event.reason}", "dim")
        elif isinstance(event, Steered):
            self._say(f"{event.by} {what(event)}", "cyan")
        elif isinstance(event, EpochEnded) and self.progress.single and event.trial in trials:
            self._say(self._epoch_line(event, trials[event.trial]))
        elif isinstance(event, TrialEnded) and event.trial in trials:
            row = self.progress.row(event.trial)
            if self.progress.single and row.trial.confirms is None:
                self._say(self._end_of_run(row), _COLOURS[row.status])
            else:
                self._say_end(row, is_best=self.progress.best() != before)

    def tick(self) -> None:
        """Prints what runs, if nothing was printed for some time. Called again and again."""
        progress = self.progress
        silence = _LONG_SILENCE if progress.state.results.outcomes else self._silence
        if self._has_table or progress.clock() - self._told < silence or isinstance(progress.state.last, SweepEnded):
            return
        self._say(self._heartbeat())
        self._silence = _SILENCE

    # ---- lines --------------------------------------------------------------------------------------------------

    def _say(self, line: str, style: str = "") -> None:
        self._told = self.progress.clock()
        self._print(line, style)

    @property
    def _room(self) -> int:
        """The most characters in a line, without the time."""
        return self._console.width if self._redraws else PROGRESS_LINE

    def _say_end(self, row: Row, *, is_best: bool) -> None:
        failed = row.status in WITHOUT_RESULT
        first = self.progress.first_alike(row.trial.number) if failed else None
        # The summary has the number of trials that failed alike. The table shows those with a result.
        repeats = first is not None and (self._has_table or row.status is Status.REFUSED)
        if not repeats and (failed or not self._has_table):
            style = "" if row.status is Status.COMPLETED else _COLOURS[row.status]
            self._say(self._end_line(row, first, is_best=is_best), style)

    def _end_line(self, row: Row, first: int | None, *, is_best: bool) -> str:
        """Returns the line of a trial that has ended; `first` is an earlier one that failed alike."""
        assert row.outcome is not None
        parts = [f"trial {_number(row)}", str(row.status)]
        if row.best is not None:
            best = ", the best so far" if is_best else ""
            parts.append(f"{self.progress.objective.name} {row.best:.4f} (epoch {row.outcome.best_epoch}{best})")
        if first is not None:
            parts.append(f"like trial {first}")
        elif row.outcome.reason:
            parts.append(one_line(row.outcome.reason, LONGEST_REASON))
        parts.append(format_duration(row.outcome.seconds))
        left = self.progress.seconds_left()
        ahead = "" if left is None or left < _WORTH_SAYING else f", about {format_duration(left)} left"
        after = "" if self._has_table else f"[{self.progress.done()}{ahead}]"
        room = self._room - len("  ".join([*parts, after])) - 2
        short = _short(tuple(self.progress.names))
        values = [f"{short.get(name, name)}={format_value(value)}" for name, value in row.trial.values.items()]
        shown = _as_many_as_fit(values, " ", max(room, _VALUES) if not self._has_table else 10**6)
        return "  ".join(filter(None, [*parts, shown, after]))

    def _heartbeat(self) -> str:
        running = self.progress.running
        if not running:
            return _STARTING if not self.progress.state.results.trials else self.progress.headline(busy=False)
        line = self.progress.headline(busy=False)
        if self.progress.single:
            return f"epoch {running[0].place} · {line}"
        places = [f"trial {_number(row)} epoch {row.place}" for row in running]
        return f"{line} · {_as_many_as_fit(places, ', ', max(_VALUES, self._room - len(line) - 3))}"

    # ---- a single run -------------------------------------------------------------------------------------------

    def _epoch_line(self, event: EpochEnded, trial: Trial) -> str:
        """An epoch's metrics, training before validation: as many as fit into the line, the objective among them."""
        objective, left = self.progress.objective.name, self.progress.seconds_left()
        executions, seed = len(trial.executions), trial.confirms and trial.config["training"]["seed"]
        parts = [] if trial.confirms is None else [f"seed {seed}"]
        parts += [f"training {event.execution}/{executions}"] if executions > 1 else []
        parts.append(f"epoch {event.epoch:{len(str(trial.epochs))}}/{trial.epochs}")
        names = [name for name in event.metrics if name not in ("epoch_seconds", "learning_rate")]
        texts = {
            name: f"{name} {_figure(event.metrics[name])}"
            for name in sorted(names, key=lambda name: (name.startswith("val_"), not name.endswith("loss"), name))
        }
        if (took := event.metrics.get("epoch_seconds", 0.0)) >= _WORTH_SAYING:
            texts["took"] = format_duration(took)
        if left:
            texts["left"] = f"about {format_duration(left)} left"
        first = (objective, objective.removeprefix("val_"), "val_loss", "loss")
        kept: set[str] = set()
        for name in sorted(texts, key=lambda name: first.index(name) if name in first else len(first)):
            line = [text for other, text in texts.items() if other in {*kept, name}]
            if name == objective or len("  ".join([*parts, *line])) <= self._room:
                kept.add(name)
        return "  ".join([*parts, *(text for name, text in texts.items() if name in kept)])

    def _end_of_run(self, row: Row) -> str:
        assert row.outcome is not None
        took = format_duration(row.outcome.seconds)
        reason = f": {one_line(row.outcome.reason, LONGEST_REASON)}" if row.outcome.reason else ""
        return f"{str(row.status).capitalize()} after {took}{reason}"

    # ---- the table ----------------------------------------------------------------------------------------------

    def _table(self) -> RenderableType:
        # The thread that redraws calls this, while the loop goes on.
        with self.progress.lock:
            return self._drawn()

    def _drawn(self) -> RenderableType:
        progress, width = self.progress, self._console.width
        finished, running, best = sorted(progress.state.results.outcomes), [*progress.state.open], progress.best()
        lines = self._console.height - 8
        # With many slots, the trials that have started last.
        most = max(1, lines - 1)
        running, hidden = running[-most:], max(0, len(running) - most)
        room = max(1, min(_ROWS, lines) - len(running))
        shown = {*finished[-room:], *running, *([] if best is None else [best])}
        rows = [progress.row(number) for number in sorted(shown)]
        scores = ["" if row.best is None else f"{row.best:.4f}" for row in rows]
        columns = [
            Column("trial", [f"{_number(row)}{' ★' if row.trial.number == best else ''}" for row in rows], weight=5),
            *(
                Column(end, [format_value(row.trial.values.get(name, "–")) for row in rows], weight=1)
                for name, end in short_names(progress.names).items()
            ),
            Column("epoch", [row.place for row in rows], weight=2),
            Column(progress.objective.name, scores, weight=4),
            Column("status", [_status(row, with_slot=width >= _WITH_SLOTS) for row in rows], weight=3),
        ]
        title = progress.state.started.sweep if progress.state.started else ""
        table, _ = fitting(columns, title, width)
        if not rows:
            return Text(_STARTING, style="dim")
        more = [Text(f"{counted(hidden, 'more trial')} {'is' if hidden == 1 else 'are'} running", "dim")]
        return Group(table, *(more if hidden else []), Text(progress.headline()))


@functools.lru_cache(1)
def _short(names: tuple[str, ...]) -> dict[str, str]:
    """The short names of the hyperparameters, which every line needs."""
    return short_names(list(names))


def _number(row: Row) -> str:
    retrains = row.trial.confirms
    return f"{row.trial.number}" + ("" if retrains is None else f" (retrains {retrains})")


def _status(row: Row, *, with_slot: bool) -> Text:
    place = f" on {row.slot}" if row.status is Status.RUNNING and with_slot else ""
    return Text(f"{row.status}{place}", _COLOURS[row.status])


def _figure(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else format_value(value)


def _as_many_as_fit(texts: Iterable[str], separator: str, room: int) -> str:
    """Joins texts, and ends with `…` where they do not all fit."""
    kept: list[str] = []
    texts = list(texts)
    for text in texts:
        end = separator.join([*kept, text]) + ("" if len(kept) == len(texts) - 1 else f"{separator}…")
        if len(end) > room:
            return separator.join([*kept, "…"])
        kept.append(text)
    return separator.join(kept)
