"""The saved view of a sweep. tests/e2e/test_mlflow_pages.py checks that MLflow's pages understand it."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from mnist_sweep.config.objective import Objective
from mnist_sweep.tracking import saved_view

_SWEEP = "story/2026-11-23_05-32-59"
_ACCURACY, _LOSS, _SIZE = Objective("val_accuracy", "max"), Objective("val_loss", "min"), Objective("parameters", "min")
_SPACE = {
    "model.layers": "choice(1, 2)",
    "model.units.2": "choice(16, 64) if model.layers in [2]",
    "optimizer.learning_rate": "tag(log, interval(0.1, 1))",
}


def state(
    space: dict[str, str] = _SPACE, objectives: tuple[Objective, ...] = (_ACCURACY,), *, confirmed: bool = False
) -> dict[str, Any]:
    ((tag, value),) = saved_view.tags(_SWEEP, space, objectives, 12.5, confirmed=confirmed).items()
    assert tag == "mlflow.sharedViewState.sweep-2026-11-23_05-32-59"
    view = json.loads(value)
    assert (view["name"], view["createdAt"], view["updatedAt"]) == (_SWEEP, 12500, 12500)
    packed = view["state"].removeprefix("deflate;")
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def charts(kind: str, **more: Any) -> list[dict[str, Any]]:
    found = state(**more)
    sections = {section["uuid"] for section in found["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in found["compareRunCharts"]} <= sections
    return [chart for chart in found["compareRunCharts"] if chart["type"] == kind]


def test_the_view_shows_the_sweeps_trials_the_best_first() -> None:
    found = state()
    assert found["searchFilter"] == (
        f"tags.`mnist_sweep.sweep` = '{_SWEEP}' and tags.`mnist_sweep.kind` = 'trial' "
        "and tags.`mnist_sweep.confirms` IS NULL"
    )
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`best_val_accuracy`", False)
    assert state(objectives=(_LOSS,))["orderByAsc"] is True
    assert state(confirmed=True)["orderByKey"] == "metrics.`confirmed_val_accuracy`"


def test_hyperparameters_and_scores_are_columns() -> None:
    columns = state(confirmed=True, objectives=(_ACCURACY, _SIZE))["selectedColumns"]
    assert columns == [
        "tags.`mnist_sweep.winner`",
        "metrics.`best_val_accuracy`",
        "metrics.`best_parameters`",
        "metrics.`confirmed_val_accuracy`",
        "metrics.`test_accuracy`",
        "metrics.`seconds`",
        "params.`model.layers`",
        "params.`model.units.2`",
        "params.`optimizer.learning_rate`",
    ]
    assert "metrics.`confirmed_val_accuracy`" not in state()["selectedColumns"]


def test_parallel_coordinates_show_all_hyperparameters() -> None:
    """MLflow leaves out a trial that lacks a value, so those that all trials have come first."""
    always, every = charts("PARALLEL")
    assert always["selectedParams"] == ["model.layers", "optimizer.learning_rate"]
    assert every["selectedParams"] == ["model.layers", "model.units.2", "optimizer.learning_rate"]
    assert always["selectedMetrics"] == every["selectedMetrics"] == ["best_val_accuracy"]
    assert len(charts("PARALLEL", space={"model.units": "choice(1, 2)"})) == 1
    assert charts("PARALLEL", space={}) == []


@pytest.mark.parametrize(
    ("objective", "metrics"), [(_ACCURACY, ["val_accuracy", "val_loss", "loss"]), (_LOSS, ["val_loss", "loss"])]
)
def test_learning_curves_show_the_objective_and_the_losses(objective: Objective, metrics: list[str]) -> None:
    assert [chart["metricKey"] for chart in charts("LINE", objectives=(objective,))] == metrics
    assert {chart["xAxisKey"] for chart in charts("LINE")} == {"step"}


@pytest.mark.parametrize(
    ("objectives", "against"), [((_ACCURACY,), ["parameters", "seconds"]), ((_ACCURACY, _SIZE), ["best_parameters"])]
)
def test_the_score_is_plotted_against_its_costs(objectives: tuple[Objective, ...], against: list[str]) -> None:
    found = charts("SCATTER", objectives=objectives)
    assert [chart["xaxis"]["key"] for chart in found] == against
    assert {chart["yaxis"]["key"] for chart in found} == {"best_val_accuracy"}


def test_a_space_that_is_too_large_for_mlflow_has_no_view() -> None:
    space = {f"model.{i * 7919 % 100_003}_{i * 104_729 % 99_991}": "choice(1, 2)" for i in range(2000)}
    assert saved_view.tags(_SWEEP, space, (_ACCURACY,), 0.0, confirmed=False) == {}


def test_links_contain_no_password() -> None:
    link = saved_view.link("https://ann:secret@box:8443/mlflow/", "7", saved_view.key("story/now/3"))
    assert link == (
        "https://box:8443/mlflow/#/experiments/7/runs?viewStateShareKey=sweep-now-3"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )
    assert saved_view.home("http://ann:secret@box") == "http://box/#/experiments?workflowType=machine_learning"
