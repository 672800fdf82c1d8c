"""The trials by several objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mnist_sweep.outcomes import pareto
from mnist_sweep.results.plots.common import GREY, VERMILION, labelled
from mnist_sweep.settings import Objective

# Points with their numbers beside them, before those cover each other.
_NUMBERED = 30


def pareto_front(scores: Mapping[int, Sequence[float]], objectives: Sequence[Objective], title: str) -> Figure:
    """The trials by their objectives, those of the Pareto set marked and numbered.

    Args:
        scores: A value for each objective, by trial.
        objectives: Two or more; each but the first has a picture of its own, against the first.
        title: Of the picture.
    """
    first, *others = objectives
    figure = Figure(figsize=(5.5 * len(others), 4.2), layout="constrained")
    front = sorted(pareto(dict(zip(scores, map(tuple, scores.values()), strict=True)), objectives))
    for i, (axes, objective) in enumerate(
        zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True), 1
    ):
        rest = [n for n in scores if n not in front]
        axes.scatter([scores[n][i] for n in rest], [scores[n][0] for n in rest], s=18, color=GREY, label="trials")
        line = sorted((scores[n][i], scores[n][0], n) for n in front)
        # With a third objective, what lies between two points of the set here need not lie beyond them.
        style = "o-" if len(objectives) == 2 else "o"
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], style, color=VERMILION, label="Pareto set")
        for x, y, number in line if len(line) <= _NUMBERED else ():
            axes.annotate(str(number), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        spread = [scores[n][i] for n in scores]
        if min(spread, default=0) > 0 and max(spread) > 20 * min(spread):
            axes.set_xscale("log")
        axes.set(xlabel=labelled(objective), ylabel=labelled(first))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    return figure
