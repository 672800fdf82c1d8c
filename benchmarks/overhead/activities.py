"""What the slots of a sweep did with their time, from its journal; it adds up to all of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mnist_sweep.journal.events import AttemptFailed, Event, TrialEnded, TrialStarted, WinnerTested

STEPS = ("train", "validate")
_PHASES = (*STEPS, "build", "trace", "checkpoint", "save", "wait")
START, BETWEEN, IDLE, TEST, AFTER = "start-up", "between trials", "idle", "winner's test", "after"
# In the order of the tables; `other` is the rest of a trial, which belongs to no phase, such as messages.
ACTIVITIES = (*_PHASES, "other", "failed", BETWEEN, START, IDLE, TEST, AFTER)
_OUTSIDE = (START, IDLE, TEST, AFTER)


@dataclass
class _Span:
    start: float
    end: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False


def by_slot(events: Iterable[Event], begin: float, end: float) -> dict[str, dict[str, float]]:
    """Returns what each slot did from a sweep's command to its exit.

    A slot is starting up until its first trial, and idle from the end of its last trial to the end of the very last
    one. All slots wait during the winner's test and what comes after it (the last of MLflow, the report, the registry).

    Args:
        events: Of a sweep that ended without an interruption.
        begin: When the command started, in seconds since 1970.
        end: When it exited.

    Returns:
        Seconds by slot and activity (`ACTIVITIES`); those of a slot add up to `end - begin`.
    """
    spans: defaultdict[str, list[_Span]] = defaultdict(list)
    running: dict[int, _Span] = {}
    last = tested = begin
    for event in events:
        if isinstance(event, TrialStarted):
            span = running[event.trial.number] = _Span(event.time)
            spans[event.slot].append(span)
        elif isinstance(event, TrialEnded | AttemptFailed) and event.trial in running:
            span = running.pop(event.trial)
            span.end = last = event.time
            span.failed = isinstance(event, AttemptFailed)
            span.phases = event.outcome.phases if isinstance(event, TrialEnded) else {}
        elif isinstance(event, WinnerTested):
            tested = event.time
    if running:
        raise ValueError(f"trials {sorted(running)} have no end")
    tested = max(tested, last)
    outside = {TEST: tested - last, AFTER: end - tested}
    return {slot: {**_slot(found, begin, last), **outside} for slot, found in sorted(spans.items())}


def _slot(spans: Iterable[_Span], begin: float, last: float) -> dict[str, float]:
    found, at, before = defaultdict[str, float](float), begin, START
    for span in spans:
        found[before] += span.start - at
        for phase, seconds in span.phases.items():
            found[phase] += seconds
        found["failed" if span.failed else "other"] += span.end - span.start - sum(span.phases.values())
        at, before = span.end, BETWEEN
    found[IDLE] += last - at
    return found


def together(slots: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the seconds of all slots by activity, in the order of `ACTIVITIES`, without those that took no time."""
    found = Counter[str]()
    for seconds in slots.values():
        found.update(seconds)
    names = [*ACTIVITIES, *sorted(found.keys() - set(ACTIVITIES))]
    return {name: float(found[name]) for name in names if found[name]}


def inside(seconds: Mapping[str, float]) -> float:
    """Returns the slot time from the start of each slot's first trial to the end of its last trial."""
    return sum(spent for name, spent in seconds.items() if name not in _OUTSIDE)


class Shares(NamedTuple):
    """The share of the slots' time that training and validation steps took.

    Attributes:
        within: From the start of each slot's first trial to the end of its last trial.
        from_command: From the command to the end of each slot's last trial.
        whole: From the command to its exit.
    """

    within: float
    from_command: float
    whole: float


def shares(seconds: Mapping[str, float]) -> Shares:
    """Returns the shares for what `together` returned."""
    steps, within = sum(seconds.get(name, 0.0) for name in STEPS), inside(seconds)
    return Shares(steps / within, steps / (within + seconds.get(START, 0.0)), steps / sum(seconds.values()))
