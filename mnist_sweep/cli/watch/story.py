"""What happens in a sweep, as lines for the page."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mnist_sweep.common.text import LONGEST_REASON, format_duration, numbered, one_line
from mnist_sweep.driver.progress import Progress
from mnist_sweep.journal.events import (
    AttemptFailed,
    Confirmed,
    Event,
    SlotClosed,
    SlotLost,
    SlotOpened,
    Steered,
    SweepEnded,
    SweepResumed,
    SweepStarted,
    TrialEnded,
    TrialsRetried,
    WinnerTested,
)
from mnist_sweep.journal.leaderboard import metrics_text, score_text, verdict
from mnist_sweep.journal.steering import what
from mnist_sweep.journal.trial import WITHOUT_RESULT, Status

Mark = Literal["best", "bad", "steered", "sweep", "slot", "trial"]


class Line(NamedTuple):
    """Something that happened.

    Attributes:
        time: When, in seconds since 1970.
        mark: What kind of thing it is. Everything but `trial` and `slot` matters to somebody who was away.
        text: What, as a sentence without a full stop.
    """

    time: float
    mark: Mark
    text: str


def line(event: Event, progress: Progress, best_before: int | None) -> Line | None:
    """Describes an event.

    Args:
        event: The event.
        progress: The sweep after it.
        best_before: The best trial before it.

    Returns:
        Its line; None if it needs none, as the page shows it elsewhere.
    """
    match event:
        case TrialEnded() if event.trial in progress.state.results.trials:
            return _trial(event, progress, is_best=progress.best() == event.trial != best_before)
        case SweepStarted():
            return Line(event.time, "sweep", "The sweep started")
        case SweepResumed():
            return Line(event.time, "sweep", "The sweep was resumed")
        case AttemptFailed():
            reason = one_line(event.reason, LONGEST_REASON)
            return Line(event.time, "bad", f"Trial {event.trial}: {reason}; it is retried")
        case TrialsRetried():
            are = "is" if len(event.trials) == 1 else "are"
            return Line(event.time, "steered", f"{numbered('Trial', event.trials)} {are} trained again")
        case Steered():
            return Line(event.time, "steered", f"{event.by} {what(event)}")
        case SlotLost():
            return Line(event.time, "bad", f"{event.slot} {one_line(event.reason, LONGEST_REASON)}")
        case SlotOpened() | SlotClosed():
            done = "opened" if isinstance(event, SlotOpened) else "closed"
            return Line(event.time, "slot", f"{event.slot} {done}: {event.reason}")
        case Confirmed():
            return Line(event.time, "best", f"The best is trial {event.winner}: {verdict(progress.state.results)}")
        case WinnerTested():
            if event.error:
                reason = one_line(event.error, LONGEST_REASON)
                return Line(event.time, "bad", f"Trial {event.trial} could not be tested: {reason}")
            return Line(event.time, "best", f"Trial {event.trial} was tested: {metrics_text(event.metrics)}")
        case SweepEnded():
            how = {Status.COMPLETED: "is complete", Status.FAILED: "failed"}.get(event.status, "stopped")
            mark: Mark = "bad" if event.status is Status.FAILED else "sweep"
            return Line(event.time, mark, f"The sweep {how}{f': {event.reason}' if event.reason else ''}")
    return None


def _trial(event: TrialEnded, progress: Progress, *, is_best: bool) -> Line:
    outcome, trial = event.outcome, progress.state.results.trials[event.trial]
    objective = progress.objective
    which = f"Trial {event.trial}" + ("" if trial.confirms is None else f", which retrains trial {trial.confirms},")
    score = "" if outcome.score is None else f", {objective.name} {score_text(objective, outcome.score)}"
    best = ", the best so far" if is_best else ""
    took = f" after {format_duration(outcome.seconds)}" if outcome.seconds else ""
    reason = f" ({one_line(outcome.reason, LONGEST_REASON)})" if outcome.reason else ""
    mark: Mark = "best" if is_best else "bad" if outcome.status in WITHOUT_RESULT else "trial"
    return Line(event.time, mark, f"{which} {outcome.status}{took}{score}{best}{reason}")
