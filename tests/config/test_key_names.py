"""Finding the config key that was meant."""

from __future__ import annotations

import pytest

from mnist_sweep.config.compose import defaults
from mnist_sweep.config.key_names import nearest, nested_keys, unknown_key


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epochs", "training.epochs"),
        ("n_epochs", "training.epochs"),
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("LearningRate", "optimizer.learning_rate"),
        ("batch", "training.batch_size"),
        ("batchSize", "training.batch_size"),
        ("n_trials", "search.max_trials"),
        ("hidden_units", "model.units"),
        ("num_layers", "model.layers"),
        ("n_jobs", "workers.count"),
        ("momentum", "optimizer.arguments"),
        ("random_state", "seed"),
        ("dataset", "data"),
        ("patience", "training.early_stopping.patience"),
        ("seeds", "seed"),
        ("modle.units", "model.units"),
        ("model.unts", "model.units"),
    ],
)
def test_a_key_is_found_by_its_last_part_its_usual_names_and_its_spelling(typed: str, meant: str) -> None:
    assert nearest(typed, list(nested_keys(defaults()))) == [meant]


@pytest.mark.parametrize("typed", ["foo", "model.foo", "foo.bar", "zzz"])
def test_nothing_is_suggested_for_a_key_that_resembles_none(typed: str) -> None:
    assert nearest(typed, list(nested_keys(defaults()))) == []


def test_the_keys_of_the_group_are_listed_if_none_is_similar_and_all_keys_never() -> None:
    known = list(nested_keys(defaults()))
    assert unknown_key("tracking.zzz", known).startswith("tracking.zzz: unknown key; tracking has the keys uri, ")
    assert len(unknown_key("zzz", known)) < 160
