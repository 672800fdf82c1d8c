"""Which searches go with which spaces."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.search_config import SEARCHES
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.search import compatibility

Config = dict[str, Any]
Compose = Callable[..., Config]


@pytest.fixture
def check(compose_config: Compose) -> Callable[..., None]:
    def checked(*overrides: str) -> None:
        settings = check_settings(compose_config(*overrides))
        compatibility.check(settings, Space(settings.trial))

    return checked


def values(count: int) -> str:
    """An override that makes a space of `count` combinations."""
    return f"training.seed=range(0, {count})"


@pytest.mark.parametrize("algorithm", sorted(SEARCHES))
def test_every_search_takes_a_config_without_sweeps(check: Callable[..., None], algorithm: str) -> None:
    check(f"search={algorithm}")


@pytest.mark.parametrize("algorithm", ["none", "hyperband", "pbt"])
def test_a_warm_start_is_refused_by_searches_that_do_not_learn(check: Callable[..., None], algorithm: str) -> None:
    with pytest.raises(UserError, match=rf"^search.warm_start=a/b: search={algorithm} does not learn from earlier "):
        check(f"search={algorithm}", "search.warm_start=[a/b]")


@pytest.mark.parametrize(
    "overrides",
    [
        ("search=random", "model.dropout=interval(0, 0.5)"),
        ("search=random", "model.units=16,64", "search.max_trials=null"),
        ("search=random", "model.dropout=interval(0, 0.5)", "search.max_trials=null", "search.time_budget=1h"),
        ("search=random", "training.epochs=1,2"),
        ("search=bayesian", "optimizer.learning_rate=tag(log, interval(1e-4, 1e-1))"),
        ("search=bayesian", "model.units=int(interval(1, 1000))", "search.max_trials=null"),
        ("search=grid", "model.units=16,64", "training.epochs=range(1, 4)"),
        ("search=grid", "model.units=int(interval(1, 100))"),
        ("search=grid", values(10_000)),
        ("search=grid", values(10_001), "search.max_trials=20"),
        ("search=hyperband", "model.dropout=interval(0, 0.5)"),
        ("search=hyperband", "model.dropout=interval(0, 0.5)", "search.max_trials=null", "training.epochs=1"),
        ("search=tpe", "model.dropout=interval(0, 0.5)", "training.epochs=1,2"),
        ("search=tpe", "model.units=16,64", "objective=[val_accuracy max, parameters min]"),
        ("search=nsga2", "model.units=16,64", "objective=[val_accuracy max, parameters min]"),
        ("search=nsga2", "model.units=16,64"),
        ("search=random", "model.units=16,64", "objective=[val_accuracy max, parameters min]"),
        ("search=grid", "model.units=16,64", "objective=[val_accuracy max, parameters min]"),
        ("search=none", "objective=[val_accuracy max, parameters min]"),
        ("search=cmaes", "model.units=16,64"),
        ("search=cmaes", "model.activation=relu,tanh", "model.dropout=interval(0, 0.5)"),
        ("search=asha", "model.units=16,64", "training.epochs=3"),
        ("search=asha", "model.units=16,64", "search.sampler=random", "search.min_epochs=2", "search.factor=5"),
        ("search=median", "model.units=16,64", "training.epochs=2"),
        ("search=pbt", "model.dropout=interval(0, 0.5)", "training.epochs=2", "search.interval=1"),
    ],
)
def test_a_compatible_search_and_space_are_accepted(check: Callable[..., None], overrides: tuple[str, ...]) -> None:
    check(*overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("search=none", "model.units=16,64"),
            "search=none: model.units is a sweep; give it one value, or use search=random",
        ),
        (
            ("search=none", "model.dropout=interval(0, 0.5)"),
            "search=none: model.dropout is a sweep; give it one value, or use search=random",
        ),
        (
            ("search=grid", "model.units=16,64", "model.dropout=interval(0, 0.5)"),
            "search=grid: model.dropout is an interval; write choice(…) or range(…), or use search=random",
        ),
        (
            ("search=grid", values(10_001)),
            "search=grid: the space has 10001 combinations; set search.max_trials, or use search=random",
        ),
        (
            ("search=hyperband", values(1000), "training.epochs=3,9"),
            "search=hyperband: it sets the number of epochs itself; give training.epochs one value, the maximum",
        ),
        (
            ("search=asha", "model.units=16,64", "training.epochs=3,9"),
            "search=asha: it sets the number of epochs itself; give training.epochs one value, the maximum",
        ),
        (
            ("search=asha", "model.units=16,64", "training.epochs=5", "search.min_epochs=2"),
            "search=asha: training.epochs=5 is too few to stop a trial early; it needs search.factor x "
            "search.min_epochs = 6 epochs or more",
        ),
        (
            ("search=median", "model.units=16,64", "training.epochs=3", "search.min_epochs=3"),
            "search.min_epochs=3: with training.epochs=3 no trial could be stopped early; use a smaller "
            "value, or more training.epochs",
        ),
        (
            ("search=pbt", "model.dropout=interval(0, 0.5)", "training.epochs=3", "search.interval=3"),
            "search.interval=3: with training.epochs=3 the members would never be compared; use a smaller value, "
            "or more training.epochs",
        ),
        (
            ("search=pbt", "model.dropout=interval(0, 0.5)", "training.epochs=3,4"),
            "search=pbt: it sets the number of epochs itself; give training.epochs one value, the maximum",
        ),
        (
            ("search=cmaes", "model.activation=relu,tanh", "model.batch_normalization=choice(true,false)"),
            "search=cmaes: varies numbers only, and none of the searched hyperparameters is one; use search=tpe",
        ),
        (
            ("search=median", "model.activation=relu,tanh", "search.sampler=cmaes"),
            "search.sampler=cmaes: varies numbers only, and none of the searched hyperparameters is one; use "
            "search.sampler=tpe",
        ),
        *(
            (
                (f"search={algorithm}", "model.units=16,64", "objective=[val_accuracy max, parameters min]"),
                f"search={algorithm}: takes one objective, not [val_accuracy, parameters]; use search=tpe, nsga2, "
                "random or grid",
            )
            for algorithm in ("bayesian", "hyperband", "gp", "cmaes", "asha", "median", "pbt")
        ),
        *(
            (
                (f"search={algorithm}", "model.dropout=interval(0, 0.5)", "search.max_trials=null"),
                "search.max_trials=null: the search would never end; set search.max_trials or search.time_budget",
            )
            for algorithm in ("random", "bayesian", "tpe", "cmaes", "nsga2", "asha", "median")
        ),
    ],
)
def test_an_incompatible_search_and_space_are_refused(
    check: Callable[..., None], overrides: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(*overrides)

    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("epochs", "factor", "iterations", "needed"),
    # The first rounds of keras-tuner's brackets, the one with the fewest rounds first.
    [
        (1, 3, 1, 1),
        (3, 3, 1, 2 + 3),
        (9, 3, 1, 3 + 5 + 9),
        (10, 3, 1, 4 + 6 + 12),
        (9, 3, 2, 2 * (3 + 5 + 9)),
        (4, 2, 1, 3 + 3 + 4),
        (100, 10, 1, 3 + 15 + 100),
    ],
)
def test_hyperband_needs_enough_combinations_for_its_first_rounds(
    check: Callable[..., None], epochs: int, factor: int, iterations: int, needed: int
) -> None:
    overrides = (
        "search=hyperband",
        f"training.epochs={epochs}",
        f"search.factor={factor}",
        f"search.iterations={iterations}",
    )
    check(*overrides, values(needed))
    if needed == 1:
        return
    with pytest.raises(UserError) as caught:
        check(*overrides, values(needed - 1))
    assert str(caught.value) == (
        f"search=hyperband: its first rounds need {needed} different combinations, but the space has {needed - 1}; "
        "use search=grid, or fewer training.epochs"
    )


@pytest.mark.parametrize(
    ("overrides", "key"), [(("search=gp",), "search"), (("search=asha", "search.sampler=gp"), "search.sampler")]
)
def test_the_gaussian_process_needs_pytorch(
    check: Callable[..., None], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], key: str
) -> None:
    found: dict[str, object] = {"torch": None}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    with pytest.raises(UserError) as caught:
        check(*overrides, "model.units=16,64")
    assert str(caught.value) == f"{key}=gp: needs PyTorch; python -m pip install torch greenlet, or use {key}=tpe"
    found["torch"] = object()
    check(*overrides, "model.units=16,64")


def test_checking_loads_neither_keras_nor_keras_tuner_nor_tensorflow() -> None:
    code = (
        "import sys\n"
        "from mnist_sweep.config import compose\n"
        "from mnist_sweep.search import compatibility\n"
        "from mnist_sweep.config.settings import check_settings\n"
        "from mnist_sweep.config.space import Space\n"
        "settings = check_settings(compose.defaults(['+experiment=mlp']))\n"
        "space = Space(settings.trial)\n"
        "list(space.check())\n"
        "compatibility.check(settings, space)\n"
        "print([name for name in ('tensorflow', 'keras', 'keras_tuner', 'mlflow', 'optuna') if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
