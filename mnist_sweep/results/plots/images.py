"""Pictures of pictures: what the data look like, what was mistaken, what the first layer looks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mnist_sweep.results.plots.common import BLUE, ORANGE, WIDTH, nothing

Array = npt.NDArray[Any]

_DIGITS, _MISTAKES, _FILTERS = 25, 25, 64
_ACROSS = 5


def worst_mistakes(images: Array, truth: Array, predicted: Array, probability: Array, title: str) -> Figure:
    """The surest wrong answers.

    Args:
        images: (M, height, width, channels), 0 to 255 or floats from 0 to 1, the surest mistake first; 25 are drawn.
        truth: The true classes (M,).
        predicted: The classes (M,) for which they were taken.
        probability: What those were given (M,), from 0 to 1.
        title: Of the picture.
    """
    count = min(len(images), _MISTAKES)
    down = max(math.ceil(count / _ACROSS), 1)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.1 * down if count else 2.0), layout="constrained")
    figure.suptitle(title)
    if not count:
        nothing(figure.subplots(), "There are no mistakes.")
        return figure
    panels = figure.subplots(down, _ACROSS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for i, axes in enumerate(panels.flat[:count]):
        _show(axes, images[i])
        sure = _percent(float(probability[i]))
        axes.set_title(f"true {truth[i]}, taken for {predicted[i]} ({sure})", fontsize=9)
    return figure


def first_layer_filters(filters: Array, title: str) -> Figure:
    """What the first layer looks for.

    Args:
        filters: (F, height, width, channels); 64 are drawn. One channel is coloured from blue, which speaks against, to
            red, which speaks for, on one scale for all; three are shown as colours, each filter on its own scale.
        title: Of the picture.
    """
    count = min(len(filters), _FILTERS)
    across = min(max(count, 1), 8 if count <= 40 else 10)
    down = max(math.ceil(count / across), 1)
    figure = Figure(figsize=(WIDTH, 0.7 + min(1.2, WIDTH / across) * down if count else 2.0), layout="constrained")
    figure.suptitle(title)
    if not count:
        nothing(figure.subplots(), "There are no filters.")
        return figure
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    coloured = filters.shape[-1] == 3
    most = float(np.nanmax(np.abs(filters[:count].mean(axis=-1)))) or 1.0
    for filter_, axes in zip(filters[:count], panels.flat, strict=False):
        if coloured:
            axes.imshow(0.5 + filter_ / (2 * float(np.abs(filter_).max()) or 1.0))
        else:
            axes.imshow(filter_.mean(axis=-1), cmap="RdBu_r", vmin=-most, vmax=most)
    if not coloured:
        scale = ScalarMappable(Normalize(-most, most), "RdBu_r")
        figure.colorbar(scale, ax=list(panels.flat), label="Weight", shrink=0.8)
    return figure


def digits_and_classes(
    images: Array,
    labels: Array,
    names: Sequence[str] | None = None,
    title: str = "The first images and the classes",
    test_labels: Array | None = None,
) -> Figure:
    """The first 25 images, and how many there are of each class.

    Args:
        images: (N, height, width) or (N, height, width, channels), 0 to 255 or floats from 0 to 1; the first are drawn.
        labels: The classes (N,), whole numbers from 0.
        names: The classes' names; None for their numbers.
        title: Of the picture.
        test_labels: The classes of the test images, counted beside those for training; None leaves them out.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    figure.suptitle(title)
    grid = GridSpec(5, 11, figure=figure)
    for i in range(_DIGITS):
        axes = figure.add_subplot(grid[i // 5, i % 5])
        axes.set_axis_off()
        if i < len(images):
            _show(axes, images[i])
            axes.set_title(_name(int(labels[i]), names), fontsize=8, pad=2)
    both = [np.asarray(labels).ravel(), *([] if test_labels is None else [np.asarray(test_labels).ravel()])]
    classes = max([len(names or ()), *(int(part.max()) + 1 for part in both if len(part))])
    _counts(figure.add_subplot(grid[:, 6:]), both, classes, names)
    return figure


def _counts(axes: Axes, parts: list[Array], classes: int, names: Sequence[str] | None) -> None:
    """Draws a bar for each class and part: those for training, and those of the test set."""
    width = 0.8 / len(parts)
    looks = (("training", BLUE, ""), ("test", ORANGE, "///"))
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
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=2,
        frameon=False,
        fontsize=9,
    )


def _name(number: int, names: Sequence[str] | None) -> str:
    return str(names[number]) if names is not None and number < len(names) else str(number)


def _percent(share: float) -> str:
    """A share for people, which is not 100 % before it is all."""
    return f"{share:.0%}".replace("%", " %") if share < 0.995 else f"{math.floor(share * 1000) / 10:.1f} %"


def _show(axes: Axes, image: Array) -> None:
    """Draws an image (height, width[, channels]), of one channel as ink on paper."""
    scaled = np.asarray(image, dtype=np.float64) / (255 if np.issubdtype(np.asarray(image).dtype, np.integer) else 1)
    if scaled.ndim == 3 and scaled.shape[2] == 3:
        axes.imshow(np.clip(scaled, 0, 1))
    else:
        axes.imshow(scaled if scaled.ndim == 2 else scaled.mean(axis=2), cmap="gray_r", vmin=0, vmax=1)
