"""What losses, metrics and objectives fit a task."""

from __future__ import annotations

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.checks import check
from mnist_sweep.config.task import CLASSIFICATION, TASKS, TaskConfig, check_target, objective_of
from mnist_sweep.driver.task_choice import with_task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["rmze"]}, "task.metrics=rmze: Keras has no such metric; did you mean 'rmse'?"),
        ({"loss": "hubber"}, "task.loss=hubber: Keras has no such loss; did you mean 'huber'?"),
        ({"kind": "regression", "metrics": ["mae", "AUC"]}, "task.metrics=AUC: compares classes, but task=regression"),
        ({"kind": "regression", "metrics": ["accuracy"]}, "task.metrics=accuracy: compares classes, but"),
        (
            {"kind": "regression", "loss": "bce"},
            "task.loss=bce: compares classes, but task=regression predicts numbers",
        ),
        ({"metrics": ["r2"]}, "task.metrics=r2: compares numbers, but task=classification predicts one of several"),
        ({"metrics": ["binary_accuracy"]}, "task.metrics=binary_accuracy: is for one probability, but"),
        (
            {"kind": "binary", "metrics": ["SparseCategoricalAccuracy"]},
            "is for a probability of each class, but task=binary",
        ),
        ({"loss": {"mask": "mse"}}, "task.loss.mask: names an output of your own model; write task=custom"),
        (
            {"metrics": {"mask": ["mse"]}},
            "task.metrics.mask: names an output of your own model; write task=custom",
        ),
        ({"kind": "custom", "metrics": {"mask": ["rmze"]}}, "task.metrics=rmze: Keras has no such metric"),
    ],
)
def test_a_loss_or_metric_that_does_not_fit_the_task_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(TaskConfig, {**CLASSIFICATION.model_dump(), **changes}, "task.")
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", list(TASKS))
def test_what_is_usual_fits_the_task(kind: str) -> None:
    usual = TASKS[kind]
    given = {"kind": kind, "loss": usual.loss, "metrics": None if usual.metrics is None else list(usual.metrics)}
    assert check(TaskConfig, {**CLASSIFICATION.model_dump(), **given}).kind == kind


@pytest.mark.parametrize(
    ("kind", "metrics", "objective"),
    [
        ("classification", None, "val_accuracy max"),
        ("classification", ["f1_score"], "val_f1_score max"),
        ("regression", ["mean", "rmse"], "val_rmse min"),
        ("regression", ["own:score_or_so"], "val_score_or_so max"),
        ("regression", ["own:balance"], "val_loss min"),
        ("custom", ["f1_score"], "val_loss min"),
    ],
)
def test_the_objective_of_auto_is_one_that_is_logged(kind: str, metrics: list[str] | None, objective: str) -> None:
    assert objective_of("auto", {"kind": kind, "metrics": metrics}) == objective


def test_an_own_model_of_any_targets_has_a_task_of_its_own(compose_config) -> None:
    config = compose_config("task=custom", "model.builder=own:build", "objective=val_mask_io_u max")
    assert with_task(config)["objective"] == "val_mask_io_u max"
    assert with_task(compose_config("task=custom", "model.builder=own:build"))["objective"] == "val_loss min"
    with pytest.raises(UserError, match="the targets are those of several outputs; write task=custom"):
        check_target(CLASSIFICATION, "several", 3)
