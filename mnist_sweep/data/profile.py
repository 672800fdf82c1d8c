"""Measures what a data set's images look like, to judge later whether another image is like them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import read_npz
from mnist_sweep.common.text import first_line
from mnist_sweep.data.images import to_float

Array = NDArray[Any]

# Images to measure; each is compared with all others.
_IMAGES = 2000
_COMPONENTS = 40
_NEIGHBOURS = 3
# The fewest images of a class that show how much they vary.
_FEWEST = 20
# Larger images are first reduced to this side; cells along a side; directions of edges.
_SIDE, _CELLS, _DIRECTIONS = 32, 7, 8
# The largest difference in brightness within a plain background.
_PLAIN = 0.05


@dataclass(frozen=True)
class Drawing:
    """How strokes are drawn in images like MNIST's.

    Attributes:
        background: The brightness of the background, 0 or 1.
        size: The longer side of the drawing, in pixels.
        centre: The row and column of the drawing's centre of mass, in pixels from 0.
        ink: The smallest and the largest fraction of ink, in 0..1.
        aspect: The smallest and the largest ratio of width to height.
        pieces: The largest number of separate pieces.
    """

    background: float
    size: float
    centre: tuple[float, float]
    ink: tuple[float, float]
    aspect: tuple[float, float]
    pieces: int


_DRAWING = TypeAdapter(Drawing)


@dataclass(frozen=True)
class Likeness:
    """Some training images, to measure how different from them another image is.

    Images are compared by the principal components of their edges (`_edges`). The distance of an image from a class is
    its mean distance from the nearest images of that class, relative to the usual distance there.

    Attributes:
        mean: (D,), the mean of the edges.
        components: (K, D), the orthonormal components.
        codes: (N, K), the images in these components.
        classes: (N,), the class of each image.
        usual: (classes,), the median distance of an image from the others of its class.
        distances: (N,), the distance of each image from the others of its class, sorted.
    """

    mean: Array
    components: Array
    codes: Array
    classes: Array
    usual: Array
    distances: Array

    def fits(self) -> bool:
        """Returns whether the arrays' shapes fit together, and every class has images."""
        count, classes = len(self.codes), len(self.usual)
        return (
            (self.mean.ndim, self.components.ndim, self.codes.ndim, self.classes.ndim, self.usual.ndim)
            == (1, 2, 2, 1, 1)
            and self.components.shape == (self.codes.shape[1], len(self.mean))
            and self.classes.shape == self.distances.shape == (count,)
            and set(self.classes.tolist()) == set(range(classes))
            and all(np.isfinite(array).all() for array in (self.mean, self.components, self.codes, self.usual))
            and bool((self.usual > 0).all())
        )

    def rarity(self, image: Array, label: int) -> float:
        """Returns how many training images are at least as different from the others of their class.

        Args:
            image: (H, W, C), float32 in 0..1.
            label: The predicted class.

        Returns:
            A fraction of the training images, in 0..1.
        """
        away = _edges(image[np.newaxis])[0] - self.mean
        code = self.components @ away
        # The part outside of the components is equally far from every image.
        rest = max(float(away @ away - code @ code), 0.0)
        near = np.square(self.codes[self.classes == label] - code).sum(axis=1) + rest
        distance = np.sqrt(np.sort(near)[:_NEIGHBOURS].mean()) / self.usual[label]
        return 1 - float(np.searchsorted(self.distances, distance)) / len(self.distances)


@dataclass(frozen=True)
class Profile:
    """What training images look like.

    Attributes:
        drawing: How strokes are drawn; None if the images are not strokes on a plain background, of similar size and
            position.
        likeness: To compare other images with them; None if there are too few.
    """

    drawing: Drawing | None = None
    likeness: Likeness | None = None

    def save(self, path: Path) -> None:
        """Saves the profile as a `.npz` file without Python objects."""
        arrays: dict[str, Any] = {
            f"{part}.{name}": np.asarray(value)
            for part, content in asdict(self).items()
            for name, value in (content or {}).items()
        }
        write_whole(path, lambda target: np.savez_compressed(target, **arrays))

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Loads a profile that `save` wrote.

        Raises:
            ValueError: The file is not a profile.
        """
        try:
            parts: dict[str, dict[str, Any]] = {"drawing": {}, "likeness": {}}
            for key, array in read_npz(path, str(path)).items():
                part, _, name = key.partition(".")
                parts[part][name] = array
            drawing = {name: value.tolist() for name, value in parts["drawing"].items()}
            likeness = {name: value.astype(np.float64) for name, value in parts["likeness"].items()}
            found = cls(
                _DRAWING.validate_python(drawing) if drawing else None, Likeness(**likeness) if likeness else None
            )
            if found.likeness is not None and not found.likeness.fits():
                raise ValueError("its arrays do not fit together")
            return found
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: is not a profile of images ({first_line(error)})") from None


def measure(images: Array, labels: Array | None = None) -> Profile:
    """Measures training images.

    Args:
        images: (N, H, W, C), uint8 in 0..255 or float32 in 0..1; of many images, some of each class are measured.
        labels: (N,), their classes; None to measure only how they are drawn.
    """
    if labels is None:
        return Profile(_drawing(to_float(images[:_IMAGES])))
    chosen = _some_of_each(np.asarray(labels))
    pixels, labels = to_float(images[chosen]), np.asarray(labels)[chosen]
    return Profile(_drawing(pixels), _likeness(pixels, labels))


def _some_of_each(labels: Array) -> Array:
    """Returns the sorted indices of images, equally many of each class if possible."""
    rank = np.empty(len(labels), dtype=np.int64)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:_IMAGES])


# ---- strokes ----------------------------------------------------------------------------------------------------


def _drawing(pixels: Array) -> Drawing | None:
    if pixels.shape[3] != 1:
        return None
    grey = pixels[..., 0]
    rim = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    background = float(np.round(np.median(rim)))
    ink = np.abs(grey - background)
    empty = np.abs(rim - background).max(axis=1) <= _PLAIN
    ink = ink[ink.max(axis=(1, 2)) > _PLAIN]
    if empty.mean() < 0.9 or not len(ink):
        return None
    extents = np.array([extent(image) for image in ink])
    longer = extents.max(axis=1)
    mass = ink.sum(axis=(1, 2))
    centres = np.stack(
        [
            (ink.sum(axis=2) @ np.arange(ink.shape[1])) / mass,
            (ink.sum(axis=1) @ np.arange(ink.shape[2])) / mass,
        ],
        axis=1,
    )
    side = max(grey.shape[1:])
    low, size, high = np.quantile(longer, [0.1, 0.5, 0.9])
    if high - low > 0.15 * size or centres.std(axis=0).max() > 0.03 * side:
        return None
    shares, aspects = ink.mean(axis=(1, 2)), extents[:, 1] / extents[:, 0]
    return Drawing(
        background,
        float(size),
        (float(centres[:, 0].mean()), float(centres[:, 1].mean())),
        (float(shares.min()), float(shares.max())),
        (float(aspects.min()), float(aspects.max())),
        max(pieces(image) for image in ink),
    )


def extent(ink: Array) -> tuple[int, int]:
    """Returns the height and width of the box around a drawing.

    Args:
        ink: (H, W), 0 in the background.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return (int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)) if len(rows) else (0, 0)


def pieces(ink: Array) -> int:
    """Returns the number of separate pieces of a drawing, without specks.

    Args:
        ink: (H, W), in 0..1.
    """
    from scipy import ndimage

    labels, count = ndimage.label(ink > 0.2, np.ones((3, 3)))
    masses = ndimage.sum_labels(ink, labels, np.arange(1, count + 1))
    return int((masses > 0.02 * masses.sum()).sum()) if count else 0


# ---- likeness ---------------------------------------------------------------------------------------------------


def _likeness(pixels: Array, labels: Array) -> Likeness | None:
    counts = np.bincount(labels)
    if counts.min() < _FEWEST:
        return None
    edges = _edges(pixels)
    mean = edges.mean(axis=0)
    _, _, rows = np.linalg.svd(edges - mean, full_matrices=False)
    # With few images, more components would fit only these images, and any other would seem far away.
    components = rows[: min(_COMPONENTS, len(pixels) // 20)]
    codes = (edges - mean) @ components.T
    rest = np.maximum(np.square(edges - mean).sum(axis=1) - np.square(codes).sum(axis=1), 0)
    distances, usual = np.empty(len(codes)), np.empty(len(counts))
    for label in range(len(counts)):
        members = np.flatnonzero(labels == label)
        of_class = codes[members]
        squares = np.square(of_class).sum(axis=1)
        between = np.maximum(squares[:, None] + squares - 2 * of_class @ of_class.T, 0) + rest[members, None]
        np.fill_diagonal(between, np.inf)
        found = np.sqrt(np.sort(between, axis=1)[:, :_NEIGHBOURS].mean(axis=1))
        usual[label] = max(float(np.median(found)), 1e-6)
        distances[members] = found / usual[label]
    return Likeness(
        mean.astype(np.float32),
        components.astype(np.float32),
        codes.astype(np.float16),
        labels,
        usual,
        np.sort(distances).astype(np.float32),
    )


def _edges(pixels: Array) -> Array:
    """Returns histograms of oriented gradients: how much edge of each direction each part of an image has.

    N. Dalal, B. Triggs, *Histograms of Oriented Gradients for Human Detection*, CVPR 2005; here with overlapping cells,
    and normalized over the whole image. The square root gives faint edges more weight.

    Args:
        pixels: (N, H, W, C), float32 in 0..1.

    Returns:
        (N, directions × cells × cells), each of length 1, or 0 if an image has no edges.
    """
    grey = pixels.mean(axis=3)
    down, across = (_averaging(side, min(side, _SIDE)) for side in grey.shape[1:])
    parts = []
    for start in range(0, len(grey), 250):
        image = down @ grey[start : start + 250] @ across.T
        slope_down, slope_across = np.gradient(image, axis=(1, 2))
        turn = (np.arctan2(slope_down, slope_across) % np.pi) / np.pi * _DIRECTIONS
        lower = np.floor(turn)
        strength = np.hypot(slope_down, slope_across)
        rows, columns = (_overlapping(side, _CELLS) for side in image.shape[1:])
        histograms = [
            rows
            @ (
                strength
                * ((lower % _DIRECTIONS == i) * (1 - turn + lower) + ((lower + 1) % _DIRECTIONS == i) * (turn - lower))
            )
            @ columns.T
            for i in range(_DIRECTIONS)
        ]
        found = np.sqrt(np.stack(histograms, axis=1).reshape(len(image), -1))
        parts.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9))
    return np.concatenate(parts)


def _averaging(side: int, fewer: int) -> Array:
    """Returns (fewer, side): each row averages one of equally long sections of the side."""
    bounds = np.linspace(0, side, fewer + 1)
    pixels = np.arange(side)
    weights: Array = np.clip(np.minimum(bounds[1:, None], pixels + 1) - np.maximum(bounds[:-1, None], pixels), 0, 1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _overlapping(side: int, cells: int) -> Array:
    """Returns (cells, side): each row sums a section of the side twice as long as a cell, weighted to its middle."""
    width = side / cells
    centres = (np.arange(cells) + 0.5) * width
    return np.clip(1 - np.abs(np.arange(side) + 0.5 - centres[:, None]) / width, 0, 1)
