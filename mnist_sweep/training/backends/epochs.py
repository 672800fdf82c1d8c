"""What the compiled epochs of all backends have in common: an epoch's calls, validation, and what is kept of logs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras

from mnist_sweep.training.feed import Feed
from mnist_sweep.training.model import batches

Adapt = Callable[[Any, Any], tuple[Any, Any]]
Part = Literal["train", "test"]

# Seconds in one call, after which the loss is looked at: a trial whose loss is no number ends soon.
_CHUNK = 2.0
_FIRST = 8


class Epochs(ABC):
    """Trains and validates a model on whole epochs, each in few calls of a compiled function."""

    def __init__(self, model: keras.Model, feed: Feed, adapt: Adapt | None = None) -> None:
        """Begins with nothing compiled.

        Args:
            model: Compiled in Keras's sense, its optimizer's variables created.
            feed: The images. Those that are trained on may be others with each call, if they are from the same `Feeds`.
            adapt: Makes of images and labels what the model takes.
        """
        self._model, self._feed, self._adapt = model, feed, adapt

    @abstractmethod
    def prepare(self, feed: Feed, batch_size: int, validation_batch_size: int) -> None:
        """Compiles what an epoch needs, unless that is done; its first call is then as fast as the others.

        Args:
            feed: Which images to train and to validate on.
            batch_size: Images in a batch of the training.
            validation_batch_size: The same of the validation.
        """

    def train(
        self,
        feed: Feed,
        seed: int,
        epoch: int,
        batch_size: int,
        most: int | None,
        seen: Callable[[float], bool],
    ) -> dict[str, float]:
        """Trains one epoch.

        Args:
            feed: Which images to train on.
            seed: The trial's, which tells the order of the images.
            epoch: Counted from 0; so does this.
            batch_size: Images in a batch; the last may have fewer.
            most: Batches in one call of the compiled function; None for as many as take some seconds.
            seen: Called with the mean loss so far after each call; whether training goes on.

        Returns:
            Keras's training metrics of the epoch, as far as it came.
        """
        order = self._order(feed, feed.order(seed, epoch))
        call = partial(self._call, "train", feed, order, len(feed.training), batch_size)
        self._model.reset_metrics()
        at, chunk, all_ = 0, most or _FIRST, batches(len(feed.training), batch_size)
        logs: dict[str, float] = {}
        while at < all_:
            end, started = min(at + chunk, all_), time.perf_counter()
            logs = call(at, end)
            if not seen(logs.get("loss", 0.0)):
                break
            if most is None:
                chunk = max(1, int((end - at) * _CHUNK / max(time.perf_counter() - started, 1e-6)))
            at = end
        return logs

    def validate(self, feed: Feed, batch_size: int) -> dict[str, float]:
        """Validates the model.

        Args:
            feed: Which images to validate on.
            batch_size: Images in a batch at most.

        Returns:
            Keras's metrics, their names beginning with `val_`; empty where there are no images.
        """
        images = len(feed.validation)
        if not images:
            return {}
        size = self._validation_size(images, batch_size)
        self._model.reset_metrics()
        order = self._order(feed, feed.validation)
        logs = self._call("test", feed, order, images, size, 0, batches(images, size))
        return {f"val_{name}": value for name, value in logs.items()}

    @abstractmethod
    def _order(self, feed: Feed, indices: Any) -> Any:
        """Indices of images as the compiled functions take them."""

    @abstractmethod
    def _call(
        self,
        part: Part,
        feed: Feed,
        order: Any,
        images: int,
        batch_size: int,
        begin: int,
        end: int,
    ) -> dict[str, float]:
        """Goes through the batches `begin` to `end` - 1 of `images` images.

        Args:
            part: Training or validation.
            feed: The images.
            order: What `_order` has made of their indices.
            images: How many there are.
            batch_size: Images in a batch; the last may have fewer.
            begin: The first batch, counted from 0.
            end: The one behind the last.

        Returns:
            The metrics since they were reset, those that are one number.
        """

    def _validation_size(self, images: int, most: int) -> int:
        return most

    def _adapted(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        return self._adapt(*batch) if self._adapt else batch


def is_overridden(step: Any) -> bool:
    """Whether a step is a user's own, whose logs need not be the model's metrics."""
    return not getattr(step, "__func__", step).__module__.startswith("keras.")


def scalars(logs: Any) -> dict[str, Any]:
    """Those of a model's logs that are one number: a user's may be vectors, of which no curve can be drawn.

    Logs within logs come out of them, as in Keras: `{m.name: m.result() for m in self.metrics}` gives such.
    """
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, dict):
            found |= scalars(value)
        elif len(getattr(value, "shape", ())) == 0:
            found[name] = value
    return found


def logged(metrics: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What Keras takes for the logs of some batches.

    Args:
        metrics: The model's, over all of them.
        own: What a user's own step has returned for the last of them; empty where the step is Keras's.
    """
    return own if own and own.keys() != metrics.keys() else metrics
