"""Changes the images of training batches at random: `augment=light`, for instance.

The steps and their numbers are those of Keras's layers (`RandomTranslation`, `RandomRotation`, `RandomZoom`,
`RandomFlip`, `RandomBrightness`, `RandomContrast`, `RandAugment`, `MixUp`, `CutMix`). Shift, rotation and zoom are one
step here instead of three, which takes less time and blurs an image only once. The strengths are numbers that a
compiled program reads while it runs.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mnist_sweep.config.augment import GEOMETRY, AugmentConfig
from mnist_sweep.training import backends, tasks
from mnist_sweep.training.splits import Batch

# More random draws than one batch needs.
_DRAWS = 128


class Augmentation:
    """Changes the images of training batches.

    What happens to a batch depends only on the seed, the epoch and the place of the batch in the epoch.

    Attributes:
        numbers: What a compiled program reads while it runs: the strengths, and the seed of the epoch.
    """

    def __init__(self, config: AugmentConfig) -> None:
        """Takes the steps and their first strengths."""
        self._steps, self._fill, self._flip = frozenset(config.steps), config.fill, config.flip
        self._strengths = {name: backends.Number(value) for name, value in _changeable(config).items()}
        self._epoch = backends.Number(0, "uint32")
        self.numbers = [*self._strengths.values(), self._epoch]
        self._draws = _Draws()
        self._rand_augment: keras.layers.RandAugment | None = None
        if config.rand_augment:
            self._rand_augment = keras.layers.RandAugment((0, 1), factor=config.rand_augment, dtype="float32")
            self._rand_augment.generator = self._draws

    @classmethod
    def of(cls, config: AugmentConfig) -> Augmentation | None:
        """Returns what a config describes; None if nothing is to be changed."""
        return cls(config) if config.steps else None

    def set(self, config: AugmentConfig) -> None:
        """Changes the strengths to those of another config with the same `shape_of`."""
        for name, value in _changeable(config).items():
            self._strengths[name].assign(value)

    def begin(self, seed: int, epoch: int) -> None:
        """Prepares for an epoch.

        Args:
            seed: The trial's seed.
            epoch: The epoch, counted from 0.
        """
        # Other numbers than those of the shuffling and the dropout.
        sequence = np.random.SeedSequence([seed, epoch], spawn_key=(1,))
        self._epoch.assign(int(sequence.generate_state(1)[0]))

    def __call__(self, batch: Batch, at: Any) -> Batch:
        """Changes a batch.

        Args:
            batch: Images (N, H, W, C), float32 in 0..1, their targets and, if rows count differently, their weights.
            at: The place of the batch's first row in the epoch.

        Returns:
            The batch with other images. If they are mixed, the targets are those that `tasks.mixed` returns, and
            contain the weights.
        """
        images, *rest = batch
        self._draws.restart(self._epoch.read(), at)
        images = self._moved(images)
        if self._flip is not None:
            images = self._flipped(images)
        if "brightness" in self._steps:
            images = ops.clip(images + self._symmetric("brightness", (ops.shape(images)[0], 1, 1, 1)), 0.0, 1.0)
        if "contrast" in self._steps:
            mean = ops.mean(images, axis=(1, 2), keepdims=True)
            factor = 1.0 + self._symmetric("contrast", (ops.shape(images)[0], 1, 1, 1))
            images = ops.clip((images - mean) * factor + mean, 0.0, 1.0)
        if self._rand_augment is not None:
            images = self._rand_augment(images)
        return self._mixed(images, *rest) if self._steps & {"mixup", "cutmix"} else (images, *rest)

    def _symmetric(self, name: str, shape: tuple[Any, ...]) -> Any:
        """Draws numbers between minus and plus a strength."""
        return self._uniform(shape, -1.0, 1.0) * self._strengths[name].read()

    def _uniform(self, shape: tuple[Any, ...], low: float = 0.0, high: float = 1.0) -> Any:
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self._draws)

    def _moved(self, images: Any) -> Any:
        """Shifts, rotates and zooms images."""
        if not self._steps & set(GEOMETRY):
            return images
        count, (height, width) = ops.shape(images)[0], images.shape[1:3]
        zero, one = ops.zeros((count,)), ops.ones((count,))
        angle = 2 * math.pi * self._symmetric("rotation", (count,)) if "rotation" in self._steps else zero
        zoom = 1.0 + self._symmetric("zoom", (count,)) if "zoom" in self._steps else one
        shifts = zero, zero
        if "shift" in self._steps:
            shifts = width * self._symmetric("shift", (count,)), height * self._symmetric("shift", (count,))
        # From a pixel of the result to the one of the image that it shows, around the image's middle.
        cosine, sine = zoom * ops.cos(angle), zoom * ops.sin(angle)
        x, y = (width - 1) / 2.0, (height - 1) / 2.0
        left, top = x - (cosine * x - sine * y) - shifts[0], y - (sine * x + cosine * y) - shifts[1]
        matrix = ops.stack([cosine, -sine, left, sine, cosine, top, zero, zero], axis=1)
        return ops.image.affine_transform(images, matrix, fill_mode=self._fill)

    def _flipped(self, images: Any) -> Any:
        for axis, direction in ((2, "horizontal"), (1, "vertical")):
            if self._flip in (direction, "both"):
                half = self._uniform((ops.shape(images)[0], 1, 1, 1)) < 0.5
                images = ops.where(half, ops.flip(images, axis), images)
        return images

    def _mixed(self, images: Any, targets: Any, weights: Any = None) -> Batch:
        """Mixes each image with the one before it in the batch; the order of an epoch is random already."""
        count, (height, width) = ops.shape(images)[0], images.shape[1:3]
        kept = ops.ones((count, 1, 1, 1))
        if "mixup" in self._steps:
            kept = ops.reshape(self._beta("mixup", count), (-1, 1, 1, 1))
        if "cutmix" in self._steps:
            # A rectangle around a random pixel, as high and wide for its image as each other.
            size = ops.sqrt(1.0 - self._beta("cutmix", count))
            rows, columns = (
                ops.abs(ops.arange(length, dtype="float32") - length * self._uniform((count, 1)))
                < length * ops.expand_dims(size, 1) / 2
                for length in (height, width)
            )
            outside = ops.cast(~(rows[:, :, None] & columns[:, None, :]), "float32")[..., None]
            # With both, each happens to half of the images.
            kept = (
                ops.where(self._uniform((count, 1, 1, 1)) < 0.5, kept, outside) if "mixup" in self._steps else outside
            )
        mixed = kept * images + (1.0 - kept) * ops.roll(images, 1, axis=0)
        shares = ops.mean(ops.broadcast_to(kept, (count, height, width, 1)), axis=(1, 2, 3))
        return mixed, tasks.mixed(targets, weights, shares)

    def _beta(self, name: str, count: Any) -> Any:
        """Draws shares of a Beta distribution, whose two parameters are the strength.

        With a small strength, both of the Gamma variables that make one are too small for a float; their logarithms
        are not: Gamma(a) is Gamma(a + 1) U^(1/a). G. Marsaglia, W. W. Tsang, *A Simple Method for Generating Gamma
        Variables*, 2000.
        """
        alpha = self._strengths[name].read()

        def log_gamma() -> Any:
            larger = keras.random.gamma((count,), alpha + 1.0, dtype="float32", seed=self._draws)
            return ops.log(larger) + ops.log(ops.maximum(self._uniform((count,)), 1e-30)) / alpha

        return ops.sigmoid(log_gamma() - log_gamma())


class _Draws(keras.random.SeedGenerator):  # type: ignore[misc]
    """Seeds for the random draws of one batch after the other."""

    def restart(self, epoch: Any, at: Any) -> None:
        """Starts a batch.

        Args:
            epoch: The seed of the epoch.
            at: The place of the batch's first row in the epoch.
        """
        self._epoch, self._at, self._count = epoch, ops.cast(at, "uint32") * _DRAWS, 0

    def next(self, ordered: bool = True) -> Any:
        """Returns the next seed."""
        seed = ops.stack([self._epoch, self._at + self._count])
        self._count += 1
        return ops.cast(seed, keras.src.backend.random_seed_dtype())


def shape_of(config: AugmentConfig) -> dict[str, Any]:
    """Returns what two augmentations have in common if they can share a compiled program."""
    # Keras's RandAugment takes its strength when it is created.
    fixed = {name: getattr(config, name) for name in ("flip", "rand_augment")}
    return {**dict.fromkeys(config.steps, True), **fixed} | ({"fill": config.fill} if _moves(config) else {})


def _moves(config: AugmentConfig) -> bool:
    return any(getattr(config, name) for name in GEOMETRY)


def _changeable(config: AugmentConfig) -> dict[str, float]:
    return {name: value for name, value in config.steps.items() if name not in ("flip", "rand_augment")}
