"""The trials by several objectives, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist_sweep.common.text import format_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.ranking import pareto
from mnist_sweep.results.plots.common import GREY, HALF, VERMILION, WIDTH, empty, labelled, legend, tell


def pareto_front(scores: Mapping[int, Sequence[float]], objectives: Sequence[Objective], title: str) -> Figure:
    """Plots the trials by their objectives, and marks the Pareto front.

    Args:
        scores: A value for each objective, by trial.
        objectives: Two or more objectives. Each one after the first has its own panel, with the first on the y axis.
        title: The title of the plot.
    """
    first, *others = objectives
    figure = empty(title, 3.7, min(HALF * len(others), WIDTH))
    front = sorted(pareto(dict(zip(scores, map(tuple, scores.values()), strict=True)), objectives))
    for i, (axes, objective) in enumerate(
        zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True), 1
    ):
        rest = [n for n in scores if n not in front]
        names = (objective.name, first.name)
        dots = axes.scatter(
            [scores[n][i] for n in rest], [scores[n][0] for n in rest], s=18, color=GREY, label="trials"
        )
        tell(dots, [_about(n, names, (scores[n][i], scores[n][0])) for n in rest])
        line = sorted((scores[n][i], scores[n][0], n) for n in front)
        # With three objectives, a line between two points of the front has no meaning.
        style = "o-" if len(objectives) == 2 else "o"
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], style, color=VERMILION, label="Pareto front")
        ends = axes.scatter([x for x, _, _ in line], [y for _, y, _ in line], s=30, color=VERMILION, zorder=3)
        tell(ends, [_about(n, names, (x, y)) for x, y, n in line])
        spread = [scores[n][i] for n in scores]
        if min(spread, default=0) > 0 and max(spread) > 20 * min(spread):
            axes.set_xscale("log")
        _number(axes, line)
        axes.set(xlabel=labelled(objective), ylabel=labelled(first))
        axes.grid(alpha=0.3)
    return legend(figure, figure.axes[0].get_legend_handles_labels()[0])


def _about(number: int, names: Sequence[str], values: Sequence[float]) -> str:
    return f"trial {number}: " + ", ".join(f"{n} {format_value(float(v))}" for n, v in zip(names, values, strict=True))


def _number(axes: Axes, points: list[tuple[float, float, int]]) -> None:
    """Writes the numbers of points (x, y, number) next to them, unless they would cover other numbers."""
    # Sets the limits now, not only when the figure is drawn.
    axes.autoscale_view()
    written: list[tuple[float, float]] = []
    for x, y, number in points:
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        if all(abs(place[0] - left) > 0.06 or abs(place[1] - up) > 0.05 for left, up in written):
            written.append((float(place[0]), float(place[1])))
            axes.annotate(str(number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
