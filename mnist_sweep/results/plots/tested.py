"""Plots of a tested model: curves of two classes, figures of each label, and predicted against true numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_sweep.common.text import counted, format_value, one_line
from mnist_sweep.data.schema import TargetKind
from mnist_sweep.results.plots import common
from mnist_sweep.results.plots.common import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Floats, tell
from mnist_sweep.results.plots.images import worst_mistakes

Array = npt.NDArray[Any]
# Lines in a plot of curves, rows of labels, and panels of numbers.
_CURVES, _LABELS, _PANELS = 8, 25, 6
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, DARK, GREY)
_LONGEST_NAME = 24
# A probability from here on means yes.
_THRESHOLD = 0.5


class Ranked(NamedTuple):
    """What a threshold on scores gives, for each score that occurs, the highest first.

    Attributes:
        thresholds: The scores (T,).
        precision: Of the rows with at least this score, the share that is positive.
        recall: Of the positive rows, the share with at least this score.
        false_positives: Of the negative rows, the share with at least this score.
        average_precision: The area under the precision-recall curve, in steps.
        auc: The area under the ROC curve.
    """

    thresholds: Floats
    precision: Floats
    recall: Floats
    false_positives: Floats
    average_precision: float
    auc: float


def ranked(true: Array, score: Array) -> Ranked | None:
    """Computes precision, recall and false positives for all thresholds.

    Args:
        true: (N,), 1 for positive rows and 0 for the others.
        score: (N,), the higher the more likely positive.

    Returns:
        None unless there are both positive and negative rows.
    """
    positive = np.asarray(true) > 0.5
    total = int(positive.sum())
    if total in (0, len(positive)):
        return None
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    scores = np.asarray(score, np.float64)[order]
    # Rows with the same score are on the same side of any threshold.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(positive[order])[last].astype(np.float64)
    precision, recall = hits / (last + 1), hits / total
    false = (last + 1 - hits) / (len(positive) - total)
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    both = np.append(0.0, false), np.append(0.0, recall)
    auc = float(np.sum(np.diff(both[0]) * (both[1][1:] + both[1][:-1]) / 2))
    return Ranked(scores[last], precision, recall, false, average, auc)


def precision_recall(true: Array, score: Array, title: str, names: Sequence[str] = ()) -> Figure:
    """Plots precision against recall for all thresholds.

    Args:
        true: (N,), 1 for the rows of the second class, else 0; or (N, K) for K labels.
        score: Their probabilities, of the same shape.
        title: The title of the plot.
        names: The name of the second class, or those of the labels.
    """
    figure, axes = common.canvas(title, 3.6)
    columns, named = _columns(true), _names(names, _columns(true).shape[1], "label")
    for i, (name, found) in enumerate(_curves(true, score, named)):
        label = f"{name} (average precision {found.average_precision:.3f})" if name else ""
        label = label or f"average precision {found.average_precision:.3f}"
        line = axes.step(
            np.append(0.0, found.recall), np.append(found.precision[0], found.precision), where="pre",
            color=_COLOURS[i], label=label,
        )[0]  # fmt: skip
        tell(line, [label])
        _mark(axes, found.recall, found.precision, found.thresholds, _COLOURS[i], "precision {y:.3f}, recall {x:.3f}")
    if columns.shape[1] == 1:
        share = float(columns.mean())
        axes.axhline(share, color=GREY, linestyle=":", label=f"guessing ({share:.2f})")
    return _finished(figure, axes, named, "Recall", "Precision")


def roc(true: Array, score: Array, title: str, names: Sequence[str] = ()) -> Figure:
    """Plots true positives against false positives for all thresholds (receiver operating characteristic).

    Args:
        true: As for `precision_recall`.
        score: As for `precision_recall`.
        title: The title of the plot.
        names: As for `precision_recall`.
    """
    figure, axes = common.canvas(title, 3.6)
    named = _names(names, _columns(true).shape[1], "label")
    for i, (name, found) in enumerate(_curves(true, score, named)):
        label = f"{name} (AUC {found.auc:.3f})" if name else f"AUC {found.auc:.3f}"
        line = axes.plot(
            np.append(0, found.false_positives), np.append(0, found.recall), color=_COLOURS[i], label=label
        )
        tell(line[0], [label])
        told = "true positives {y:.3f}, false positives {x:.3f}"
        _mark(axes, found.false_positives, found.recall, found.thresholds, _COLOURS[i], told)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="guessing (0.5)")
    return _finished(figure, axes, named, "False positives, share of the negative rows", "True positives")


def label_scores(true: Array, score: Array, title: str, names: Sequence[str] = ()) -> Figure:
    """Plots precision, recall and F1 of each label, at a threshold of 0.5; the labels with the lowest F1 first.

    Args:
        true: (N, K), 1 for each label that a row has, else 0.
        score: (N, K), the probabilities.
        title: The title of the plot.
        names: The names of the labels.
    """
    wanted, given = np.asarray(true) > 0.5, np.asarray(score) >= _THRESHOLD
    hits, found, there = (x.sum(axis=0) for x in (wanted & given, given, wanted))
    precision, recall = hits / np.maximum(found, 1), hits / np.maximum(there, 1)
    f1 = 2 * hits / np.maximum(found + there, 1)
    order = np.argsort(f1, kind="stable")[:_LABELS]
    figure, axes = common.canvas(title, max(2.2, 0.9 + 0.42 * len(order)))
    named, rows = _names(names, wanted.shape[1], "label"), np.arange(len(order))
    looks = (("precision", precision, BLUE, ""), ("recall", recall, ORANGE, "///"), ("F1", f1, GREEN, "..."))
    for i, (what, values, colour, hatch) in enumerate(looks):
        bars = axes.barh(
            rows + 0.27 * (i - 1), values[order], 0.25, color=colour, hatch=hatch, edgecolor="white", label=what
        )
        for bar, label in zip(bars, order, strict=True):
            tell(bar, [f"{named[label]}: {what} {values[label]:.3f}"])
    axes.set_yticks(rows, [f"{named[i]} ({there[i]:,})" for i in order], fontsize=8)
    axes.set(xlabel="At a threshold of 0.5", xlim=(0, 1.02), ylim=(len(order) - 0.5, -0.5))
    left = common.note(wanted.shape[1] - len(order), "label", "with a higher F1 left out")
    return common.legend(figure, axes.get_legend_handles_labels()[0], [left])


def predicted_and_true(true: Array, predicted: Array, title: str, names: Sequence[str] = ()) -> Figure:
    """Plots predicted against true numbers, in their own units.

    Args:
        true: (N,) or (N, K).
        predicted: As `true`, or (N, 1).
        title: The title of the plot.
        names: The names of the K numbers. The first 6 have a panel each.
    """
    figure, panels, left = _panels(true, predicted, title, names)
    for axes, name, actual, guess in panels:
        low, high = (float(f([f(actual), f(guess)])) for f in (np.min, np.max))
        axes.plot([low, high], [low, high], color=GREY, linestyle=":", zorder=1)
        _points(axes, actual, guess, actual, guess)
        error, spread = float(np.abs(guess - actual).mean()), float(np.square(actual - actual.mean()).sum())
        r2 = f", R² {1 - np.square(guess - actual).sum() / spread:.3f}" if spread > 0 else ""
        axes.set_title(f"{name}: mean error ±{format_value(error)}{r2}".removeprefix(": "), fontsize=9)
        axes.set(xlabel="True", ylabel="Predicted")
    return common.legend(figure, [], [left])


def residuals(true: Array, predicted: Array, title: str, names: Sequence[str] = ()) -> Figure:
    """Plots the residuals, true minus predicted numbers, against the predicted ones, in their own units.

    Args:
        true: As for `predicted_and_true`.
        predicted: As for `predicted_and_true`.
        title: The title of the plot.
        names: As for `predicted_and_true`.
    """
    figure, panels, left = _panels(true, predicted, title, names)
    for axes, name, actual, guess in panels:
        rest = actual - guess
        axes.axhline(0, color=GREY, linestyle=":", zorder=1)
        _points(axes, guess, rest, actual, guess)
        bias, spread = format_value(float(rest.mean())), format_value(float(rest.std()))
        axes.set_title(f"{name}: mean {bias}, standard deviation {spread}".removeprefix(": "), fontsize=9)
        axes.set(xlabel="Predicted", ylabel="True − predicted")
    return common.legend(figure, [], [left])


class Tested(NamedTuple):
    """A plot of a tested model: its name, which is that of its file in MLflow, and what it shows in words."""

    name: str
    figure: Figure
    alt: str


def of_test(details: Mapping[str, Array], kind: TargetKind, title: str = "") -> Iterator[Tested]:
    """Yields the plots for what a tested model predicts, apart from the confusion matrix.

    Args:
        details: The arrays of `test_details.npz`; those that are missing have no plots.
        kind: What the model predicts, as in `schema.Target`.
        title: The title of the plots.

    Example:
        >>> details = np.load("test_details.npz")
        >>> for plot in of_test(details, "numbers"):
        ...     plot.figure.savefig(f"{plot.name}.png")
    """
    true, predicted = details.get("true"), details.get("predicted")
    names = [str(name) for name in details.get("names", ())]
    if true is None or predicted is None or len(true) != len(predicted) or not len(true) or predicted.ndim != 2:
        pass
    elif kind == "numbers" and true.reshape(len(true), -1).shape == predicted.shape:
        rest = true.reshape(predicted.shape) - predicted
        error = ", ".join(f"±{format_value(float(one))}" for one in np.abs(rest).mean(axis=0)[:_PANELS])
        about = f"of {counted(len(true), 'test row')}, with a mean error of {error}."
        yield Tested("predicted_and_true", predicted_and_true(true, predicted, title, names), f"Numbers {about}")
        yield Tested("residuals", residuals(true, predicted, title, names), f"The residuals {about}")
    elif kind == "labels" and true.shape == predicted.shape:
        about = f"of {counted(true.shape[1], 'label')} on {counted(len(true), 'test row')}."
        figure = label_scores(true, predicted, title, names)
        yield Tested("label_scores", figure, f"Precision, recall and F1 {about}")
        yield Tested("precision_recall", precision_recall(true, predicted, title, names), f"The curves {about}")
    elif kind == "classes" and predicted.shape[1] <= 2 and true.ndim == 1 and (found := ranked(true, predicted[:, -1])):
        second, score = names[1:2], predicted[:, -1]
        alt = f"The average precision is {found.average_precision:.3f}."
        yield Tested("precision_recall", precision_recall(true, score, title, second), alt)
        yield Tested("roc", roc(true, score, title, second), f"The area under the curve is {found.auc:.3f}.")
    if len(details.get("mistakes_images", ())):
        images, truth, wrong, sure = (details[f"mistakes_{n}"] for n in ("images", "true", "predicted", "probability"))
        pairs = zip(truth[:10], wrong[:10], strict=True)
        told = (f"a {_name(a, names)} predicted as {_name(b, names)}" for a, b in pairs)
        yield Tested("mistakes", worst_mistakes(images, truth, wrong, sure, title, names), f"{'; '.join(told)}.")


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


def _columns(values: Array) -> Array:
    array = np.asarray(values)
    return array.reshape(len(array), -1)


def _names(names: Sequence[str], count: int, what: str) -> list[str]:
    """Returns names for a legend; empty for a single thing without one."""
    given = [one_line(str(name), _LONGEST_NAME) for name in names]
    return given or ([""] if count == 1 else [f"{what} {i}" for i in range(count)])


def _curves(true: Array, score: Array, names: Sequence[str]) -> Iterator[tuple[str, Ranked]]:
    columns, scores = _columns(true), _columns(score)
    for i in range(min(columns.shape[1], _CURVES)):
        if (found := ranked(columns[:, i], scores[:, i])) is not None:
            yield names[i], found


def _mark(axes: Axes, x: Floats, y: Floats, thresholds: Floats, colour: str, told: str) -> None:
    """Marks what a threshold of 0.5 gives."""
    above = int((thresholds >= _THRESHOLD).sum())
    if above:
        place = float(x[above - 1]), float(y[above - 1])
        mark = axes.plot([place[0]], [place[1]], "o", color=colour, markersize=5)
        tell(mark[0], [f"threshold 0.5: {told.format(x=place[0], y=place[1])}"])


def _finished(figure: Figure, axes: Axes, names: Sequence[str], across: str, upwards: str) -> Figure:
    handles = axes.get_legend_handles_labels()[0]
    if not handles or (len(handles) == 1 and str(handles[0].get_label()).startswith("guessing")):
        return common.nothing(figure, "All test rows are of one class.")
    axes.set(xlabel=across, ylabel=upwards, xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    left = common.note(len(names) - _CURVES, "more label", "left out") if len(names) > _CURVES else ""
    return common.legend(figure, handles, ["the dots are at a threshold of 0.5", left])


def _panels(
    true: Array, predicted: Array, title: str, names: Sequence[str]
) -> tuple[Figure, list[tuple[Axes, str, Floats, Floats]], str]:
    """Returns a figure with axes for each of some numbers, with its name, true and predicted values; and a note."""
    actual, guess = (_columns(values).astype(np.float64) for values in (true, predicted))
    total = actual.shape[1]
    count = min(total, _PANELS)
    across = min(count, 3)
    down = math.ceil(count / across)
    wide = common.HALF if count == 1 else common.WIDTH * across / 3
    figure = common.empty(title, 0.4 + 3.4 * down, wide)
    grid = np.atleast_1d(figure.subplots(down, across, squeeze=False)).ravel()
    for unused in grid[count:]:
        unused.set_axis_off()
    named = _names(names, total, "target")
    panels = [(grid[i], named[i], actual[:, i], guess[:, i]) for i in range(count)]
    for axes, *_ in panels:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
    return figure, panels, common.note(total - count, "more target", "left out")


def _points(axes: Axes, x: Floats, y: Floats, actual: Floats, guess: Floats) -> None:
    finite = np.isfinite(x) & np.isfinite(y)
    alpha = 0.7 if len(x) <= 300 else 0.35
    points = axes.scatter(x[finite], y[finite], s=14, color=BLUE, alpha=alpha, linewidths=0, zorder=2)
    pairs = zip(actual[finite], guess[finite], strict=True)
    tell(points, [f"true {format_value(float(a))}, predicted {format_value(float(b))}" for a, b in pairs])
