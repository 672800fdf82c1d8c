"""Made-up sweeps for what is shown of a running sweep."""

from __future__ import annotations

import functools
from typing import Any

from mnist_sweep.config import compose
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import SearchConfig
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver.progress import Progress
from mnist_sweep.journal.events import EpochEnded, Listener, SweepStarted, TrialAsked, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome, Status, Trial

MAX = Objective("val_accuracy", "max")
MIN = Objective("val_loss", "min")
SPACE = {"model.units": "16, 64", "optimizer.name": "adam, sgd", "optimizer.learning_rate": "1e-4 … 1e-1"}


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@functools.cache
def _shipped(algorithm: str) -> SearchConfig:
    return check_settings(compose.defaults((f"search={algorithm}",))).search


def budget(max_trials: int | None = None, time_budget: str | None = None, algorithm: str = "random") -> SearchConfig:
    """Returns the shipped config of an algorithm with another budget."""
    return _shipped(algorithm).model_copy(update={"max_trials": max_trials, "time_budget": time_budget})


def trial(number: int, epochs: int = 4, confirms: int | None = None, **values: Any) -> Trial:
    settings = {"model.units": 64, "optimizer.name": "adam", "optimizer.learning_rate": 0.00123456, **values}
    return Trial(number, settings, {"training": {"seed": 1000 + number}}, epochs, confirms=confirms)


class Story:
    """Sends events to a progress or a screen."""

    def __init__(self, to: Listener, space: dict[str, str] | None = None, config: dict[str, Any] | None = None) -> None:
        self._to = to
        space = SPACE if space is None else space
        to.handle(SweepStarted(1000.0, "mlp/2025-01-01_10-00-00", config or {}, space, {}, {}))

    def starts(self, number: int, slot: str = "cpu0", attempt: int = 1, **more: Any) -> None:
        self._to.handle(TrialAsked(1000.0, number))
        self._to.handle(TrialStarted(1000.0, trial(number, **more), attempt, slot))

    def epoch(
        self, number: int, epoch: int, score: float, attempt: int = 1, name: str = "val_accuracy", at: float = 1000.0
    ) -> None:
        self._to.handle(EpochEnded(at, number, attempt, epoch, {name: score, "loss": 0.1}))

    def ends(
        self,
        number: int,
        score: float | None = 0.9,
        status: Status = Status.COMPLETED,
        reason: str = "",
        seconds: float = 10.0,
        best_epoch: int | None = 2,
    ) -> None:
        outcome = Outcome(status, reason, score, None if score is None else best_epoch, seconds=seconds)
        self._to.handle(TrialEnded(1000.0, number, outcome))


def progress(clock: Clock | None = None, **changes: Any) -> Progress:
    size = changes.pop("size", None)
    given = {"objective": MAX, "budget": budget(max_trials=20), "slots": 2, "size": lambda _: size, **changes}
    return Progress(**given, clock=clock or Clock())
