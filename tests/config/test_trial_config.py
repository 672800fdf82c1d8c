"""One trial's config: what it refuses, with which messages, and its defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from changes import MISSING, changed

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.config import keras_names
from mnist_sweep.config.checks import dotted_keys
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.trial_config import CustomModel, Pooling, TrialConfig, at_layer, check_shape, check_trial

Config = dict[str, Any]
Compose = Callable[..., Config]
Trial = Callable[..., Config]

ACTIVATIONS = ", ".join(sorted(keras_names.ACTIVATIONS))
OPTIMIZERS = ", ".join(sorted(keras_names.OPTIMIZERS))
SCHEDULES = ", ".join(sorted(keras_names.SCHEDULES))
PRECISIONS = "'float32', 'mixed_float16' or 'mixed_bfloat16'"


@pytest.fixture
def trial(compose_config: Compose) -> Trial:
    """Returns the shipped config of one trial, with changes by dotted key."""

    def build(model: str = "mlp", changes: dict[str, Any] | None = None) -> Config:
        config = compose_config(f"model={model}")
        del config["model"]["per_layer"]
        return changed({group: config[group] for group in TRIAL_GROUPS}, changes or {})

    return build


def message(raw: Config) -> str:
    with pytest.raises(UserError) as caught:
        check_trial(raw)
    return str(caught.value)


# ---- one value ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_shipped_defaults_are_valid(trial: Trial, model: str) -> None:
    assert check_trial(trial(model)).model.kind == model  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.units", "16", "model.units=16: must be a whole number"),
        ("model.units", 1.5, "model.units=1.5: must be a whole number"),
        ("model.units", 16.0, "model.units=16.0: must be a whole number"),
        ("model.units", None, "model.units=null: must be a whole number"),
        ("model.units", {"first": 16}, "model.units: must be a whole number"),
        (
            "model.layers",
            [1, 2],
            "model.layers=[1, 2]: must be a whole number; to search values, write model.layers=1,2",
        ),
        (
            "model.units",
            {"min": 16, "max": 64},
            "model.units: must be a whole number; to search values, write model.units=int(interval(16,64))",
        ),
        ("model.activation", 3, "model.activation=3: must be text"),
        ("model.activation", None, "model.activation=null: must be text"),
        ("model.dropout", "a lot", "model.dropout=a lot: must be a number"),
        ("model.dropout", None, "model.dropout=null: must be a number"),
        ("model.batch_normalization", "true", "model.batch_normalization=true: must be true or false"),
        ("model.batch_normalization", 1, "model.batch_normalization=1: must be true or false"),
        ("model.builder", 3, "model.builder=3: must be text"),
        ("optimizer.name", 3, "optimizer.name=3: must be text"),
        ("optimizer.name", None, "optimizer.name=null: must be text"),
        ("optimizer.learning_rate", "fast", "optimizer.learning_rate=fast: must be a number"),
        ("optimizer.learning_rate", [0.1], "optimizer.learning_rate=[0.1]: must be a number"),
        ("optimizer.arguments", 3, "optimizer.arguments=3: must be a mapping of names to values"),
        ("optimizer.arguments", None, "optimizer.arguments=null: must be a mapping of names to values"),
        ("optimizer.schedule", None, "optimizer.schedule=null: must be a group of keys"),
        ("optimizer.schedule", "CosineDecay", "optimizer.schedule=CosineDecay: must be a group of keys"),
        ("optimizer.schedule.name", 3, "optimizer.schedule.name=3: must be text"),
        ("training.precision", "half", f"training.precision=half: must be {PRECISIONS}"),
        ("training.precision", 16, f"training.precision=16: must be {PRECISIONS}"),
        ("training.steps_per_execution", "all", "training.steps_per_execution=all: must be a whole number or 'auto'"),
        ("training.jit_compile", "yes", "training.jit_compile=yes: must be true or false or 'auto'"),
        ("training.early_stopping", 3, "training.early_stopping=3: must be a group of keys"),
        ("training.early_stopping.patience", "no", "training.early_stopping.patience=no: must be a whole number"),
        ("training", None, "training=null: must be a group of keys"),
        pytest.param("model", 3, "model=3: must be a group of keys"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(trial: Trial, key: str, value: object, expected: str) -> None:
    assert message(trial(changes={key: value})) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.units", 0, "model.units=0: must be at least 1"),
        ("model.layers", -1, "model.layers=-1: must be at least 0"),
        ("model.layers", 101, "model.layers=101: must be at most 100"),
        ("model.dropout", -0.1, "model.dropout=-0.1: must be at least 0"),
        ("model.dropout", 1, "model.dropout=1: must be less than 1"),
        ("model.dropout", math.nan, "model.dropout=nan: must be less than 1"),
        ("model.l2", -1.0, "model.l2=-1.0: must be at least 0"),
        ("model.l2", math.inf, "model.l2=inf: must be a finite number"),
        ("optimizer.learning_rate", 0, "optimizer.learning_rate=0: must be more than 0"),
        ("optimizer.learning_rate", -0.1, "optimizer.learning_rate=-0.1: must be more than 0"),
        ("optimizer.learning_rate", math.inf, "optimizer.learning_rate=inf: must be a finite number"),
        ("optimizer.learning_rate", math.nan, "optimizer.learning_rate=nan: must be a finite number"),
        ("training.batch_size", 0, "training.batch_size=0: must be at least 1"),
        ("training.epochs", 0, "training.epochs=0: must be at least 1"),
        ("training.validation_batch_size", 0, "training.validation_batch_size=0: must be at least 1"),
        ("training.steps_per_execution", 0, "training.steps_per_execution=0: must be at least 1 or 'auto'"),
        ("training.early_stopping.patience", 0, "training.early_stopping.patience=0: must be at least 1"),
        ("training.early_stopping.min_delta", -1, "training.early_stopping.min_delta=-1: must be at least 0"),
        ("training.seed", -1, "training.seed=-1: must be at least 0"),
        ("training.seed", 2**31, "training.seed=2147483648: must be less than 2147483648"),
    ],
)
def test_a_value_out_of_range_is_refused(trial: Trial, key: str, value: object, expected: str) -> None:
    assert message(trial(changes={key: value})) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.units", 1),
        ("model.layers", 0),
        ("model.layers", 100),
        ("model.dropout", 0),
        ("model.dropout", 0.999),
        ("model.l2", 0),
        ("optimizer.learning_rate", 1),
        ("training.steps_per_execution", 1),
        ("training.steps_per_execution", "auto"),
        ("training.jit_compile", True),
        ("training.jit_compile", "auto"),
        ("training.early_stopping.patience", None),
        ("training.early_stopping.patience", 1),
        ("training.early_stopping.min_delta", 0),
        ("training.seed", 0),
        ("training.seed", 2**31 - 1),
    ],
)
def test_a_value_at_the_end_of_its_range_is_accepted(trial: Trial, key: str, value: object) -> None:
    config: Any = check_trial(trial(changes={key: value}))
    for part in key.split("."):
        config = getattr(config, part)

    assert config == value


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.units", "a whole number"),
        ("model.layers", "a whole number"),
        ("model.dropout", "a number"),
        ("model.l2", "a number"),
        ("optimizer.learning_rate", "a number"),
        ("training.batch_size", "a whole number"),
        ("training.epochs", "a whole number"),
        ("training.seed", "a whole number"),
        ("training.steps_per_execution", "a whole number or 'auto'"),
        ("training.early_stopping.patience", "a whole number"),
    ],
)
def test_true_is_not_a_number(trial: Trial, key: str, kind: str) -> None:
    assert message(trial(changes={key: True})) == f"{key}=true: must be {kind}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.padding", "full", "model.padding=full: must be 'valid' or 'same'"),
        ("model.layers", 0, "model.layers=0: must be at least 1"),
        ("model.layers", 101, "model.layers=101: must be at most 100"),
        ("model.filters", 0, "model.filters=0: must be at least 1"),
        ("model.kernel_size", 2.5, "model.kernel_size=2.5: must be a whole number"),
        ("model.pooling", None, "model.pooling=null: must be a group of keys"),
        ("model.pooling.size", 0, "model.pooling.size=0: must be at least 1"),
        ("model.pooling.size", [2, 2], "model.pooling.size=[2, 2]: must be a whole number"),
        ("model.pooling.after", "first", "model.pooling.after=first: must be 'all' or 'last'"),
        ("model.dense", 128, "model.dense=128: must be a group of keys"),
        ("model.dense.units", 0, "model.dense.units=0: must be at least 1"),
        ("model.dense.layers", -1, "model.dense.layers=-1: must be at least 0"),
        (
            "model.dense.activation",
            "rleu",
            "model.dense.activation=rleu: Keras has no activation 'rleu'; did you mean 'relu'?",
        ),
        pytest.param("model.pooling.kind", "mean", "model.pooling.kind=mean: must be 'max' or 'average' or null"),
        pytest.param("model.pooling.after", [1, 0], "model.pooling.after.2=0: must be at least 1"),
    ],
)
def test_the_keys_of_a_convolutional_model_are_checked(trial: Trial, key: str, value: object, expected: str) -> None:
    assert message(trial("cnn", {key: value})) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.pooling.kind", None),
        ("model.pooling.after", "all"),
        ("model.pooling.after", [1, 2]),
        ("model.pooling.after", []),
        ("model.dense.layers", 0),
        ("model.padding", "same"),
    ],
)
def test_a_convolutional_model_accepts_each_kind_of_value(trial: Trial, key: str, value: object) -> None:
    check_trial(trial("cnn", {key: value}))


# ---- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "key", "expected"),
    [
        ("mlp", "model.unit", "model.unit: unknown key; did you mean 'model.units'?"),
        ("mlp", "model.lauers", "model.lauers: unknown key; did you mean 'model.layers'?"),
        ("cnn", "model.units", "model.units: unknown key; did you mean 'model.dense.units'?"),
        ("cnn", "model.pooling.siz", "model.pooling.siz: unknown key; did you mean 'model.pooling.size'?"),
        ("cnn", "model.dense.unit", "model.dense.unit: unknown key; did you mean 'model.dense.units'?"),
        ("mlp", "optimiser", "optimiser: unknown key; did you mean 'optimizer'?"),
        ("mlp", "optimizer.lr_rate", "optimizer.lr_rate: unknown key; did you mean 'optimizer.learning_rate'?"),
        ("mlp", "optimizer.scheduler", "optimizer.scheduler: unknown key; did you mean 'optimizer.schedule'?"),
        (
            "mlp",
            "optimizer.schedule.nam",
            "optimizer.schedule.nam: unknown key; did you mean 'optimizer.schedule.name'?",
        ),
        ("mlp", "training.epoch", "training.epoch: unknown key; did you mean 'training.epochs'?"),
        (
            "mlp",
            "training.early_stopping.patienc",
            "training.early_stopping.patienc: unknown key; did you mean 'training.early_stopping.patience'?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_known_one(
    trial: Trial, model: str, key: str, expected: str
) -> None:
    assert message(trial(model, {key: 3})) == expected


def test_an_unknown_key_without_a_close_one_says_how_to_list_all(trial: Trial) -> None:
    text = message(trial(changes={"zzz": 3}))

    assert text.startswith("zzz: unknown key; to list all keys: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    "key",
    ["model", "training", "model.units", "optimizer.name", "training.early_stopping.patience", "optimizer.arguments"],
)
def test_a_missing_key_is_named(trial: Trial, key: str) -> None:
    assert message(trial(changes={key: MISSING})) == f"{key}: this key is missing"


def test_the_first_of_several_errors_is_reported(trial: Trial) -> None:
    assert message(trial(changes={"training.epochs": 0, "model.units": 0})) == "model.units=0: must be at least 1"


@pytest.mark.parametrize("kind", ["rnn", ""])
def test_an_unknown_kind_of_model_is_refused(trial: Trial, kind: str) -> None:
    expected = f"model.kind={kind}: must be mlp or cnn; use model=mlp or model=cnn"

    assert message(trial(changes={"model.kind": kind})) == expected


def test_a_missing_kind_of_model_is_shown_as_null(trial: Trial) -> None:
    expected = "model.kind=null: must be mlp or cnn; use model=mlp or model=cnn"

    assert message(trial(changes={"model.kind": None})) == expected


def test_a_key_that_is_a_number_is_named_unchanged(trial: Trial) -> None:
    assert message(trial(changes={"optimizer.arguments": {5: 0.1}})).startswith("optimizer.arguments.5")


def test_a_value_of_several_lines_is_shown_in_one(trial: Trial) -> None:
    assert "\n" not in message(trial(changes={"optimizer.name": "adam\nsgd"}))


def test_dotted_keys_depend_on_the_kind_of_model() -> None:
    keys = list(dotted_keys(TrialConfig, {"model": {"kind": "mlp"}}))

    assert {"model", "model.units", "optimizer.schedule.name", "training.early_stopping.patience"} <= set(keys)
    assert "model.filters" not in keys
    assert "model.pooling.size" in set(dotted_keys(TrialConfig, {"model": {"kind": "cnn"}}))


def test_shortcuts_around_layers_that_shrink_images_are_impossible(trial: Trial) -> None:
    assert message(trial("cnn", {"model.residual": True})) == (
        "model.residual=true: adds images of one size; set model.padding=same"
    )


def test_the_size_of_global_pooling_is_a_word(trial: Trial) -> None:
    assert message(trial("cnn", {"model.pooling.global": "mean"})) == (
        "model.pooling.global=mean: must be 'max' or 'average' or null"
    )


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        (
            ["EarlyStopping"],
            "training.callbacks.1=EarlyStopping: is of no use here: set training.early_stopping.patience instead",
        ),
        (
            [{"name": "ReduceLR"}],
            "training.callbacks.1.name=ReduceLR: Keras has no such callback; did you mean 'ReduceLROnPlateau'?; write "
            "your own as package.module:name",
        ),
        (
            [{"name": "ReduceLROnPlateau", "facto": 0.1}],
            "training.callbacks.1.facto: ReduceLROnPlateau has no such argument; did you mean 'factor'?",
        ),
        ([{"factor": 0.1}], "training.callbacks.1.name: this key is missing"),
    ],
)
def test_a_callback_that_does_not_work_in_a_trial_is_refused(trial: Trial, callbacks: list[Any], expected: str) -> None:
    assert message(trial("mlp", {"training.callbacks": callbacks})) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("augment.shift", 1.5, "augment.shift=1.5: must be at most 1"),
        ("augment.flip", "left", "augment.flip=left: must be 'horizontal', 'vertical' or 'both' or null"),
        ("augment.rotate", 0.1, "augment.rotate: unknown key; did you mean 'augment.rotation'?"),
    ],
)
def test_a_bad_step_of_augmentation_is_named(trial: Trial, key: str, value: object, expected: str) -> None:
    assert message(trial("mlp", {key: value})) == expected


def test_only_images_can_be_augmented(trial: Trial) -> None:
    config = check_trial(trial("mlp", {"augment.rotation": 0.1}))
    check_shape(config, (28, 28, 1))
    with pytest.raises(ImpossibleError) as error:
        check_shape(config, None)
    assert str(error.value) == "augment.rotation=0.1: changes images only; use augment=none for these data"
    strong = check_trial(trial("mlp", {"augment.rand_augment": 0.5}))
    with pytest.raises(ImpossibleError, match="these have 4 channels"):
        check_shape(strong, (8, 8, 4))


# ---- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "key", "value", "expected"),
    [
        ("mlp", "model.units", [64, 0], "model.units.2=0: must be at least 1"),
        ("mlp", "model.units", [0, 64], "model.units.1=0: must be at least 1"),
        ("mlp", "model.units", [64, True], "model.units.2=true: must be a whole number"),
        ("mlp", "model.units", [64, "many"], "model.units.2=many: must be a whole number"),
        ("mlp", "model.units", [64, None], "model.units.2=null: must be a whole number"),
        ("mlp", "model.units", [[64], 32], "model.units.1=[64]: must be a whole number"),
        ("mlp", "model.dropout", [0.1, 1.2], "model.dropout.2=1.2: must be less than 1"),
        ("mlp", "model.batch_normalization", [True, 0], "model.batch_normalization.2=0: must be true or false"),
        ("mlp", "model.l2", [0.1, -1], "model.l2.2=-1: must be at least 0"),
        ("mlp", "model.activation", ["relu", 1], "model.activation.2=1: must be text"),
        ("cnn", "model.filters", [32, 0], "model.filters.2=0: must be at least 1"),
        ("cnn", "model.kernel_size", [3, 2.5], "model.kernel_size.2=2.5: must be a whole number"),
        ("cnn", "model.dense.units", ["a"], "model.dense.units.1=a: must be a whole number"),
        pytest.param(
            "mlp",
            "model.activation",
            ["relu", "tnah"],
            "model.activation.2=tnah: Keras has no activation 'tnah'; did you mean 'tanh'?",
        ),
    ],
)
def test_a_bad_value_in_a_list_is_named_by_its_layer_from_1(
    trial: Trial, model: str, key: str, value: object, expected: str
) -> None:
    assert message(trial(model, {key: value})) == expected


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("mlp", {"model.units": [64]}, "model.units=[64]: has 1 of 2 values; give one for each layer"),
        ("mlp", {"model.units": []}, "model.units=[]: has 0 of 2 values; give one for each layer"),
        (
            "mlp",
            {"model.activation": ["relu"]},
            "model.activation=['relu']: has 1 of 2 values; give one for each layer",
        ),
        (
            "mlp",
            {"model.layers": 3, "model.dropout": [0.1, 0.2]},
            "model.dropout=[0.1, 0.2]: has 2 of 3 values; give one for each layer",
        ),
        ("cnn", {"model.filters": [32]}, "model.filters=[32]: has 1 of 2 values; give one for each layer"),
        (
            "cnn",
            {"model.dense.layers": 2, "model.dense.units": [128]},
            "model.dense.units=[128]: has 1 of 2 values; give one for each layer",
        ),
    ],
)
def test_a_list_with_too_few_values_is_refused(
    trial: Trial, model: str, changes: dict[str, Any], expected: str
) -> None:
    assert message(trial(model, changes)) == expected


def test_a_list_with_at_least_one_value_per_layer_is_accepted(trial: Trial) -> None:
    # A sweep over the number of layers leaves the last values of a list unused.
    for units in ([64, 32], [64, 32, 16]):
        assert check_trial(trial(changes={"model.units": units})).model.units == units  # type: ignore[union-attr]


def test_no_layers_need_no_values(trial: Trial) -> None:
    check_trial(trial(changes={"model.layers": 0, "model.units": []}))


@pytest.mark.parametrize(("value", "expected"), [(64, 64), ([64, 32], 32)])
def test_one_value_is_for_all_layers_and_a_list_has_one_for_each(value: int | list[int], expected: int) -> None:
    assert at_layer(value, 1) == expected


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("rleu", "did you mean 'relu'?"),
        ("ReLU", "did you mean 'relu'?"),
        ("qqq", f"choose one of: {ACTIVATIONS}"),
    ],
)
def test_an_unknown_activation_is_refused(trial: Trial, name: str, suggestion: str) -> None:
    expected = f"model.activation={name}: Keras has no activation {name!r}; {suggestion}"

    assert message(trial(changes={"model.activation": name})) == expected


# ---- optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(keras_names.OPTIMIZERS))
def test_a_learning_rate_of_null_becomes_kerass_default(trial: Trial, name: str) -> None:
    optimizer = check_trial(trial(changes={"optimizer.name": name, "optimizer.learning_rate": None})).optimizer

    assert optimizer.learning_rate == keras_names.default_learning_rate(name)


def test_kerass_default_learning_rate_depends_on_the_optimizer() -> None:
    rates = {name: keras_names.default_learning_rate(name) for name in ("sgd", "adam", "schedulefreeadamw")}

    assert rates == {"sgd": 0.01, "adam": 0.001, "schedulefreeadamw": 0.0025}


def test_the_learning_rate_is_optional(trial: Trial) -> None:
    raw = trial(changes={"optimizer.name": "SGD", "optimizer.learning_rate": MISSING})

    assert check_trial(raw).optimizer.learning_rate == 0.01


def test_a_given_learning_rate_is_kept(trial: Trial) -> None:
    raw = trial(changes={"optimizer.name": "SGD", "optimizer.learning_rate": 0.5})

    assert check_trial(raw).optimizer.learning_rate == 0.5


@pytest.mark.parametrize(("written", "name"), [("Adam", "adam"), ("RMSProp", "rmsprop"), ("SGD", "sgd")])
def test_an_optimizers_name_may_be_in_any_case(trial: Trial, written: str, name: str) -> None:
    raw = trial(changes={"optimizer.name": written})

    assert check_trial(raw).optimizer.name == name
    assert raw["optimizer"]["name"] == written, "what was written is not changed"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("adamm", "did you mean 'adam'?"), ("Adamm", "did you mean 'adam'?"), ("zzz", f"choose one of: {OPTIMIZERS}")],
)
def test_an_unknown_optimizer_is_refused(trial: Trial, name: str, suggestion: str) -> None:
    expected = f"optimizer.name={name}: Keras has no such optimizer; {suggestion}"

    assert message(trial(changes={"optimizer.name": name})) == expected


@pytest.mark.parametrize(
    ("name", "argument", "suggestion"),
    [
        ("adam", "beta1", "did you mean 'beta_1'?"),
        ("sgd", "beta_1", "choose one of: " + ", ".join(sorted(keras_names.OPTIMIZERS["sgd"]))),
        ("sgd", "nestrov", "did you mean 'nesterov'?"),
        ("RMSprop", "learning_rate", "choose one of: " + ", ".join(sorted(keras_names.OPTIMIZERS["rmsprop"]))),
    ],
)
def test_an_argument_of_another_optimizer_is_refused(trial: Trial, name: str, argument: str, suggestion: str) -> None:
    raw = trial(changes={"optimizer.name": name, "optimizer.arguments": {argument: 0.5}})

    assert message(raw) == f"optimizer.arguments.{argument}: {name.lower()} has no such argument; {suggestion}"


def test_averaged_weights_that_would_never_be_used_are_refused(trial: Trial) -> None:
    assert message(trial(changes={"optimizer.arguments": {"use_ema": True}})) == (
        "optimizer.arguments.use_ema=true: the averaged weights would never be used; set ema_overwrite_frequency, "
        "the number of batches after which they replace the model's weights, such as 100"
    )

    used = {"use_ema": True, "ema_overwrite_frequency": 100}
    assert check_trial(trial(changes={"optimizer.arguments": used})).optimizer.arguments == used


@pytest.mark.parametrize(("name", "argument"), [("adam", "beta_1"), ("SGD", "momentum"), ("adamw", "weight_decay")])
def test_an_argument_of_the_optimizer_is_accepted(trial: Trial, name: str, argument: str) -> None:
    raw = trial(changes={"optimizer.name": name, "optimizer.arguments": {argument: 0.5}})

    assert check_trial(raw).optimizer.arguments == {argument: 0.5}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ExponentialDecay", {}, ".arguments.decay_rate: ExponentialDecay requires this argument"),
        ("InverseTimeDecay", {"decay_steps": 9}, ".arguments.decay_rate: InverseTimeDecay requires this argument"),
        ("PiecewiseConstantDecay", {}, ".arguments.boundaries: PiecewiseConstantDecay requires this argument"),
        (
            "PiecewiseConstantDecay",
            {"boundaries": [9]},
            ".arguments.values: PiecewiseConstantDecay requires this argument",
        ),
        (
            "CosineDecay",
            {"decay_step": 9},
            ".arguments.decay_step: CosineDecay has no such argument; did you mean 'decay_steps'?",
        ),
        (
            "ExponentialDecay",
            {"decay_rate": 0.9, "power": 2},
            ".arguments.power: ExponentialDecay has no such argument; choose one of: decay_rate, decay_steps, "
            "staircase",
        ),
        (
            "CosineDecay",
            {"initial_learning_rate": 0.1},
            ".arguments.initial_learning_rate: CosineDecay has no such argument; "
            "choose one of: alpha, decay_steps, warmup_steps, warmup_target",
        ),
        ("CosineDecay", None, ".arguments=null: must be a mapping of names to values"),
        pytest.param(
            "cosinedecay",
            {},
            ".name=cosinedecay: Keras has no learning-rate schedule 'cosinedecay'; did you mean 'CosineDecay'?",
        ),
        pytest.param("zzz", {}, f".name=zzz: Keras has no learning-rate schedule 'zzz'; choose one of: {SCHEDULES}"),
    ],
)
def test_a_schedule_is_checked(trial: Trial, name: str, arguments: object, expected: str) -> None:
    raw = trial(changes={"optimizer.schedule": {"name": name, "arguments": arguments}})

    assert message(raw) == f"optimizer.schedule{expected}"


@pytest.mark.parametrize(
    ("name", "nearest"), [("cosinedecay", "CosineDecay"), ("CosineDecayRestart", "CosineDecayRestarts")]
)
def test_an_unknown_schedule_is_refused_with_the_closest_known_one(trial: Trial, name: str, nearest: str) -> None:
    text = message(trial(changes={"optimizer.schedule.name": name}))

    assert text.endswith(f"Keras has no learning-rate schedule {name!r}; did you mean {nearest!r}?")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (None, {}),
        ("CosineDecay", {}),
        ("CosineDecayRestarts", {"t_mul": 2.0}),
        ("PolynomialDecay", {"power": 2.0}),
        ("ExponentialDecay", {"decay_rate": 0.9}),
        ("InverseTimeDecay", {"decay_rate": 0.5, "decay_steps": 100}),
        ("PiecewiseConstantDecay", {"boundaries": [100], "values": [0.1, 0.01]}),
    ],
)
def test_the_steps_of_a_schedule_are_optional(trial: Trial, name: str | None, arguments: dict[str, Any]) -> None:
    raw = trial(changes={"optimizer.schedule": {"name": name, "arguments": arguments}})

    assert check_trial(raw).optimizer.schedule.name == name


def test_a_schedules_arguments_without_its_name_are_refused(trial: Trial) -> None:
    assert "optimizer.schedule" in message(trial(changes={"optimizer.schedule.arguments": {"decay_rate": 0.9}}))


# ---- custom models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "builder", ["model", "model:", ":build", "my model:build", "my.1st:build", "model:Net.build", "a:b:c", ""]
)
def test_a_builder_that_does_not_name_a_function_in_a_module_is_refused(trial: Trial, builder: str) -> None:
    expected = f"model.builder={builder}: must be package.module:function"

    assert message(trial(changes={"model.builder": builder})) == expected


@pytest.mark.parametrize(
    ("builder", "right"), [("own.py:net", "own:net"), ("./own.py:net", "own:net"), ("a/own.py:net", "a.own:net")]
)
def test_a_file_is_shown_as_a_module(trial: Trial, builder: str, right: str) -> None:
    assert message(trial(changes={"model.builder": builder})).endswith(f":function; write {right}")


@pytest.mark.parametrize("builder", ["model:build", "my.package.models:wide_net"])
def test_a_custom_model_may_have_any_keys(trial: Trial, builder: str) -> None:
    raw = trial(changes={"model.builder": builder, "model.kind": MISSING, "model.width": "wide", "model.units": -1})
    model = check_trial(raw).model

    assert isinstance(model, CustomModel)
    assert model.model_extra is not None
    assert (model.builder, model.model_extra["width"], model.model_extra["units"]) == (builder, "wide", -1)


def test_the_other_groups_are_checked_with_a_custom_model(trial: Trial) -> None:
    raw = trial(changes={"model.builder": "model:build", "training.epoch": 3})

    assert message(raw) == "training.epoch: unknown key; did you mean 'training.epochs'?"


# ---- shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "layers", "expected"),
    [
        ("all", 3, [True, True, True]),
        ("last", 3, [False, False, True]),
        ("last", 1, [True]),
        ([1, 3], 3, [True, False, True]),
        ([], 2, [False, False]),
    ],
)
def test_pooling_follows_the_listed_layers(after: Any, layers: int, expected: list[bool]) -> None:
    pooling = Pooling(kind="max", size=2, after=after)

    assert [pooling.follows(layer, layers) for layer in range(layers)] == expected
    assert not any(Pooling(kind=None, size=2, after=after).follows(layer, layers) for layer in range(layers))


def pixels(size: int) -> str:
    return "1 pixel" if size == 1 else f"{size} pixels"


def kernel_error(kernel: int, layer: int, size: int) -> str:
    return (
        f"model.kernel_size={kernel}: convolution layer {layer} gets images of only {pixels(size)}; "
        "use fewer model.layers, less model.pooling or model.padding=same"
    )


def pooling_error(pool: int, layer: int, size: int) -> str:
    return (
        f"model.pooling.size={pool}: the pooling after convolution layer {layer} gets images of only {pixels(size)}; "
        "use fewer model.layers or model.pooling.after=last"
    )


NO_POOLING = {"model.pooling.kind": None}


@pytest.mark.parametrize(
    ("changes", "fits", "expected"),
    [
        pytest.param({"model.layers": 1, **NO_POOLING}, 3, kernel_error(3, 1, 2), id="one kernel"),
        pytest.param({"model.layers": 3, **NO_POOLING}, 7, kernel_error(3, 3, 2), id="three kernels"),
        pytest.param({"model.kernel_size": [5, 3], **NO_POOLING}, 7, kernel_error(3, 2, 2), id="kernels per layer"),
        pytest.param({"model.layers": 1}, 4, pooling_error(2, 1, 1), id="pooling after the only layer"),
        pytest.param({"model.pooling.after": "last"}, 6, pooling_error(2, 2, 1), id="pooling after the last"),
        pytest.param({"model.pooling.after": "all"}, 10, pooling_error(2, 2, 1), id="pooling after all"),
        pytest.param({"model.pooling.after": [1]}, 8, kernel_error(3, 2, 2), id="pooling after the first"),
        pytest.param({"model.pooling.after": []}, 5, kernel_error(3, 2, 2), id="no pooling"),
        pytest.param(
            {"model.padding": "same", "model.kernel_size": 9, "model.pooling.after": "all"},
            4,
            pooling_error(2, 2, 1),
            id="padding keeps the size",
        ),
        pytest.param(
            {"model.pooling.kind": "average", "model.pooling.size": 3}, 7, pooling_error(3, 2, 2), id="average"
        ),
    ],
)
@pytest.mark.parametrize("other", [0, 5])
def test_an_image_that_just_fits_is_accepted_and_a_pixel_less_is_refused(
    trial: Trial, changes: dict[str, Any], fits: int, expected: str, other: int
) -> None:
    config = check_trial(trial("cnn", changes))

    check_shape(config, (fits, fits + other, 1))
    check_shape(config, (fits + other, fits, 1))
    for image in ((fits - 1, fits + other, 1), (fits + other, fits - 1, 1)):
        with pytest.raises(UserError) as caught:
            check_shape(config, image)
        assert str(caught.value) == expected


def test_padding_without_pooling_accepts_any_image(trial: Trial) -> None:
    config = check_trial(trial("cnn", {"model.padding": "same", "model.kernel_size": 9, **NO_POOLING}))

    check_shape(config, (1, 1, 1))


def test_dense_and_custom_models_accept_any_image(trial: Trial) -> None:
    check_shape(check_trial(trial("mlp")), (1, 1, 1))
    check_shape(check_trial(trial("cnn", {"model.builder": "model:build"})), (1, 1, 1))
