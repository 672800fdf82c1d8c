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

    def report(self, number: int, epoch: int, score: float) -> str:
        """Takes note of a running trial's epoch.

        Args:
            number: The trial.
            epoch: Counted from 1. A trial that is tried again starts again from its first epoch.
            score: The objective.

        Returns:
            A reason to stop the trial, or "".
        """
        return ""

    @abstractmethod
    def tell(self, number: int, score: float | None) -> None:
        """Takes note of a trial's end.

        Args:
            number: The trial.
            score: The objective at its best epoch; None where it failed.
        """
