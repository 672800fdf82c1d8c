"""Which hyperparameters matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mnist_sweep
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.results import importance as module
from mnist_sweep.results.importance import importances, marginal, top_share

ACCURACY, LOSS = Objective("val_accuracy", "max"), Objective("val_loss", "min")
COLUMNS = ["hyperparameter", "importance", "low", "high"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESAMPLES", 15)


def frame_of(params: dict[str, Any], scores: Any, objective: Objective = ACCURACY, **more: Any) -> pd.DataFrame:
    """Runs as `load_runs` gives them, with the columns that these functions read."""
    frame = pd.DataFrame({f"params.{name}": pd.Series(values).convert_dtypes() for name, values in params.items()})
    frame[f"metrics.best_{objective.name}"] = pd.Series(scores, dtype="Float64")
    frame["confirms"] = pd.Series([pd.NA] * len(frame), dtype="Int64")
    frame["data.digest"] = "d" * 32
    frame["sweep"], frame["trial"] = "a/b", range(len(frame))
    return frame.assign(**more)


def drawn(count: int, score: Callable[[Any, Any], Any], seed: int = 0, objective: Objective = ACCURACY) -> pd.DataFrame:
    """Trials of three hyperparameters: a learning rate, a list's choice, and one that does nothing."""
    draws = np.random.default_rng(seed)
    rate, units, nothing = 10 ** draws.uniform(-4, -1, count), draws.choice([16, 64, 256], count), draws.random(count)
    params = {"optimizer.learning_rate": rate, "model.units": units, "model.dropout": nothing}
    return frame_of(params, score(np.log10(rate), units), objective)


def by_name(found: pd.DataFrame) -> pd.DataFrame:
    return found.set_index("hyperparameter")


def _narrow(rate: Any, units: Any) -> Any:
    """Best in a narrow range of learning rates; more units help a little."""
    return 1 - (rate + 2.5) ** 2 + units / 2000


# ---- importances ------------------------------------------------------------------------------------------------


def test_the_most_important_is_first_and_importances_add_up_to_1():
    found = mnist_sweep.importances(drawn(120, _narrow), "val_accuracy")
    assert list(found.columns) == COLUMNS
    assert found["hyperparameter"].iloc[0] == "optimizer.learning_rate"
    assert found["importance"].iloc[0] > 0.6
    assert found["importance"].is_monotonic_decreasing
    assert found["importance"].sum() == pytest.approx(1)
    assert (found["low"] <= found["importance"]).all()
    assert (found["importance"] <= found["high"]).all()
    pd.testing.assert_frame_equal(found, importances(drawn(120, _narrow), ACCURACY))


def test_more_trials_give_narrower_intervals():
    few, many = (by_name(importances(drawn(n, _narrow), ACCURACY)) for n in (20, 200))
    width = [(found["high"] - found["low"]).mean() for found in (few, many)]
    assert width[1] < 0.5 * width[0]


def test_the_objective_decides_which_way_is_better():
    larger = importances(drawn(60, _narrow), ACCURACY)
    less = importances(drawn(60, lambda *given: -_narrow(*given), objective=LOSS), LOSS)
    pd.testing.assert_frame_equal(larger, less)
    assert not larger.equals(importances(drawn(60, _narrow, objective=LOSS), LOSS))


def test_the_scale_of_a_number_does_not_matter():
    frame = drawn(60, _narrow)
    found = importances(frame, ACCURACY)
    frame["params.optimizer.learning_rate"] = np.log(frame["params.optimizer.learning_rate"].astype(float))
    pd.testing.assert_frame_equal(importances(frame, ACCURACY), found)


def test_trials_without_a_score_or_that_retrain_others_do_not_count():
    frame = drawn(60, _narrow)
    found = importances(frame, ACCURACY)
    failed, retraining = frame.iloc[:5].copy(), frame.iloc[5:10].copy()
    failed["metrics.best_val_accuracy"] = pd.NA
    retraining["confirms"] = 1
    pd.testing.assert_frame_equal(importances(pd.concat([frame, failed, retraining]), ACCURACY), found)


def test_a_conditional_hyperparameter_counts_where_it_is_active():
    draws = np.random.default_rng(0)
    sgd, momentum, nothing = draws.random(150) < 0.5, draws.random(150), draws.random(150)
    # If momentum is active, the score depends on nothing else.
    scores = np.where(sgd, momentum, 0.4 + 0.01 * nothing)
    params = {
        "optimizer.name": np.where(sgd, "sgd", "adam"),
        "optimizer.momentum": pd.Series(momentum).where(sgd),
        "model.dropout": nothing,
        "model.once": pd.Series([True, *[None] * 149], dtype="boolean"),
    }
    found = by_name(importances(frame_of(params, scores), ACCURACY))["importance"]
    assert set(found.index) == set(params)
    assert found["optimizer.momentum"] > 3 * found["model.dropout"]
    assert found["model.once"] < 0.05


def test_only_searched_hyperparameters_count():
    frame = drawn(40, _narrow)
    frame["params.optimizer.epsilon"] = frame["params.optimizer.learning_rate"]
    assert "optimizer.epsilon" in importances(frame, ACCURACY)["hyperparameter"].tolist()
    frame.attrs["space"] = ["model.dropout", "optimizer.learning_rate", "model.units"]
    assert set(importances(frame, ACCURACY)["hyperparameter"]) == set(frame.attrs["space"])
    chosen = importances(frame, ACCURACY, ["model.dropout", "optimizer.epsilon"])
    assert set(chosen["hyperparameter"]) == {"model.dropout", "optimizer.epsilon"}


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (drawn(9, _narrow), "9 trials have a score; at least 10 are needed"),
        (drawn(1, _narrow), "1 trial has a score; at least 10 are needed"),
        (drawn(30, _narrow, objective=LOSS), "0 trials have a score; at least 10 are needed"),
        (
            frame_of({"model.units": range(20), "model.layers": [1] * 20}, range(20)),
            "the trials differ in only one hyperparameter",
        ),
        (frame_of({"model.layers": [1] * 20}, range(20)), "the trials differ in no hyperparameter"),
    ],
)
def test_too_few_trials_or_hyperparameters_give_no_rows(frame, why):
    found = importances(frame, ACCURACY)
    assert found.empty
    assert list(found.columns) == COLUMNS
    assert found.attrs["why"] == why


def test_runs_on_different_data_are_refused():
    frame = drawn(20, _narrow)
    frame.loc[3, "data.digest"] = "other"
    for ask in (importances, top_share, lambda *given: marginal(*given, "model.units")):
        with pytest.raises(UserError, match="different data"):
            ask(frame, ACCURACY)


def test_an_unknown_hyperparameter_is_an_error_with_a_suggestion():
    for ask in (importances, lambda *given: top_share(*given[:2], hyperparameters=given[2])):
        with pytest.raises(UserError) as caught:
            ask(drawn(20, _narrow), ACCURACY, ["model.unit"])
        assert str(caught.value) == "model.unit: no such hyperparameter; did you mean 'model.units'?"


# ---- what the best have in common -------------------------------------------------------------------------------


def test_the_most_surprising_common_value_is_first():
    found = top_share(drawn(100, _narrow), ACCURACY)
    assert list(found.columns) == ["hyperparameter", "top", "all", "p"]
    assert found.attrs == {"top": 10, "all": 100}
    assert found["hyperparameter"].iloc[0] == "optimizer.learning_rate"
    rows = by_name(found)
    low, high = map(float, rows.loc["optimizer.learning_rate", "top"].split(" … "))
    assert 0.001 < low < high < 0.01
    assert rows.loc["optimizer.learning_rate", "p"] < 0.01
    assert rows.loc["model.units", "all"].count("×") == 3
    assert rows.loc["model.dropout", "p"] > 0.05


def test_the_p_value_of_a_frequent_value():
    names, flags = ["sgd"] * 10 + ["adam"] * 10, [True, False] * 10
    frame = frame_of({"optimizer.name": names, "model.flag": flags, "model.one": [1] * 20}, range(20))
    rows = by_name(top_share(frame, Objective("val_accuracy", "min"), 0.25))
    assert rows.loc["optimizer.name", ["top", "all"]].tolist() == ["sgd ×5", "adam ×10, sgd ×10"]
    # The probability that all five have the same value.
    assert rows.loc["optimizer.name", "p"] == pytest.approx(2 * math.comb(10, 5) / math.comb(20, 5))
    assert rows.loc["model.flag", "top"] == "True ×3, False ×2"
    assert rows.loc["model.flag", "p"] == 1
    assert "model.one" not in rows.index


def test_a_hyperparameter_that_none_of_the_best_uses_is_inactive():
    momentum = pd.Series([0.5, 0.9, *[None] * 18])
    frame = frame_of({"optimizer.momentum": momentum, "model.units": range(20)}, range(20))
    rows = by_name(top_share(frame, ACCURACY))
    assert rows.loc["optimizer.momentum", ["top", "all"]].tolist() == ["inactive", "0.5 ×1, 0.9 ×1"]
    assert math.isnan(rows.loc["optimizer.momentum", "p"])
    assert rows.attrs == {"top": 5, "all": 20}


def test_too_few_trials_have_nothing_in_common():
    found = top_share(drawn(5, _narrow), ACCURACY)
    assert found.empty
    assert found.attrs["why"] == "5 trials have a score; at least 10 are needed"


# ---- effects ----------------------------------------------------------------------------------------------------


def test_the_effect_of_a_few_values_is_their_mean_score():
    params = {"optimizer.name": ["sgd", "adam", "sgd", "adam", "sgd", "nadam", "sgd", None]}
    found = marginal(frame_of(params, [0.1, 0.5, 0.2, 0.7, 0.6, 0.9, pd.NA, 0.4]), ACCURACY, "optimizer.name")
    assert list(found.columns) == ["value", "mean", "low", "high", "count"]
    assert found["value"].tolist() == ["adam", "nadam", "sgd"]
    assert found["mean"].tolist() == pytest.approx([0.6, 0.9, 0.3])
    assert found["count"].tolist() == [2, 1, 3]
    assert found.loc[1, ["low", "high"]].isna().all()
    expected = stats.t.interval(0.9, 2, loc=0.3, scale=stats.sem([0.1, 0.2, 0.6]))
    assert tuple(found.loc[2, ["low", "high"]]) == pytest.approx(expected)


def test_many_numbers_are_grouped_with_their_neighbours():
    frame = drawn(100, _narrow)
    found = marginal(frame, ACCURACY, "optimizer.learning_rate")
    assert found["value"].is_monotonic_increasing
    assert found["count"].tolist() == [13, 12, 13, 12, 12, 13, 12, 13]
    best = found.loc[found["mean"].idxmax(), "value"]
    assert 0.001 < best < 0.01
    assert (found["low"] < found["mean"]).all()
    assert marginal(frame.iloc[:12], ACCURACY, "optimizer.learning_rate")["count"].tolist() == [6, 6]
