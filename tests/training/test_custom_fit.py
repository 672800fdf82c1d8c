"""Hypermodels with a custom fit, which is called as keras-tuner calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fitting import timeless, train

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal.trial import Status

VALUES = {"units": 16, "batch_size": 64, "shuffle": True}


def test_hyperparameters_of_a_custom_fit_change_the_result(trained, trial_of) -> None:
    few, many = (trained(trial_of("TunesFit", {**VALUES, "batch_size": size}))[1] for size in (64, 32))
    assert [r["epoch"] for r in few] == [r["epoch"] for r in many] == [1, 2, 3]
    assert many[-1]["loss"] < few[-1]["loss"]


def test_after_an_interruption_a_custom_fit_starts_again_and_gives_the_same_result(
    trainer, trained, trial_of, tmp_path: Path
) -> None:
    config = trial_of("TunesFit", VALUES)
    train(trainer, config, tmp_path / "cut", epochs=2)
    outcome, rest = train(trainer, config, tmp_path / "rest", epochs=3, parent=tmp_path / "cut")
    assert [r["epoch"] for r in rest] == [3], "another trial continues from it"
    assert outcome.status is Status.COMPLETED
    ended, _ = train(trainer, config, tmp_path / "cut", ending="too slow")
    assert (ended.status, ended.best_epoch) == (Status.STOPPED, 2)
    _, again = train(trainer, config, tmp_path / "cut")
    assert timeless(again) == timeless(trained(config)[1])


@pytest.mark.parametrize("name", ["CustomLoop", "TwoStages"])
def test_a_custom_fit_ends_when_the_trial_is_stopped(trainer, trial_of, tmp_path: Path, name: str) -> None:
    outcome, reports = train(
        trainer, trial_of(name, {}), tmp_path, epochs=9, stop=lambda epoch: "enough" if epoch == 2 else ""
    )
    assert len(reports) == 2
    assert (outcome.status, outcome.reason) == (Status.STOPPED, "enough")


def test_epochs_of_several_stages_add_up_and_never_exceed_the_budget(trainer, trial_of, tmp_path: Path) -> None:
    _, few = train(trainer, trial_of("TwoStages", {"more": 3}), tmp_path / "few", epochs=9)
    assert [r["epoch"] for r in few] == [1, 2, 3, 4, 5]
    _, many = train(trainer, trial_of("TwoStages", {"more": 9}), tmp_path / "many", epochs=4)
    assert [r["epoch"] for r in many] == [1, 2, 3, 4]
    assert timeless(many) == timeless(few)[:4]


def test_a_custom_training_loop_reports_through_the_callbacks(trainer, trial_of, tmp_path: Path) -> None:
    outcome, reports = train(trainer, trial_of("CustomLoop", {"batch_size": 32}), tmp_path, epochs=2)
    assert [r["epoch"] for r in reports] == [1, 2]
    assert outcome.score == max(r["val_accuracy"] for r in reports)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LogsAnother", "objective=val_accuracy: the model's fit does not log val_accuracy"),
        ("Silent", "model.hypermodel=hypermodels:Silent: its fit ends no epoch"),
        ("Broken", "model.hypermodel=hypermodels:Broken: its fit raised (KeyError at hypermodels.py:"),
    ],
)
def test_a_mistake_in_a_custom_fit_is_reported(trainer, trial_of, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        train(trainer, trial_of(name, {}), tmp_path)
    assert str(error.value).startswith(message)


F1 = Objective("val_f1", "max")


def test_epochs_in_which_the_objective_has_no_value_are_no_divergence(trainer, trial_of, tmp_path: Path) -> None:
    config = trial_of("LateScore", {"without": 1}, "training.early_stopping.patience=1")
    outcome, reports = train(trainer, config, tmp_path, objective=F1)
    assert len(reports) == 3
    assert (outcome.status, outcome.score, outcome.best_epoch) == (Status.COMPLETED, 0.4, 2)


@pytest.mark.parametrize("last", [2, 3])
def test_a_trial_whose_objective_never_has_a_value_has_no_result(trainer, trial_of, tmp_path: Path, last: int) -> None:
    stop = (lambda epoch: "enough" if epoch == last else "") if last < 3 else (lambda epoch: "")
    outcome, reports = train(trainer, trial_of("LateScore", {"without": 3}), tmp_path, objective=F1, stop=stop)
    expected = (Status.STOPPED, "enough") if last < 3 else (Status.FAILED, "val_f1 was nan in every epoch")
    assert (outcome.status, outcome.reason) == expected
    assert (outcome.score, outcome.digest, len(reports)) == (None, "", last)


@pytest.mark.parametrize("name", ["parameters", "best_f1", "test_accuracy"])
def test_a_metric_must_not_have_a_name_that_the_program_uses_itself(built, name: str) -> None:
    model = built("LogsAnother", {})
    with pytest.raises(UserError, match=f"has a metric '{name}', a name that mnist_sweep uses itself"):
        model.metrics({"loss": 1.0, name: 2.0})
    assert model.metrics({f"val_{name}": 2.0}) == {f"val_{name}": 2.0}
