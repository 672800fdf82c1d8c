"""The report's leaderboard: columns to show, to sort by, and to draw as axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from mnist_sweep.common.text import counted
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.leaderboard import Column, Kind, Leaderboard, Row
from mnist_sweep.results import leaderboard as ranked
from mnist_sweep.results.columns import in_order
from mnist_sweep.results.plots.scales import spacing
from mnist_sweep.results.runs.frames import searched

# The columns in the order in which the page shows them, and their tooltips.
_TITLES: dict[Kind, str] = {
    "rank": "The place by the score on new seeds if there is one, then by the score.",
    "trial": "Counted from 0, in the order in which the trials were suggested.",
    "parent": "The trial from whose weights this one continues.",
    "score": "{better}; at its best epoch.",
    "retrained": "The scores of its retraining: mean ± standard deviation over new seeds.",
    "status": "How it ended; hover over one to see why.",
    "hyperparameter": "",
    "best epoch": "The epoch whose weights were kept.",
    "parameters": "The number of the model's weights.",
    "time": "From its start to its end.",
}
# With more trials, the page would be slow.
_MOST_ROWS = 1000
# A number with more values than this gets a continuous axis, even if it was a choice.
_MOST_OPTIONS = 12
# If the largest value is so many times the smallest, a linear axis would crowd most values into one end.
_WIDE = 20


@dataclass(frozen=True)
class PageColumn(Column):
    """A column on the page. Its values are what it is sorted by: those of a choice are places in `options`.

    Attributes:
        title: Its tooltip.
        numeric: Whether it is aligned at the right.
        descending: Whether the first click sorts the largest values first.
        axis: Its axis in the parallel coordinates: `linear`, `log`, `error` (logarithmic in 1 - accuracy) or `choice`;
            empty if it has none.
        options: The options of a choice, in order.
    """

    title: str = ""
    numeric: bool = True
    descending: bool = False
    axis: str = ""
    options: Sequence[str] = ()

    def for_script(self) -> dict[str, Any]:
        """Returns what the page's script needs."""
        data: dict[str, Any] = {"heading": self.heading, "values": self.values, "descending": self.descending}
        if not self.axis:
            return data
        # The better scores are at the top.
        turned = self.kind == "score" and not self.descending
        return data | {"axis": self.axis, "options": self.options, "turned": turned}


@dataclass(frozen=True)
class Page:
    """The leaderboard as the page shows it.

    Attributes:
        board: All trials, the best first.
        shown: Those that the page shows.
        columns: Their columns in the order in which they are shown.
    """

    board: Leaderboard
    shown: Leaderboard
    columns: list[PageColumn]

    @property
    def rows(self) -> Sequence[Row]:
        """The trials that the page shows."""
        return self.shown.rows

    @property
    def count(self) -> str:
        """How many trials there are: `12 trials`, or `the best 1,000 of 10,000 trials`."""
        every = counted(len(self.board.rows), "trial")
        return every if self.shown is self.board else f"the best {len(self.rows):,} of {every}"

    @property
    def drawable(self) -> bool:
        """Whether the parallel coordinates have anything to show."""
        return len(self.rows) > 1 and any(column.axis for column in self.columns)

    @cached_property
    def colours(self) -> list[float | None]:
        """For each trial its place among those with a score, from 0 (worst) to 1 (best); None without a score."""
        # By place, not by value: one hopeless trial would give all others the same colour.
        scores = [row.scores[0] for row in self.rows]
        ordered = sorted(
            {score for score in scores if score is not None}, key=lambda s: s * self.board.objectives[0].sign
        )
        places = {score: i / max(len(ordered) - 1, 1) if len(ordered) > 1 else 1.0 for i, score in enumerate(ordered)}
        return [None if score is None else round(places[score], 3) for score in scores]

    def for_script(self) -> dict[str, Any]:
        """Returns what the page's script needs."""
        return {
            "trials": [row.trial for row in self.rows],
            "count": self.count,
            "columns": [column.for_script() for column in self.columns],
            "colour": self.colours,
            "objectives": sum(column.axis != "" and column.kind == "score" for column in self.columns),
        }


def leaderboard(frame: pd.DataFrame, objectives: Sequence[Objective], space: dict[str, str]) -> Page:
    """Makes the leaderboard of a sweep.

    Args:
        frame: As `load_runs` gives it, of one sweep.
        objectives: The sweep's objectives.
        space: The domain of each hyperparameter that was searched, as text.
    """
    trials = in_order(ranked.of_search(frame), None, objectives, {})
    # Older stores may lack the space.
    names = [name for name in (space or searched(trials)) if f"params.{name}" in trials]
    board = ranked.leaderboard(trials, objectives, names)
    shown = board.best(_MOST_ROWS) if len(board.rows) > _MOST_ROWS else board
    directions = {objective.name: objective for objective in objectives}
    # The scores on new seeds stay next to the first objective.
    kinds = list(_TITLES)
    places = {kind: kinds.index("score" if kind == "retrained" else kind) for kind in kinds}
    columns = sorted(shown.columns(), key=lambda column: places[column.kind])
    return Page(board, shown, [_on_page(column, directions, space) for column in columns])


def _on_page(column: Column, objectives: dict[str, Objective], space: dict[str, str]) -> PageColumn:
    if column.kind == "hyperparameter":
        return _hyperparameter(column, space.get(column.name, ""))
    objective = objectives.get(column.name)
    title = _TITLES[column.kind].format(better=f"{column.name}: {objective.hint}" if objective else "")
    axis = _scale(column.values, accuracy="accuracy" in column.name) if column.kind == "score" else ""
    descending = objective is not None and objective.maximize
    return PageColumn(**vars(column), title=title, numeric=column.kind != "status", descending=descending, axis=axis)


def _hyperparameter(column: Column, domain: str) -> PageColumn:
    title = f"{column.name} = {domain}" if domain else column.name
    varied = len(set(column.values)) > 1
    present = {value for value in column.values if value is not None}
    number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    said = spacing(domain)
    if number and (said or len(present) > _MOST_OPTIONS):
        axis = said or _scale(column.values)
        return PageColumn(**vars(column), title=title, axis=axis if varied else "")
    texts = dict(zip(column.values, column.cells, strict=True))
    options = list(dict.fromkeys(texts[value] for value in sorted(present, key=None if number else str)))
    places = [None if v is None else options.index(c) for v, c in zip(column.values, column.cells, strict=True)]
    choice = replace(column, values=places)
    return PageColumn(**vars(choice), title=title, numeric=number, axis="choice" if varied else "", options=options)


def _scale(values: Sequence[float | None], *, accuracy: bool = False) -> str:
    numbers = [value for value in values if value is not None]
    if accuracy:
        return "error"
    return "log" if min(numbers) > 0 and max(numbers) > _WIDE * min(numbers) else "linear"
