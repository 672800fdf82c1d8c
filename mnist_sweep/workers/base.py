"""The interface between the driver and its workers: slots, tasks and messages."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import one_line, printable
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.figures import Figures

T = TypeVar("T")

# The most characters to keep of a log's end, and the most metrics of an epoch.
LOG = 4000
_MOST_METRICS = 1000
# MLflow's limit on the length of a name.
_LONGEST_NAME = 250


@dataclass(frozen=True)
class Train:
    """A trial to train.

    Attributes:
        trial: The trial.
        objective: Metric and direction, which determine its best epoch.
        folder: The folder for its model and its state.
        parent: The folder of the trial to continue from, with its weights and optimizer state.
        waits: Whether the worker waits after each epoch for `go_on` or `stop`.
        stop: Why to end the trial without further training; "" to train.
        known: The epochs of each execution that an earlier attempt has reported. With `stop`, the worker trains up to
            them. Empty if there was no earlier attempt.
        limits: The most `parameters` that a model may have, and the most bytes of `memory` that its training may need.
        latency: Whether to measure how long the prediction of one image takes.
        checkpoint_every: Seconds between two checkpoints.
        keep: Whether to save its state at the end, so that other trials can continue from it.
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
    """A saved model to test on the test rows; files for the report are written next to it.

    Attributes:
        model: The `.h5` file.
        made_by: The user's `package.module:name` that built it, and whose layers it may use.
        digest: The SHA-256 of the file when it was written; empty if unknown.
        trained_for: The group `task` of its trial's config; empty in old sweeps.
        config: The trial's config, for a model that computes its loss and metrics itself; empty for others.
    """

    model: str
    made_by: str | None = None
    digest: str = ""
    trained_for: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Package:
    """A trial's saved model to turn into an MLflow model.

    Attributes:
        trial: The trial's folder.
        to: The folder to create; it must not exist.
        made_by: As for `Evaluate`; its code is saved with the model.
        digest: As for `Evaluate`.
    """

    trial: str
    to: str
    made_by: str | None = None
    digest: str = ""


@dataclass(frozen=True)
class Discover:
    """A user's hypermodel, `package.module:name`, to find the search space of, and the metrics that it must log."""

    hypermodel: str
    objectives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """Configs of trials, with a user's function that builds their models, to check before the first trial.

    Attributes:
        configs: The configs.
        objectives: The metrics that training must log.
    """

    configs: tuple[dict[str, Any], ...]
    objectives: tuple[str, ...] = ()


Task = Train | Evaluate | Package | Discover | Check


def moved(task: Task, move: Callable[[str], str]) -> Task:
    """Returns a task about the same files at other places.

    Args:
        task: The task.
        move: Returns the new path of a file or a folder.
    """
    match task:
        case Train():
            return replace(task, folder=move(task.folder), parent=None if task.parent is None else move(task.parent))
        case Evaluate():
            return replace(task, model=move(task.model))
        case Package():
            return replace(task, trial=move(task.trial), to=move(task.to))
    return task


def output_of(task: Task) -> str | None:
    """Returns the folder that a task's worker writes to; None if it writes nothing."""
    match task:
        case Train():
            return task.folder
        case Evaluate():
            return os.path.dirname(task.model)
        case Package():
            return task.to
    return None


@dataclass(frozen=True)
class Message:
    """A message from a worker."""

    slot: str


@dataclass(frozen=True)
class Ready(Message):
    """The slot is ready for a task. Sent again after each task; `memory` is its process's private memory in bytes."""

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
    """An execution of the slot's trial has ended, if the trial has several."""

    trial: int
    execution: int
    outcome: Outcome


@dataclass(frozen=True)
class Done(Message):
    """The slot's trial has ended.

    Attributes:
        trial: The trial.
        outcome: How it ended.
        log: The end of the worker's output if the trial failed.
        lasting: Whether the trial failed in a way in which it would fail again if it were retried.
    """

    trial: int
    outcome: Outcome
    log: str = ""
    lasting: bool = False


@dataclass(frozen=True)
class Evaluated(Message):
    """The slot's test has ended; `error` says why it failed."""

    metrics: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Packaged(Message):
    """The slot's model is an MLflow model now; `error` says why it could not be made."""

    error: str = ""


@dataclass(frozen=True)
class Discovered(Message):
    """A hypermodel's space, as `keras_tuner.HyperParameters.get_config()`; `error` says why it was not found.

    Also the answer to a `Check`, with what `Trainer.check` returns instead of a space.
    """

    space: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Noted(Message):
    """Something that the user should know while the slot's task goes on, such as a slow import."""

    reason: str


@dataclass(frozen=True)
class MachineFailed(Message):
    """The slot's task failed because of the machine, so no trial is to blame.

    Attributes:
        reason: What failed and where, such as `the disk is full (experiments/a/model.h5)`.
        trial: The number of the slot's trial; None if its task was not a `Train`.
    """

    reason: str
    trial: int | None = None


@dataclass(frozen=True)
class Died(Message):
    """The slot's process has died, and its task with it; another one starts, unless the slot is lost.

    Attributes:
        reason: How it died.
        log: The end of its output.
        lost: Whether the slot is given up, as no process can start there.
    """

    reason: str
    log: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Joined(Message):
    """A slot has come to the pool; `Ready` follows.

    Attributes:
        reason: Where it has come from, for the user.
    """

    reason: str


class Workers(Protocol):
    """A pool of slots, each of which trains one trial at a time."""

    def slots(self) -> list[str]:
        """Returns the slots' names."""

    def open(self, slot: Slot) -> None:
        """Adds a slot, which sends `Ready` later; `Died` with `lost` if its node is gone."""

    def retire(self, slot: str) -> Slot:
        """Removes a slot, kills its process, and returns it for `open`; its unread messages are dropped."""

    def submit(self, slot: str, task: Task) -> None:
        """Gives a task to a slot that is ready."""

    def stop(self, slot: str, trial: int, reason: str) -> None:
        """Asks a slot to end its trial after the current epoch; ignored if it has another trial."""

    def go_on(self, slot: str, trial: int, execution: int, epoch: int) -> None:
        """Lets a waiting slot continue; ignored if it waits for something else, or for nothing.

        If a task `waits`, answer each `Reported` and each `Executed` with this or with `stop`, also those that an
        earlier attempt has sent. The worker waits after some of them only, and picks the answer that belongs there.

        Args:
            slot: The slot.
            trial: Its trial.
            execution: The execution of the message.
            epoch: The epoch of a `Reported`; 0 for an `Executed`, after which the next execution starts.
        """

    def kill(self, slot: str, reason: str) -> None:
        """Kills a slot's process; `Died` with the reason follows."""

    def poll(self, timeout: float) -> list[Message]:
        """Waits up to `timeout` seconds for messages."""

    def put_back(self, messages: list[Message]) -> None:
        """Makes the next poll return messages again, for other code that expects them."""

    def close(self) -> None:
        """Kills all processes."""


class Pool(Workers, Protocol):
    """The workers of a whole sweep, which start before its data are known."""

    def set_up(self, data: Path) -> None:
        """Tells the workers where the data is, which they wait for."""

    def places(self) -> list[Slot]:
        """Returns the slots that there are at the start; may wait for them.

        Raises:
            UserError: There is none.
        """

    def nodes(self) -> dict[str, str]:
        """Returns what the nodes of the slots are, by name; none if the slots are on this machine."""

    def measured(self) -> list[Figures]:
        """Returns what the slots use, as far as it was measured since the last call, without waiting."""


def message_to_json(message: Message) -> dict[str, Any]:
    """Returns a message as plain data, without its slot, which the receiver knows."""
    raw = asdict(message)
    del raw["slot"]
    return {"message": type(message).__name__, **raw}


class GarbledError(Exception):
    """A worker broke the protocol; the text says how: `sent something that is not a message`."""


def message_from_json(slot: str, raw: object) -> Message:
    """Reads a message that `message_to_json` wrote, and makes its text safe to print and store.

    Args:
        slot: The slot whose worker has sent it.
        raw: What arrived, which can be anything, as user code runs in the worker.

    Raises:
        GarbledError: It is not a message, or a field is missing, unknown or invalid.
    """
    if not isinstance(raw, dict):
        raise GarbledError("sent something that is not a message")
    kind = raw.get("message")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise GarbledError("sent an unknown kind of message")
    return _read(_KINDS[kind], {"slot": slot}, {key: value for key, value in raw.items() if key != "message"})  # type: ignore[no-any-return]


def one_reason(text: str) -> str:
    """Makes a reason from a worker fit for a table, a tag and the journal: one line, without passwords."""
    return masked(one_line(text))


def end_of_log(text: str) -> str:
    """Returns the last characters of a worker's output, printable and without passwords."""
    # Masked before it is cut: half of a password's key would not be recognized.
    return masked(printable(text, most=10 * len(text)))[-LOG:]


def _read(kind: type[Any], known: dict[str, Any], raw: dict[str, Any]) -> Any:
    names = {one.name: one for one in fields(kind) if one.name not in known}
    unknown = raw.keys() - names.keys()
    if unknown:
        raise GarbledError(f"sent a {kind.__name__} with the unknown field {one_line(min(unknown), 100)}")
    for name, one in names.items():
        if name not in raw and one.default is MISSING and one.default_factory is MISSING:
            raise GarbledError(f"sent a {kind.__name__} without the field {name}")
    # The annotations are strings.
    optional = {name for name, one in names.items() if "None" in str(one.type)}
    return kind(
        **known,
        **{name: None if value is None and name in optional else _FIELDS[name](value) for name, value in raw.items()},
    )


def _number(least: int) -> Callable[[Any], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise GarbledError(f"sent something that is not a whole number of at least {least}")
        return value

    return read


def _float(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise GarbledError("sent something that is not a number")
    try:
        return float(value)
    except OverflowError:
        raise GarbledError("sent a number that is too large") from None


def _finite(value: object) -> float:
    number = _float(value)
    if not math.isfinite(number):
        raise GarbledError("sent a number that is not finite")
    return number


def _of(kind: type[T], what: str) -> Callable[[Any], T]:
    def read(value: object) -> T:
        if not isinstance(value, kind):
            raise GarbledError(f"sent something that is not {what}")
        return value

    return read


_list, _text = _of(list, "a list"), _of(str, "a string")


def _metrics(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > _MOST_METRICS:
        raise GarbledError(f"sent something that is not a dict of at most {_MOST_METRICS} metrics")
    return {one_line(_text(name), _LONGEST_NAME): _float(number) for name, number in value.items()}


def _status(value: object) -> Status:
    try:
        return Status(_text(value))
    except ValueError:
        raise GarbledError("sent something that is not a status") from None


def _outcome(value: object) -> Outcome:
    outcome: Outcome = _read(Outcome, {}, _of(dict, "an outcome")(value))
    if outcome.status is Status.RUNNING:
        raise GarbledError("sent an outcome that is still running")
    return outcome


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "trial": _number(0),
    "epoch": _number(1),
    "execution": _number(1),
    "memory": _number(0),
    "metrics": _metrics,
    "confusion": lambda value: [list(map(_number(0), _list(row))) for row in _list(value)],
    "outcome": _outcome,
    "space": _of(dict, "a search space"),
    "lasting": _of(bool, "true or false"),
    "log": lambda value: end_of_log(_text(value)),
    "error": lambda value: one_reason(_text(value)),
    # ---- fields of an outcome
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
    kind.__name__: kind
    for kind in (Ready, Reported, Executed, Done, Evaluated, Packaged, Discovered, Noted, MachineFailed)
}
