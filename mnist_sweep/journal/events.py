"""The events of a sweep, from which everything else about it follows."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from mnist_sweep.common.text import printable
from mnist_sweep.journal.trial import Outcome, Retrains, Status, Trial

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# Where a trial started that was refused before it was given to a slot.
NO_SLOT = ""
# Characters of a worker's output that an event keeps.
_LONGEST_LOG = 8000


@dataclass(frozen=True)
class Event:
    """Something that happened at `time`, in seconds since 1970."""

    time: float
    kind: ClassVar[str]

    def to_json(self) -> str:
        """Returns the event with its kind, as JSON in one line."""
        return json.dumps({"event": self.kind, **vars(self)}, default=vars)


class Listener(Protocol):
    """Takes the events of a sweep as they happen: the journal, the loop's state, MLflow, the screen."""

    def handle(self, *events: Event) -> None:
        """Takes events, in their order."""


@dataclass(frozen=True)
class SweepStarted(Event):
    """The first event.

    Attributes:
        sweep: `name/time`, which is also the folder under `experiments/`.
        config: The config as the user wrote it, sweeps included.
        space: The domain of each hyperparameter, as text.
        data: The name, digest, sizes and source of the data.
        versions: The versions of Python and of the packages that matter, and the git commit if there is one.
        enqueued: The hyperparameter values to try first.
        earlier: The trials of earlier sweeps to learn from: `values`, `scores` and `sweep` of each.
        retrains: The trial that this run retrains; None for a sweep.
        id: Tells the sweep apart from one of the same name on another machine; "" in journals of early versions.
        nodes: The nodes of a cluster on which it starts, each with its processor, cores and GPUs.
        baseline: The groups model, optimizer and training without sweeps; empty if there are no such values, and in
            journals of early versions.
    """

    kind = "sweep_started"
    sweep: str
    config: dict[str, Any]
    space: dict[str, str]
    data: dict[str, Any]
    versions: dict[str, str]
    enqueued: list[dict[str, Any]] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    retrains: Retrains | None = None
    id: str = ""
    nodes: dict[str, str] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResumed(Event):
    """An interrupted sweep continues.

    Attributes:
        config: The config now; its budget may be longer than before.
        versions: As for `SweepStarted`; empty in journals of version 0.1.
        space: As for `SweepStarted`, if values were added to the search space; else empty.
        nodes: As for `SweepStarted`.
    """

    kind = "sweep_resumed"
    config: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    space: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialAsked(Event):
    """The search was asked for a trial. With `TrialEnded`, this gives the order of the calls to the search."""

    kind = "trial_asked"
    trial: int


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial started on a slot; its attempts are counted from 1."""

    kind = "trial_started"
    trial: Trial
    attempt: int
    slot: str


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch of a trial has ended; epochs and executions are counted from 1."""

    kind = "epoch_ended"
    trial: int
    attempt: int
    epoch: int
    metrics: dict[str, float]
    execution: int = 1


@dataclass(frozen=True)
class ExecutionEnded(Event):
    """One of the several executions of a trial, counted from 1, has ended."""

    kind = "execution_ended"
    trial: int
    execution: int
    outcome: Outcome


@dataclass(frozen=True)
class AttemptFailed(Event):
    """An attempt failed, and the trial is retried. `log` is the end of its worker's output."""

    kind = "attempt_failed"
    trial: int
    attempt: int
    reason: str
    log: str = ""


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial has ended. `log` is the end of its worker's output if it failed."""

    kind = "trial_ended"
    trial: int
    outcome: Outcome
    log: str = ""


@dataclass(frozen=True)
class TrialsRetried(Event):
    """Trials that have failed are trained again from their start, by the user's wish, with the same values and seed."""

    kind = "trials_retried"
    trials: list[int]


@dataclass(frozen=True)
class Confirmed(Event):
    """The best trials were retrained on new seeds.

    Attributes:
        candidates: Each retrained trial, the best first: `trial`, its new `scores` by seed, their `mean` and `std`.
        winner: The trial whose new scores have the best mean.
        model: The retraining of the winner whose model is kept as the sweep's.
        p_value: The p-value of a paired t-test between the first two candidates; None if there is no second one, or
            their differences do not vary.
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
        confusion: The counts, with a row for each true class and a column for each predicted class.
        error: Why it could not be tested; then, metrics and confusion are empty.
    """

    kind = "winner_tested"
    trial: int
    metrics: dict[str, float]
    confusion: list[list[int]]
    error: str = ""


@dataclass(frozen=True)
class SlotLost(Event):
    """No worker can start on a slot, or its node is lost, and the sweep continues without it until it is resumed."""

    kind = "slot_lost"
    slot: str
    reason: str


@dataclass(frozen=True)
class SlotOpened(Event):
    """A slot was added: another share of a GPU, as measured, one of a node that has joined, or one that was closed."""

    kind = "slot_opened"
    slot: str
    reason: str


@dataclass(frozen=True)
class SlotClosed(Event):
    """A slot was closed: a share of a GPU that did not pay off or ran out of memory, or one that a user wants back."""

    kind = "slot_closed"
    slot: str
    reason: str


@dataclass(frozen=True)
class SweepEnded(Event):
    """The last event, unless the sweep is resumed.

    Attributes:
        status: Completed, stopped (by the user, to be resumed) or failed.
        reason: Why it ended.
        winner: The best trial; None if no trial has a score.
    """

    kind = "sweep_ended"
    status: Status
    reason: str
    winner: int | None


@dataclass(frozen=True)
class Steered(Event):
    """Somebody has steered the running sweep.

    Attributes:
        by: Who: `user@host`.
        pid: The process that asked for it.
    """

    by: str
    pid: int


@dataclass(frozen=True)
class TrialStopped(Steered):
    """A trial is to stop after its current epoch; `TrialEnded` follows."""

    kind = "trial_stopped"
    trial: int


@dataclass(frozen=True)
class TrialAdded(Steered):
    """A trial with these hyperparameter values is to start next. The search was told of it at this point."""

    kind = "trial_added"
    trial: int
    values: dict[str, Any]


@dataclass(frozen=True)
class SweepPaused(Steered):
    """No trial starts until `SweepContinued`."""

    kind = "sweep_paused"


@dataclass(frozen=True)
class SweepContinued(Steered):
    """Trials start again."""

    kind = "sweep_continued"


@dataclass(frozen=True)
class SettingsChanged(Steered):
    """The budget was changed, or the values to suggest from now on were narrowed.

    Attributes:
        settings: The new value of each key: of the budget (`search.max_trials`), or, for a hyperparameter, the part of
            its domain to suggest from, as text.
    """

    kind = "settings_changed"
    settings: dict[str, Any]


@dataclass(frozen=True)
class SlotsChanged(Steered):
    """At most this many slots are to be used."""

    kind = "slots_changed"
    slots: int


KINDS: dict[str, type[Event]] = {
    cls.kind: cls for cls in (*Event.__subclasses__(), *Steered.__subclasses__()) if cls is not Steered
}
"""Every kind of event, by the name that it has in the journal."""


def event_from_json(raw: dict[str, Any]) -> Event:
    """Returns the event that `Event.to_json` wrote, from plain data.

    Raises:
        ValueError: It is not an event, lacks a field, or has a field of another type.
    """
    raw = dict(raw)
    kind = raw.pop("event", None)
    if kind not in KINDS:
        raise ValueError(f"unknown event {kind!r}")
    needed, names = _fields(kind)
    if not needed <= raw.keys() <= names:
        raise ValueError(f"{kind} needs the fields {sorted(names)}")
    from pydantic import ValidationError

    try:
        return _printable(_adapter(kind).validate_python(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _fields(kind: str) -> tuple[set[str], set[str]]:
    """Returns the fields that an event must have, and all that it may have."""
    every = fields(KINDS[kind])
    needed = {f.name for f in every if f.default is MISSING and f.default_factory is MISSING}
    return needed, {f.name for f in every}


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    from pydantic import TypeAdapter

    return TypeAdapter(KINDS[kind])


def _printable(event: Event) -> Event:
    """Makes the texts that came from user code printable, which those of old journals may not be."""
    if isinstance(event, TrialEnded | ExecutionEnded) and event.outcome.reason:
        event = replace(event, outcome=replace(event.outcome, reason=printable(event.outcome.reason)))
    texts = {
        name: printable(text, _LONGEST_LOG) for name in ("reason", "log", "error") if (text := getattr(event, name, ""))
    }
    made: Event = replace(cast(Any, event), **texts) if texts else event
    return made
