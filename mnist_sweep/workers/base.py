"""What the loop knows of workers: slots, tasks and messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from mnist_sweep.trial import Outcome, Trial
from mnist_sweep.workers.devices import Slot


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
    """

    model: str
    made_by: str | None = None


@dataclass(frozen=True)
class Package:
    """A trial's saved model to make an MLflow model of, as `registry_package.package` does.

    Attributes:
        trial: The trial's folder.
        to: The folder to make; what is there is removed.
        made_by: As for `Evaluate`; its code goes with the model.
    """

    trial: str
    to: str
    made_by: str | None = None


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
    from dataclasses import asdict

    raw = asdict(message)
    del raw["slot"]
    return {"message": type(message).__name__, **raw}


def message_from_json(slot: str, raw: dict[str, Any]) -> Message:
    """The message that `message_to_json` wrote."""
    from mnist_sweep.trial import Status

    raw = dict(raw)
    kinds = (Ready, Reported, Executed, Done, Evaluated, Packaged, Discovered, MachineFailed, Died)
    kind = {cls.__name__: cls for cls in kinds}[raw.pop("message")]
    if "outcome" in raw:
        raw["outcome"] = Outcome(**{**raw["outcome"], "status": Status(raw["outcome"]["status"])})
    return kind(slot=slot, **raw)
