"""What the loop knows of a search: ask, report, tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class Suggestion:
    """A setting to try.

    Attributes:
        values: A value for every active hyperparameter.
        epochs: Train to this epoch; None for as many as the config says.
        initial_epoch: The epochs that `parent` has trained already.
        parent: The trial to go on from; None to start anew.
    """

    values: dict[str, Any]
    epochs: int | None = None
    initial_epoch: int = 0
    parent: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a trial.

    Attributes:
        scores: A value for each objective, at the trial's best epoch; None where it failed or was refused.
        epoch: The last epoch that it trained.
        cut: Whether it was stopped before its last epoch, as its score was hopeless: more epochs might have given more.
        whole: Whether each of its executions has ended, so that a trial can go on from it.
    """

    scores: tuple[float, ...] | None
    epoch: int = 0
    cut: bool = False
    whole: bool = True


class Answer(Enum):
    """What a search may say instead of a suggestion."""

    PAUSE = "ask again when a running trial has ended"
    FINISHED = "there is nothing more to try"


class Search(ABC):
    """Decides what to try next.

    A search is called from one thread. With the same seed and the same order of calls it gives the same answers.
    """

    @abstractmethod
    def ask(self, number: int) -> Suggestion | Answer:
        """The next setting to try.

        Args:
            number: The trial's number, if there is one. After an `Answer` the next ask has the same number.
        """

    @abstractmethod
    def tell(self, number: int, result: Result) -> None:
        """Takes note of a trial's end.

        Args:
            number: The trial.
            result: What came of it.
        """

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Takes note of an answer that was given before an interruption.

        Asks again, as the same calls in the same order give the same answers; a search whose answers take long, and
        do not depend on how often it was asked, does better.

        Args:
            number: As for `ask`.
            suggestion: What was answered.
        """
        self.ask(number)
