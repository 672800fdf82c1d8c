"""What the plots of a sweep share: the order of the trials, their scores, colours, legends and notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnist_sweep.common.text import counted, format_value, one_line, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.leaderboard import ranked
from mnist_sweep.results.runs.frames import searched

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, which are safe for colour-blind readers: https://jfly.uni-koeln.de/color/
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILION, PURPLE, GREY, DARK = "#D55E00", "#CC79A7", "#999999", "#555555"
# From bad to good. Dark is good, as pale lines recede on white.
SCORES = "viridis_r"
# In inches: half the width of the HTML report, and all of it.
HALF, WIDTH = 6.1, 12.6
FEW = 50
# With more marks than this, a page gets a picture of them: it would be too large, and pointing at one of them a feat.
_MOST_MARKS = 2000
_TITLE, _FONT = 11.0, 8.5
# A colour that is not seen, but can be pointed at.
INVISIBLE = (1.0, 1.0, 1.0, 0.004)
# The id of a picture in natural colours.
PHOTO = "photo"


class Look(NamedTuple):
    """How a status is drawn: the colour, and a shape for readers who cannot see it."""

    colour: str
    marker: str
    hatch: str


LOOKS = {
    "completed": Look(BLUE, "o", ""),
    "stopped": Look(ORANGE, "x", "////"),
    "diverged": Look(SKY, "^", "\\\\\\\\"),
    "running": Look(GREEN, ">", "...."),
    "failed": Look(VERMILION, "v", "xxxx"),
    "refused": Look(GREY, "s", "||||"),
}


def look(status: object) -> Look:
    """Returns how a trial's status is drawn."""
    return LOOKS.get(str(status), LOOKS["completed"])


def canvas(title: str, height: float, width: float = HALF) -> tuple[Figure, Axes]:
    """Returns a figure with a title and one pair of axes; the sizes are in inches."""
    figure = empty(title, height, width)
    return figure, figure.subplots()


def empty(title: str, height: float, width: float = WIDTH) -> Figure:
    """Returns a figure with a title; the sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=_TITLE)
    return figure


def drawn(name: str, most: int) -> str:
    """Returns a user's name of a class, a label or a column as matplotlib draws it: dollar signs begin no formula."""
    return one_line(name, most).replace("$", r"\$")


def tell(artist: Artist, texts: Sequence[str], mapped: bool = False) -> None:
    """Gives marks their values, which a page shows when one is pointed at (`svg.as_svg`).

    Args:
        artist: What is drawn: a line, a bar, or a collection.
        texts: A text for each of a collection's marks, or one for all of them.
        mapped: Whether the colours are from a colour map.
    """
    if len(texts) > _MOST_MARKS:
        artist.set_rasterized(True)
    else:
        shown = [text.replace(r"\$", "$") for text in texts]
        artist.set_gid(json.dumps({"texts": shown} | ({"map": []} if mapped else {})))


def numbers(frame: pd.DataFrame, column: str) -> Floats:
    """Returns a column's values (N,); NaN if a value is missing or not finite, or the column does not exist."""
    if column not in frame:
        return np.full(len(frame), np.nan)
    values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    # MLflow stores infinity as the largest number there is.
    return np.where(np.abs(values) < 1e300, values, np.nan)


def scores(frame: pd.DataFrame, objective: Objective) -> Floats:
    """Returns the trials' scores (N,); NaN if there is none."""
    return numbers(frame, f"metrics.best_{objective.name}")


def by_status(frame: pd.DataFrame) -> list[tuple[str, Look, npt.NDArray[np.bool_]]]:
    """Returns each status that occurs, how it is drawn, and whether each trial (N,) has it."""
    statuses = sorted(frame["status"].unique())
    return [(str(status), look(status), (frame["status"] == status).to_numpy(dtype=bool)) for status in statuses]


def labelled(objective: Objective) -> str:
    """Returns the label of an axis that shows an objective."""
    unit = " in seconds" if objective.name in ("latency", "epoch_seconds") else ""
    return f"{objective.name}{unit}, {objective.hint}"


def limits(values: Floats, objective: Objective, fence: float = 1.5) -> tuple[float, float]:
    """Returns the range of scores to draw. Bad outliers are cut off, as they would squeeze the other scores together.

    Args:
        values: Scores (N,); NaN is ignored.
        objective: The objective. Only the worse end is cut.
        fence: Where to cut, in interquartile ranges beyond the worse quartile. Tukey's inner fence is 1.5, his outer
            fence 3 (Exploratory Data Analysis, 1977, section 2D).

    Returns:
        The low and the high end, with a margin.
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
    values: Floats, low: float, high: float, edge: str = "the plot, drawn at its edge", what: str = "score"
) -> str:
    """Returns a note on the values, called `what`, beyond the limits of `edge`; empty if there are none."""
    beyond = [(int((values < low).sum()), "below"), (int((values > high).sum()), "above")]
    return ", ".join(filter(None, (note(n, what, f"{where} {edge}") for n, where in beyond)))


def note(count: int, what: str, text: str = "left out") -> str:
    """Returns a note such as `2 trials left out`; empty if there are none."""
    return f"{counted(count, what)} {text}" if count else ""


def best_label(frame: pd.DataFrame, objective: Objective) -> str:
    """Returns the best trial, or the best epoch of a single one, and its score; empty if no trial has a score."""
    row = ranked(frame, objective)[:1]
    if row.empty:
        return ""
    mean = numbers(row, f"metrics.confirmed_{objective.name}")[0]
    number, score = int(row["trial"].iloc[0]), float(scores(row, objective)[0])
    new = "" if np.isnan(mean) else f", on new seeds {format_value(float(mean))}"
    which = "best epoch" if len(frame) == 1 else f"best: trial {number}"
    return f"{which} ({format_value(score)}{new})"


def values_of(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Returns for each trial (N,) the values of some hyperparameters: `units 64, optimizer adam`."""
    short = short_names(list(names))
    columns = [(short[name], frame[f"params.{name}"].tolist()) for name in names]
    return [
        ", ".join(f"{name} {format_value(values[i])}" for name, values in columns if not pd.isna(values[i]))
        for i in range(len(frame))
    ]


def about(frame: pd.DataFrame, objective: Objective) -> list[str]:
    """Returns for each trial (N,) what to tell of it: `trial 3: val_accuracy 0.9512, completed; units 64`.

    Of many trials, only the leaderboard has the hyperparameters, as a page would be large.
    """
    texts = []
    values = values_of(frame, searched(frame) if len(frame) <= 4 * FEW else [])
    columns = zip(frame["trial"], scores(frame, objective), frame["status"], values, strict=True)
    for number, score, status, known in columns:
        got = "no score" if np.isnan(score) else f"{objective.name} {format_value(float(score))}"
        texts.append("; ".join(filter(None, (f"trial {number}: {got}, {status}", known))))
    return texts


def legend(figure: Figure, handles: Iterable[Any], notes: Iterable[str] = ()) -> Figure:
    """Puts a legend under the plot, where it hides nothing, with notes above it, and returns the plot."""
    entries, text = list(handles), ". ".join(one[0].upper() + one[1:] for one in notes if one)
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
    return figure


def _columns(labels: list[str], inches: float) -> int:
    """The number of columns for which a legend with these entries has room."""
    room = inches * 72 / (0.58 * _FONT)
    for columns in range(len(labels), 1, -1):
        # The mark of an entry takes some characters too.
        widths = [max(map(len, part)) + 8 for part in np.array_split(np.array(labels), columns)]
        if sum(widths) <= room:
            return columns
    return 1


def swatch(marker: str, colour: str, label: str, **more: Any) -> Line2D:
    """Returns a mark for a legend."""
    return Line2D([], [], linestyle="none", marker=marker, color=colour, label=label, **more)


def star(axes: Axes, x: float, y: float, size: float, label: str | None = None) -> None:
    """Marks the best trial."""
    axes.plot([x], [y], "*", markersize=size, color=VERMILION, markeredgecolor="white", zorder=6, label=label)


def star_swatch(frame: pd.DataFrame, objective: Objective) -> Line2D:
    """Returns the best trial's mark for a legend."""
    return swatch("*", VERMILION, best_label(frame, objective), markersize=11)


def nothing(figure: Figure, text: str) -> Figure:
    """Writes into an empty plot why it is empty, and returns it."""
    for axes in figure.axes:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=DARK)
        axes.set(xticks=[], yticks=[])
    return figure
