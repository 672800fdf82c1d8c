"""The config of a whole sweep, except for the groups that may be searched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
from changes import MISSING, changed

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.objective import METRICS, SUMMARIES, Objective, direction_of
from mnist_sweep.config.search_config import SEARCHES
from mnist_sweep.config.settings import Settings, check_settings

Config = dict[str, Any]
Compose = Callable[..., Config]

METRIC_NAMES = ", ".join(sorted(["accuracy", "val_accuracy", *METRICS, *SUMMARIES]))
BUDGET = {"algorithm", "max_trials", "time_budget", "target", "max_failures", "enqueue", "warm_start", "seed"}
SEARCH_KEYS = {
    "random": BUDGET,
    "grid": BUDGET,
    "none": BUDGET,
    "bayesian": BUDGET | {"num_initial_points", "alpha", "beta"},
    "hyperband": BUDGET | {"factor", "iterations"},
    "tpe": BUDGET | {"startup_trials"},
    "gp": BUDGET | {"startup_trials"},
    "cmaes": BUDGET | {"startup_trials"},
    "nsga2": BUDGET | {"population"},
    "asha": BUDGET | {"sampler", "factor", "min_epochs"},
    "median": BUDGET | {"sampler", "min_trials", "min_epochs"},
    "pbt": BUDGET | {"population", "interval", "quantile", "resample"},
}


def message(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        check_settings(config)
    return str(caught.value)


# ---- objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "direction"),
    [
        ("val_accuracy max", "val_accuracy", "max"),
        ("val_accuracy", "val_accuracy", "max"),
        ("accuracy", "accuracy", "max"),
        ("val_loss", "val_loss", "min"),
        ("loss", "loss", "min"),
        ("epoch_seconds", "epoch_seconds", "min"),
        ("learning_rate min", "learning_rate", "min"),
        ("loss max", "loss", "max"),
        ("  val_loss   min ", "val_loss", "min"),
    ],
)
def test_the_usual_direction_of_an_objective_is_inferred(text: str, name: str, direction: str) -> None:
    objective = Objective.parse(text)

    assert (objective.name, objective.direction) == (name, direction)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate", "objective=learning_rate: say which is better, 'learning_rate max' or 'learning_rate min'"),
        ("loss up", "objective=loss up: say which is better, 'loss max' or 'loss min'"),
        ("loss MIN", "objective=loss MIN: say which is better, 'loss max' or 'loss min'"),
        ("loss min max", "objective=loss min max: say which is better, 'loss max' or 'loss min'"),
        ("val_f1,val_loss", "objective=val_f1,val_loss: write several as a list, 'objective=[val_f1, val_loss]'"),
        ("my own metric", "objective=my own metric: say which is better, 'my own metric max' or 'my own metric min'"),
        ("val_own", "objective=val_own: say which is better, 'val_own max' or 'val_own min'"),
    ],
)
def test_an_objective_that_cannot_be_read_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        Objective.parse(text)

    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("val_acuracy max", "objective=val_acuracy: no such metric is logged; did you mean 'val_accuracy'?"),
        ("own max", f"objective=own: no such metric is logged; choose one of: {METRIC_NAMES}"),
        ("val_f1", f"objective=val_f1: no such metric is logged; choose one of: {METRIC_NAMES}"),
    ],
)
def test_a_metric_that_no_model_logs_is_refused(compose_config: Compose, objective: str, expected: str) -> None:
    assert message(changed(compose_config(), {"objective": objective})) == expected
    hypermodel = {"objective": objective, "model.hypermodel": "own:build"}
    assert check_settings(changed(compose_config(), hypermodel)).objective.name == objective.split()[0]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_f1_score", "max"),
        ("auc", "max"),
        ("val_top@3", "max"),
        ("val_top_k_categorical_accuracy", "max"),
        ("val_mean_absolute_error", "min"),
        ("mse", "min"),
        ("val_false_positives", "min"),
        ("val_mask_mean_io_u", "max"),
        ("val_mask_loss", "min"),
        ("val_huber", "min"),
        ("val_own", None),
        ("parameters", "min"),
        ("learning_rate", None),
    ],
)
def test_the_better_direction_is_known_for_keras_metrics(name: str, direction: str | None) -> None:
    assert direction_of(name) == direction


@pytest.mark.parametrize(
    ("direction", "a", "b", "min_delta", "expected"),
    [
        ("max", 0.9, 0.8, 0.0, True),
        ("max", 0.8, 0.9, 0.0, False),
        ("max", 0.9, 0.9, 0.0, False),
        ("max", 0.75, 0.5, 0.25, False),
        ("max", 0.76, 0.5, 0.25, True),
        ("min", 0.8, 0.9, 0.0, True),
        ("min", 0.9, 0.8, 0.0, False),
        ("min", 0.9, 0.9, 0.0, False),
        ("min", 0.5, 0.75, 0.25, False),
        ("min", 0.49, 0.75, 0.25, True),
        ("max", math.inf, None, 0.0, False),
        ("min", -math.inf, 0.5, 0.0, False),
        ("max", 0.1, math.nan, 0.5, True),
        ("min", 0.1, math.nan, 0.5, True),
        ("max", math.nan, 0.1, 0.0, False),
        ("min", math.nan, 0.1, 0.0, False),
        ("max", math.nan, None, 0.0, False),
        ("min", math.nan, None, 0.0, False),
        ("max", math.nan, math.nan, 0.0, False),
        ("min", math.nan, math.nan, 0.0, False),
    ],
)
def test_a_score_is_better_by_more_than_min_delta_and_nan_and_infinity_never_are(
    direction: Literal["max", "min"], a: float, b: float | None, min_delta: float, expected: bool
) -> None:
    assert Objective("loss", direction).better(a, b, min_delta) is expected


@pytest.mark.parametrize(
    ("direction", "score", "expected"),
    [
        ("max", 0.9, True),
        ("max", 0.95, True),
        ("max", 0.89, False),
        ("min", 0.9, True),
        ("min", 0.89, True),
        ("min", 0.95, False),
        ("max", math.nan, False),
        ("min", math.nan, False),
    ],
)
def test_a_target_is_reached_by_an_equal_or_better_score(
    direction: Literal["max", "min"], score: float, expected: bool
) -> None:
    assert Objective("loss", direction).reached(score, 0.9) is expected


# ---- the groups ---------------------------------------------------------------------------------------------------


def test_the_shipped_defaults_are_valid(compose_config: Compose) -> None:
    settings = check_settings(compose_config())

    assert isinstance(settings, Settings)
    assert (settings.name, settings.seed, settings.objective) == ("mlp", 1, Objective("val_accuracy", "max"))
    assert (settings.data.name, settings.search.algorithm, settings.workers.devices) == ("mnist", "random", "auto")


def test_the_groups_that_may_be_searched_are_passed_on_unchanged(compose_config: Compose) -> None:
    config = compose_config("model.units=16,64")
    trial = check_settings(config).trial

    assert set(trial) == {"model", "optimizer", "training", "task", "augment"}
    assert trial["model"]["units"] == "16,64"
    trial["model"]["units"] = 16
    assert config["model"]["units"] == "16,64", "a copy, not the config itself"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": True}, "seed=true: must be a whole number"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"seed": 2**31}, "seed=2147483648: must be less than 2147483648"),
        ({"name": 5}, "name=5: must be text"),
        ({"description": 5}, "description=5: must be text"),
        ({"objective": None}, "objective=null: must be text"),
        ({"nam": "mlp"}, "nam: unknown key; did you mean 'name'?"),
        ({"serach": {}}, "serach: unknown key; did you mean 'search'?"),
        ({"data": MISSING}, "data: this key is missing"),
        (
            {"data": "mnist"},
            "data=mnist: must be a group of keys; to choose mnist in an experiment file, write "
            "'- override /data: mnist' under defaults",
        ),
        ({"model": None}, "model=null: must be a mapping of names to values"),
        (
            {"data.name": "minst"},
            "data.name=minst: no such data; did you mean 'mnist'?",
        ),
        ({"data.path": 3}, "data.path=3: must be text"),
        ({"data.fallback": "mnist"}, "data.fallback=mnist: must be 'mnist_5k' or null"),
        ({"data.validation_split": 1.0}, "data.validation_split=1.0: must be at most 0.9"),
        ({"data.validation_split": -0.1}, "data.validation_split=-0.1: must be at least 0"),
        ({"data.validation_split": True}, "data.validation_split=true: must be a number"),
        ({"data.validaton_split": 0.1}, "data.validaton_split: unknown key; did you mean 'data.validation_split'?"),
        ({"data.path": MISSING}, "data.path: this key is missing"),
        ({"search.algorithm": "randm"}, "search.algorithm=randm: no such algorithm; did you mean 'random'?"),
        (
            {"search.algorithm": "zzz"},
            "search.algorithm=zzz: no such algorithm; choose one of: " + ", ".join(sorted(SEARCHES)),
        ),
        ({"search.max_trials": 0}, "search.max_trials=0: must be at least 1"),
        ({"search.max_trials": True}, "search.max_trials=true: must be a whole number"),
        ({"search.max_trial": 3}, "search.max_trial: unknown key; did you mean 'search.max_trials'?"),
        (
            {"search.time_budget": "5"},
            "search.time_budget=5: must be a duration such as 90s, 15m, 2h or 1h30m",
        ),
        ({"search.time_budget": "0s"}, "search.time_budget=0s: must be longer than zero"),
        ({"search.target": math.nan}, "search.target=nan: must be a finite number"),
        ({"search.seed": -1}, "search.seed=-1: must be at least 0"),
        ({"search.max_failures": 0}, "search.max_failures=0: must be at least 1"),
        ({"workers.devices": "tpu"}, "workers.devices=tpu: must be 'auto', 'cpu' or 'gpu'"),
        ({"workers.count": 0}, "workers.count=0: must be at least 1"),
        ({"workers.threads": 0}, "workers.threads=0: must be at least 1"),
        ({"workers.trials_per_gpu": 0}, "workers.trials_per_gpu=0: must be at least 1 or 'auto'"),
        ({"workers.trials_per_gpu": "all"}, "workers.trials_per_gpu=all: must be a whole number or 'auto'"),
        ({"workers.recycle_after": 2.5}, "workers.recycle_after=2.5: must be a whole number or 'auto'"),
        (
            {"workers.checkpoint_every": None},
            "workers.checkpoint_every=null: must be a duration such as 90s, 15m, 2h or 1h30m",
        ),
        ({"workers.retries": -1}, "workers.retries=-1: must be at least 0"),
        ({"workers.recycle_after": 0}, "workers.recycle_after=0: must be at least 1 or 'auto'"),
        ({"workers.timeout": "soon"}, "workers.timeout=soon: must be a duration such as 90s, 15m, 2h or 1h30m"),
        ({"workers.timeout": "0s"}, "workers.timeout=0s: must be longer than zero"),
        ({"workers.cuont": 2}, "workers.cuont: unknown key; did you mean 'workers.count'?"),
        ({"tracking.uri": 3}, "tracking.uri=3: must be text"),
        ({"tracking.keep_models": "none"}, "tracking.keep_models=none: must be a whole number or 'all' or 'best'"),
        ({"tracking.keep_models": 0}, "tracking.keep_models=0: must be at least 1 or 'all' or 'best'"),
        ({"tracking.artefacts": "x"}, "tracking.artefacts: unknown key; did you mean 'tracking.artifacts'?"),
        pytest.param({"search.algorithm": None}, "search.algorithm=null: no such algorithm; did you mean 'none'?"),
        pytest.param({"search.algorithm": MISSING}, "search.algorithm: this key is missing"),
    ],
)
def test_an_error_names_the_key_and_the_value(compose_config: Compose, changes: dict[str, Any], expected: str) -> None:
    assert message(changed(compose_config(), changes)) == expected


@pytest.mark.parametrize("algorithm", [["random"], {"random": 1}])
def test_an_algorithm_that_is_not_text_is_refused(compose_config: Compose, algorithm: object) -> None:
    assert message(changed(compose_config(), {"search.algorithm": algorithm})).startswith("search.algorithm")


@pytest.mark.parametrize(
    "changes",
    [
        {"description": None},
        {"description": "what (a, b) is for: choice(…) and more"},
        {"data.fallback": None},
        {"data.validation_split": 0.9},
        {"search.max_trials": None},
        {"search.time_budget": "1h30m"},
        {"search.target": 1},
        {"search.max_failures": None},
        {"workers.timeout": None},
        {"workers.timeout": "90s"},
        {"workers.count": None},
        {"workers.retries": 0},
        {"workers.trials_per_gpu": "auto"},
        {"tracking.keep_models": "best"},
        {"tracking.keep_models": 5},
        {"seed": 0},
        {"seed": 2**31 - 1},
    ],
)
def test_a_value_at_its_limit_is_accepted(compose_config: Compose, changes: dict[str, Any]) -> None:
    check_settings(changed(compose_config(), changes))


def test_npz_without_a_path_is_refused(compose_config: Compose) -> None:
    text = message(changed(compose_config(), {"data.name": "npz"}))

    assert text.endswith("data=npz needs data.path=FILE.npz")
    assert text.partition(": ")[0] in ("data", "data.path=null", "data.path")


def test_npz_with_a_path_is_accepted(compose_config: Compose) -> None:
    assert check_settings(compose_config("data=npz", "data.path=x.npz")).data.path == "x.npz"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.image_size": [96]}, "data.image_size=[96]: must be a height and a width, such as [96,96]"),
        ({"data.image_size": 32}, "data.image_size=32: must be a height and a width, such as [32,32]"),
        ({"data.image_size": [0, 3]}, "data.image_size.1=0: must be at least 1"),
        ({"data.color": "blue"}, "data.color=blue: must be 'auto', 'grey' or 'rgb'"),
        ({"data.path": None}, "data.path=null: data=folder needs data.path=FOLDER"),
    ],
)
def test_a_folder_has_keys_of_its_own(compose_config: Compose, changes: dict[str, Any], expected: str) -> None:
    assert message(changed(compose_config("data=folder", "data.path=x"), changes)) == expected


def test_data_have_no_keys_of_other_data(compose_config: Compose) -> None:
    assert message(changed(compose_config(), {"data.color": "grey"})).startswith("data.color: unknown key")
    folder = compose_config("data=folder", "data.path=x")
    assert message(changed(folder, {"data.fallback": "mnist_5k"})).startswith("data.fallback: unknown key")


def test_the_data_of_an_old_sweep_are_accepted(compose_config: Compose) -> None:
    config = compose_config("data=npz", "data.path=x.npz")
    config["data"] = {"name": "npz", "path": "x.npz", "fallback": None, "validation_split": 0.1}
    check_settings(config)


def test_a_time_budget_without_a_unit_is_refused_with_examples(compose_config: Compose) -> None:
    expected = "search.time_budget=300: must be a duration such as 90s, 15m, 2h or 1h30m"

    assert message(changed(compose_config(), {"search.time_budget": 300})) == expected


# ---- searches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(SEARCHES))
def test_each_search_has_its_own_keys(compose_config: Compose, algorithm: str) -> None:
    config = compose_config(f"search={algorithm}")

    assert set(config["search"]) == SEARCH_KEYS[algorithm]
    assert type(check_settings(config).search) is SEARCHES[algorithm]


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [(a, key) for a in sorted(SEARCH_KEYS) for key in sorted(set().union(*SEARCH_KEYS.values()) - SEARCH_KEYS[a])],
)
def test_a_key_of_another_search_is_refused(compose_config: Compose, algorithm: str, key: str) -> None:
    text = message(changed(compose_config(f"search={algorithm}"), {f"search.{key}": 3}))

    assert text.startswith(f"search.{key}: unknown key; ")


@pytest.mark.parametrize(
    ("algorithm", "key"), [(a, key) for a in sorted(SEARCH_KEYS) for key in sorted(SEARCH_KEYS[a] - {"algorithm"})]
)
def test_a_key_that_a_search_lacks_is_named(compose_config: Compose, algorithm: str, key: str) -> None:
    text = message(changed(compose_config(f"search={algorithm}"), {f"search.{key}": MISSING}))

    assert text == (
        f"search.{key}: this key is missing; search={algorithm} brings it, or in an experiment file "
        f"'- override /search: {algorithm}' under defaults"
    )


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "expected"),
    [
        ("bayesian", "num_initial_points", 0, "must be at least 1"),
        ("bayesian", "alpha", 0, "must be more than 0"),
        ("bayesian", "beta", -1, "must be at least 0"),
        ("bayesian", "beta", math.nan, "must be a finite number"),
        ("hyperband", "factor", 1, "must be at least 2"),
        ("hyperband", "factor", 2.5, "must be a whole number"),
        ("hyperband", "iterations", 0, "must be at least 1"),
        pytest.param("bayesian", "alpha", math.inf, "must be a finite number"),
        pytest.param("bayesian", "beta", math.inf, "must be a finite number"),
    ],
)
def test_the_values_of_each_search_are_checked(
    compose_config: Compose, algorithm: str, key: str, value: object, expected: str
) -> None:
    text = message(changed(compose_config(f"search={algorithm}"), {f"search.{key}": value}))

    assert text == f"search.{key}={value}: {expected}"


# ---- keys that depend on each other -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a b", "a/b", "../up", "/root", ".", "..", ".hidden", "-m", "", "ä", "a\\b", "${name}", "a:b"]
)
def test_a_name_that_is_not_a_plain_folder_name_is_refused(compose_config: Compose, name: str) -> None:
    expected = f"name={name}: use only letters, digits, _, - and ., because it names a folder"

    assert message(changed(compose_config(), {"name": name})) == expected


@pytest.mark.parametrize("name", ["mlp", "my-sweep_2.1", "2", "_x", "a..b"])
def test_a_name_of_letters_digits_and_dashes_is_accepted(compose_config: Compose, name: str) -> None:
    assert check_settings(changed(compose_config(), {"name": name})).name == name


@pytest.mark.parametrize(
    ("key", "sweep"),
    [
        ("objective", "choice(val_loss, loss)"),
        ("description", "choice(a, b)"),
        ("data.name", "choice(mnist, fashion_mnist)"),
        ("data.validation_split", "choice(0.1, 0.2)"),
        ("search.max_trials", "range(10, 30, 10)"),
        ("search.target", "interval(0.9, 1)"),
        ("workers.count", "int(interval(1, 4))"),
        ("workers.threads", " choice(1, 2) "),
        ("search.seed", "tag(log, interval(1, 10))"),
        ("tracking.uri", "choice(a, b)"),
        pytest.param("seed", "range(1, 4)"),
        pytest.param("seed", "1,2"),
        pytest.param("data.name", "mnist,npz"),
        pytest.param("search.max_trials", "sort(2, 1)"),
        pytest.param("search.max_trials", "shuffle(2, 1)"),
    ],
)
def test_a_sweep_outside_model_optimizer_and_training_is_refused(compose_config: Compose, key: str, sweep: str) -> None:
    expected = (
        f"{key}={sweep}: only values of model, optimizer, training, task and augment can be searched; "
        f"run one sweep for each value with -m {key}=…"
    )

    assert message(changed(compose_config(), {key: sweep})) == expected


def test_several_seeds_are_refused_by_the_key_that_the_user_wrote(compose_config: Compose) -> None:
    # The search's seed, and others, refer to it.
    config = compose_config("search=tpe", "seed='1,2'")
    assert config["search"]["seed"] == "1,2"
    assert message(config).startswith(
        "seed=1,2: only values of model, optimizer, training, task and augment can be searched; "
    )


@pytest.mark.parametrize("objective", ["val_accuracy max", "val_loss", "val_loss min"])
def test_a_validation_objective_needs_validation_images(compose_config: Compose, objective: str) -> None:
    config = changed(compose_config(), {"objective": objective, "data.validation_split": 0})

    assert message(config) == (
        f"objective={objective.split()[0]}: there are no validation data; set data.validation_split above 0"
    )


@pytest.mark.parametrize("objective", ["accuracy", "loss", "epoch_seconds", "learning_rate min"])
def test_other_objectives_need_no_validation_images(compose_config: Compose, objective: str) -> None:
    config = changed(compose_config(), {"objective": objective, "data.validation_split": 0})

    assert check_settings(config).data.validation_split == 0


# ---- several objectives, executions, limits ----------------------------------------------------------------------


def test_several_objectives_keep_their_order(compose_config: Compose) -> None:
    settings = check_settings(compose_config("objective=[val_loss, parameters, latency min]"))
    assert [(o.name, o.direction) for o in settings.objectives] == [
        ("val_loss", "min"),
        ("parameters", "min"),
        ("latency", "min"),
    ]
    assert settings.objective.name == "val_loss"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("objective=[]", "objective=[]: give at least one metric, such as 'val_accuracy max'"),
        ("objective=[val_loss, val_loss min]", "objective=val_loss: is listed twice"),
        (
            "objective=val_accuracy min",
            "objective=val_accuracy min: a good model has a high val_accuracy; write val_accuracy max",
        ),
        (
            "objective=parameters min",
            "objective=parameters: is known only at the end of a trial; put a metric of every epoch first, "
            "'objective=[val_accuracy max, parameters min]'",
        ),
        ("folds=1", "folds=1: must be at least 2"),
        ("repeats=0", "repeats=0: must be at least 1"),
        ("validation=cross", "validation=cross: must be 'holdout' or 'kfold'"),
        ("confirm={top: 3, seeds: 1}", "confirm.seeds=1: must be at least 2"),
        ("confirm={top: 3, seeds: 3, tops: 3}", "confirm.tops: unknown key; did you mean 'confirm.top'?"),
        ("limits.parameters=0", "limits.parameters=0: must be at least 1"),
        ("limits.memory=2", "limits.memory=2: must be an amount of memory such as 512MB or 2GB"),
        ("limits.memory=0MB", "limits.memory=0MB: must be an amount of memory such as 512MB or 2GB"),
    ],
)
def test_objectives_executions_and_limits_are_checked(compose_config: Compose, override: str, expected: str) -> None:
    assert message(compose_config(override)) == expected


def test_cross_validation_needs_no_held_out_images(compose_config: Compose) -> None:
    check_settings(compose_config("validation=kfold", "data.validation_split=0"))
    assert "data.validation_split" in message(compose_config("data.validation_split=0"))


@pytest.mark.parametrize(("given", "expected"), [({}, 7), ({"seed": 3}, 3)])
def test_a_custom_search_gets_the_sweeps_seed(compose_config, given: dict[str, int], expected: int) -> None:
    config = compose_config("seed=7")
    config["search"] = {"_target_": "mine.Mine", **given}
    assert check_settings(config).search.seed == expected
