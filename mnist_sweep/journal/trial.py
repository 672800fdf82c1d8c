"""A sweep's story: trials, their outcomes, and the events that tell them."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mnist_sweep.common.files import PARTIAL, remove, remove_folder
from mnist_sweep.common.text import printable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# Characters of a worker's output that an event keeps.
_LONGEST_LOG = 8000


class Status(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    """It trained to its end, or to its early stopping."""
    STOPPED = "stopped"
    """It was stopped before its end: a budget was used up, or the target reached."""
    FAILED = "failed"
    """It has no result: its loss was not finite, its model could not be built, or its worker died."""
    REFUSED = "refused"
    """It was not trained: its model exceeds `limits`. It counts in no budget."""


@dataclass(frozen=True)
class Execution:
    """One training of a trial's setting.

    Attributes:
        seed: Of the weights, the shuffling and the dropout.
        fold: The part of the training images to validate on, counted from 1; None for the sweep's validation images.
        folds: How many parts there are.
    """

    seed: int
    fold: int | None = None
    folds: int | None = None


@dataclass(frozen=True)
class Trial:
    """One setting of the hyperparameters, to be trained once, or once for each of its executions.

    Attributes:
        number: Counted from 0 in the order of suggestion.
        values: The active hyperparameters.
        config: The groups model, optimizer and training.
        epochs: The last epoch to train.
        initial_epoch: The epochs that `parent` has trained before.
        parent: The trial from whose weights and optimizer state this one goes on.
        inactive: Keys of the config whose value was to be searched, but means nothing in this setting.
        executions: The trainings whose mean score is the trial's; empty for one with the config's own seed.
        confirms: The trial whose setting this one trains anew, on another seed; None for a trial of the search.
    """

    number: int
    values: dict[str, Any]
    config: dict[str, Any]
    epochs: int
    initial_epoch: int = 0
    parent: int | None = None
    inactive: list[str] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    confirms: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out of a trial.

    Attributes:
        status: Completed, stopped or failed.
        reason: Why it ended so, for the user; empty where it trained to its last epoch.
        score: The objective at its best epoch; None where no epoch ended.
        best_epoch: That epoch, counted from 1.
        metrics: All metrics at that epoch; but `epoch_seconds` is the mean of all epochs. Also `parameters`, and
            `latency` where it is asked for.
        parameters: The model's weights, trainable or not.
        seconds: From its start in the worker to its end, saving included.
        scores: The score of each execution that ended, where there are several; `score` is their mean.
        phases: Seconds by what they were spent on: `build`, `trace`, `train`, `validate`, `checkpoint`, `wait` (for the
            driver) and `save`.
        digest: The SHA-256 of its model's file as it was written; empty where there is no model, and in the journals of
            earlier versions.
    """

    status: Status
    reason: str = ""
    score: float | None = None
    best_epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    digest: str = ""

    def whole(self, trial: Trial) -> bool:
        """Whether each of the trial's executions has ended; of one without any this tells nothing, and is true."""
        return len(self.scores) == len(trial.executions)


@dataclass(frozen=True)
class Event:
    """Something that happened, at `time` (seconds since 1970)."""

    time: float
    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The event as plain data, with its kind."""
        return {"event": self.kind, **asdict(self)}


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


# A trial's files, in its folder.
MODEL_FILE = "model.h5"
SAMPLE_FILE = "sample_predictions.npz"
DETAILS_FILE = "test_details.npz"
PROFILE_FILE = "data_profile.npz"
STATE_FILE = "state.npz"
EXECUTION_FILE = "execution.json"


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial's files lie while its sweep runs.

    Args:
        sweep: The sweep's folder.
        number: The trial.
    """
    return sweep / "trials" / f"{number:04d}"


def execution_folder(trial: Path, execution: int) -> Path:
    """Where the files of one of a trial's executions lie.

    Args:
        trial: The trial's folder, which is also that of its first execution.
        execution: Counted from 1.
    """
    return trial if execution == 1 else trial / f"execution_{execution}"


def forget(trial: Path) -> None:
    """Deletes what an ended trial needs no more: the states of its executions, and all but its first one's other files.

    What is left is its model, the sample of predictions, and what its test told. No trial can go on from it, nor can
    it be resumed.

    Args:
        trial: The trial's folder; it need not exist.
    """
    for name in (STATE_FILE, EXECUTION_FILE):
        remove(trial / name)
    for folder in trial.glob("execution_*/"):
        remove_folder(folder, (MODEL_FILE, SAMPLE_FILE, STATE_FILE, EXECUTION_FILE, f"{PARTIAL}*"))
