"""The ranked table of a sweep's trials, and the verdict on its winner."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.events import Confirmed
from mnist_sweep.journal.leaderboard import leaderboard, score_text, verdict, verdict_on
from mnist_sweep.journal.ranking import Ranking
from mnist_sweep.journal.trial import Outcome, Status, Trial

ACCURACY, LOSS, PARAMETERS = (
    Objective("val_accuracy", "max"),
    Objective("val_loss", "min"),
    Objective("parameters", "min"),
)


def ranking(*scores: float | None, objectives: tuple[Objective, ...] = (ACCURACY,), **more: Any) -> Ranking:
    results = Ranking(objectives, **more)
    for number, score in enumerate(scores):
        results.trials[number] = Trial(number, {"model.units": 8 * (number + 1), "model.rate": None}, {}, 3)
        status = Status.FAILED if score is None else Status.COMPLETED
        metrics = {"parameters": 1000.0 * (number + 1)}
        results.end(number, Outcome(status, "", score, None if score is None else 2, metrics, seconds=2.0))
    return results


def candidate(trial: int, mean: float, *, seeds: int = 2) -> dict[str, Any]:
    return {"trial": trial, "scores": dict.fromkeys(map(str, range(seeds)), mean), "mean": mean, "std": 0.004}


def test_retrained_trials_are_first_then_scores_then_trials_without_a_score() -> None:
    confirmed = Confirmed(0.0, [candidate(3, 0.92), candidate(1, 0.9)], 3, 9, None)
    rows = leaderboard(ranking(0.5, 0.75, None, 0.7, 0.95, 0.5, confirmed=confirmed)).rows
    assert [(row.trial, row.rank) for row in rows] == [(3, 1), (1, 2), (4, 3), (0, 4), (5, 5), (2, None)]
    assert [row.retrained for row in rows] == [0.92, 0.9, None, None, None, None]


def test_trials_that_retrain_others_are_left_out() -> None:
    results = ranking(0.5, 0.75)
    results.trials[1] = Trial(1, {}, {}, 3, confirms=0)
    assert [row.trial for row in leaderboard(results).rows] == [0]


def test_the_pareto_front_is_first_and_marked() -> None:
    board = leaderboard(ranking(0.5, 0.75, 0.6, objectives=(ACCURACY, Objective("val_loss", "min"))))
    assert [row.rank for row in board.rows] == [None] * 3
    board = leaderboard(ranking(0.5, 0.75, 0.6, objectives=(ACCURACY, PARAMETERS)))
    columns = {column.heading: column.cells for column in board.columns()}
    assert columns["trial"] == ["1 ●", "0 ●", "2"]
    assert columns["parameters"] == ["2,000", "1,000", "3,000"]


def test_cells_have_the_spread_of_executions_and_dashes_for_missing_values() -> None:
    results = ranking(0.5, 0.75, None)
    results.outcomes[0].scores.extend([0.4, 0.6])
    board = leaderboard(results, ["model.units", "model.rate", "optimizer.momentum"])
    columns = {column.heading: column.cells for column in board.columns()}
    assert columns == {
        "rank": ["1", "2", "–"],
        "trial": ["1", "0", "2"],
        "units": ["16", "8", "24"],
        # None is a value, and a hyperparameter that no trial uses has no column.
        "rate": ["None"] * 3,
        "val_accuracy": ["0.7500", "0.5000 ± 0.1414", "–"],
        "best epoch": ["2", "2", "–"],
        "status": ["completed", "completed", "failed"],
        "time": ["2.0 s"] * 3,
    }


def test_the_best_have_a_title_with_the_number_of_all_that_have_a_rank() -> None:
    board = leaderboard(ranking(0.5, None, 0.75, 0.6))
    assert board.best(3).title == "Leaderboard"
    assert board.best(2).title == "Leaderboard: the best 2 of 3"
    assert [row.trial for row in board.best(2).rows] == [2, 3]


@pytest.mark.parametrize(
    ("objective", "value", "spread", "text"),
    [
        (ACCURACY, 0.95123, None, "0.9512"),
        (ACCURACY, 0.0, None, "0.0000"),
        (ACCURACY, 0.95123, 0.00049, "0.9512 ± 0.0005"),
        (LOSS, 0.000012345, 0.000001, "1.234e-05 ± 1e-06"),
        (LOSS, 1.7976931348623157e308, None, "1.798e+308"),
        (PARAMETERS, 500.0, None, "500"),
        (PARAMETERS, 31702.0, None, "31,702"),
        (Objective("latency", "min"), 0.00123456, None, "0.001235"),
    ],
)
def test_scores_have_four_decimals_unless_that_hides_them(
    objective: Objective, value: float, spread: float | None, text: str
) -> None:
    assert score_text(objective, value, spread) == text


@pytest.mark.parametrize(
    ("candidates", "p_value", "text"),
    [
        (
            [candidate(3, 0.9512), candidate(7, 0.9491)],
            0.03,
            "val_accuracy 0.9512 ± 0.0040 on 2 new seeds; 0.0021 better than trial 7 (paired t-test, p = 0.03)",
        ),
        (
            [candidate(3, 0.9512), candidate(7, 0.9491)],
            0.3,
            "val_accuracy 0.9512 ± 0.0040 on 2 new seeds; 0.0021 better than trial 7 "
            "(paired t-test, p = 0.3, not significant)",
        ),
        ([candidate(3, 0.9512, seeds=1)], None, "val_accuracy 0.9512 ± 0.0040 on 1 new seed"),
    ],
)
def test_the_verdict_compares_the_two_best_retrained_trials(
    candidates: list[dict[str, Any]], p_value: float | None, text: str
) -> None:
    assert verdict_on(ACCURACY, candidates, p_value) == text
    assert verdict(ranking(0.5, confirmed=Confirmed(0.0, candidates, 3, 9, p_value))) == text


def test_without_retraining_the_verdict_is_the_best_score() -> None:
    assert verdict(ranking(0.5, 0.75)) == "val_accuracy 0.7500"
    assert verdict(ranking(None)) == ""
