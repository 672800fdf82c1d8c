"""What a sweep optimizes: a metric and its direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mnist_sweep.common.errors import UserError, did_you_mean

# The metrics of every epoch, under Keras's names, and the better direction.
METRICS: dict[str, Literal["max", "min"] | None] = {
    "accuracy": "max",
    "loss": "min",
    "val_accuracy": "max",
    "val_loss": "min",
    "learning_rate": None,
    "epoch_seconds": "min",
}

# Metrics that are known only when a trial has ended; they cannot be the first objective.
SUMMARIES: dict[str, Literal["max", "min"] | None] = {"parameters": "min", "latency": "min"}


@dataclass(frozen=True)
class Objective:
    """A metric to optimize.

    Attributes:
        name: One of `METRICS` or `SUMMARIES`.
        direction: `max` or `min`.
    """

    name: str
    direction: Literal["max", "min"]

    @property
    def maximize(self) -> bool:
        """Whether larger values are better."""
        return self.direction == "max"

    @property
    def sign(self) -> int:
        """1 if larger values are better, else -1: scores times this sort from worst to best."""
        return 1 if self.maximize else -1

    @property
    def hint(self) -> str:
        """`larger is better` or `smaller is better`."""
        return f"{'larger' if self.maximize else 'smaller'} is better"

    def best(self, scores: Iterable[float]) -> float:
        """Returns the best of at least one score."""
        return max(scores) if self.maximize else min(scores)

    def better(self, a: float, b: float | None, min_delta: float = 0.0) -> bool:
        """Returns whether score `a` is better than score `b` by more than `min_delta`; NaN never is."""
        if math.isnan(a):
            return False
        if b is None or math.isnan(b):
            return True
        return a > b + min_delta if self.maximize else a < b - min_delta

    def reached(self, score: float, target: float) -> bool:
        """Returns whether a score is at least as good as the target."""
        return score >= target if self.maximize else score <= target

    @classmethod
    def parse_all(cls, written: str | Sequence[str]) -> tuple[Objective, ...]:
        """Parses the config's `objective`: one, or a list.

        Raises:
            UserError: As for `parse`.
        """
        return tuple(cls.parse(text) for text in ([written] if isinstance(written, str) else written))

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Parses an objective such as `val_accuracy max`; the direction is optional if the metric has a usual one.

        Raises:
            UserError: The metric is not logged, or its direction is missing or unknown.
        """
        name, _, direction = text.strip().partition(" ")
        known = METRICS | SUMMARIES
        if name not in known:
            raise UserError(f"objective={name}: no such metric is logged{did_you_mean(name, known)}")
        chosen = direction.strip() or known[name]
        if chosen == "max":
            return cls(name, "max")
        if chosen == "min":
            return cls(name, "min")
        raise UserError(f"objective={text}: say which is better, '{name} max' or '{name} min'")
