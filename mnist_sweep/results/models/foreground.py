"""Separates what is drawn in an image from the background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mnist_sweep.data.images import Array

# Foreground differs from the background by at least this much, in 0..1, and by so many times the background's noise.
_FAINTEST, _NOISES = 0.08, 6.0
# The most noise of a plain background.
_PLAIN = 0.05
# Connected pieces with less than this part of all ink are specks.
_SPECK = 0.01


@dataclass(frozen=True)
class Foreground:
    """What is drawn in an image.

    Attributes:
        amount: (H, W), how much ink each pixel has, in 0..1.
        mask: (H, W), true where something is drawn.
        dark: Whether it is darker than the background.
        plain: Whether the background is plain enough to tell the two apart.
    """

    amount: Array
    mask: Array
    dark: bool
    plain: bool


def find_foreground(pixels: Array) -> Foreground:
    """Separates the foreground of an image from its background.

    Args:
        pixels: (H, W, 3), in 0..1.
    """
    from scipy import ndimage

    away = pixels - _background(pixels)
    strength = np.abs(away).max(axis=2)
    # The pixels that stand out most give the ink's colour; the others count as far as they differ in its direction.
    strongest = strength >= np.quantile(strength, 0.99)
    direction = away[strongest].mean(axis=0)
    length = float(np.linalg.norm(direction))
    dark = bool(direction.sum() < 0)
    nothing = np.zeros(strength.shape), np.zeros(strength.shape, dtype=bool)
    if length == 0:
        return Foreground(*nothing, dark, plain=True)
    amount = away @ (direction / length) / math.sqrt(3)
    # The standard deviation, from the quarter of a normal distribution that is nearest to its mean: half of a closely
    # cropped image may be ink.
    noise = float(np.quantile(np.abs(amount), 0.25)) / 0.3186
    floor = max(_FAINTEST, _NOISES * noise)
    if not (amount > floor).any():
        return Foreground(*nothing, dark, plain=noise <= _PLAIN)
    full = float(np.quantile(amount[amount > max(floor, 0.5 * amount.max())], 0.5))
    # Grey pixels are the edges of strokes in a small image, and blur or a JPEG's ripples in a large one.
    faint = 0.02 if max(pixels.shape) <= 64 else 0.2
    weak, strong = amount > max(faint * full, 3 * noise), amount > max(0.4 * full, floor)
    pieces, count = ndimage.label(weak, np.ones((3, 3)))
    inked = ndimage.sum_labels(np.where(strong, amount, 0), pieces, np.arange(1, count + 1))
    kept = np.flatnonzero(inked > _SPECK * inked.sum()) + 1
    return Foreground(np.clip(amount / full, 0, 1), np.isin(pieces, kept), dark, plain=True)


def _background(pixels: Array) -> Array:
    """The background's colour at each pixel: a quadratic function of the place, which follows a soft shadow.

    It is fitted to the image's edges first, which are mostly background, and then to all pixels of a similar colour.
    """
    height, width = pixels.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    smooth = np.concatenate([plane, (x * y)[..., None], (x * x)[..., None], (y * y)[..., None]], axis=-1)
    edge = np.zeros((height, width), dtype=bool)
    rim = max(1, min(height, width) // 50)
    edge[:rim] = edge[-rim:] = edge[:, :rim] = edge[:, -rim:] = True
    step = max(1, max(height, width) // 128)
    sample = (slice(None, None, step), slice(None, None, step))
    background = plane @ _robust_fit(plane[edge], pixels[edge])
    for _ in range(3):
        away = np.abs(pixels - background)
        spread = 1.4826 * float(np.median(away[edge].max(axis=1)))
        near = away[sample].max(axis=2) <= max(3 * spread, 0.02)
        if near.sum() < 0.1 * near.size:
            break
        background = smooth @ np.linalg.lstsq(smooth[sample][near], pixels[sample][near], rcond=None)[0]
    return background


def _robust_fit(terms: Array, values: Array) -> Array:
    """Least absolute deviations, by iteratively reweighted least squares."""
    weights: Array = np.ones(len(terms))
    fitted: Array = np.zeros((terms.shape[1], values.shape[1]))
    for _ in range(15):
        root = np.sqrt(weights)[:, None]
        fitted = np.linalg.lstsq(terms * root, values * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(values - terms @ fitted).max(axis=1), 1e-3)
    return fitted
