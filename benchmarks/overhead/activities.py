"""What the time of a sweep's slots was spent on, by its journal; it adds up to all of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnist_sweep.journal.events import AttemptFailed, Event, TrialEnded, TrialStarted, WinnerTested

STEPS = ("train", "validate")
_PHASES = (*STEPS, "build", "trace", "checkpoint", "save", "wait")
START, BETWEEN, IDLE, TEST, AFTER = "start-up", "between trials", "idle", "winner's test", "after"
# In the order in which they are told; `other` is the rest of a trial, which no phase has, messages included.
ACTIVITIES = (*_PHASES, "other", "failed", BETWEEN, START, IDLE, TEST, AFTER)
_OUTSIDE = (START, IDLE, TEST, AFTER)


@dataclass
class _Span:
    start: float
    end: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False


def by_slot(events: Iterable[Event], begin: float, end: float) -> dict[str, dict[str, float]]:
    """What each slot did from a sweep's command to its exit.

    A slot is starting up until its first trial; it is idle from its last trial's end to the last trial's of all. The
    winner's test, and what comes after it (the last of MLflow, the report, the registry), keep all slots waiting.

    Args:
        events: Of a sweep that came to its end without an interruption.
        begin: When the command was given, in seconds since 1970.
        end: When it was done.

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


def _slot(spans: Iterable[_Span], begin: float, last: float) -> Counter[str]:
    found, at, before = Counter[str](), begin, START
    for span in spans:
        found[before] += span.start - at  # type: ignore[assignment]
        found.update(span.phases)
        rest = span.end - span.start - sum(span.phases.values())
        found["failed" if span.failed else "other"] += rest  # type: ignore[assignment]
        at, before = span.end, BETWEEN
    found[IDLE] += last - at  # type: ignore[assignment]
    return found


def together(slots: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seconds of all slots by activity, in the order of `ACTIVITIES`, without those that took no time."""
    found = Counter[str]()
    for seconds in slots.values():
        found.update(seconds)
    names = [*ACTIVITIES, *sorted(found.keys() - set(ACTIVITIES))]
    return {name: float(found[name]) for name in names if found[name]}


@dataclass(frozen=True)
class Shares:
    """How much of the slots' time training and validation steps took.

    Attributes:
        within: From each slot's first trial's start to its last trial's end.
        from_command: From the command to each slot's last trial's end.
        whole: From the command to its exit.
    """

    within: float
    from_command: float
    whole: float

    @classmethod
    def of(cls, seconds: Mapping[str, float]) -> Shares:
        """Of what `together` returned."""
        steps, whole = sum(seconds.get(name, 0.0) for name in STEPS), sum(seconds.values())
        within = inside(seconds)
        return cls(steps / within, steps / (within + seconds.get(START, 0.0)), steps / whole)


def inside(seconds: Mapping[str, float]) -> float:
    """The slot time from each slot's first trial's start to its last trial's end."""
    return sum(spent for name, spent in seconds.items() if name not in _OUTSIDE)
