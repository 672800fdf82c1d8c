"""The leaderboard of trials in MLflow, which equals the one that the driver makes of the same trials."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import Confirmed
from mnist_sweep.journal.leaderboard import leaderboard as of_ranking
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.results.columns import in_order
from mnist_sweep.results.leaderboard import best_model, leaderboard, order, ranked

OBJECTIVES = (Objective("val_accuracy", "max"), Objective("parameters", "min"))
NAMES = ["model.units", "optimizer.momentum"]


def results(objectives: tuple[Objective, ...], *, retrained: bool) -> Ranking:
    found = Ranking(objectives)
    for number, score in enumerate((0.5, 0.75, None, 0.75, 0.875, 0.25, 0.9)):
        values = {"model.units": 8 * number, **({"optimizer.momentum": 0.5} if number % 2 else {})}
        parent = 0 if number == 4 else None
        # The last trial retrains trial 1.
        found.trials[number] = Trial(number, values, {}, 3, parent=parent, confirms=1 if number == 6 else None)
        status = Status.FAILED if score is None else Status.COMPLETED
        scores = [] if score is None or number % 2 else [score - 0.1, score + 0.1]
        parameters = None if score is None else 5000 - 1000 * number
        metrics = {} if parameters is None else {"parameters": float(parameters)}
        reason = "" if score else "the loss became nan"
        epoch = None if score is None else 2
        found.end(number, Outcome(status, reason, score, epoch, metrics, parameters, 2.5 * number, scores))
    if retrained:
        rows = [{"trial": n, "scores": {"7": m}, "mean": m, "std": 0.01} for n, m in ((0, 0.8), (1, 0.7))]
        found.confirmed = Confirmed(0.0, rows, 0, 9, None)
    return found


def frame(ranking: Ranking) -> pd.DataFrame:
    """The trials as `load_runs` gives them."""
    candidates = {row["trial"]: row for row in ranking.confirmed.candidates} if ranking.confirmed else {}
    columns: dict[str, list[Any]] = {}
    for number, outcome in ranking.outcomes.items():
        trial, again = ranking.trials[number], candidates.get(number, {})
        row = {
            "trial": number,
            "sweep": "a/b",
            "confirms": trial.confirms,
            "goes_on_from": trial.parent,
            "status": str(outcome.status),
            "reason": outcome.reason or None,
            "seconds": outcome.seconds,
            "data.digest": "d" * 32,
            **{f"params.{name}": trial.values.get(name) for name in NAMES},
            "metrics.best_val_accuracy": outcome.score,
            "metrics.best_val_accuracy_std": statistics.stdev(outcome.scores) if outcome.scores else None,
            "metrics.best_parameters": outcome.metrics.get("parameters"),
            "metrics.confirmed_val_accuracy": again.get("mean"),
            "metrics.confirmed_val_accuracy_std": again.get("std"),
            "metrics.best_epoch": outcome.best_epoch,
            "metrics.parameters": outcome.parameters,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return pd.DataFrame({name: pd.Series(values, dtype="object").convert_dtypes() for name, values in columns.items()})


@pytest.mark.parametrize("objectives", [OBJECTIVES[:1], OBJECTIVES])
@pytest.mark.parametrize("retrained", [False, True])
def test_a_sweep_has_the_same_leaderboard_in_mlflow_and_in_the_driver(
    objectives: tuple[Objective, ...], retrained: bool
) -> None:
    ranking = results(objectives, retrained=retrained)
    logged = in_order(frame(ranking), None, objectives, {})
    assert leaderboard(logged, objectives, NAMES).columns() == of_ranking(ranking, NAMES).columns()
    assert leaderboard(logged, objectives, NAMES).rows == of_ranking(ranking, NAMES).rows


@pytest.mark.parametrize("objectives", [OBJECTIVES[:1], OBJECTIVES])
@pytest.mark.parametrize("retrained", [False, True])
def test_plots_and_reports_have_the_same_best_trial_as_the_driver(
    objectives: tuple[Objective, ...], retrained: bool
) -> None:
    ranking = results(objectives, retrained=retrained)
    logged = with_runs(frame(ranking), objectives)
    assert ranked(logged, objectives[0])["trial"].iloc[0] == ranking.winner()
    # Another trial was tested before the sweep went on.
    for tested in (None, "3"):
        assert best_model(logged, objectives[0], tested) == f"run{ranking.winner()}"


def test_the_best_model_is_the_tested_or_the_best_of_those_that_retrained_the_winner() -> None:
    ranking = results(OBJECTIVES[:1], retrained=True)
    logged = with_runs(frame(ranking), OBJECTIVES[:1])
    logged["metrics.confirmed_val_accuracy"] = pd.array([0.7, 0.8, *[None] * 5], dtype="Float64")
    assert best_model(logged, OBJECTIVES[0]) == "run6"
    # As long as they are being retrained, there is no mean: trial 4 leads.
    del logged["metrics.confirmed_val_accuracy"]
    assert best_model(logged, OBJECTIVES[0]) == "run4"
    assert best_model(logged.iloc[2:3], OBJECTIVES[0]) is None


def with_runs(logged: pd.DataFrame, objectives: tuple[Objective, ...]) -> pd.DataFrame:
    logged["run_id"] = [f"run{number}" for number in logged["trial"]]
    logged.attrs["objectives"] = [[objective.name, objective.direction] for objective in objectives]
    return logged


def test_trials_that_retrain_others_come_last() -> None:
    logged = frame(results(OBJECTIVES[:1], retrained=True))
    assert order(logged, OBJECTIVES[:1]) == [0, 1, 4, 3, 5, 2, 6]


def test_trials_on_different_data_have_different_fronts() -> None:
    logged = frame(results(OBJECTIVES, retrained=False))
    assert [row.trial for row in leaderboard(logged, OBJECTIVES).rows if row.on_front] == [4, 5]
    logged["data.digest"] = ["a"] * 4 + ["b"] * 3
    assert [row.trial for row in leaderboard(logged, OBJECTIVES).rows if row.on_front] == [3, 4, 5]


def test_rows_keep_the_order_of_the_frame_and_their_rank() -> None:
    logged = frame(results(OBJECTIVES[:1], retrained=False))
    rows = leaderboard(logged, OBJECTIVES[:1]).rows
    assert [(row.trial, row.rank) for row in rows] == [(0, 4), (1, 2), (2, None), (3, 3), (4, 1), (5, 5)]


def test_infinite_scores_and_missing_columns_are_missing_values() -> None:
    logged = frame(results(OBJECTIVES[:1], retrained=False)).drop(columns=["metrics.best_epoch", "goes_on_from"])
    logged["metrics.best_val_accuracy"] = pd.array([1.7976931348623157e308, float("inf"), 0.5, None, 0.1, 0.2, 0.3])
    rows = leaderboard(logged, OBJECTIVES[:1]).rows
    assert [row.scores[0] for row in rows] == [None, None, 0.5, None, 0.1, 0.2]
    assert {row.best_epoch for row in rows} == {None}
