"""What the pictures of a sweep have in common: which trials count, how good they are, how they are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnist_sweep.common.text import format_value
from mnist_sweep.config.objective import Objective

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, which colour-blind readers can tell apart: https://jfly.uni-koeln.de/color/
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILION, PURPLE, GREY, DARK = "#D55E00", "#CC79A7", "#999999", "#555555"
# From bad to good, dark being good: pale lines on white step back.
SCORES = "viridis_r"
# An HTML report of 1000 pixels is as wide.
WIDTH = 10.0
FEW = 50
_FONT = 9.0


class Look(NamedTuple):
    """How a status is told: by colour, and by form for those who do not see it."""

    colour: str
    marker: str
    hatch: str


LOOKS = {
    "completed": Look(BLUE, "o", ""),
    "stopped": Look(ORANGE, "x", "////"),
    "running": Look(GREEN, ">", "...."),
    "failed": Look(VERMILION, "v", "xxxx"),
    "refused": Look(GREY, "s", "||||"),
}


def look(status: object) -> Look:
    """How a trial's status is drawn."""
    return LOOKS.get(str(status), LOOKS["completed"])


def of_search(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials of the search itself, without those that train the setting of another anew."""
    return frame[frame["confirms"].isna()]


def numbers(frame: pd.DataFrame, column: str) -> Floats:
    """A column's values (N,), NaN where one is missing or not finite, or where there is no such column."""
    if column not in frame:
        return np.full(len(frame), np.nan)
    values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def scores(frame: pd.DataFrame, objective: Objective) -> Floats:
    """The trials' scores (N,), NaN where there is none."""
    return numbers(frame, f"metrics.best_{objective.name}")


def ranking(frame: pd.DataFrame, objective: Objective) -> list[int]:
    """The search's trials that have a score, the best first, as places in `of_search(frame)`.

    What a trial scored on new seeds says more than the score that it was chosen by, so those come first that were
    trained anew, by that score; of equal ones the earlier.
    """
    search = of_search(frame)
    sign = -objective.sign
    own, anew = sign * scores(search, objective), sign * numbers(search, f"metrics.confirmed_{objective.name}")
    order = np.lexsort((search["trial"].to_numpy(dtype=np.int64), own, anew))
    return [int(place) for place in order if not np.isnan(own[place])]


def labelled(objective: Objective) -> str:
    """An objective as the label of an axis."""
    unit = " in seconds" if objective.name in ("latency", "epoch_seconds") else ""
    return f"{objective.name}{unit}, {objective.hint}"


def limits(values: Floats, objective: Objective, fence: float = 1.5) -> tuple[float, float]:
    """The range of scores to draw, without bad ones so far off that the others would be a line.

    Args:
        values: Scores (N,); NaN is passed over.
        objective: Which way is better: only the other end is cut.
        fence: Where it is cut: so many times the distance between the quartiles beyond the worse of them. Tukey's inner
            fence is 1.5, his outer one 3 (Exploratory Data Analysis, 1977, section 2D).

    Returns:
        Low and high, apart, with a margin.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    first, third = np.percentile(known, [25, 75])
    if third > first:
        if objective.maximize:
            low = max(low, float(first - fence * (third - first)))
        else:
            high = min(high, float(third + fence * (third - first)))
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def outside(
    values: Floats, low: float, high: float, edge: str = "the picture, drawn at its edge", what: str = "score"
) -> str:
    """A note on the values, called `what`, that lie beyond the limits of `edge`; empty where none does."""
    beyond = [(int((values < low).sum()), "below"), (int((values > high).sum()), "above")]
    return ", ".join(f"{count_of(n, what)} {where} {edge}" for n, where in beyond if n)


def count_of(count: int, what: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def best_label(frame: pd.DataFrame, objective: Objective) -> str:
    """The best trial and its score for a legend or a note; empty where there is none."""
    order = ranking(frame, objective)
    if not order:
        return ""
    row = of_search(frame).iloc[order[:1]]
    anew = numbers(row, f"metrics.confirmed_{objective.name}")[0]
    number, score = int(row["trial"].iloc[0]), float(scores(row, objective)[0])
    again = "" if np.isnan(anew) else f", on new seeds {format_value(float(anew))}"
    return f"best: trial {number} ({format_value(score)}{again})"


def legend(figure: Figure, handles: Iterable[Any], notes: Iterable[str] = ()) -> None:
    """Puts a legend under the picture, where it hides nothing, with notes above it."""
    entries, text = list(handles), ". ".join(note[0].upper() + note[1:] for note in notes if note)
    if entries or text:
        figure.legend(
            handles=entries,
            loc="outside lower center",
            ncols=_columns([str(entry.get_label()) for entry in entries], figure.get_figwidth()),
            title=f"{text}." if text else None,
            title_fontsize=_FONT,
            fontsize=_FONT,
            frameon=False,
        )


def _columns(labels: list[str], inches: float) -> int:
    """As many columns as a legend with these entries has room for."""
    room = inches * 72 / (0.58 * _FONT)
    for columns in range(len(labels), 1, -1):
        # With its mark, an entry is some characters wider.
        widths = [max(map(len, part)) + 8 for part in np.array_split(np.array(labels), columns)]
        if sum(widths) <= room:
            return columns
    return 1


def swatch(marker: str, colour: str, label: str, **more: Any) -> Line2D:
    """A mark for a legend."""
    return Line2D([], [], linestyle="none", marker=marker, color=colour, label=label, **more)


def nothing(axes: Axes, text: str) -> None:
    """Says in an otherwise empty picture why it is."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=DARK)
    axes.set(xticks=[], yticks=[])
