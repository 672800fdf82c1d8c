"""Images on their way into a model: in memory once, drawn batch by batch, whichever of them are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_sweep.training import data
from mnist_sweep.training.data import Array, Dataset

# A data set up to this size is kept on the GPU that trains on it, a larger one in the computer's memory.
_ON_GPU = 2**30


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

    def order(self, seed: int, epoch: int) -> tf.Tensor:
        """The indices of the training images in the order of an epoch, int32.

        Args:
            seed: The trial's.
            epoch: Counted from 0.
        """
        with tf.device("CPU:0"):
            chosen = tf.constant(self.training, tf.int32)
            return tf.random.experimental.stateless_shuffle(chosen, seed=tf.constant([seed, epoch], tf.int64))

    def drawn(self, order: tf.Tensor, i: Any, batch_size: Any) -> tuple[tf.Tensor, tf.Tensor]:  # noqa: ANN401
        """One batch.

        Args:
            order: Indices of images.
            i: Which batch of them, counted from 0.
            batch_size: Images in a batch; the last may have fewer.

        Returns:
            The images, float32 in 0..1, and their labels.
        """
        chosen = order[i * batch_size : (i + 1) * batch_size]
        # Pixels stay bytes until a batch is drawn: a quarter of the memory to read.
        return _as_float(tf.gather(self.images, chosen)), tf.gather(self.labels, chosen)

    def arrays(self, indices: Array) -> tuple[Array, Array]:
        """Some of the images, float32 in 0..1, and their labels, for a training that draws its own batches."""
        return _as_float(tf.gather(self.images, indices)).numpy(), tf.gather(self.labels, indices).numpy()

    def sample(self, count: int) -> Array:
        """The first validation images, or training images where there are none, as they are in memory."""
        chosen = self.validation if len(self.validation) else self.training
        images: Array = tf.gather(self.images, chosen[:count]).numpy()
        return images


class Feeds:
    """Holds a data set's training and validation images together, so that any part of them can be held out."""

    def __init__(self, dataset: Dataset) -> None:
        """Reads the training and validation images into memory.

        Args:
            dataset: Its test images are not read.
        """
        self._training, self._seed = len(dataset.x_train), dataset.seed
        on_gpu = tf.config.list_logical_devices("GPU") and dataset.x_train.nbytes + dataset.x_val.nbytes <= _ON_GPU
        with tf.device("GPU:0" if on_gpu else "CPU:0"):
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
