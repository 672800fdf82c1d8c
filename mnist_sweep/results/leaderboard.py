"""The leaderboard of trials as MLflow has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.leaderboard import Leaderboard, Row
from mnist_sweep.journal.ranking import best_first, marked
from mnist_sweep.results.runs.frames import searched


def of_search(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the trials of the search, without those that retrain others."""
    return frame[frame["confirms"].isna()]


def order(frame: pd.DataFrame, objectives: Sequence[Objective]) -> list[int]:
    """Sorts trials, the best first, as in every leaderboard.

    Args:
        frame: As `load_runs` gives it.
        objectives: The sweep's objectives.

    Returns:
        The places of the frame's rows. Trials that retrain others come last.
    """
    scores = _scores(frame, objectives)
    new = enumerate(_numbers(frame, f"metrics.confirmed_{objectives[0].name}"))
    retrained = {place: mean for place, mean in new if mean is not None}
    ranked = best_first(scores, objectives, _front(frame, scores, objectives), retrained)
    confirms = frame["confirms"].notna().tolist()
    return sorted(ranked, key=lambda place: confirms[place])


def ranked(frame: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """Returns the trials of the search that have a score, in the order of the leaderboard.

    Args:
        frame: As `load_runs` gives it. If it knows the sweep's objectives, all of them decide the order.
        objective: The first objective; for any other one, the trials are ordered by that one alone.
    """
    search = of_search(frame)
    scored = _scores(search, [objective])
    return search.iloc[[place for place in order(search, _all_of(frame, objective)) if None not in scored[place]]]


def _all_of(frame: pd.DataFrame, objective: Objective) -> list[Objective]:
    objectives = [Objective(name, direction) for name, direction in frame.attrs.get("objectives", ())]
    return objectives if objective in objectives[:1] else [objective]


def best_model(frame: pd.DataFrame, objective: Objective, tested: str | None = None) -> str | None:
    """Returns the id of the run with the best model; None if no trial has a score.

    Args:
        frame: As for `ranked`.
        objective: The first objective.
        tested: The number of the trial that was tested last.

    Returns:
        Of the trial that leads the leaderboard and those that retrained it, the one that was tested. Before the test it
        is the best of those that retrained it, if that is why it leads, else the trial itself.
    """
    first = ranked(frame, objective)[:1]
    if first.empty:
        return None
    again = frame[(frame["confirms"] == first["trial"].iloc[0]).fillna(False).to_numpy(dtype=bool)]
    own = pd.concat([first, again])
    found = own[(own["trial"].astype("string") == tested).fillna(False).to_numpy(dtype=bool)]
    if found.empty and _numbers(first, f"metrics.confirmed_{objective.name}") != [None]:
        found = ranked(again.assign(confirms=pd.NA), objective)
    return str((first if found.empty else found)["run_id"].iloc[0])


def leaderboard(
    frame: pd.DataFrame, objectives: Sequence[Objective], hyperparameters: Sequence[str] | None = None
) -> Leaderboard:
    """Makes the leaderboard of trials.

    Args:
        frame: As `load_runs` gives it. Trials that retrain others are left out.
        objectives: The sweep's objectives.
        hyperparameters: The full names of the hyperparameters to show; None for those that were searched and vary.

    Returns:
        The trials in the order of the frame, with the rank that they have in `order`.
    """
    frame = of_search(frame)
    first = objectives[0].name
    if hyperparameters is None:
        hyperparameters = searched(frame)
    scores = _scores(frame, objectives)
    front = _front(frame, scores, objectives)
    ranks = {place: rank for rank, place in enumerate(order(frame, objectives), start=1)}
    values = {name: _values(frame, f"params.{name}") for name in hyperparameters}
    columns = {
        "trial": _values(frame, "trial"),
        "spread": _numbers(frame, f"metrics.best_{first}_std"),
        "retrained": _numbers(frame, f"metrics.confirmed_{first}"),
        "retrained_spread": _numbers(frame, f"metrics.confirmed_{first}_std"),
        "parent": _values(frame, "goes_on_from"),
        "best_epoch": _values(frame, "metrics.best_epoch"),
        "parameters": _values(frame, "metrics.parameters"),
        "seconds": _values(frame, "seconds"),
        "status": _values(frame, "status"),
        "reason": [reason or "" for reason in _values(frame, "reason")],
    }
    rows = [
        Row(
            rank=None if None in scores[place] else ranks[place],
            on_front=place in front,
            values={name: column[place] for name, column in values.items() if column[place] is not None},
            scores=scores[place],
            **{name: column[place] for name, column in columns.items()},
        )
        for place in range(len(frame))
    ]
    return Leaderboard(objectives, hyperparameters, rows)


def _scores(frame: pd.DataFrame, objectives: Sequence[Objective]) -> dict[int, tuple[float | None, ...]]:
    columns = [_numbers(frame, f"metrics.best_{objective.name}") for objective in objectives]
    return dict(enumerate(zip(*columns, strict=True)))


def _front(
    frame: pd.DataFrame, scores: dict[int, tuple[float | None, ...]], objectives: Sequence[Objective]
) -> set[int]:
    """The places of the trials on the Pareto front. Trials on different data have different fronts."""
    groups: dict[Any, dict[int, tuple[float | None, ...]]] = {}
    for place, (digest, confirms) in enumerate(
        zip(_values(frame, "data.digest"), frame["confirms"].notna(), strict=True)
    ):
        if not confirms:
            groups.setdefault(digest, {})[place] = scores[place]
    return set[int]().union(*(marked(group, objectives) for group in groups.values()))


def _values(frame: pd.DataFrame, column: str) -> list[Any]:
    if column not in frame:
        return [None] * len(frame)
    return [None if pd.isna(value) else value for value in frame[column].tolist()]


def _numbers(frame: pd.DataFrame, column: str) -> list[float | None]:
    # MLflow stores infinity as the largest number there is.
    return [v if v is not None and math.isfinite(v) and abs(v) < 1e300 else None for v in _values(frame, column)]
