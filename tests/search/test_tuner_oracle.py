"""Optuna's samplers in keras-tuner's own Tuner."""

from __future__ import annotations

import optuna
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.light_keras import load

kt = load("keras_tuner")

import mnist_sweep  # noqa: E402


class Parabola(kt.Tuner):
    """Needs no model."""

    def run_trial(self, trial, *_, **__):
        hp = trial.hyperparameters
        x = hp.Float("x", -4, 4)
        kind = hp.Choice("kind", ["near", "far"])
        with hp.conditional_scope("kind", ["far"]):
            far = hp.Int("distance", 1, 100, sampling="log") if kind == "far" else 0
        return (x - 1) ** 2 + far


def tuned(tmp_path, trials, **arguments):
    oracle = mnist_sweep.OptunaOracle(max_trials=trials, seed=1, **arguments)
    oracle.verbose = 0
    return Parabola(oracle=oracle, directory=str(tmp_path), project_name="p", overwrite=False)


@pytest.mark.parametrize("sampler", [None, lambda seed: optuna.samplers.RandomSampler(seed=seed)])
def test_a_stock_tuner_searches_with_it(tmp_path, sampler):
    tuner = tuned(tmp_path, 30, sampler=sampler)
    tuner.search()
    best = tuner.oracle.get_best_trials(1)[0]
    assert len(tuner.oracle.trials) == 30
    assert all(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())
    inactive = [t for t in tuner.oracle.trials.values() if t.hyperparameters.values["kind"] == "near"]
    assert all("distance" not in t.hyperparameters.values for t in inactive)
    if sampler is None:
        assert best.score < 0.3


def test_a_tuner_that_is_started_again_goes_on_learning(tmp_path):
    tuned(tmp_path, 15).search()
    again = tuned(tmp_path, 25)
    assert len(again.oracle.trials) == 15
    again.search()
    assert len(again.oracle.trials) == 25
    study = again.oracle._study
    assert study is not None
    assert len([t for t in study.trials if t.state.name == "COMPLETE"]) == 25


def test_a_small_space_ends(tmp_path):
    class Small(kt.Tuner):
        def run_trial(self, trial, *_, **__):
            hp = trial.hyperparameters
            return hp.Choice("a", [1, 2]) + hp.Boolean("b") + hp.Fixed("c", 1) + hp.Int("d", 0, 4, step=2)

    oracle = mnist_sweep.OptunaOracle(max_trials=40, seed=1)
    oracle.verbose = 0
    tuner = Small(oracle=oracle, directory=str(tmp_path), project_name="p")
    tuner.search()
    # The first trial of a Tuner without a model has no values yet.
    values = [tuple(sorted(t.hyperparameters.values.items())) for t in oracle.trials.values()]
    assert len(set(values)) == 12
    assert oracle.get_best_trials(1)[0].score == 2


def test_failed_trials_are_no_results(tmp_path):
    class Failing(kt.Tuner):
        def run_trial(self, trial, *_, **__):
            x = trial.hyperparameters.Float("x", 0, 1)
            if x > 0.5:
                raise kt.errors.FailedTrialError("too large")
            return x

    oracle = mnist_sweep.OptunaOracle(max_trials=10, seed=2, max_consecutive_failed_trials=20)
    oracle.verbose = 0
    tuner = Failing(oracle=oracle, directory=str(tmp_path), project_name="p")
    tuner.search()
    assert {trial.status for trial in oracle.trials.values()} == {"COMPLETED", "FAILED"}


def test_several_objectives_are_refused():
    with pytest.raises(UserError, match="takes one objective"):
        mnist_sweep.OptunaOracle([kt.Objective("a", "max"), kt.Objective("b", "min")])
