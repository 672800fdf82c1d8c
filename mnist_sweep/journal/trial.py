"""Trials and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mnist_sweep.common.text import alike


class Status(StrEnum):
    """Whether a trial runs, or how it ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    """It trained to its last epoch, or until early stopping."""
    STOPPED = "stopped"
    """It was stopped before its last epoch, because a budget was used up or the target reached."""
    DIVERGED = "diverged"
    """Its loss became NaN or infinite after some epochs; its result is that of the best of them."""
    FAILED = "failed"
    """It has no result: its loss was not finite in its first epoch, its code failed, or its worker died."""
    REFUSED = "refused"
    """It was not trained, as its model exceeds `limits` or cannot be built. It does not count in any budget."""


WITHOUT_RESULT = (Status.FAILED, Status.REFUSED)


@dataclass(frozen=True)
class Execution:
    """One of the trainings of a trial.

    Attributes:
        seed: The seed of the weights, the shuffling and the dropout.
        fold: The part of the training images to validate on, counted from 1; None for the sweep's validation images.
        folds: How many parts there are.
    """

    seed: int
    fold: int | None = None
    folds: int | None = None


@dataclass(frozen=True)
class Trial:
    """A combination of hyperparameter values, to be trained once, or once for each execution.

    Attributes:
        number: The number of the trial, counted from 0 in the order of suggestion.
        values: The values of the active hyperparameters.
        config: The groups model, optimizer and training.
        epochs: The last epoch to train.
        initial_epoch: The epochs that `parent` has trained before.
        parent: The trial from whose weights and optimizer state this one continues.
        inactive: The keys of the config that are searched, but have no effect with these values.
        executions: The trainings whose mean score is the trial's; empty for a single one with the config's seed.
        confirms: The trial that this one retrains on a new seed; None for a trial of the search.
        added_by: Who added it while the sweep ran, `user@host`; "" if the search suggested it.
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
    added_by: str = ""


@dataclass(frozen=True)
class Retrains:
    """What a run retrains: a trial of a sweep, with its hyperparameter values.

    Attributes:
        sweep: The sweep, `name/time`.
        trial: The number of the trial.
        run: The ID of the trial's run in MLflow.
        digest: The digest of the data that it must be trained on; empty if the user names other data.
        changed: The values that are not those of the trial, by key: `50 (was 10)`.
        test: Whether the model is tested on the test images.
        champion: Whether the model becomes the champion if it is registered.
    """

    sweep: str
    trial: int
    run: str
    digest: str = ""
    changed: dict[str, str] = field(default_factory=dict)
    test: bool = False
    champion: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        status: How it ended.
        reason: Why it ended, for the user; empty if it trained to its last epoch.
        score: The objective at its best epoch; None if no epoch ended.
        best_epoch: That epoch, counted from 1.
        metrics: All metrics at that epoch, but `epoch_seconds` is the mean of all epochs. Also `parameters`, and
            `latency` if it is an objective.
        parameters: The number of the model's weights, trainable or not.
        seconds: The time from its start in the worker to its end, saving included.
        scores: The score of each execution that ended, if there are several; `score` is their mean.
        phases: What the seconds were spent on: `build`, `trace`, `train`, `validate`, `checkpoint`, `wait` (for the
            driver) and `save`.
        digest: The SHA-256 of its model's file when it was written; empty if there is no model, and in the journals of
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

    @property
    def unbuilt(self) -> bool:
        """Whether its model could not be built; a trial that exceeds `limits` is refused after that."""
        return self.status is Status.REFUSED and self.parameters is None

    @property
    def failed(self) -> bool:
        """Whether code has failed: in its training, or before it, as its model could not be built."""
        return self.status is Status.FAILED or self.unbuilt

    @property
    def cause(self) -> tuple[Status, str]:
        """How it ended and why, which is the same for trials that ended alike."""
        return self.status, alike(self.reason)

    def whole(self, trial: Trial) -> bool:
        """Whether each of the trial's executions has ended; always true for a trial without executions."""
        return len(self.scores) == len(trial.executions)

    def can_be_continued(self, trial: Trial) -> bool:
        """Whether another trial can continue from the state that this one has left."""
        return self.score is not None and self.status is not Status.DIVERGED and self.whole(trial)
