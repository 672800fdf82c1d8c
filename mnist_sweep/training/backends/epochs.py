"""What the compiled epochs of all backends share: splitting an epoch into calls, validation, and Keras's logs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras

from mnist_sweep.training.model import batches
from mnist_sweep.training.splits import Batch, Split

Adapt = Callable[..., Batch]
Part = Literal["train", "test"]

# Seconds per call. The loss is checked between calls, so a trial with a loss of nan ends soon.
_SECONDS_PER_CALL = 2.0
_FIRST_CALL = 8


class Epochs(ABC):
    """Trains and validates a model epoch by epoch, with few calls of a compiled function."""

    def __init__(self, model: keras.Model, split: Split, adapt: Adapt | None = None) -> None:
        """Takes a model; nothing is compiled yet.

        Args:
            model: Compiled in Keras's sense, with its optimizer's variables created.
            split: The rows. Each call may use another split from the same `Splits`, of the same `name` if it has
                weights of classes.
            adapt: Converts batches to what the model expects.
        """
        self._model, self._split, self._adapt = model, split, adapt

    @abstractmethod
    def prepare(self, split: Split, batch_size: int, validation_batch_size: int) -> None:
        """Compiles what an epoch needs, unless it is compiled already. The first epoch is then as fast as the others.

        Args:
            split: The rows to train and to validate on.
            batch_size: Rows per batch in training.
            validation_batch_size: Rows per batch in validation.
        """

    def train(
        self, split: Split, seed: int, epoch: int, batch_size: int, most: int | None, on_loss: Callable[[float], bool]
    ) -> dict[str, float]:
        """Trains one epoch.

        Args:
            split: The rows to train on.
            seed: The trial's seed, which determines the order of the rows.
            epoch: The epoch, counted from 0.
            batch_size: Rows per batch; the last batch may have fewer.
            most: The most batches per call of the compiled function; None for as many as take about two seconds.
            on_loss: Called with the mean loss so far after each call; returns whether to continue.

        Returns:
            Keras's training metrics of the epoch, or of the part of it that was trained.
        """
        order = self._order(split, split.shuffled(seed, epoch))
        call = partial(self._call, "train", split, order, len(split.training), batch_size)
        self._model.reset_metrics()
        at, count, total = 0, most or _FIRST_CALL, batches(len(split.training), batch_size)
        logs: dict[str, float] = {}
        while at < total:
            end, started = min(at + count, total), time.perf_counter()
            logs = call(at, end)
            if not on_loss(logs.get("loss", 0.0)):
                break
            if most is None:
                count = max(1, int((end - at) * _SECONDS_PER_CALL / max(time.perf_counter() - started, 1e-6)))
            at = end
        return logs

    def validate(self, split: Split, batch_size: int) -> dict[str, float]:
        """Validates the model.

        Args:
            split: The rows to validate on.
            batch_size: The most rows per batch.

        Returns:
            Keras's metrics with names that start with `val_`; empty if there are no validation rows.
        """
        rows = len(split.validation)
        if not rows:
            return {}
        size = self._validation_size(rows, batch_size)
        self._model.reset_metrics()
        order = self._order(split, split.validation)
        logs = self._call("test", split, order, rows, size, 0, batches(rows, size))
        return {f"val_{name}": value for name, value in logs.items()}

    @abstractmethod
    def _order(self, split: Split, indices: Any) -> Any:
        """Converts indices of rows to what the compiled functions expect."""

    @abstractmethod
    def _call(
        self, part: Part, split: Split, order: Any, rows: int, batch_size: int, begin: int, end: int
    ) -> dict[str, float]:
        """Runs the batches from `begin` to `end` - 1.

        Args:
            part: Training or validation.
            split: The rows.
            order: Their indices, from `_order`.
            rows: How many there are.
            batch_size: Rows per batch; the last batch may have fewer.
            begin: The first batch, counted from 0.
            end: The batch after the last one.

        Returns:
            The scalar metrics since they were last reset.
        """

    def _validation_size(self, rows: int, most: int) -> int:
        return most

    def _adapted(self, batch: Batch) -> Batch:
        return self._adapt(*batch) if self._adapt else batch


def is_overridden(step: Any) -> bool:
    """Returns whether a training step is the user's own, whose logs may differ from the model's metrics."""
    return not getattr(step, "__func__", step).__module__.startswith("keras.")


def scalars(logs: Any) -> dict[str, Any]:
    """Returns the scalars among a model's logs. A user's metrics may be vectors, which have no learning curve.

    Nested logs are flattened, as Keras does: `{m.name: m.result() for m in self.metrics}` returns nested ones.
    """
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, dict):
            found |= scalars(value)
        elif len(getattr(value, "shape", ())) == 0:
            found[name] = value
    return found


def merge_logs(metrics: dict[str, Any], custom: dict[str, Any]) -> dict[str, Any]:
    """Returns what Keras would log for some batches.

    Args:
        metrics: The model's metrics over all of them.
        custom: What a user's own step returned for the last of them; empty if the step is Keras's.
    """
    return custom if custom and custom.keys() != metrics.keys() else metrics
