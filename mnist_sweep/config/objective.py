"""What a sweep optimizes: a metric and its direction."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mnist_sweep.common.errors import UserError

# The objective that fits the task.
AUTO = "auto"

# The metrics that every model logs at each epoch, under Keras's names, and the better direction. Those of its task come
# in addition.
METRICS: dict[str, Literal["max", "min"] | None] = {
    "loss": "min",
    "val_loss": "min",
    "learning_rate": None,
    "epoch_seconds": "min",
}

# Metrics that are known only when a trial has ended; they cannot be the first objective.
SUMMARIES: dict[str, Literal["max", "min"] | None] = {"parameters": "min", "latency": "min"}

# Metrics of a whole trial, and how the names of others begin. No model can log metrics of these names.
TRIAL_METRICS = {*SUMMARIES, "seconds", "best_epoch"}
TRIAL_PREFIXES = ("best_", "confirmed_", "test_")

# Words in the names of Keras's metrics and losses that tell the better direction.
_WORDS: tuple[tuple[Literal["max", "min"], str], ...] = (
    (
        "min",
        "loss error errors mse mae mape msle rmse hinge crossentropy entropy divergence kl poisson cosh logcosh huber "
        "ctc circle cost distance perplexity latency seconds false tversky",
    ),
    (
        "max",
        "accuracy acc auc precision recall f1 f2 fbeta f score io iou miou correlation dice top top1 top2 top3 top5 "
        "sensitivity specificity similarity r2 kappa true mcc jaccard map",
    ),
)


def direction_of(name: str) -> Literal["max", "min"] | None:
    """Returns which values of a metric are better, as far as its name tells; None if it does not.

    Args:
        name: The metric's name in Keras's logs, such as `val_auc` or `val_top@3`.
    """
    if name in METRICS or name in SUMMARIES:
        return {**METRICS, **SUMMARIES}[name]
    words = set(re.split(r"[^a-z0-9]+", name.lower().removeprefix("val_")))
    return next((direction for direction, known in _WORDS if words & set(known.split())), None)


@dataclass(frozen=True)
class Objective:
    """A metric to optimize.

    Attributes:
        name: One of `METRICS` or `SUMMARIES`, or another metric that the model logs.
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
        """Returns whether score `a` is better than score `b` by more than `min_delta`.

        NaN and infinity never are.
        """
        if not math.isfinite(a):
            return False
        if b is None or not math.isfinite(b):
            return True
        return a > b + min_delta if self.maximize else a < b - min_delta

    def reached(self, score: float, target: float) -> bool:
        """Returns whether a score is at least as good as the target; NaN and infinity never are."""
        return math.isfinite(score) and (score >= target if self.maximize else score <= target)

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

        Args:
            text: The metric and its direction. A metric with spaces in its name needs the direction.

        Raises:
            UserError: Its direction is missing or unknown.
        """
        if "," in text:
            several = ", ".join(part.strip() for part in text.strip(" []").split(","))
            raise UserError(f"objective={text}: write several as a list, 'objective=[{several}]'")
        name, _, last = text.strip().rpartition(" ")
        if name and last in ("max", "min") and not name.endswith((" max", " min")):
            return cls(name.strip(), "max" if last == "max" else "min")
        direction = direction_of(last)
        if direction is not None and not name:
            return cls(last, direction)
        first = text.split(" ")[0]
        name = first if direction_of(first) else text.strip()
        raise UserError(f"objective={text}: say which is better, '{name} max' or '{name} min'")
