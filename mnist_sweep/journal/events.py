"""The events that tell a sweep's story."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from mnist_sweep.common.text import printable
from mnist_sweep.journal.trial import Outcome, Status, Trial

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# Characters of a worker's output that an event keeps.
_LONGEST_LOG = 8000


@dataclass(frozen=True)
class Event:
    """Something that happened, at `time` (seconds since 1970)."""

    time: float
    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The event as plain data, with its kind."""
        return {"event": self.kind, **asdict(self)}


class Listener(Protocol):
    """Takes the events of a sweep as they happen: the journal, the loop's state, MLflow, the screen."""

    def handle(self, event: Event) -> None:
        """Takes an event."""


@dataclass(frozen=True)
class SweepStarted(Event):
    """The first event.

    Attributes:
        sweep: `name/time`, which is also the folder under `experiments/`.
        config: The sweep's config as the user wrote it, sweeps included.
        space: Each hyperparameter's domain, as text.
        data: Name, digest and sizes of the data, and where it came from.
        versions: Of Python and the packages that matter; the git commit where there is one.
        enqueued: The settings to try first: values of hyperparameters.
        earlier: What earlier sweeps tell: `values`, `scores` and `sweep` of each of their trials that fits.
    """

    kind = "sweep_started"
    sweep: str
    config: dict[str, Any]
    space: dict[str, str]
    data: dict[str, Any]
    versions: dict[str, str]
    enqueued: list[dict[str, Any]] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SweepResumed(Event):
    """An interrupted sweep continues.

    Attributes:
        config: The one that it has now: the budget may be longer.
        versions: As for `SweepStarted`; empty in journals of version 0.1.
    """

    kind = "sweep_resumed"
    config: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialAsked(Event):
    """The search was asked for a trial; with `TrialEnded` this tells the order of its asks and tells."""

    kind = "trial_asked"
    trial: int


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial was handed to a worker, for the `attempt`-th time (from 1)."""

    kind = "trial_started"
    trial: Trial
    attempt: int
    slot: str


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch of a trial's execution, both counted from 1, with its metrics."""

    kind = "epoch_ended"
    trial: int
    attempt: int
    epoch: int
    metrics: dict[str, float]
    execution: int = 1


@dataclass(frozen=True)
class ExecutionEnded(Event):
    """One of a trial's several executions, counted from 1, has ended."""

    kind = "execution_ended"
    trial: int
    execution: int
    outcome: Outcome


@dataclass(frozen=True)
class AttemptFailed(Event):
    """An attempt failed; the trial is tried again. `log` is the end of its worker's output."""

    kind = "attempt_failed"
    trial: int
    attempt: int
    reason: str
    log: str = ""


@dataclass(frozen=True)
class TrialEnded(Event):
    """The end of a trial; `log` is the end of its worker's output, where it failed."""

    kind = "trial_ended"
    trial: int
    outcome: Outcome
    log: str = ""


@dataclass(frozen=True)
class Confirmed(Event):
    """The best trials were trained anew on several seeds.

    Attributes:
        candidates: Of each trial, the best mean first: `trial`, its new `scores` by seed, their `mean` and `std`.
        winner: The trial whose new scores have the best mean.
        model: The trial among the new ones of the winner whose model is kept as the sweep's.
        p_value: Of a paired t-test between the first two candidates; None where there is no second, or no difference.
    """

    kind = "confirmed"
    candidates: list[dict[str, Any]]
    winner: int
    model: int
    p_value: float | None


@dataclass(frozen=True)
class WinnerTested(Event):
    """The best trial's model on the test images.

    Attributes:
        trial: The winner.
        metrics: `test_loss` and `test_accuracy`.
        confusion: Counts, a row per true class, a column per predicted class.
        error: Why it could not be tested; metrics and confusion are then empty.
    """

    kind = "winner_tested"
    trial: int
    metrics: dict[str, float]
    confusion: list[list[int]]
    error: str = ""


@dataclass(frozen=True)
class SlotLost(Event):
    """A slot was given up, as no worker can start there, and the sweep goes on without it until it is resumed."""

    kind = "slot_lost"
    slot: str
    reason: str


@dataclass(frozen=True)
class SlotOpened(Event):
    """A GPU gets another share, as what was measured so far speaks for it."""

    kind = "slot_opened"
    slot: str
    reason: str


@dataclass(frozen=True)
class SlotClosed(Event):
    """A GPU has a share less, as that one did not pay, or trials ran out of memory."""

    kind = "slot_closed"
    slot: str
    reason: str


@dataclass(frozen=True)
class SweepEnded(Event):
    """The last event, unless the sweep is resumed.

    Attributes:
        status: Completed, stopped (by the user, to be resumed) or failed.
        reason: Why it ended.
        winner: The best trial; None where no trial has a score.
    """

    kind = "sweep_ended"
    status: Status
    reason: str
    winner: int | None


_KINDS: dict[str, type[Event]] = {cls.kind: cls for cls in Event.__subclasses__()}


def event_from_json(raw: dict[str, Any]) -> Event:
    """The event that `Event.to_json` wrote.

    Raises:
        ValueError: It is not an event, lacks a field, or has one of another type.
    """
    raw = dict(raw)
    kind = raw.pop("event", None)
    if kind not in _KINDS:
        raise ValueError(f"unknown event {kind!r}")
    cls = _KINDS[kind]
    names = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if not needed <= set(raw) <= names:
        raise ValueError(f"{kind} needs the fields {sorted(names)}")
    from pydantic import ValidationError

    try:
        return _printable(_adapter(kind).validate_python(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[kind])


def _printable(event: Event) -> Event:
    """The event with the texts that came from a user's code made printable, as those of old journals may not be."""
    if isinstance(event, TrialEnded | ExecutionEnded):
        event = replace(event, outcome=replace(event.outcome, reason=printable(event.outcome.reason)))
    texts = {
        name: printable(getattr(event, name), _LONGEST_LOG)
        for name in ("reason", "log", "error")
        if hasattr(event, name)
    }
    made: Event = replace(cast(Any, event), **texts)
    return made
