"""Samplers learn from results, from earlier sweeps and from restored trials."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from playing import CONDITIONAL, DISCRETE, SMALL, Make, algorithms, play

from mnist_sweep.config.space import Values, identity
from mnist_sweep.search.base import Answer, Result, Suggestion
from mnist_sweep.search.translation import kt

LINE = ("optimizer.learning_rate=tag(log,interval(1e-4,1e-1))", "model.dropout=interval(0,0.5)", "model.layers=1,2")


def distance(values: Values) -> float:
    """The distance to the best values in `LINE`: a rate of .01 and a dropout of .4."""
    return math.hypot(math.log10(values["optimizer.learning_rate"]) + 2, 2 * (values["model.dropout"] - 0.4))


# keras-tuner's Gaussian process would need minutes.
@pytest.mark.parametrize("algorithm", algorithms("tpe", "gp", "cmaes", "nsga2"))
@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_last_suggestions_are_better_than_random_ones(make: Make, algorithm: str, direction: str) -> None:
    more = ("search.population=10",) if algorithm == "nsga2" else ()
    made = make(algorithm, *LINE, *more, objectives=f"{'accuracy' if direction == 'max' else 'loss'} {direction}")
    sign = -1 if direction == "max" else 1
    most = {"gp": 20, "nsga2": 120}.get(algorithm, 50)
    suggestions = play(made.search, slots=2, most=most, score=lambda values: (sign * distance(values),))
    drawn = [distance(made.space.sample(random.Random(seed))) for seed in range(200)]
    last = [distance(s.values) for s in suggestions[-10:]]
    assert statistics.median(last) < 0.6 * statistics.median(drawn)


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_several_objectives_are_all_improved(make: Make, algorithm: str) -> None:
    made = make(algorithm, *LINE, objectives=["val_accuracy max", "parameters min"])

    def both(values: Values) -> tuple[float, float]:
        # The best trade-offs have a dropout of .4; the rate decides between the two.
        rate = math.log10(values["optimizer.learning_rate"])
        return rate - 5 * abs(values["model.dropout"] - 0.4), rate + 5 * abs(values["model.dropout"] - 0.4)

    last = play(made.search, slots=2, most=100, score=both)[-30:]
    assert statistics.median(abs(s.values["model.dropout"] - 0.4) for s in last) < 0.08
    rates = [math.log10(s.values["optimizer.learning_rate"]) for s in last]
    assert max(rates) - min(rates) > 1


@pytest.mark.parametrize("algorithm", ["random", "grid"])
def test_searches_that_do_not_learn_accept_several_objectives(make: Make, algorithm: str) -> None:
    made = make(algorithm, *SMALL, objectives=["val_accuracy max", "parameters min"])
    assert len(play(made.search, slots=2, most=100, score=lambda _: (0.5, 10.0))) == 6


def test_a_trial_that_was_stopped_counts_as_worse_than_the_others(make: Make) -> None:
    made = make("tpe", *LINE, "search.startup_trials=1")
    for number in range(40):
        asked = made.search.ask(number)
        assert isinstance(asked, Suggestion)
        high = asked.values["model.dropout"] > 0.25
        # High dropouts are cut; if they counted as completed, they would be the best.
        made.search.tell(number, Result((0.9,), 1, cut=True) if high else Result((0.5,), 9))
    asked = [made.search.ask(number) for number in range(40, 50)]
    low = [a for a in asked if isinstance(a, Suggestion) and a.values["model.dropout"] <= 0.25]
    assert len(low) >= 6


@pytest.mark.parametrize("algorithm", algorithms("tpe", "gp", "cmaes"))
def test_values_that_are_refused_are_avoided(make: Make, algorithm: str) -> None:
    made = make(algorithm, *LINE)
    refused = []
    for number in range(24):
        asked = made.search.ask(number)
        assert isinstance(asked, Suggestion)
        at = asked.values["model.dropout"]
        # The best of the values that can be built are next to those that cannot.
        made.search.tell(number, Result(None, refused=True) if at > 0.25 else Result((at,), 9))
        refused.append(at > 0.25)
    assert sum(refused[12:]) <= 8


def test_keras_tuners_oracles_are_told_the_worst_score_so_far_for_refused_values(make: Make) -> None:
    search = make("bayesian", *LINE).search
    for number, result in enumerate((None, (0.5,), (0.4,), None, (0.1,), (0.3,))):
        assert isinstance(search.ask(number), Suggestion)
        search.tell(number, Result(result, 9, refused=result is None))
    trials = search._oracle.trials  # type: ignore[attr-defined]
    told = [(trial.status, trial.score) for _, trial in sorted(trials.items())]
    # Nothing is known at the first one.
    assert told[0] == ("FAILED", None)
    assert told[1:] == [("COMPLETED", score) for score in (0.5, 0.4, 0.4, 0.1, 0.3)]


def past(draw: Callable[[random.Random], Values], count: int) -> list[dict[str, Any]]:
    found = [draw(random.Random(seed)) for seed in range(count)]
    return [{"sweep": "a/1", "trial": i, "values": v, "scores": [-distance(v)]} for i, v in enumerate(found)]


@pytest.mark.parametrize("algorithm", algorithms("tpe", "gp", "cmaes", "nsga2"))
def test_earlier_trials_replace_the_random_start(make: Make, algorithm: str) -> None:
    earlier = past(make("random", *LINE).space.sample, 60)
    made = make(algorithm, *LINE, earlier=earlier)
    asked = [made.search.ask(number) for number in range(8)]
    near = [distance(a.values) for a in asked if isinstance(a, Suggestion)]
    drawn = [distance(trial["values"]) for trial in earlier]
    assert len(near) == 8
    assert statistics.median(near) < 0.75 * statistics.median(drawn)


def test_keras_tuners_gaussian_process_is_fitted_to_earlier_trials(make: Make) -> None:
    earlier = [{"values": {"model.dropout": d / 10}, "scores": [-abs(d - 3)]} for d in range(6)]
    made = make("bayesian", "model.dropout=interval(0.0,0.5)", "search.beta=0", earlier=earlier)
    asked = made.search.ask(0)
    assert isinstance(asked, Suggestion)
    assert abs(asked.values["model.dropout"] - 0.3) < 0.08


def test_cmaes_works_with_few_earlier_trials(make: Make) -> None:
    made = make("cmaes", *LINE, earlier=past(make("random", *LINE).space.sample, 9))
    assert len(play(made.search, slots=2, most=20)) == 20


@pytest.mark.parametrize("algorithm", algorithms("random", "bayesian", "tpe", "gp", "cmaes", "nsga2"))
def test_values_of_earlier_sweeps_come_last(make: Make, algorithm: str) -> None:
    overrides = ("model.units=choice(16,32,64)", "optimizer.name=adam,sgd")
    grid = list(make("grid", *overrides).space.grid())
    earlier = [{"values": values, "scores": [0.1 * i]} for i, values in enumerate(grid[1:5])]
    search = make(algorithm, *overrides, earlier=earlier).search
    asked = [search.ask(number) for number in range(7)]
    order = [identity(a.values) for a in asked if isinstance(a, Suggestion)]
    assert set(order[:2]) == {identity(grid[0]), identity(grid[5])}
    assert sorted(order) == sorted(map(identity, grid))
    assert asked[6] is Answer.FINISHED


def test_a_thousand_trials_are_restored_without_asking_the_sampler(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("tpe")
    suggestions = [made.space.sample(random.Random(seed)) for seed in range(1000)]

    def refuse(*_: object) -> dict[str, Any]:
        raise AssertionError("the sampler was asked")

    with monkeypatch.context() as patched:
        patched.setattr(optuna.samplers.TPESampler, "sample_relative", refuse)
        for number, values in enumerate(suggestions):
            made.search.restore(number, Suggestion(values))
            made.search.tell(number, Result((number / 1000,), 9))
    asked = [made.search.ask(number) for number in range(1000, 1005)]
    assert all(isinstance(a, Suggestion) for a in asked)
    assert not {identity(a.values) for a in asked if isinstance(a, Suggestion)} & set(map(identity, suggestions))


ELSEWHERE = """
import json, sys
from mnist_sweep.search import Result
from mnist_sweep.search.choose import create_search
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space

found = []
for config in json.load(sys.stdin):
    settings = check_settings(config)
    search = create_search(settings, Space(settings.trial))
    for number in range(30):
        found.append(search.ask(number).values)
        search.tell(number, Result((number % 7 / 7,), 9))
print(json.dumps([found, [m for m in ("tensorflow", "jax", "torch") if m in sys.modules]]))
"""


def test_another_process_makes_the_same_suggestions_without_a_tensor_library(make: Make) -> None:
    searches = [make(algorithm, *DISCRETE, *LINE[:2]) for algorithm in ("tpe", "cmaes", "nsga2", "random")]
    expected = []
    for made in searches:
        for number in range(30):
            asked = made.search.ask(number)
            assert isinstance(asked, Suggestion)
            expected.append(asked.values)
            made.search.tell(number, Result((number % 7 / 7,), 9))
    # Sets of strings have a different order in each process.
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    configs = json.dumps([made.config for made in searches])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=configs, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [expected, []]


def test_random_values_are_those_that_keras_tuner_draws(make: Make) -> None:
    oracle: Any = make("random", *CONDITIONAL).search._oracle  # type: ignore[attr-defined]
    for seed in range(0, 3000, 100):
        oracle._seed_state = seed
        ours, after = super(type(oracle), oracle)._random_values(), oracle._seed_state
        oracle._seed_state = seed
        assert kt.Oracle._random_values(oracle) == ours
        assert oracle._seed_state == after
