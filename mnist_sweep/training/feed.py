"""Images on their way into a model: in memory once, drawn batch by batch, whichever of them are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_sweep.data import images as data
from mnist_sweep.data.images import Array, Dataset
from mnist_sweep.training import backends


@dataclass(frozen=True)
class Feed:
    """Which images to train on and which to validate on.

    Attributes:
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1; a tensor of the backend.
        labels: (N,), int64.
        training: The indices of those to train on.
        validation: The indices of those to validate on; may be empty.
    """

    images: Any
    labels: Any
    training: Array
    validation: Array

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def order(self, seed: int, epoch: int) -> Any:
        """The indices of the training images in the order of an epoch, int32.

        Args:
            seed: The trial's.
            epoch: Counted from 0.
        """
        return backends.shuffled(self.training, seed, epoch)

    def drawn(self, order: Any, i: Any, batch_size: Any) -> tuple[Any, Any]:
        """One batch.

        Args:
            order: Indices of images.
            i: Which batch of them, counted from 0.
            batch_size: Images in a batch; the last may have fewer.

        Returns:
            The images, float32 in 0..1, and their labels.
        """
        return batch(self.images, self.labels, order[i * batch_size : (i + 1) * batch_size])

    def arrays(self, indices: Array) -> tuple[Array, Array]:
        """Some of the images, float32 in 0..1, and their labels, for a training that draws its own batches."""
        images, labels = batch(self.images, self.labels, indices)
        return np.asarray(images), np.asarray(labels)

    def sample(self, count: int) -> Array:
        """The first validation images, or training images where there are none, as they are in memory."""
        chosen = self.validation if len(self.validation) else self.training
        return np.asarray(backends.taken(self.images, chosen[:count]))


class Feeds:
    """Holds a data set's training and validation images together, so that any part of them can be held out."""

    def __init__(self, dataset: Dataset) -> None:
        """Reads the training and validation images into memory.

        Args:
            dataset: Its test images are not read.
        """
        self._training, self._seed = len(dataset.x_train), dataset.seed
        self._images = backends.resident([dataset.x_train, dataset.x_val])
        self._labels = backends.resident([dataset.y_train, dataset.y_val])

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
        of = data.folds(np.asarray(self._labels), folds, self._seed)
        return Feed(self._images, self._labels, np.flatnonzero(of != fold), np.flatnonzero(of == fold))


def batch(images: Any, labels: Any, chosen: Any) -> tuple[Any, Any]:
    """Some of the images, float32 in 0..1, and their labels."""
    # Pixels stay bytes until a batch is drawn: a quarter of the memory to read.
    pixels = backends.taken(images, chosen)
    if pixels.dtype == "uint8":
        pixels = keras.ops.cast(pixels, "float32") / 255.0
    return pixels, backends.taken(labels, chosen)
