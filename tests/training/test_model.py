"""Models from configs, for instance those of the tutorials, layer for layer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.schema import of_images

SCHEMA = of_images(28, 28, 1, 10)


def described(model) -> list[str]:
    """`Dense 16 relu`, `Dropout 0.2`, …"""
    lines = []
    for layer in model.layers:
        config, kind = layer.get_config(), type(layer).__name__
        parts = {
            "Dense": lambda c: f"{c['units']} {c['activation']}",
            "Conv2D": lambda c: (
                f"{c['filters']} {c['kernel_size'][0]}x{c['kernel_size'][1]} {c['padding']} {c['activation']}"
            ),
            "MaxPooling2D": lambda c: f"{c['pool_size'][0]}",
            "AveragePooling2D": lambda c: f"{c['pool_size'][0]}",
            "Dropout": lambda c: f"{c['rate']}",
            "Activation": lambda c: f"{c['activation']}",
        }.get(kind, lambda c: "")(config)
        lines.append(f"{kind} {parts}".strip())
    return lines


TUTORIALS = {
    "tutorial_dense16": (
        ["Flatten", "Dense 16 relu", "Dropout 0.2", "Dense 16 relu", "Dropout 0.2", "Dense 10 softmax"],
        ("SGD", 0.01),
        (128, 30),
        13_002,
    ),
    "tutorial_cnn": (
        [
            "Conv2D 32 3x3 valid relu",
            "Conv2D 64 3x3 valid relu",
            "MaxPooling2D 2",
            "Dropout 0.25",
            "Flatten",
            "Dense 128 relu",
            "Dropout 0.5",
            "Dense 10 softmax",
        ],
        ("Adadelta", 1.0),
        (128, 12),
        1_199_882,
    ),
    "tutorial_dense512": (["Flatten", "Dense 512 relu", "Dense 10 softmax"], ("RMSprop", 0.001), (128, 5), 407_050),
    "tutorial_two_dense512": (
        ["Flatten", "Dense 512 relu", "Dense 512 relu", "Dense 10 softmax"],
        ("Adam", 0.001),
        (32, 3),
        669_706,
    ),
    "tutorial_conv28": (
        [
            "Conv2D 28 3x3 valid linear",
            "MaxPooling2D 2",
            "Flatten",
            "Dense 128 relu",
            "Dropout 0.2",
            "Dense 10 softmax",
        ],
        ("Adam", 0.001),
        (32, 10),
        607_394,
    ),
}


@pytest.mark.parametrize("experiment", TUTORIALS)
def test_a_tutorials_model_is_reproduced_layer_for_layer(experiment: str, trial_config) -> None:
    from mnist_sweep.training import model as models

    layers, (optimizer, learning_rate), (batch_size, epochs), parameters = TUTORIALS[experiment]
    config = trial_config(f"+experiment={experiment}")
    model = models.build(config, SCHEMA)
    assert described(model) == layers
    assert model.count_params() == parameters
    made = models.optimizer(config.optimizer, steps=1)
    assert (type(made).__name__, float(made.learning_rate)) == (optimizer, pytest.approx(learning_rate))
    assert (config.training.batch_size, config.training.epochs) == (batch_size, epochs)


def test_each_key_may_differ_by_layer(trial_config) -> None:
    from mnist_sweep.training import model as models

    config = trial_config(
        "model=cnn", "model.filters=[4,8]", "model.kernel_size=[5,3]", "model.activation=[relu,elu]",
        "model.dropout=[0,0.3]",
        "model.batch_normalization=[false,true]", "model.pooling.after=[1]", "model.pooling.kind=average",
        "model.padding=same", "model.dense.layers=2", "model.dense.units=[32,16]", "model.dense.dropout=[0.1,0]",
    )  # fmt: skip
    assert described(models.build(config, SCHEMA)) == [
        "Conv2D 4 5x5 same relu", "AveragePooling2D 2", "Conv2D 8 3x3 same linear", "BatchNormalization",
        "Activation elu",
        "Dropout 0.3", "Flatten", "Dense 32 relu", "Dropout 0.1", "Dense 16 relu", "Dense 10 softmax",
    ]  # fmt: skip


def test_a_model_without_hidden_layers_is_softmax_regression(trial_config) -> None:
    from mnist_sweep.training import model as models

    assert described(models.build(trial_config("model.layers=0"), SCHEMA)) == ["Flatten", "Dense 10 softmax"]


def test_an_l2_penalty_applies_only_to_hidden_kernels(trial_config) -> None:
    from mnist_sweep.training import model as models

    model = models.build(trial_config("model.l2=[0.01,0]"), SCHEMA)
    penalties = [layer.kernel_regularizer for layer in model.layers if hasattr(layer, "kernel_regularizer")]
    assert [p and round(float(p.l2), 6) for p in penalties] == [0.01, None, None]


def test_optimizer_arguments_and_schedule_reach_keras(trial_config) -> None:
    from mnist_sweep.training import model as models

    config = trial_config("optimizer=sgd", "+optimizer.arguments.momentum=0.9", "optimizer.schedule.name=CosineDecay")
    made = models.optimizer(config.optimizer, steps=500)
    schedule = made._learning_rate
    assert (made.momentum, schedule.decay_steps, schedule.initial_learning_rate) == (0.9, 500, 0.01)


@pytest.mark.parametrize("name", ["CosineDecay", "CosineDecayRestarts", "PolynomialDecay"])
def test_schedules_decay_over_the_whole_trial_by_default(name: str, trial_config) -> None:
    from mnist_sweep.training import model as models

    made = models.optimizer(trial_config(f"optimizer.schedule.name={name}").optimizer, steps=100)
    assert float(made.learning_rate) == pytest.approx(0.001)


def test_an_optimizer_that_keras_refuses_is_a_one_line_error(trial_config) -> None:
    from mnist_sweep.training import model as models

    config = trial_config("+optimizer.arguments.clipnorm=1.0", "+optimizer.arguments.clipvalue=1.0")
    with pytest.raises(UserError, match=r"optimizer=adam: Keras rejects it \(.*clip.*\)"):
        models.optimizer(config.optimizer, steps=1)


class TestCustomModel:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "user_models.py").write_text(
            "import keras\n"
            "def good(config, shape, classes):\n"
            "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),\n"
            "        keras.layers.Dense(config['width'], 'relu'), keras.layers.Dense(classes, 'softmax')])\n"
            "def narrow(config, shape, classes):\n"
            "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])\n"
            "def text(config, shape, classes): return 'model'\n"
            "def broken(config, shape, classes): return config['depth']\n"
            "class Sub(keras.Model): pass\n"
            "def subclassed(config, shape, classes): return Sub()\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        yield
        sys.modules.pop("user_models", None)

    def build(self, trial_config, function: str):
        from mnist_sweep.training import model as models

        return models.build(trial_config(f"model.builder={function}", "+model.width=24"), SCHEMA)

    def test_the_builder_gets_its_keys_the_shape_and_the_classes(self, trial_config) -> None:
        assert described(self.build(trial_config, "user_models:good")) == [
            "Flatten",
            "Dense 24 relu",
            "Dense 10 softmax",
        ]

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("no_such_module:good", "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"),
            ("user_models:missing", "user_models has no function missing"),
            ("hypermodels:build_model", "is called with a config, the shape of an input and the number of outputs ("),
            ("user_models:broken", "raised (KeyError at user_models.py:"),
            ("user_models:text", "returned str; return a Sequential or functional keras.Model"),
            ("user_models:subclassed", "returned Sub; return a Sequential or functional keras.Model"),
            (
                "user_models:narrow",
                "returned a model with outputs of shape (None, 3); they must be probabilities, (None, 10)",
            ),
        ],
    )
    def test_a_mistake_in_the_builder_is_a_one_line_error(self, trial_config, function: str, message: str) -> None:
        with pytest.raises(UserError) as error:
            self.build(trial_config, function)
        assert str(error.value).startswith(f"model.builder={function}: {message}")
