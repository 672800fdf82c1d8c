"""Callbacks of a user's own, for `training.callbacks`."""

from __future__ import annotations

import keras


class Halving(keras.callbacks.Callback):
    """Halves the learning rate after each epoch, and notes what it sees."""

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        self.least, self.seen, self.object = least, [], object()

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self.began = epoch

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.seen.append([self.began, logs["loss"], sorted(logs)])
        self.model.optimizer.learning_rate = max(self.least, float(self.model.optimizer.learning_rate) / 2)


class StopsAfter(keras.callbacks.Callback):
    """Ends the training after some epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.left = epochs

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self.left -= 1
        self.model.stop_training = self.left <= 0


class Batches(keras.callbacks.Callback):
    """Counts batches, which it cannot."""

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        raise AssertionError


class Broken(keras.callbacks.Callback):
    """Fails after an epoch."""

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        raise KeyError("nothing")


def not_one() -> int:
    """Returns something other than a callback."""
    return 3
