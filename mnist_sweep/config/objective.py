"""What a sweep optimizes: a metric and its direction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mnist_sweep.common.errors import UserError, did_you_mean

# What every epoch logs, under Keras's names, and which way is better.
METRICS: dict[str, Literal["max", "min"] | None] = {
    "accuracy": "max",
    "loss": "min",
    "val_accuracy": "max",
    "val_loss": "min",
    "learning_rate": None,
    "epoch_seconds": "min",
}

# What is known of a trial when it has ended: objectives beside the first one.
SUMMARIES: dict[str, Literal["max", "min"] | None] = {"parameters": "min", "latency": "min"}


@dataclass(frozen=True)
class Objective:
    """What a sweep optimises.

    Attributes:
        name: A metric logged at each epoch, or one of `SUMMARIES`.
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
        """1 where larger values are better, -1 where smaller ones are: scores times this sort from worst to best."""
        return 1 if self.maximize else -1

    @property
    def hint(self) -> str:
        """`larger is better` or `smaller is better`."""
        return f"{'larger' if self.maximize else 'smaller'} is better"

    def best(self, scores: Iterable[float]) -> float:
        """The best of some scores, of which there is at least one."""
        return max(scores) if self.maximize else min(scores)

    def better(self, a: float, b: float | None, min_delta: float = 0.0) -> bool:
        """Whether score `a` is better than score `b` by more than `min_delta`; NaN never is."""
        if math.isnan(a):
            return False
        if b is None or math.isnan(b):
            return True
        return a > b + min_delta if self.maximize else a < b - min_delta

    def reached(self, score: float, target: float) -> bool:
        """Whether a score is as good as the target."""
        return score >= target if self.maximize else score <= target

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Reads `val_accuracy max`; the direction may be left out where there is a usual one.

        Raises:
            UserError: The metric is not logged, or its direction is missing or no direction.
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
