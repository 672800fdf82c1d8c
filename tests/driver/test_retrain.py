"""What retraining a trial changes; tests/e2e/test_retrain_job.py trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import plan, retrain
from mnist_sweep.search import choose

Changed = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def changed(compose_config) -> Changed:
    """Changes the config of a trial whose sweep had some of these values, and whose best epoch was the third."""

    def config(*overrides: str, then: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[str]]:
        before = compose_config("search=none", "training.epochs=20", *then)
        return retrain.changed(before, overrides, 3.0)

    return config


def test_a_trial_can_be_retrained_on_other_workers(compose_config) -> None:
    config, notes = retrain.changed(compose_config("search=none"), ["workers=ray", "workers.wait=10m"], None)
    assert (config["workers"]["engine"], config["workers"]["wait"], notes) == ("ray", "10m", [])
    retrain.check(config)


def test_nothing_but_what_the_user_changes_is_different(changed: Changed, compose_config) -> None:
    config, notes = changed("training.epochs=50", "+optimizer.arguments.beta_1=0.8", "model.units=[64,32]")
    expected = compose_config("search=none", "training.epochs=50")
    expected["optimizer"]["arguments"] = {"beta_1": 0.8}
    expected["model"]["units"] = [64, 32]
    assert (config, notes) == (expected, [])


def test_one_model_is_trained_however_often_the_sweep_trained_it(changed: Changed) -> None:
    then = ("repeats=3", "validation=kfold", "confirm={top: 2, seeds: 3}")
    config, _ = changed(then=then)
    assert (config["repeats"], config["validation"], config["confirm"]) == (1, "holdout", None)


def test_a_seed_is_that_of_the_split_and_of_the_weights(changed: Changed) -> None:
    config, _ = changed("seed=7")
    assert (config["seed"], config["training"]["seed"]) == (7, 7)
    config, _ = changed("seed=7", "training.seed=8")
    assert (config["seed"], config["training"]["seed"]) == (7, 8)


def test_without_validation_images_it_trains_to_the_best_epoch_without_early_stopping(changed: Changed) -> None:
    config, notes = changed("data.validation_split=0", then=("training.early_stopping.patience=2",))
    assert config["objective"] == "loss min"
    assert config["training"]["epochs"] == 3
    assert config["training"]["early_stopping"]["patience"] is None
    assert notes == [
        "There is no early stopping without validation data.",
        "It trains for 3 epochs, up to the trial's best epoch; training.epochs=N changes that.",
        "It keeps the model of the epoch with the lowest training loss, which is usually the last one.",
    ]
    retrain.check(config)


def test_without_validation_images_the_user_may_say_how_long_and_by_what(changed: Changed) -> None:
    config, notes = changed("data.validation_split=0", "training.epochs=50")
    assert (config["training"]["epochs"], len(notes)) == (50, 1)
    config, notes = changed("data.validation_split=0", "objective=accuracy")
    assert (config["objective"], config["training"]["epochs"], notes) == ("accuracy", 20, [])


def test_an_option_of_the_group_data_can_be_chosen(changed: Changed) -> None:
    config, _ = changed("data=fashion_mnist", "data.validation_split=0.2")
    assert (config["data"]["name"], config["data"]["validation_split"]) == ("fashion_mnist", 0.2)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("search.max_trials=3", "retrain: search.max_trials=3: cannot be changed; keys of model, optimizer, "),
        ("epochs=3", "epochs: unknown key; did you mean 'training.epochs'?"),
        ("trainin.epochs=3", "trainin.epochs: unknown key; did you mean 'training.epochs'?"),
        ("lr=3", "lr: unknown key; did you mean 'optimizer.learning_rate'?"),
        ("folds=3", "retrain: folds=3: cannot be changed"),
        ("training.early_stopping.min_delta=0.1", "training.early_stopping.min_delta=0.1: is not used; set "),
        ("confirm=null", "retrain: confirm=null: cannot be changed"),
        (
            "optimizer=sgd",
            "retrain: optimizer=sgd: optimizer is a group; name the keys that change, such as optimizer.",
        ),
        ("training.epochs.x=3", "retrain: training.epochs.x=3: epochs is a value, not a group"),
        ("training.epoch=3", "training.epoch: unknown key; did you mean 'training.epochs'?"),
        ("training.epochs=0", "training.epochs=0: must be at least 1"),
        ("model.units=8,16", "model.units=8,16: must be a single value"),
        ("model.units='choice(8,16)'", "retrain: model.units=choice(8, 16): must be a single value"),
        ("data.name=none", "data.name=none: "),
    ],
)
def test_a_key_or_value_that_cannot_be_is_refused_before_anything_starts(
    changed: Changed, override: str, complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        retrain.check(changed(override)[0])
    assert str(caught.value).startswith(complaint)


def test_a_text_that_looks_like_a_sweep_is_one_value(compose_config) -> None:
    config = compose_config("search=none")
    fixed = retrain._fixed({"model": {"kinds": ["a,b", "relu"], "units": 3}})
    assert fixed == {"model": {"kinds": ["choice('a,b')", "relu"], "units": 3}}
    config["model"] = {"builder": "own:build", "text": retrain._fixed("a,b")}
    retrain.check(config)
    settings, space, _ = plan.prepare(config)
    suggested = choose.create_search(settings, space).ask(0)
    assert space.config(suggested.values)["model"]["text"] == "a,b"
