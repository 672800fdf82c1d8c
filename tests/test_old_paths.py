"""Code that users wrote for version 0.1 still finds what it imports."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("mnist_sweep", ["find_sweep", "importances", "load_curves", "load_runs", "marginal"]),
        ("mnist_sweep.search", ["Answer", "Result", "Search", "Suggestion"]),
        ("mnist_sweep.search.base", ["Answer", "Result", "Search", "Suggestion"]),
        ("mnist_sweep.search.stopping", ["Stopping"]),
        ("mnist_sweep.space", ["Space", "Hyperparameter", "Values"]),
        ("mnist_sweep.settings", ["Objective", "Settings"]),
        ("mnist_sweep.errors", ["UserError"]),
        ("mnist_sweep.trial", ["Trial", "Outcome", "Status"]),
        ("mnist_sweep.outcomes", ["pareto"]),
        ("mnist_sweep.results.plots", ["parallel_coordinates", "pareto_front", "all_learning_curves"]),
        ("mnist_sweep.results.runs", ["find_sweep", "load_curves", "load_runs"]),
        ("mnist_sweep.results.importance", ["importances", "marginal"]),
    ],
)
def test_names_of_version_0_1_are_found_where_they_were(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    assert [name for name in names if not hasattr(found, name)] == []


def test_a_module_that_has_moved_is_the_same_under_both_names() -> None:
    from mnist_sweep.config import space

    assert importlib.import_module("mnist_sweep.space") is space
    assert space.__spec__ is not None
    assert space.__spec__.name == "mnist_sweep.config.space"
