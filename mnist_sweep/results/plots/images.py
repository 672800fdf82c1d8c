"""Plots of images: the data, the worst mistakes, and the filters of the first layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mnist_sweep.data.images import Array
from mnist_sweep.results.plots import common

_DIGITS, _MISTAKES, _FILTERS = 25, 20, 64
_ACROSS = 5
# The most characters of a class's name above an image.
_CAPTION, _SHORT = 12, 6


def worst_mistakes(
    images: Array, truth: Array, predicted: Array, probability: Array, title: str, names: Sequence[str] | None = None
) -> Figure:
    """Plots the test images that were misclassified with the highest confidence.

    Args:
        images: (M, height, width, channels), 0 to 255 or floats from 0 to 1, the most confident mistake first. The
            first 20 are drawn.
        truth: The true classes (M,).
        predicted: The predicted classes (M,).
        probability: Their probabilities (M,).
        title: The title of the plot.
        names: The names of the classes; None for their numbers.
    """
    count = min(len(images), _MISTAKES)
    across = 2 * _ACROSS
    down = math.ceil(count / across)
    height, width = images.shape[1:3] if count else (1, 1)
    shape = min(max(height / width, 0.4), 2.5)
    figure, axes = common.canvas(title, 0.2 + (0.5 + 1.15 * shape) * down if count else 1.5, common.WIDTH)
    if not count:
        return common.nothing(figure, "There are no mistakes.")
    drawn = [_as_floats(image) for image in images[:count]]
    sure = [_percent(float(share)) for share in probability[:count]]
    known = [[common.drawn(_name(int(label), names), _CAPTION) for label in labels] for labels in (truth, predicted)]
    # Long names leave no room for more in their line.
    long = any(len(name) > _SHORT for labels in known for name in labels)
    captions = [
        f"true {a}\npredicted {b}{chr(10) if long else ' '}({c})" for a, b, c in zip(*known, sure, strict=False)
    ]
    # As on paper, if the background is black.
    shades = "gray_r" if _is_dark(drawn) else "gray"
    head = (0.48 if long else 0.36) / shape
    _mosaic(axes, drawn, captions, across, gap=0.1, head=head, font=6 if long else 7, cmap=shades, vmin=0, vmax=1)
    return figure


def first_layer_filters(filters: Array, title: str) -> Figure:
    """Plots the weights of the first layer.

    Args:
        filters: (F, height, width, channels). The first 64 are drawn: with three channels as colours, each filter on
            its own scale; else from blue (negative) to red (positive), all on the same scale.
        title: The title of the plot.
    """
    count = min(len(filters), _FILTERS)
    across = min(max(count, 1), 8 if count <= 32 else 10)
    down = max(math.ceil(count / across), 1)
    # A few filters do not fill the full width.
    cell = min(0.9, (common.HALF - 1.0) / across)
    figure, axes = common.canvas(title, max(1.8, 0.5 + cell * down), max(3.5, cell * across + 1.0))
    if not count:
        return common.nothing(figure, "There are no filters.")
    drawn = np.asarray(filters[:count], dtype=np.float64)
    if drawn.shape[-1] == 3:
        most = np.abs(drawn).max(axis=(1, 2, 3), keepdims=True)
        _mosaic(axes, list(0.5 + drawn / (2 * np.where(most > 0, most, 1))), None, across, gap=0.12, head=0.12)
    else:
        flat = drawn.mean(axis=-1)
        end = float(np.abs(flat).max()) or 1.0
        _mosaic(axes, list(flat), None, across, gap=0.12, head=0.12, cmap="RdBu_r", vmin=-end, vmax=end)
        figure.colorbar(ScalarMappable(Normalize(-end, end), "RdBu_r"), ax=axes, label="Weight", shrink=0.9)
    return figure


def digits_and_classes(
    images: Array,
    labels: Array,
    names: Sequence[str] | None = None,
    title: str = "The first images and the classes",
    test_labels: Array | None = None,
) -> Figure:
    """Plots the first 25 images, and the number of images in each class.

    Args:
        images: (N, height, width) or (N, height, width, channels), 0 to 255 or floats from 0 to 1.
        labels: The classes (N,), whole numbers from 0.
        names: The names of the classes; None for their numbers.
        title: The title of the plot.
        test_labels: The classes of the test images, if they are to be counted too.
    """
    figure = common.empty(title, 5.2, 10)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    count = min(len(images), _DIGITS)
    captions = [_name(int(label), names) for label in labels[:count]]
    drawn = [_as_floats(image) for image in images[:count]]
    gray: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 1}
    _mosaic(left, drawn, captions, across=_ACROSS, gap=0.1, head=0.24, font=7.5 if names else 9, **gray)
    both = [np.asarray(labels).ravel(), *([] if test_labels is None else [np.asarray(test_labels).ravel()])]
    classes = max([len(names or ()), *(int(part.max()) + 1 for part in both if len(part))])
    _counts(right, both, classes, names)
    return figure


def _counts(axes: Axes, parts: list[Array], classes: int, names: Sequence[str] | None) -> None:
    """Draws a bar for each class and each of the parts, training and test images."""
    width = 0.8 / len(parts)
    looks = (("training", common.BLUE, ""), ("test", common.ORANGE, "///"))
    for i, (labels, (what, colour, hatch)) in enumerate(zip(parts, looks, strict=False)):
        counts = np.bincount(labels.astype(np.int64), minlength=classes)
        rows = np.arange(classes) + (i - (len(parts) - 1) / 2) * width
        label = f"{what}, {len(labels):,} images"
        bars = axes.barh(rows, counts, width, color=colour, alpha=0.8, hatch=hatch, edgecolor="white", label=label)
        if classes <= 12:
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    axes.margins(x=0.12)
    axes.set(xlabel="Images", ylabel="Class", ylim=(classes - 0.4, -0.6))
    if classes <= 40:
        font = 9 if classes <= 20 else 7
        axes.set_yticks(range(classes), [_name(n, names) for n in range(classes)], fontsize=font)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(20, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=9)


def _name(number: int, names: Sequence[str] | None) -> str:
    return str(names[number]) if names is not None and number < len(names) else str(number)


def _percent(share: float) -> str:
    """A share in percent, which is not rounded up to 100 %."""
    return f"{share:.0%}".replace("%", " %") if share < 0.995 else f"{math.floor(share * 1000) / 10:.1f} %"


def _as_floats(image: Array) -> common.Floats:
    """An image (height, width[, channels]) as floats from 0 to 1. A single channel loses its axis."""
    scaled = np.asarray(image, dtype=np.float64) / (255 if np.issubdtype(image.dtype, np.integer) else 1)
    scaled = np.clip(scaled, 0, 1)
    if scaled.ndim == 3 and scaled.shape[2] == 4:
        scaled = scaled[..., :3]
    return scaled if scaled.ndim == 2 or scaled.shape[2] == 3 else np.asarray(scaled.mean(axis=2))


def _is_dark(images: Sequence[common.Floats]) -> bool:
    """Whether most pixels at the edges of images are black."""
    edges = [part.ravel() for image in images for part in (image[0], image[-1], image[:, 0], image[:, -1])]
    return float(np.median(np.concatenate(edges))) < 0.05


def _mosaic(
    axes: Axes,
    images: list[common.Floats],
    titles: list[str] | None,
    across: int,
    gap: float,
    head: float,
    font: float = 9,
    **colours: Any,
) -> None:
    """Draws images in rows on the same axes; separate axes for each would take seconds.

    Args:
        axes: The axes, which lose their spines and ticks.
        images: (height, width) or (height, width, 3) each, all with the same shape.
        titles: The texts above the images; None for no texts.
        across: The number of images in a row.
        gap: The gap between columns, as a share of an image's width.
        head: The gap between rows, as a share of an image's height.
        font: The font size of the titles.
        **colours: `cmap`, `vmin` and `vmax` for images with one channel.
    """
    down = max(math.ceil(len(images) / across), 1)
    height, width = images[0].shape[:2] if images else (1, 1)
    for i, image in enumerate(images):
        x, y = (i % across) * (1 + gap) * width, (i // across) * (1 + head) * height
        drawn = axes.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest", **colours)
        if image.ndim == 3 or colours.get("cmap") == "gray":
            # A dark page must not invert its colours.
            drawn.set_gid(common.PHOTO)
        if titles is not None:
            text = axes.text(x + width / 2, y - 0.03 * height, titles[i], ha="center", va="bottom", fontsize=font)
            text.set_in_layout(False)
    right, bottom = across * (1 + gap) * width - gap * width, down * (1 + head) * height
    axes.set(xlim=(0, right), ylim=(bottom, -head * height), aspect="equal")
    axes.set_axis_off()
