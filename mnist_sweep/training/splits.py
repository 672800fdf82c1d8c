"""A data set's images in memory, split into those to train on and those to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_sweep.data import images as data
from mnist_sweep.data.images import Array, Dataset
from mnist_sweep.training import backends


@dataclass(frozen=True)
class Split:
    """Which images to train on and which to validate on.

    Attributes:
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1; a tensor of the backend.
        labels: (N,), int64.
        training: The indices of the training images.
        validation: The indices of the validation images; may be empty.
    """

    images: Any
    labels: Any
    training: Array
    validation: Array

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def shuffled(self, seed: int, epoch: int) -> Any:
        """Returns the indices of the training images in an epoch's order, int32.

        Args:
            seed: The trial's seed.
            epoch: The epoch, counted from 0.
        """
        return backends.shuffle(self.training, seed, epoch)

    def batch(self, order: Any, i: Any, batch_size: Any) -> tuple[Any, Any]:
        """Returns one batch.

        Args:
            order: Indices of images.
            i: The number of the batch, counted from 0.
            batch_size: Images per batch; the last batch may have fewer.

        Returns:
            The images, float32 in 0..1, and their labels.
        """
        return select(self.images, self.labels, order[i * batch_size : (i + 1) * batch_size])

    def arrays(self, indices: Array) -> tuple[Array, Array]:
        """Returns some images, float32 in 0..1, and their labels as arrays, for a `fit` that draws its own batches."""
        images, labels = select(self.images, self.labels, indices)
        return np.asarray(images), np.asarray(labels)

    def sample(self, count: int) -> Array:
        """Returns the first validation images, or training images if there are none, as they are in memory."""
        indices = self.validation if len(self.validation) else self.training
        return np.asarray(backends.gather(self.images, indices[:count]))


class Splits:
    """Holds a data set's training and validation images together, so that any part of them can be held out."""

    def __init__(self, dataset: Dataset) -> None:
        """Reads the training and validation images into memory, but not the test images."""
        self._training, self._seed = len(dataset.x_train), dataset.seed
        self._images = backends.to_device([dataset.x_train, dataset.x_val])
        self._labels = backends.to_device([dataset.y_train, dataset.y_val])

    def holdout(self) -> Split:
        """Returns the split with the data set's own validation images."""
        indices = np.arange(len(self._images))
        return Split(self._images, self._labels, indices[: self._training], indices[self._training :])

    def fold(self, fold: int, folds: int) -> Split:
        """Returns a split of cross-validation: one fold of all images is held out.

        Args:
            fold: The fold to validate on, counted from 1.
            folds: How many folds there are. They are the same for all trials of a sweep.

        Raises:
            UserError: There are more folds than images.
        """
        of = data.folds(np.asarray(self._labels), folds, self._seed)
        return Split(self._images, self._labels, np.flatnonzero(of != fold), np.flatnonzero(of == fold))


def select(images: Any, labels: Any, indices: Any) -> tuple[Any, Any]:
    """Returns some images, float32 in 0..1, and their labels."""
    # Pixels stay bytes until a batch needs them: a quarter of the memory to read.
    pixels = backends.gather(images, indices)
    if pixels.dtype == "uint8":
        pixels = keras.ops.cast(pixels, "float32") / 255.0
    return pixels, backends.gather(labels, indices)
