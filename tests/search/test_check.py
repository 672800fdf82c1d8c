"""Whether a search and a space go together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep import search
from mnist_sweep.errors import UserError
from mnist_sweep.settings import check_settings
from mnist_sweep.space import Space

Config = dict[str, Any]
Compose = Callable[..., Config]


@pytest.fixture
def check(compose_config: Compose) -> Callable[..., None]:
    def checked(*overrides: str) -> None:
        settings = check_settings(compose_config(*overrides))
        search.check(settings, Space(settings.trial))

    return checked


def values(count: int) -> str:
    """An override that makes a space of so many settings."""
    return f"training.seed=range(0, {count})"


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband", "grid", "none"])
def test_a_config_without_sweeps_goes_with_any_search(check: Callable[..., None], algorithm: str) -> None:
    check(f"search={algorithm}")


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
    ],
)
def test_a_search_and_a_space_that_go_together_are_taken(
    check: Callable[..., None], overrides: tuple[str, ...]
) -> None:
    check(*overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("search=none", "model.units=16,64"),
            "search=none: model.units is a sweep; give it one value, or take search=random",
        ),
        (
            ("search=none", "model.dropout=interval(0, 0.5)"),
            "search=none: model.dropout is a sweep; give it one value, or take search=random",
        ),
        (
            ("search=grid", "model.units=16,64", "model.dropout=interval(0, 0.5)"),
            "search=grid: model.dropout is an interval; write choice(…) or range(…), or take search=random",
        ),
        (
            ("search=grid", values(10_001)),
            "search=grid: the space holds 10001 settings; set search.max_trials, or take search=random",
        ),
        (
            ("search=hyperband", values(1000), "training.epochs=3,9"),
            "search=hyperband: it decides the epochs itself; give training.epochs one value, the most to train",
        ),
        *(
            (
                (f"search={algorithm}", "model.dropout=interval(0, 0.5)", "search.max_trials=null"),
                "search.max_trials=null: the space has no end; set search.max_trials or search.time_budget",
            )
            for algorithm in ("random", "bayesian")
        ),
    ],
)
def test_a_search_and_a_space_that_do_not_go_together_are_refused(
    check: Callable[..., None], overrides: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(*overrides)

    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("epochs", "factor", "iterations", "needed"),
    # The first rounds of keras-tuner's brackets, the least halved one first.
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
def test_hyperband_needs_as_many_settings_as_its_first_rounds_try(
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
        f"search=hyperband: its first rounds need {needed} different settings, but the space holds {needed - 1}; "
        "take search=grid, or fewer training.epochs"
    )


def test_checking_loads_neither_keras_nor_keras_tuner_nor_tensorflow() -> None:
    code = (
        "import sys\n"
        "from mnist_sweep import compose, search\n"
        "from mnist_sweep.settings import check_settings\n"
        "from mnist_sweep.space import Space\n"
        "settings = check_settings(compose.defaults(['+experiment=mlp']))\n"
        "space = Space(settings.trial)\n"
        "list(space.check())\n"
        "search.check(settings, space)\n"
        "print([name for name in ('tensorflow', 'keras', 'keras_tuner', 'mlflow') if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
