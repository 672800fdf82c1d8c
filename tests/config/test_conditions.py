"""Spaces with conditions: which trials have which hyperparameters, and what is said about a wrong condition."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.conditions import Between
from mnist_sweep.config.dotted import value_at
from mnist_sweep.config.grammar import Interval
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space

Compose = Callable[..., dict[str, Any]]
MakeSpace = Callable[..., Space]

MOMENTUM = "optimizer.arguments.momentum"
SGD_OR_ADAM = ("optimizer.name=sgd,adam", f"+{MOMENTUM}=0.0,0.9")


@pytest.fixture
def space(compose_config: Compose) -> MakeSpace:
    """Returns the space of a command line."""

    def build(*overrides: str) -> Space:
        settings = check_settings(compose_config(*overrides))
        built = Space(settings.trial, written=settings.conditions)
        list(built.check())
        return built

    return build


def when(key: str, condition: str) -> str:
    return f"conditions.{key}={condition}"


def grid(space: Space, key: str) -> list[tuple[Any, ...]]:
    """Returns each configuration of a small space: its values, and the value of a key in the trial's config."""
    found = [(*values.values(), value_at(space.config(values), key)) for values in space.grid()]
    assert len(found) == len({json.dumps(space.config(values)) for values in space.grid()}) == space.size
    return found


# ---- without being written ------------------------------------------------------------------------------------------


def test_an_argument_is_searched_only_with_the_optimizers_that_have_it(space: MakeSpace) -> None:
    built = space(*SGD_OR_ADAM)
    assert built.describe()[MOMENTUM] == "choice(0.0, 0.9) if optimizer.name in ['sgd']"
    assert [built.config(values)["optimizer"]["arguments"] for values in built.grid()] == [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {},
    ]
    assert built.notes == [f"{MOMENTUM} is searched only if optimizer.name is sgd: adam has no such argument"]


def test_an_argument_that_is_not_searched_is_left_out_for_the_other_optimizers(space: MakeSpace) -> None:
    built = space("optimizer.name=sgd,Adam,rmsprop", f"+{MOMENTUM}=0.9")
    assert [built.config(values)["optimizer"]["arguments"] for values in built.grid()] == [
        {"momentum": 0.9},
        {},
        {"momentum": 0.9},
    ]
    assert built.notes == [f"{MOMENTUM} is used only if optimizer.name is sgd or rmsprop: Adam has no such argument"]


def test_an_argument_of_a_schedule_is_searched_only_with_the_schedules_that_have_it(space: MakeSpace) -> None:
    schedule = "optimizer.schedule.arguments"
    built = space(
        "optimizer.schedule.name=null,CosineDecay,ExponentialDecay",
        f"+{schedule}.alpha=0.0,0.1",
        f"+{schedule}.decay_rate=0.9",
    )
    assert [built.config(values)["optimizer"]["schedule"]["arguments"] for values in built.grid()] == [
        {},
        {"alpha": 0.0},
        {"alpha": 0.1},
        {"decay_rate": 0.9},
    ]
    assert len(built.notes) == 2


@pytest.mark.parametrize(
    ("overrides", "key", "size"),
    [
        (("model=cnn", "model.pooling.kind=null,max,average", "model.pooling.size=2,3"), "model.pooling.size", 5),
        (("model=cnn", "model.pooling.kind=null,max", "model.pooling.after=all,last"), "model.pooling.after", 3),
        (
            ("training.early_stopping.patience=null,3", "training.early_stopping.min_delta=0.0,0.1"),
            "training.early_stopping.min_delta",
            3,
        ),
        (
            ("optimizer=sgd", f"+{MOMENTUM}=0.0,0.9", "+optimizer.arguments.nesterov=true,false"),
            "optimizer.arguments.nesterov",
            3,
        ),
        (
            ("+optimizer.arguments.use_ema=true,false", "+optimizer.arguments.ema_overwrite_frequency=10,100"),
            "optimizer.arguments.ema_overwrite_frequency",
            3,
        ),
    ],
)
def test_what_has_no_effect_with_some_values_is_not_searched_with_them(
    space: MakeSpace, overrides: tuple[str, ...], key: str, size: int
) -> None:
    built = space(*overrides)
    assert len(grid(built, key)) == size
    assert any(note.startswith(f"{key} is searched only if ") for note in built.notes)


def test_a_sweep_of_an_earlier_version_keeps_its_space(compose_config: Compose) -> None:
    config = compose_config("model=cnn", "model.pooling.kind=null,max", "model.pooling.size=2,3")
    del config["conditions"]
    settings = check_settings(config)
    assert Space(settings.trial, written=settings.conditions).size == 4


def test_an_argument_that_no_searched_optimizer_has_is_an_error(space: MakeSpace) -> None:
    with pytest.raises(UserError, match=r"^optimizer.arguments.momentm: sgd has no such argument; did you mean 'momen"):
        space("optimizer.name=sgd,adam", "+optimizer.arguments.momentm=0.0,0.9")


# ---- written --------------------------------------------------------------------------------------------------------


def test_a_hyperparameter_whose_condition_does_not_hold_has_its_default(space: MakeSpace) -> None:
    built = space("model.units=16,64", "model.l2=0.1,0.2", when("model.l2", "model.units > 16"))
    assert grid(built, "model.l2") == [(16, 0.0), (64, 0.1, 0.1), (64, 0.2, 0.2)]
    assert built.inactive({"model.units": 16}) == ["model.l2"]
    assert built.unused({"model.units": 16}) == []
    assert built.notes == ["model.l2 is 0.0 where its condition does not hold"]


def test_it_can_be_given_another_value(space: MakeSpace) -> None:
    built = space("model.units=16,64", "model.dropout=0.1,0.5", when("model.dropout", "model.units == 64 else 0.0"))
    assert grid(built, "model.dropout") == [(16, 0.0), (64, 0.1, 0.1), (64, 0.5, 0.5)]


def test_that_value_is_checked(space: MakeSpace) -> None:
    with pytest.raises(UserError, match=r"^model.dropout=7: must be less than 1"):
        space("model.units=16,64", "model.dropout=0.1,0.5", when("model.dropout", "model.units == 64 else 7"))


def test_a_written_condition_takes_the_place_of_the_one_without_writing(space: MakeSpace) -> None:
    built = space("optimizer.name=sgd,rmsprop,adam", f"+{MOMENTUM}=0.0,0.9", when(MOMENTUM, "optimizer.name == sgd"))
    assert built.size == 4
    with pytest.raises(UserError, match=r"^conditions.optimizer.arguments.momentum: adam has no such argument$"):
        space(*SGD_OR_ADAM, when(MOMENTUM, "optimizer.name in [sgd, adam]"))


def test_a_written_condition_on_another_key_is_added_to_it(space: MakeSpace) -> None:
    built = space(*SGD_OR_ADAM, "model.units=16,64", when(MOMENTUM, "model.units == 16"))
    assert built.size == 5


def test_a_condition_may_depend_on_a_hyperparameter_that_has_one(space: MakeSpace) -> None:
    built = space(
        "training.batch_size=32,64",
        "model.l2=0.1,0.2",
        "model.units=16,64",
        when("model.units", "model.l2 == 0.2"),
        when("model.l2", "training.batch_size != 32"),
    )
    assert [h.name for h in built.hyperparameters] == ["training.batch_size", "model.l2", "model.units"]
    assert [len(values) for values in built.grid()] == [1, 2, 3, 3]


def test_values_of_intervals_are_compared(space: MakeSpace) -> None:
    built = space(
        "model.dropout=interval(0,0.5)",
        "model.units=int(interval(16,1000))",
        when("model.units", "model.dropout > 0.1 and model.dropout <= 0.3"),
    )
    assert built.describe()["model.units"] == "int(interval(16, 1000)) if 0.1 < model.dropout <= 0.3"
    for values in (built.sample(random.Random(seed)) for seed in range(50)):
        assert ("model.units" in values) == (0.1 < values["model.dropout"] <= 0.3)
    assert any("model.units" in values for values in built.corners()), "the corners have it, too"


def test_the_configurations_of_large_intervals_are_counted(space: MakeSpace) -> None:
    built = space(
        "model.units=int(interval(1,1000000))",
        "model.layers=range(1,4)",
        "training.batch_size=32,64",
        when("model.layers", "model.units >= 11 and model.units < 1001"),
        when("training.batch_size", "model.units in [5, 11]"),
    )
    # 998,009 of the numbers have neither, 989 have layers only, 5 has batch sizes only, 11 both.
    assert built.size == 1_000_000 - 991 + 989 * 3 + 2 + 6


def test_layers_that_are_searched_separately_can_have_conditions(space: MakeSpace) -> None:
    layers = ("model.layers=range(1,3)", "model.units=16,64", "model.per_layer=[units]")
    assert grid(space(*layers, when("model.units.2", "model.units.1 == 64")), "model.units") == [
        (1, 16, [16]),
        (1, 64, [64]),
        (2, 16, [16, 128]),
        (2, 64, 16, [64, 16]),
        (2, 64, 64, [64, 64]),
    ]
    assert space(*layers, when("model.units", "model.layers > 1")).size == 1 + 4
    with pytest.raises(UserError, match=r"model.units is searched for each layer; name one, such as model.units.1$"):
        space(*layers, "model.l2=0.1,0.2", when("model.l2", "model.units == 16"))


def test_the_number_of_layers_can_have_a_condition(space: MakeSpace) -> None:
    built = space(
        "model.layers=range(1,4)",
        "model.units=16,64",
        "model.per_layer=[units]",
        "optimizer.name=sgd,adam",
        when("model.layers", "optimizer.name == sgd"),
    )
    config = built.config({"optimizer.name": "adam", "model.units.1": 64})
    assert (config["model"]["layers"], config["model"]["units"]) == (2, [64, 16])


def test_a_group_can_have_a_condition(space: MakeSpace) -> None:
    built = space("model=cnn", "model.layers=1,2", "model.pooling.size=2,3", when("model.pooling", "model.layers == 2"))
    assert built.size == 3


@pytest.mark.parametrize(("layers", "size"), [(3, 2), (2, 1)])
def test_a_condition_on_a_value_that_is_not_searched_is_decided_at_once(
    space: MakeSpace, layers: int, size: int
) -> None:
    built = space(f"model.layers={layers}", "model.units=16,64", when("model.units", "model.layers > 2"))
    assert built.size == size
    assert built.config({} if size == 1 else {"model.units": 64})["model"]["units"] == (128 if size == 1 else 64)
    assert (size == 1) == ("model.units keeps its default: its condition model.layers > 2 never holds" in built.notes)


def test_values_that_a_narrower_search_leaves_out_may_stay_in_the_condition(space: MakeSpace) -> None:
    built = space(*SGD_OR_ADAM, when(MOMENTUM, "optimizer.name in [sgd, rmsprop]"))
    assert built.size == 3
    assert f"{when(MOMENTUM, 'optimizer.name in [sgd, rmsprop]')}: optimizer.name is never rmsprop in this sweep" in (
        built.notes
    )


@pytest.mark.parametrize(
    ("key", "condition", "message"),
    [
        ("model.units", "model.lyers > 1", "=model.lyers > 1: model.lyers: unknown key; did you mean 'model.layers'?"),
        ("model.unts", "model.l2 == 0.1", ".unts: unknown key; did you mean 'model.units'?"),
        (MOMENTUM, "model.l2 == 0.1", ": this argument is neither searched nor set; write +optimizer.arguments"),
        (
            "data.name",
            "model.l2 == 0.1",
            ": only keys of model, optimizer, training, task and augment can have a condition",
        ),
        ("model.kind", "model.l2 == 0.1", ": model.kind is the same in all trials of a sweep"),
        ("model.units", "data.name == mnist", "data.name is not a part of the search space; name a key of model"),
        ("model.units", "model.units == 16", "model.units depends on itself"),
        ("model.units", "training.early_stopping == 3", "is a group; name one of its keys, such as training.early_"),
        (
            "model.units",
            "optimizer.name == rmsprop",
            "optimizer.name is never rmsprop; it is searched in choice(sgd, a",
        ),
        (
            "model.units",
            "optimizer.name in [sgd, admm]",
            "optimizer.name is never admm; it is searched in choice(sgd, ",
        ),
        ("model.units", "optimizer.name == sdg", "; did you mean 'sgd'?"),
        ("model.units", "optimizer.name > 3", "is searched in choice(sgd, adam), which are not numbers; use in, =="),
        ("model.units", "model.l2 > 1", "never holds; model.l2 is searched in choice(0.1, 0.2)"),
        ("model.units", "model.l2 == 0.1 and model.l2 == 0.2", "never holds; model.l2 is searched in"),
        ("model.units", "model.dropout == 0.1", "an interval of real numbers; compare it with <, <=, > or >="),
        ("model.units", "model.dropout > 0.5", "never holds; model.dropout is searched in interval(0, 0.5)"),
        ("model.units", "model.dropout > 0.3 and model.dropout < 0.2", "never holds; model.dropout is searched in"),
        ("model.units", "optimizer.learning_rate > 0.1", "optimizer.learning_rate is null, which is not a number"),
    ],
)
def test_a_wrong_condition_is_said_in_one_line(space: MakeSpace, key: str, condition: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        space(
            *("model.units=16,64", "model.l2=0.1,0.2", "optimizer.name=sgd,adam", "model.dropout=interval(0,0.5)"),
            when(key, condition),
        )
    assert str(caught.value).startswith("conditions.model" if key.startswith("model") else f"conditions.{key}")
    assert message in str(caught.value)


def test_conditions_in_a_circle_are_named(space: MakeSpace) -> None:
    with pytest.raises(
        UserError, match=r"^conditions.model.units: is circular: model.units depends on model.l2 depend"
    ):
        space(
            *("model.units=16,64", "model.l2=0.1,0.2"),
            *(when("model.units", "model.l2 == 0.1"), when("model.l2", "model.units == 16")),
        )


def test_the_command_line_replaces_and_removes_conditions_of_an_experiment(compose_config: Compose) -> None:
    overrides = (*SGD_OR_ADAM, "model.units=16,64", "conditions={model.units: 'optimizer.name == sgd'}")
    for more, size in [
        ((), 5),
        (("conditions.model.units=optimizer.name == adam",), 4),
        (("conditions.model.units=null",), 6),
    ]:
        settings = check_settings(compose_config(*overrides, *more))
        assert Space(settings.trial, written=settings.conditions).size == size


def test_numbers_between_two_others() -> None:
    both = Between(low=1, above=True) & Between(high=3)
    assert [number in both for number in (1, 1.5, 3, 3.1, True, "2")] == [False, True, True, False, False, False]
    assert both.shown("x") == "1 < x <= 3"
    assert Between(1, 2, above=True, below=True).some_value(Interval(0, 9, True, False)) is None
    assert Between(1, 2, above=True, below=True).some_value(Interval(0.0, 9.0, False, False)) == 1.5
