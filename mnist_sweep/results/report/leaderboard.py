"""The leaderboard: a sweep's trials as columns to show, to sort by, and to draw as axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mnist_sweep.common.text import format_duration, format_value, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.results.compare import pareto_set
from mnist_sweep.results.runs.frames import searched

NOTHING = "–"
# A number that takes more values than these gets a continuous axis, even where it was a choice.
_MOST_OPTIONS = 12
# From this ratio of the largest to the smallest on, a linear axis would crowd most values into one end.
_WIDE = 20
_RANK = "The place: by the score on new seeds where there is one, then by the score."
_ANEW = "What its setting scored when it was trained anew: mean ± standard deviation over new seeds."

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        heading: Short.
        title: What it is.
        cells: A text for each trial.
        values: What each trial is sorted by; for a choice the option's place. None: it has none, and comes last.
        numeric: Whether to align it at the right.
        descending: Whether larger values come first when it is sorted by for the first time.
        axis: How the parallel coordinates draw it: `linear`, `log`, `error` (logarithmic in what an accuracy lacks to
            1) or `choice`; empty: not at all.
        options: Of a choice, in order.
        score: Whether it is an objective.
    """

    heading: str
    title: str
    cells: list[str]
    values: list[Value]
    numeric: bool = True
    descending: bool = False
    axis: str = ""
    options: list[str] = field(default_factory=list)
    score: bool = False

    def for_script(self) -> dict[str, Any]:
        """What the page's script is told of it."""
        told: dict[str, Any] = {"heading": self.heading, "values": self.values, "descending": self.descending}
        if not self.axis:
            return told
        # The better end of a score is the upper one.
        return told | {"axis": self.axis, "options": self.options, "turned": self.score and not self.descending}


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard.

    Attributes:
        trials: The numbers of the trials, the best first.
        columns: In the order in which they are shown.
        reasons: Why each trial ended as it did; empty where it trained to its last epoch.
        front: The Pareto set, where there are several objectives.
        colour: For each trial its place among those with a score, from 0, the worst, to 1, the best; None without.
    """

    trials: list[int]
    columns: list[Column]
    reasons: list[str]
    front: list[int]
    colour: list[float | None]

    @property
    def drawable(self) -> bool:
        """Whether parallel coordinates have anything to show."""
        return len(self.trials) > 1 and any(column.axis for column in self.columns)


def leaderboard(frame: pd.DataFrame, objectives: Sequence[Objective], space: dict[str, str]) -> Leaderboard:
    """Makes the leaderboard of a sweep.

    Args:
        frame: As `load_runs` gives it, of one sweep.
        objectives: What the sweep optimised.
        space: The domain of each hyperparameter that was searched, as text.

    Returns:
        Its trials without those that train another's setting anew: by what they scored when they were trained anew,
        then those of the Pareto set, then by their score; those that have none come last.
    """
    trials = frame[frame["confirms"].isna()]
    front = pareto_set(trials, objectives) if len(objectives) > 1 else []
    trials = _ranked(trials, objectives, front)
    score = _numbers(trials, f"metrics.best_{objectives[0].name}")
    columns = [
        Column("rank", _RANK, *_texts(_ranks(score), str)),
        Column("trial", "Counted from 0 in the order of suggestion.", *_texts(_numbers(trials, "trial"), _whole)),
        *_scores(trials, objectives),
        Column("status", "How it ended; point at one to see why.", *_texts(_of(trials, "status"), str), numeric=False),
        *_hyperparameters(trials, space),
        Column("best epoch", "The epoch whose weights were kept.", *_texts(_of(trials, "metrics.best_epoch"), _whole)),
        *_weights(trials, objectives),
        Column("time", "From its start to its end.", *_texts(_of(trials, "seconds"), format_duration)),
    ]
    return Leaderboard(
        [int(n) for n in trials["trial"]],
        [column for column in columns if any(value is not None for value in column.values)],
        [reason or "" for reason in _of(trials, "reason")],
        front,
        _colours(score, objectives[0]),
    )


def _ranked(trials: pd.DataFrame, objectives: Sequence[Objective], front: Sequence[int]) -> pd.DataFrame:
    sign = -objectives[0].sign
    anew, own = (_numbers(trials, f"metrics.{kind}_{objectives[0].name}") for kind in ("confirmed", "best"))

    def key(place: int) -> list[tuple[bool, float]]:
        scores = [(value is None, 0.0 if value is None else sign * value) for value in (anew[place], own[place])]
        return [scores[0], (numbers[place] not in front, 0.0), scores[1]]

    numbers = trials["trial"].tolist()
    return trials.iloc[sorted(range(len(trials)), key=key)]


def _scores(trials: pd.DataFrame, objectives: Sequence[Objective]) -> list[Column]:
    first, *others = objectives
    best, anew = f"metrics.best_{first.name}", f"metrics.confirmed_{first.name}"
    found = []
    for name, title in ((best, f"{_better(first)}, at its best epoch."), (anew, _ANEW)):
        values = _numbers(trials, name)
        spreads = _numbers(trials, f"{name}_std")
        cells = [_mean(value, spread) for value, spread in zip(values, spreads, strict=True)]
        heading = first.name if name == best else "on new seeds"
        axis = _scale(values, accuracy="accuracy" in first.name) if name == best else ""
        found.append(Column(heading, title, cells, values, descending=first.maximize, axis=axis, score=name == best))
    for objective in others:
        values = _numbers(trials, f"metrics.best_{objective.name}")
        cells, _ = _texts(values, amount)
        found.append(
            Column(
                objective.name,
                f"{_better(objective)}.",
                cells,
                values,
                descending=objective.maximize,
                axis=_scale(values, accuracy="accuracy" in objective.name),
                score=True,
            )
        )
    return found


def _weights(trials: pd.DataFrame, objectives: Sequence[Objective]) -> list[Column]:
    if any(objective.name == "parameters" for objective in objectives):
        return []
    return [Column("weights", "The model's parameters.", *_texts(_of(trials, "metrics.parameters"), _whole))]


def _hyperparameters(trials: pd.DataFrame, space: dict[str, str]) -> list[Column]:
    varied = [column.removeprefix("params.") for column in searched(trials)]
    # An older store may not say what was searched.
    names = [name for name in (space or varied) if f"params.{name}" in trials]
    short = short_names(names)
    return [
        _hyperparameter(short[name], name, trials[f"params.{name}"], space.get(name, ""), name in varied)
        for name in names
    ]


def _hyperparameter(heading: str, name: str, values: pd.Series[Any], domain: str, varied: bool) -> Column:
    cells = [NOTHING if pd.isna(value) else format_value(value) for value in values]
    title = f"{name} = {domain}" if domain else name
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    distinct = values.dropna().unique()
    interval = "interval(" in domain
    if number and (interval or len(distinct) > _MOST_OPTIONS):
        numbers: list[Value] = [None if pd.isna(value) else float(value) for value in values]
        axis = "log" if domain.startswith("tag(log") else "linear" if interval else _scale(numbers)
        return Column(heading, title, cells, numbers, axis=axis if varied else "")
    options = list(dict.fromkeys(format_value(v) for v in (sorted(distinct) if number else sorted(distinct, key=str))))
    places: list[Value] = [None if pd.isna(v) else options.index(c) for v, c in zip(values, cells, strict=True)]
    return Column(heading, title, cells, places, numeric=number, axis="choice" if varied else "", options=options)


def _scale(values: Sequence[Value], *, accuracy: bool = False) -> str:
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return ""
    if accuracy:
        return "error"
    return "log" if min(numbers) > 0 and max(numbers) > _WIDE * min(numbers) else "linear"


def _ranks(score: Sequence[float | None]) -> list[Value]:
    return [None if value is None else place for place, value in enumerate(score, start=1)]


def _colours(score: Sequence[float | None], objective: Objective) -> list[float | None]:
    # By place, not by value: one hopeless trial would otherwise give all the others the same colour.
    found = [value for value in score if value is not None]
    order = sorted(set(found), reverse=not objective.maximize)
    place = {value: i / max(len(order) - 1, 1) if len(order) > 1 else 1.0 for i, value in enumerate(order)}
    return [None if value is None else round(place[value], 3) for value in score]


def _of(trials: pd.DataFrame, column: str) -> list[Any]:
    if column not in trials:
        return [None] * len(trials)
    return [None if pd.isna(value) else value for value in trials[column].tolist()]


def _numbers(trials: pd.DataFrame, column: str) -> list[Any]:
    # MLflow keeps an infinity as the largest number there is, and JSON knows neither.
    return [v if v is not None and math.isfinite(v) and abs(v) < 1e300 else None for v in _of(trials, column)]


def _texts(values: list[Any], as_text: Callable[[Any], str]) -> tuple[list[str], list[Value]]:
    return [NOTHING if value is None else as_text(value) for value in values], values


def _whole(value: float) -> str:
    return f"{int(value):,}"


def amount(value: float) -> str:
    """An objective's value for people: whole numbers from a thousand on with commas."""
    return f"{int(value):,}" if float(value).is_integer() and value >= 1000 else format_value(float(value))


def _mean(value: float | None, spread: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _better(objective: Objective) -> str:
    return f"{objective.name}: {objective.hint}"
