"""A sweep's story: trials, their outcomes, and the events that tell them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


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
