"""Images on their way into a model: in memory once, drawn batch by batch, whichever of them are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_sweep.training import data
from mnist_sweep.training.data import Array, Dataset


@dataclass(frozen=True)
class Feed:
    """Which images to train on and which to validate on.

    Attributes:
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1.
        labels: (N,), int64.
        training: The indices of those to train on.
        validation: The indices of those to validate on; may be empty.
    """

    images: tf.Tensor
    labels: tf.Tensor
    training: Array
    validation: Array

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def batches(self, batch_size: int, steps: int, seed: int, epoch: tf.Variable) -> tf.data.Dataset:
        """Batches of training images, each time in an order that the seed and the epoch tell.

        Args:
            batch_size: Images in a batch; the last may have fewer.
            steps: Batches in an epoch.
            seed: The trial's.
            epoch: Counted from 0.
        """
        chosen = tf.constant(self.training, tf.int32)

        def shuffled(_: Any) -> tf.data.Dataset:  # noqa: ANN401
            order = tf.random.experimental.stateless_shuffle(chosen, seed=tf.stack([seed, epoch]))
            return tf.data.Dataset.range(steps).map(lambda i: self._drawn(order, i, batch_size))

        drawn = tf.data.Dataset.from_tensors(0).flat_map(shuffled)
        return drawn.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)

    def validation_batches(self, batch_size: int) -> tf.data.Dataset | None:
        """Batches of validation images, always in the same order; None where there are none."""
        if not len(self.validation):
            return None
        chosen = tf.constant(self.validation, tf.int32)
        batches = tf.data.Dataset.range(-(-len(self.validation) // batch_size))
        return batches.map(lambda i: self._drawn(chosen, i, batch_size)).prefetch(2)

    def arrays(self, indices: Array) -> tuple[Array, Array]:
        """Some of the images, float32 in 0..1, and their labels, for a training that draws its own batches."""
        return _as_float(tf.gather(self.images, indices)).numpy(), tf.gather(self.labels, indices).numpy()

    def sample(self, count: int) -> Array:
        """The first validation images, or training images where there are none, as they are in memory."""
        chosen = self.validation if len(self.validation) else self.training
        images: Array = tf.gather(self.images, chosen[:count]).numpy()
        return images

    def _drawn(self, order: tf.Tensor, i: Any, batch_size: int) -> tuple[Any, Any]:  # noqa: ANN401
        chosen = order[i * batch_size : (i + 1) * batch_size]
        return _as_float(tf.gather(self.images, chosen)), tf.gather(self.labels, chosen)


class Feeds:
    """Holds a data set's training and validation images together, so that any part of them can be held out."""

    def __init__(self, dataset: Dataset) -> None:
        """Reads the training and validation images into memory.

        Args:
            dataset: Its test images are not read.
        """
        self._training, self._seed = len(dataset.x_train), dataset.seed
        # Pixels stay bytes until a batch is drawn: a quarter of the memory to read.
        # On the CPU, where batches are drawn: a GPU would hand all of them back for every trial.
        with tf.device("CPU:0"):
            self._images = tf.concat([dataset.x_train, dataset.x_val], axis=0)
            self._labels = tf.concat([dataset.y_train, dataset.y_val], axis=0)

    def held_out(self) -> Feed:
        """With the data set's own validation images."""
        indices = np.arange(len(self._images))
        return Feed(self._images, self._labels, indices[: self._training], indices[self._training :])

    def fold(self, fold: int, folds: int) -> Feed:
        """With one part of all training and validation images to validate on.

        Args:
            fold: Which, counted from 1.
            folds: How many parts there are; they are the same for all trials of a sweep.

        Raises:
            UserError: There are more folds than images.
        """
        of = data.folds(self._labels.numpy(), folds, self._seed)
        return Feed(self._images, self._labels, np.flatnonzero(of != fold), np.flatnonzero(of == fold))


def _as_float(images: Any) -> Any:  # noqa: ANN401 - tensors, as `to_float` does for arrays
    return tf.cast(images, tf.float32) / 255.0 if images.dtype == tf.uint8 else images
