"""What the loop knows of workers: slots, tasks and messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Protocol

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import one_line, printable
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.workers.devices import Slot

# The characters of a log's end that are kept, and the metrics of an epoch: nobody reads more of either.
LOG = 4000
_MOST_METRICS = 1000
# MLflow takes no longer name.
_LONGEST_NAME = 250


@dataclass(frozen=True)
class Train:
    """A trial to train.

    Attributes:
        trial: The trial.
        objective: Metric and direction, which tell its best epoch.
        folder: Where its model and its state go.
        parent: The folder of the trial from whose weights and optimizer state to go on.
        waits: Whether the worker waits after each epoch until it is told to `go_on` or to stop.
        stop: Why it is to end where it is; "" to train.
        known: The epochs of each execution that an earlier attempt has reported, to which one that is to `stop` trains;
            empty where there was none.
        limits: The most `parameters` a model may have, and the most bytes of `memory` that its training may need.
        latency: Whether to measure how long the prediction of one image takes.
        checkpoint_every: Seconds between two savings of its state.
        keep: Whether its state at its end is to be saved, for others to go on from.
    """

    trial: Trial
    objective: tuple[str, str]
    folder: str
    parent: str | None = None
    waits: bool = False
    stop: str = ""
    known: list[int] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    latency: bool = False
    checkpoint_every: float = 0.0
    keep: bool = True


@dataclass(frozen=True)
class Evaluate:
    """A saved model to test on the test images; what is worth a look is written beside it.

    Attributes:
        model: The `.h5` file.
        made_by: The user's own `package.module:name` that built it, whose layers it may have.
        digest: The file's SHA-256 as it was written; empty where that is not known.
    """

    model: str
    made_by: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Package:
    """A trial's saved model to make an MLflow model of, as `registry_package.package` does.

    Attributes:
        trial: The trial's folder.
        to: The folder to make; there is nothing of that name yet.
        made_by: As for `Evaluate`; its code goes with the model.
        digest: As for `Evaluate`.
    """

    trial: str
    to: str
    made_by: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Discover:
    """A user's hypermodel, `package.module:name`, whose space is asked for."""

    hypermodel: str


Task = Train | Evaluate | Package | Discover


@dataclass(frozen=True)
class Message:
    """Something that a worker has to say."""

    slot: str


@dataclass(frozen=True)
class Ready(Message):
    """The slot takes a task. Sent again after each task; `memory` is what its process has for itself, in bytes."""

    memory: int = 0


@dataclass(frozen=True)
class Reported(Message):
    """An epoch of the slot's trial has ended."""

    trial: int
    epoch: int
    metrics: dict[str, float]
    execution: int = 1


@dataclass(frozen=True)
class Executed(Message):
    """One of the several executions of the slot's trial has ended."""

    trial: int
    execution: int
    outcome: Outcome


@dataclass(frozen=True)
class Done(Message):
    """The slot's trial has ended; `log` is the end of the worker's output, where it failed."""

    trial: int
    outcome: Outcome
    log: str = ""


@dataclass(frozen=True)
class Evaluated(Message):
    """The slot's test has ended; `error` says why it could not be done."""

    metrics: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Packaged(Message):
    """The slot's model is an MLflow model; `error` says why it is none."""

    error: str = ""


@dataclass(frozen=True)
class Discovered(Message):
    """A hypermodel's space, as `keras_tuner.HyperParameters.get_config()`; `error` says why there is none."""

    space: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class MachineFailed(Message):
    """The slot's task could not be done because the machine failed, for which no trial is to blame.

    Attributes:
        reason: What failed and where, such as `the disk is full (experiments/a/model.h5)`.
        trial: The number of the trial that the slot had; None where its task was not a `Train`.
    """

    reason: str
    trial: int | None = None


@dataclass(frozen=True)
class Died(Message):
    """The slot's process is gone, with whatever task it had; another starts in its place, unless the slot is lost.

    Attributes:
        reason: What ended it.
        log: The end of its output.
        lost: Whether the slot is given up, as no process can start there.
    """

    reason: str
    log: str = ""
    lost: bool = False


class Workers(Protocol):
    """A pool of slots, each of which trains one trial at a time."""

    def slots(self) -> list[str]:
        """The slots' names."""

    def open(self, slot: Slot) -> None:
        """Adds a slot; it says `Ready` when it is."""

    def retire(self, slot: str) -> None:
        """Takes a slot away for good and ends its process; what it still had to say is not heard."""

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to a slot that is ready."""

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the epoch it is in; ignored if it is on another one."""

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a slot go on that waits; ignored where it waits for something else, or for nothing.

        A slot whose task `waits` is to be answered each `Reported` and each `Executed` with this or with `stop`, those
        that the driver knows from an attempt before as well: it waits after some of them only, and takes the answer
        that belongs there.

        Args:
            slot: The slot.
            trial: Its trial.
            execution: That of the message.
            epoch: That of a `Reported`; 0 for an `Executed`, after which the next execution begins.
        """

    def kill(self, slot: str, reason: str) -> None:
        """Ends a slot's process at once; `Died` with the reason follows."""

    def poll(self, timeout: float) -> list[Message]:
        """Waits at most `timeout` seconds for messages."""

    def put_back(self, messages: list[Message]) -> None:
        """Hands messages out again at the next poll, for whom they are meant."""

    def close(self) -> None:
        """Ends all processes."""


def message_to_json(message: Message) -> dict[str, Any]:
    """A message as plain data, without its slot, which the receiver knows."""
    raw = asdict(message)
    del raw["slot"]
    return {"message": type(message).__name__, **raw}


class GarbledError(Exception):
    """A worker does not behave as one; the text says how: `sent something that is not a message`."""


def message_from_json(slot: str, raw: object) -> Message:
    """The message that `message_to_json` wrote, whose text can be printed and stored.

    Args:
        slot: The slot whose worker has sent it.
        raw: What came, which may be anything: the user's code runs there, too.

    Raises:
        GarbledError: It is none that a worker sends, or a field is missing, unknown, or not what it should be.
    """
    if not isinstance(raw, dict):
        raise GarbledError("sent something that is not a message")
    kind = raw.get("message")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise GarbledError("sent a message of no known kind")
    return _read(_KINDS[kind], {"slot": slot}, {key: value for key, value in raw.items() if key != "message"})  # type: ignore[no-any-return]


def one_reason(text: str) -> str:
    """A reason that came from a worker, fit for a table, a tag and the journal: one line, without passwords."""
    return masked(one_line(text))


def end_of_log(text: str) -> str:
    """The last characters of a worker's output, fit for the journal: printable, without passwords."""
    # Masked before it is cut: the second half of a password's key would tell nothing.
    return masked(printable(text, most=10 * len(text)))[-LOG:]


def _read(kind: type[Any], known: dict[str, Any], raw: dict[str, Any]) -> Any:
    names = {one.name: one for one in fields(kind) if one.name not in known}
    unknown = raw.keys() - names.keys()
    if unknown:
        raise GarbledError(f"sent a {kind.__name__} with the unknown field {one_line(min(unknown), 100)}")
    for name, one in names.items():
        if name not in raw and one.default is MISSING and one.default_factory is MISSING:
            raise GarbledError(f"sent a {kind.__name__} without the field {name}")
    # The annotations are texts.
    optional = {name for name, one in names.items() if "None" in str(one.type)}
    return kind(
        **known,
        **{name: None if value is None and name in optional else _FIELDS[name](value) for name, value in raw.items()},
    )


def _number(least: int) -> Callable[[Any], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise GarbledError(f"sent what is not a whole number of at least {least}")
        return value

    return read


def _float(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise GarbledError("sent what is not a number")
    try:
        return float(value)
    except OverflowError:
        raise GarbledError("sent a number that is too large") from None


def _finite(value: object) -> float:
    number = _float(value)
    if not math.isfinite(number):
        raise GarbledError("sent a number that is not finite")
    return number


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise GarbledError("sent what is not a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise GarbledError("sent what is not a text")
    return value


def _metrics(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_METRICS:
        raise GarbledError(f"sent what is not a set of at most {_MOST_METRICS} metrics")
    return {one_line(_text(name), _LONGEST_NAME): _float(number) for name, number in value.items()}


def _status(value: object) -> Status:
    try:
        return Status(_text(value))
    except ValueError:
        raise GarbledError("sent what is not a status") from None


def _outcome(value: object) -> Outcome:
    if not isinstance(value, dict):
        raise GarbledError("sent what is not an outcome")
    outcome: Outcome = _read(Outcome, {}, value)
    if outcome.status is Status.RUNNING:
        raise GarbledError("sent an outcome that is still running")
    return outcome


def _space(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GarbledError("sent what is not a space")
    return value


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "trial": _number(0),
    "epoch": _number(1),
    "execution": _number(1),
    "memory": _number(0),
    "metrics": _metrics,
    "confusion": lambda value: [list(map(_number(0), _list(row))) for row in _list(value)],
    "outcome": _outcome,
    "space": _space,
    "log": lambda value: end_of_log(_text(value)),
    "error": lambda value: one_reason(_text(value)),
    # ---- of an outcome
    "status": _status,
    "reason": lambda value: one_reason(_text(value)),
    "score": _finite,
    "best_epoch": _number(1),
    "parameters": _number(0),
    "seconds": _finite,
    "scores": lambda value: list(map(_finite, _list(value))),
    "phases": _metrics,
    "digest": lambda value: one_line(_text(value), 64),
}
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Ready, Reported, Executed, Done, Evaluated, Packaged, Discovered, MachineFailed)
}
