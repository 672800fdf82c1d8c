"""The interface between a sweep and a search algorithm: ask, tell, restore."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mnist_sweep.config.objective import Objective
from mnist_sweep.config.space import Space


@dataclass(frozen=True)
class Suggestion:
    """Hyperparameter values to try.

    Attributes:
        values: A value for every active hyperparameter.
        epochs: The epoch to train to; None for `training.epochs` of the config.
        initial_epoch: The number of epochs that `parent` has trained already.
        parent: The trial to continue from; None to start with new weights.
    """

    values: dict[str, Any]
    epochs: int | None = None
    initial_epoch: int = 0
    parent: int | None = None


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        scores: A value for each objective, at the trial's best epoch; None if the trial failed or was refused.
        epoch: The last epoch that it trained.
        cut: Whether a stopping rule ended it early: with more epochs its score might have been better.
        whole: Whether another trial can continue from it: all of its executions have finished, and none has diverged.
        diverged: Whether its loss became NaN or infinite after some epochs; its scores are those of the best of them.
        refused: Whether it was not trained, as no model with its values can be built or is within `limits`.
    """

    scores: tuple[float, ...] | None
    epoch: int = 0
    cut: bool = False
    whole: bool = True
    diverged: bool = False
    refused: bool = False


class Answer(Enum):
    """What a search can answer instead of a suggestion."""

    PAUSE = "ask again when a running trial has ended"
    FINISHED = "there is nothing more to try"


class Search(ABC):
    """Decides what to try next.

    All calls come from one thread. With the same seed and the same order of calls, a search gives the same answers.
    """

    @abstractmethod
    def ask(self, number: int) -> Suggestion | Answer:
        """Returns the next hyperparameter values to try.

        Args:
            number: The number that the new trial will have. After an `Answer` the next call has the same number.
        """

    @abstractmethod
    def tell(self, number: int, result: Result) -> None:
        """Reports the end of a trial.

        Args:
            number: The trial.
            result: How it ended.
        """

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Reports a suggestion that was made before an interruption.

        By default it calls `ask` again, as the same calls in the same order give the same answers. Override it if
        suggestions are slow and do not depend on earlier calls of `ask`.

        Args:
            number: As for `ask`.
            suggestion: What `ask` returned then.
        """
        self.ask(number)

    def add(self, number: int, suggestion: Suggestion) -> None:  # noqa: B027
        """Reports a trial that a user has added, as if the search had suggested it; `tell` follows when it ends.

        By default nothing is done with it, so `tell` must accept a trial that `ask` has not returned.

        Args:
            number: The trial.
            suggestion: Its hyperparameter values, which are in the space.
        """


@dataclass(frozen=True)
class Problem:
    """What a search algorithm is built from.

    Attributes:
        space: The search space.
        objectives: What to optimize, one or several.
        seed: Any number from 0.
        epochs: The most epochs that a trial trains.
        enqueued: Hyperparameter values to suggest before any others, in their order.
        earlier: Trials of earlier sweeps: `values` are hyperparameters of this space, `scores` has one number for each
            objective. Algorithms that learn start from them; their values are not tried again while there are others.
    """

    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    epochs: int
    enqueued: Sequence[Mapping[str, Any]] = ()
    earlier: Sequence[Mapping[str, Any]] = ()
