"""Ink told from paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# What stands out less from the paper than this, in 0..1, or than so many times its noise, is no ink.
_FAINTEST, _NOISES = 0.08, 6.0
# The noise of paper on which nothing is drawn; with more, it is something else.
_PLAIN = 0.05
# Pieces with less ink than this part of the whole are specks.
_SPECK = 0.01


@dataclass(frozen=True)
class Ink:
    """What is drawn in a picture.

    Attributes:
        amount: (H, W), in 0..1.
        where: (H, W), true where there is any.
        dark: Whether it is darker than the paper.
        plain: Whether the paper is plain enough for ink to stand out.
    """

    amount: Array
    where: Array
    dark: bool
    plain: bool


def find_ink(pixels: Array) -> Ink:
    """Tells ink from paper.

    Args:
        pixels: (H, W, 3), in 0..1.
    """
    from scipy import ndimage

    away = pixels - _paper(pixels)
    strength = np.abs(away).max(axis=2)
    # The ink's colour, told by what stands out most: the rest counts as far as it goes the same way.
    strongest = strength >= np.quantile(strength, 0.99)
    direction = away[strongest].mean(axis=0)
    length = float(np.linalg.norm(direction))
    dark = bool(direction.sum() < 0)
    nothing = np.zeros(strength.shape), np.zeros(strength.shape, dtype=bool)
    if length == 0:
        return Ink(*nothing, dark, plain=True)
    amount = away @ (direction / length) / math.sqrt(3)
    # The standard deviation, told by the quarter of a normal distribution that lies nearest to its middle: where a
    # picture is cut close, half of it may be ink.
    noise = float(np.quantile(np.abs(amount), 0.25)) / 0.3186
    floor = max(_FAINTEST, _NOISES * noise)
    if not (amount > floor).any():
        return Ink(*nothing, dark, plain=noise <= _PLAIN)
    full = float(np.quantile(amount[amount > max(floor, 0.5 * amount.max())], 0.5))
    # A small picture's grey pixels are strokes' edges, a large one's are rather blurs and a JPEG's ripples.
    faint = 0.02 if max(pixels.shape) <= 64 else 0.2
    weak, strong = amount > max(faint * full, 3 * noise), amount > max(0.4 * full, floor)
    pieces, count = ndimage.label(weak, np.ones((3, 3)))
    inked = ndimage.sum_labels(np.where(strong, amount, 0), pieces, np.arange(1, count + 1))
    kept = np.flatnonzero(inked > _SPECK * inked.sum()) + 1
    return Ink(np.clip(amount / full, 0, 1), np.isin(pieces, kept), dark, plain=True)


def _paper(pixels: Array) -> Array:
    """The paper's colour at each pixel, as smooth as a shadow: a quadratic in the place, fitted to where no ink is.

    Found from the edges, which paper mostly surrounds, and then from all that is of its colour.
    """
    height, width = pixels.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    smooth = np.concatenate([plane, (x * y)[..., None], (x * x)[..., None], (y * y)[..., None]], axis=-1)
    edge = np.zeros((height, width), dtype=bool)
    rim = max(1, min(height, width) // 50)
    edge[:rim] = edge[-rim:] = edge[:, :rim] = edge[:, -rim:] = True
    step = max(1, max(height, width) // 128)
    terms, colours = plane[edge], pixels[edge]
    fitted = _robust_fit(terms, colours)
    paper = plane @ fitted
    for _ in range(3):
        sample = (slice(None, None, step), slice(None, None, step))
        away = np.abs(pixels - paper)[sample].max(axis=2)
        spread = 1.4826 * float(np.median(np.abs(pixels - paper)[edge].max(axis=1)))
        near = away <= max(3 * spread, 0.02)
        if near.sum() < 0.1 * near.size:
            break
        fitted = np.linalg.lstsq(smooth[sample][near], pixels[sample][near], rcond=None)[0]
        paper = smooth @ fitted
    return paper


def _robust_fit(terms: Array, values: Array) -> Array:
    """Least absolute deviations, by reweighted least squares."""
    weights: Array = np.ones(len(terms))
    fitted: Array = np.zeros((terms.shape[1], values.shape[1]))
    for _ in range(15):
        root = np.sqrt(weights)[:, None]
        fitted = np.linalg.lstsq(terms * root, values * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(values - terms @ fitted).max(axis=1), 1e-3)
    return fitted
