"""The search space: from a config with sweeps to hyperparameters, and from their values to one trial's config."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import example_tables
import pytest
from changes import changed

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.config import shipped
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Hyperparameter, Space, identity
from mnist_sweep.config.trial_config import TrialConfig, check_trial

Config = dict[str, Any]
Compose = Callable[..., Config]
Trial = Callable[..., Config]

EXPERIMENTS = sorted(file.stem for file in (shipped.folder() / "experiment").glob("*.yaml"))


@pytest.fixture
def trial(compose_config: Compose) -> Trial:
    """Returns the shipped groups that may be searched, with changes by dotted key."""

    def build(changes: dict[str, Any], model: str = "mlp") -> Config:
        config = changed(compose_config(f"model={model}"), changes)
        return {group: config[group] for group in ("model", "optimizer", "training")}

    return build


def message(raw: Config) -> str:
    with pytest.raises(UserError) as caught:
        Space(raw)
    return str(caught.value)


def of_experiment(compose_config: Compose, name: str) -> Space:
    return Space(check_settings(compose_config(*example_tables.of_experiment(name))).trial)


def conditions(space: Space) -> dict[str, list[Any] | None]:
    """Returns each hyperparameter, with the values of its parent for which it is active."""
    return {h.name: list(h.conditions[0][1]) if h.conditions else None for h in space.hyperparameters}


def parents(space: Space) -> dict[str, str]:
    """Returns each hyperparameter that has a condition, and the one that it depends on."""
    return {h.name: parent for h in space.hyperparameters for parent, _ in h.conditions}


# ---- reading ------------------------------------------------------------------------------------------------------


def test_a_config_without_sweeps_is_one_configuration(trial: Trial) -> None:
    space = Space(trial({}))

    assert (space.hyperparameters, space.size, list(space.grid())) == ([], 1, [{}])


def test_every_sweep_becomes_a_hyperparameter_under_its_key(trial: Trial) -> None:
    space = Space(
        trial(
            {
                "model.units": "choice(16, 64)",
                "optimizer.learning_rate": "tag(log, interval(1e-4, 1e-1))",
                "optimizer.arguments": {"clipnorm": "choice(0.5, 1.0)"},
                "training.early_stopping.patience": "int(interval(1, 5))",
            }
        )
    )

    assert space.hyperparameters == [
        Hyperparameter("model.units", Choice((16, 64))),
        Hyperparameter("optimizer.learning_rate", Interval(1e-4, 1e-1, integer=False, log=True)),
        Hyperparameter("optimizer.arguments.clipnorm", Choice((0.5, 1.0))),
        Hyperparameter("training.early_stopping.patience", Interval(1, 5, integer=True, log=False)),
    ]


def test_the_number_of_layers_comes_before_the_fields_that_depend_on_it(trial: Trial) -> None:
    raw = trial({"model.activation": "relu,tanh", "model.layers": "range(0, 3)"})
    raw["model"] = dict(sorted(raw["model"].items()))

    assert [h.name for h in Space(raw).hyperparameters] == ["model.layers", "model.activation"]


def test_reading_a_space_does_not_change_the_config(trial: Trial) -> None:
    raw = trial({"model.units": "16,64", "model.layers": "range(1, 3)", "model.per_layer": ["units"]})
    before = json.dumps(raw)
    Space(raw)

    assert json.dumps(raw) == before


def test_the_kind_of_model_cannot_be_searched(trial: Trial) -> None:
    assert message(trial({"model.kind": "mlp,cnn"})) == (
        "model.kind=mlp,cnn: the kind of model cannot be searched; run one sweep per kind with -m model=mlp,cnn"
    )


def test_a_faulty_sweep_is_refused_with_its_key(trial: Trial) -> None:
    raw = trial({"optimizer.learning_rate": "tag(log, interval(0, 1))"})

    assert message(raw) == (
        "optimizer.learning_rate=tag(log, interval(0, 1)): a logarithmic interval must start above 0"
    )


def test_a_space_describes_itself_in_the_language_of_the_config(trial: Trial) -> None:
    space = Space(
        trial(
            {
                "model.layers": "range(0, 3)",
                "model.units": "16,64",
                "model.per_layer": ["units"],
                "model.l2": "interval(0, 1)",
            }
        )
    )

    assert space.describe() == {
        "model.layers": "choice(0, 1, 2)",
        "model.units.1": "choice(16, 64) if model.layers in [1, 2]",
        "model.units.2": "choice(16, 64) if model.layers in [2]",
        "model.l2": "interval(0, 1) if model.layers in [1, 2]",
    }


# ---- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("range(1, 4)", {"model.layers": None, "model.units.1": None, "model.units.2": [2, 3], "model.units.3": [3]}),
        ("range(0, 3)", {"model.layers": None, "model.units.1": [1, 2], "model.units.2": [2]}),
        ("choice(3, 1)", {"model.layers": None, "model.units.1": None, "model.units.2": [3], "model.units.3": [3]}),
        (
            "int(interval(1, 3))",
            {"model.layers": None, "model.units.1": None, "model.units.2": [2, 3], "model.units.3": [3]},
        ),
        (3, {"model.units.1": None, "model.units.2": None, "model.units.3": None}),
        (1, {"model.units.1": None}),
        (0, {}),
    ],
)
def test_a_field_searched_per_layer_is_active_in_existing_layers(
    trial: Trial, layers: Any, expected: dict[str, list[int] | None]
) -> None:
    space = Space(trial({"model.layers": layers, "model.units": "16,64", "model.per_layer": ["units"]}))

    assert conditions(space) == expected
    assert set(parents(space).values()) <= {"model.layers"}
    assert all(h.domain == Choice((16, 64)) for h in space.hyperparameters if h.name != "model.layers")


@pytest.mark.parametrize(
    ("layers", "condition"),
    [("range(1, 4)", None), ("range(0, 4)", [1, 2, 3]), ("choice(2, 0)", [2]), (2, None)],
)
def test_a_value_for_all_layers_is_active_if_there_are_any(
    trial: Trial, layers: Any, condition: list[int] | None
) -> None:
    space = Space(trial({"model.layers": layers, "model.units": "16,64"}))

    assert conditions(space)["model.units"] == condition


def test_the_fields_of_the_dense_head_depend_on_its_own_layers(trial: Trial) -> None:
    space = Space(
        trial(
            {
                "model.layers": "range(1, 3)",
                "model.filters": "8,16",
                "model.dense.layers": "range(0, 3)",
                "model.dense.units": "32,64",
                "model.dense.dropout": "interval(0, 0.5)",
                "model.per_layer": ["filters", "dense.units"],
            },
            "cnn",
        )
    )

    assert conditions(space) == {
        "model.layers": None,
        "model.dense.layers": None,
        "model.filters.1": None,
        "model.filters.2": [2],
        "model.dense.units.1": [1, 2],
        "model.dense.units.2": [2],
        "model.dense.dropout": [1, 2],
    }
    found = parents(space)
    assert found["model.filters.2"] == "model.layers"
    assert found["model.dense.units.1"] == found["model.dense.dropout"] == "model.dense.layers"


@pytest.mark.parametrize(
    ("per_layer", "changes", "expected"),
    [
        ("units", {}, "model.per_layer=units: must be a list of fields such as [units, activation]"),
        ([1], {}, "model.per_layer=[1]: must be a list of fields such as [units, activation]"),
        (["unit"], {}, "model.per_layer=['unit']: model.unit is not a field of layers"),
        (["layers"], {}, "model.per_layer=['layers']: model.layers is not a field of layers"),
        (["kind"], {}, "model.per_layer=['kind']: model.kind is not a field of layers"),
        (
            ["units"],
            {},
            "model.per_layer=['units']: model.units is not a sweep; write choice(…) or remove it",
        ),
        (
            ["units"],
            {"model.units": ["choice(16, 64)", 32]},
            "model.per_layer=['units']: model.units is not a sweep; write choice(…) or remove it",
        ),
        (
            ["dense.units"],
            {"model.units": "16,64"},
            "model.per_layer=['dense.units']: model.dense.units is not a sweep; write choice(…) or remove it",
        ),
        (
            ["units"],
            {"model.units": "16,64", "model.layers": "interval(1, 4)"},
            "model.per_layer=['units']: model.units needs a whole number for model.layers",
        ),
        (
            ["units"],
            {"model.units": "16,64", "model.layers": "two"},
            "model.per_layer=['units']: model.units needs a whole number for model.layers",
        ),
        (
            ["units"],
            {"model.units": "16,64", "model.layers": "choice(1, true)"},
            "model.per_layer=['units']: model.units needs a whole number for model.layers",
        ),
    ],
)
def test_a_faulty_per_layer_is_refused(trial: Trial, per_layer: object, changes: dict[str, Any], expected: str) -> None:
    assert message(trial({"model.per_layer": per_layer, **changes})) == expected


def test_sweeps_inside_a_list_are_separate_hyperparameters(trial: Trial) -> None:
    space = Space(trial({"model.units": ["choice(64, 128)", 32]}))

    assert conditions(space) == {"model.units.1": None}
    assert [space.config(values)["model"]["units"] for values in space.grid()] == [[64, 32], [128, 32]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model.units": [64, 32, 16]},
            "model.units=[64, 32, 16]: has 3 values for 2 layers; give one for each layer, or set model.layers=3; "
            "to search these values: model.units=64,32,16",
        ),
        (
            {"model.units": [64, 32, 16], "model.layers": "range(1, 3)"},
            "model.units=[64, 32, 16]: has 3 values for 2 layers; give one for each layer, or set model.layers=3; "
            "to search these values: model.units=64,32,16",
        ),
        (
            {"model.units": "choice([64, 32], [64, 32, 16])"},
            "model.units=[64, 32, 16]: has 3 values for 2 layers; give one for each layer, or set model.layers=3",
        ),
        (
            {"model.activation": ["relu", "tanh"], "model.layers": 1},
            "model.activation=['relu', 'tanh']: has 2 values for 1 layer; "
            "give one for each layer, or set model.layers=2; to search these values: model.activation=relu,tanh",
        ),
        pytest.param(
            {"model.units": ["choice(64, 128)", 32], "model.layers": 1},
            "model.units=[choice(64, 128), 32]: has 2 values for 1 layer; "
            "give one for each layer, or set model.layers=2",
        ),
    ],
)
def test_a_list_with_more_values_than_layers_is_refused(trial: Trial, changes: dict[str, Any], expected: str) -> None:
    assert message(trial(changes)) == expected


def test_a_dense_heads_list_with_more_values_than_layers_is_refused(trial: Trial) -> None:
    assert message(trial({"model.dense.units": [64, 32]}, "cnn")) == (
        "model.dense.units=[64, 32]: has 2 values for 1 layer; give one for each layer, or set model.dense.layers=2; "
        "to search these values: model.dense.units=64,32"
    )


def test_a_list_in_a_sweep_is_said_not_to_be_searched(trial: Trial) -> None:
    searched = {"model.dropout": "choice(0.0, 0.5)"}
    assert Space(trial({"model.units": [64, 32]} | searched)).notes == [
        "model.units has one value for each layer; to search these values instead: model.units=64,32"
    ]
    assert Space(trial({"model.units": [64, 32]})).notes == []
    assert Space(trial({"model.units": [64, 64]} | searched)).notes == []


def test_a_list_may_be_as_long_as_the_largest_number_of_layers(trial: Trial) -> None:
    space = Space(trial({"model.units": [64, 32, 16], "model.layers": "range(1, 4)"}))

    assert [config.model.layers for config in space.check()] == [1, 2, 3]  # type: ignore[union-attr]


def test_corners_whose_values_do_not_go_together_are_left_out_unless_it_is_all_of_them(trial: Trial) -> None:
    space = Space(trial({"model.units": [64, 32], "model.layers": "range(1, 4)"}))
    assert [config.model.layers for config in space.check()] == [1, 2]  # type: ignore[union-attr]

    space = Space(trial({"model.units": [64, 32], "model.layers": "choice(3, 4)"}))
    with pytest.raises(UserError, match=r"^model.units=\[64, 32\]: has 2 of 3 values; give one for each layer$"):
        list(space.check())


@pytest.mark.parametrize(
    "changes",
    [
        {"model.units": "choice(16, 0)"},
        {"model.activation": "choice(relu, [tanh, reluu])"},
        {"optimizer.name": "choice(adam, adamm)"},
        {"optimizer.schedule.name": "choice(ExponentialDecay, CosineDecai)"},
        {"optimizer.schedule.name": "choice(null, CosineDecai)", "model.units": [64, 32], "model.layers": "1,3"},
    ],
)
def test_a_value_that_is_wrong_in_itself_is_an_error_at_any_corner(trial: Trial, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be at least 1|Keras has no") as caught:
        list(Space(trial(changes)).check())
    assert not isinstance(caught.value, ImpossibleError)


def test_a_custom_model_needs_no_number_of_layers(trial: Trial) -> None:
    raw = trial({"model.builder": "my.models:build", "model.units": "16,64"})
    del raw["model"]["layers"]
    space = Space(raw)

    assert conditions(space) == {"model.units": None}
    assert len(list(space.check())) == 2


# ---- counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "changes", "size"),
    [
        ("mlp", {"model.units": "16,64", "training.batch_size": "32,64,128"}, 6),
        ("mlp", {"training.epochs": "int(interval(1, 5))"}, 5),
        ("mlp", {"model.layers": "range(1, 4)", "model.units": "16,64"}, 6),
        ("mlp", {"model.layers": "range(0, 4)", "model.units": "16,64"}, 1 + 3 * 2),
        ("mlp", {"model.layers": "range(1, 4)", "model.units": "16,64", "model.per_layer": ["units"]}, 2 + 4 + 8),
        ("mlp", {"model.layers": "range(0, 4)", "model.units": "16,64", "model.per_layer": ["units"]}, 1 + 2 + 4 + 8),
        ("mlp", {"model.layers": 3, "model.units": "16,64", "model.per_layer": ["units"]}, 8),
        (
            "mlp",
            {
                "model.layers": "range(0, 3)",
                "model.units": "16,64",
                "model.activation": "relu,tanh,gelu",
                "model.per_layer": ["units", "activation"],
                "optimizer.name": "adam,sgd",
            },
            2 * (1 + 6 + 36),
        ),
        (
            "cnn",
            {
                "model.layers": "range(1, 3)",
                "model.filters": "8,16",
                "model.dense.layers": "range(0, 3)",
                "model.dense.units": "32,64",
                "model.per_layer": ["filters", "dense.units"],
            },
            (2 + 4) * (1 + 2 + 4),
        ),
        ("mlp", {"model.units": ["choice(64, 128)", "choice(16, 32)"]}, 4),
        ("mlp", {"model.units": "choice(1, 1.0)"}, 2),
        pytest.param(
            "mlp", {"model.units": ["choice(64, 128)", "choice(16, 32)"], "model.layers": "range(1, 3)"}, 2 + 4
        ),
        pytest.param("mlp", {"model.units": ["choice(64, 128)"], "model.layers": "range(0, 2)"}, 1 + 2),
        pytest.param("mlp", {"model.layers": 0, "model.units": "16,64"}, 1),
        pytest.param(
            "cnn", {"model.dense.layers": 0, "model.dense.units": "16,64", "model.dense.dropout": "0.1,0.2"}, 1
        ),
    ],
)
def test_the_size_is_the_number_of_configurations_in_the_grid(
    trial: Trial, model: str, changes: dict[str, Any], size: int
) -> None:
    space = Space(trial(changes, model))
    grid = [identity(values) for values in space.grid()]

    assert (space.size, len(grid), len(set(grid))) == (size, size, size)


@pytest.mark.parametrize(
    "changes", [{"model.dropout": "interval(0, 0.5)"}, {"model.l2": "tag(log, interval(1e-6, 1e-2))"}]
)
def test_a_space_with_an_interval_of_real_numbers_has_no_size(trial: Trial, changes: dict[str, Any]) -> None:
    assert Space(trial({"model.units": "16,64", **changes})).size is None


def test_the_grids_last_hyperparameter_changes_fastest(trial: Trial) -> None:
    space = Space(trial({"model.units": "16,64", "training.epochs": "range(1, 3)"}))

    assert [tuple(values.values()) for values in space.grid()] == [(16, 1), (16, 2), (64, 1), (64, 2)]


def random_changes(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Returns a random space that can be counted."""
    fewest = rng.randint(0, 2)
    layers = rng.choice([f"range({fewest}, {fewest + rng.randint(1, 3)})", f"int(interval({fewest}, {fewest + 1}))"])
    prefix, model = rng.choice([("model", "mlp"), ("model.dense", "cnn")])
    fields = {
        "units": "choice(8, 16, 32)",
        "activation": "relu,tanh",
        "dropout": "range(0, 0.5, 0.25)",
        "batch_normalization": "false,true",
    }
    chosen = {field: fields[field] for field in rng.sample(sorted(fields), rng.randint(1, 2))}
    expanded = rng.sample(sorted(chosen), rng.randint(0, len(chosen)))
    changes: dict[str, Any] = {f"{prefix}.layers": layers}
    changes |= {f"{prefix}.{field}": sweep for field, sweep in chosen.items()}
    changes["model.per_layer"] = [f"{prefix}.{field}".removeprefix("model.") for field in expanded]
    if rng.random() < 0.5:
        changes["optimizer.name"] = "adam,sgd"
    return model, changes


@pytest.mark.parametrize("seed", range(25))
def test_in_any_space_size_and_grid_agree_and_every_configuration_is_valid(trial: Trial, seed: int) -> None:
    rng = random.Random(seed)
    model, changes = random_changes(rng)
    space = Space(trial(changes, model))
    grid = list(space.grid())

    assert len(grid) == space.size == len({identity(values) for values in grid})
    assert len({json.dumps(space.config(values)) for values in grid}) == space.size, "no model twice"
    for values in rng.sample(grid, min(len(grid), 100)):
        check_trial(space.config(values))
    known = {identity(values) for values in grid}
    assert all(identity(space.sample(rng)) in known for _ in range(50))
    assert all(identity(values) in known for values in space.corners())


# ---- values into a config -----------------------------------------------------------------------------------------


def test_values_make_one_trials_config(trial: Trial) -> None:
    space = Space(
        trial(
            {
                "model.layers": "range(1, 4)",
                "model.units": "16,64",
                "model.per_layer": ["units"],
                "optimizer.arguments": {"clipnorm": "0.5,1.0"},
            }
        )
    )
    values = {"model.layers": 2, "model.units.1": 64, "model.units.2": 16, "optimizer.arguments.clipnorm": 1.0}
    config = space.config(values)

    assert "per_layer" not in config["model"]
    assert (config["model"]["layers"], config["model"]["units"]) == (2, [64, 16])
    assert config["optimizer"]["arguments"] == {"clipnorm": 1.0}
    checked = check_trial(config)
    assert isinstance(checked, TrialConfig)
    assert checked.optimizer.learning_rate == 0.001


def test_no_values_return_the_config_unchanged(trial: Trial) -> None:
    raw = trial({"model.units": [64, 32]})
    expected = {**raw, "model": {key: value for key, value in raw["model"].items() if key != "per_layer"}}

    assert Space(raw).config({}) == expected


def test_an_inactive_hyperparameter_has_its_first_value_in_the_config(trial: Trial) -> None:
    space = Space(trial({"model.layers": "range(0, 3)", "model.units": "16,64", "model.dropout": "interval(0.1, 0.5)"}))
    values = {"model.layers": 0}

    assert space.inactive(values) == ["model.units", "model.dropout"]
    assert space.config(values)["model"]["units"] == 16
    assert space.config(values)["model"]["dropout"] == 0.1
    check_trial(space.config(values))


def test_the_hyperparameters_of_missing_layers_are_inactive(trial: Trial) -> None:
    space = Space(trial({"model.layers": "range(1, 4)", "model.units": "16,64", "model.per_layer": ["units"]}))
    values = {"model.layers": 1, "model.units.1": 64}

    assert space.inactive(values) == ["model.units.2", "model.units.3"]
    assert space.config(values)["model"]["units"] == [64]


def test_a_hyperparameter_is_active_for_its_parents_values() -> None:
    child = Hyperparameter("model.units.2", Choice((16, 64)), (("model.layers", (2, 3)),))

    assert child.active({"model.layers": 2})
    assert not child.active({"model.layers": 1})
    assert not child.active({})
    assert Hyperparameter("model.units", Choice((16, 64))).active({})


def test_several_conditions_must_all_hold(trial: Trial) -> None:
    raw = trial({"model.units": "8,16", "model.dropout": "0.1,0.2,0.3", "model.l2": "0.0,0.1"})
    conditions = {
        "model.dropout": (("model.units", (16,)),),
        "model.l2": (("model.units", (16,)), ("model.dropout", (0.2,))),
    }
    space = Space(raw, conditions, keeps_weights={"model.l2"})

    assert space.describe()["model.l2"] == "choice(0.0, 0.1) if model.units in [16] and model.dropout in [0.2]"
    assert space.size == len(list(space.grid())) == 1 + 2 + 2
    assert [h.keeps_weights for h in space.hyperparameters] == [False, False, True]


def test_a_space_is_counted_without_being_listed(trial: Trial) -> None:
    raw = trial({"model.layers": "range(1,41)", "model.units": "8,16,32", "model.per_layer": ["units"]})

    assert Space(raw).size == sum(3**layers for layers in range(1, 41))


def test_a_list_can_be_a_value_of_a_choice(trial: Trial) -> None:
    space = Space(trial({"model.units": "choice([64, 32], [16, 16], 8)"}))

    assert [space.config(values)["model"]["units"] for values in space.grid()] == [[64, 32], [16, 16], 8]
    assert len(list(space.check())) == 3


def test_configurations_have_the_same_identity_only_if_they_are_equal() -> None:
    assert identity({"a": 1, "b": [1, 2]}) == identity({"b": [1, 2], "a": 1})
    assert len({identity({"a": value}) for value in (1, 1.0, True, "1", None, [1])}) == 6


# ---- drawing ------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_configurations(compose_config: Compose) -> None:
    space = of_experiment(compose_config, "mlp")
    drawn = [space.sample(random.Random(seed)) for seed in range(20)]

    assert drawn == [space.sample(random.Random(seed)) for seed in range(20)]
    assert len({identity(values) for values in drawn}) == 20


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_any_configuration_drawn_from_a_shipped_experiment_is_valid(compose_config: Compose, experiment: str) -> None:
    space, rng = of_experiment(compose_config, experiment), random.Random(experiment)
    for _ in range(200):
        values = space.sample(rng)
        config = check_trial(space.config(values))

        assert set(values).isdisjoint(space.inactive(values))
        assert config.model.kind in ("mlp", "cnn")  # type: ignore[union-attr]
        for hyperparameter in space.hyperparameters:
            assert hyperparameter.active(values) == (hyperparameter.name in values)
            if hyperparameter.name in values and isinstance(hyperparameter.domain, Choice):
                assert values[hyperparameter.name] in hyperparameter.domain.options
            elif hyperparameter.name in values and isinstance(hyperparameter.domain, Interval):
                assert hyperparameter.domain.low <= values[hyperparameter.name] <= hyperparameter.domain.high


# ---- corners ------------------------------------------------------------------------------------------------------


def test_a_small_spaces_corners_are_all_combinations_of_choices_and_ends(trial: Trial) -> None:
    space = Space(
        trial(
            {"model.units": "16,32,64", "model.dropout": "interval(0, 0.5)", "training.epochs": "int(interval(1, 9))"}
        )
    )
    corners = [(c["model.units"], c["model.dropout"], c["training.epochs"]) for c in space.corners()]

    assert sorted(corners) == [(u, d, e) for u in (16, 32, 64) for d in (0.0, 0.5) for e in (1, 9)]


@pytest.mark.parametrize(("configurations", "corners"), [(2000, 2000), (2001, 2 * 2001 + 1000)])
def test_up_to_2000_combinations_are_all_corners(trial: Trial, configurations: int, corners: int) -> None:
    space = Space(trial({"training.seed": f"range(0, {configurations})"}))

    assert len(list(space.corners())) == corners


def test_a_space_without_sweeps_has_one_corner(trial: Trial) -> None:
    assert list(Space(trial({})).corners()) == [{}]


def test_corners_have_no_inactive_values(trial: Trial) -> None:
    space = Space(trial({"model.layers": "range(0, 3)", "model.units": "16,64", "model.per_layer": ["units"]}))

    for values in space.corners():
        assert sum(name.startswith("model.units.") for name in values) == values["model.layers"]


MANY = ", ".join(str(n) for n in range(1, 40))
LARGE: dict[str, Any] = {
    "model.layers": "choice(1, 4, 2)",
    "model.units": f"choice({MANY})",
    "model.per_layer": ["units"],
    "model.dropout": "interval(0, 0.5)",
    "optimizer.learning_rate": "tag(log, interval(1e-4, 1e-1))",
    "training.epochs": "int(interval(1, 9))",
}


def test_a_large_spaces_corners_have_every_choice_and_both_ends_but_not_all_combinations(trial: Trial) -> None:
    space = Space(trial(LARGE))
    corners = list(space.corners())

    ends = [tuple(h.domain.extremes()) for h in space.hyperparameters]
    assert len(corners) == 2 * sum(map(len, ends)) + 1000
    for values in ({h.name: e[i] for h, e in zip(space.hyperparameters, ends, strict=True)} for i in (0, -1)):
        assert {h.name: values[h.name] for h in space.hyperparameters if h.active(values)} in corners
    for hyperparameter in space.hyperparameters:
        seen = {corner[hyperparameter.name] for corner in corners if hyperparameter.name in corner}
        assert seen == set(hyperparameter.domain.extremes())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_shipped_experiments_corners_have_every_choice_and_both_ends(
    compose_config: Compose, experiment: str
) -> None:
    space = of_experiment(compose_config, experiment)
    corners = list(space.corners())

    assert corners == list(space.corners()), "the same each time"
    for hyperparameter in space.hyperparameters:
        seen = {corner[hyperparameter.name] for corner in corners if hyperparameter.name in corner}
        assert seen == set(hyperparameter.domain.extremes())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.units": "choice(16, 0, 64)"}, "model.units=0: must be at least 1"),
        (
            {"model.units": "interval(1, 64)"},
            "model.units=interval(1, 64): must be whole numbers; write int(interval(1, 64))",
        ),
        ({"model.dropout": "interval(0, 1)"}, "model.dropout=1.0: must be less than 1"),
        ({"training.epochs": "int(interval(0, 9))"}, "training.epochs=0: must be at least 1"),
        (
            {"model.activation": "relu,tnah"},
            "model.activation=tnah: Keras has no activation 'tnah'; did you mean 'tanh'?",
        ),
        ({"optimizer.name": "adam,sdg"}, "optimizer.name=sdg: Keras has no such optimizer; did you mean 'sgd'?"),
        ({"model.unitz": "16,64"}, "model.unitz: unknown key; did you mean 'model.units'?"),
        ({"model.layers": "range(-1, 2)"}, "model.layers=-1: must be at least 0"),
        (
            {"model.units": "choice(16, 0)", "model.layers": "range(1, 4)", "model.per_layer": ["units"]},
            "model.units.1=0: must be at least 1",
        ),
    ],
)
def test_an_invalid_value_is_found_at_the_corners(trial: Trial, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        list(Space(trial(changes)).check())

    assert str(caught.value) == expected


def test_an_argument_that_no_optimizer_has_is_found_at_the_corners(trial: Trial) -> None:
    space = Space(trial({"optimizer.name": "adam,adamw", "optimizer.arguments": {"momentum": "0.5,0.9"}}))

    with pytest.raises(UserError, match=r"^optimizer.arguments.momentum: adam has no such argument"):
        list(space.check())


def test_a_large_spaces_corners_are_checked_too(trial: Trial) -> None:
    space = Space(trial({**LARGE, "model.units": f"choice({MANY}, 0, 40)"}))

    with pytest.raises(UserError, match=r"^model.units.\d=0: must be at least 1$"):
        list(space.check())
