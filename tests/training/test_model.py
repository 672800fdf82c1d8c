"""Models from configs, for instance those of the tutorials, layer for layer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fitting import timeless, train

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


def test_global_pooling_keeps_a_models_weights_independent_of_the_size_of_the_images(trial_config) -> None:
    from mnist_sweep.training import model as models

    config = trial_config("model=cnn", "model.pooling.global=max", "model.dense.layers=0")
    small, large = (models.build(config, of_images(*shape, 10)) for shape in ((16, 20, 3), (64, 48, 3)))
    assert small.count_params() == large.count_params() == (27 + 1) * 32 + (9 * 32 + 1) * 32 + 33 * 10
    assert "GlobalMaxPooling2D" in described(small)


def test_separable_convolutions_have_the_penalty_on_both_their_kernels(trial_config) -> None:
    from mnist_sweep.training import model as models

    config = trial_config("model=cnn", "model.layers=1", "model.convolution=separable", "model.l2=0.01")
    layer = models.build(config, SCHEMA).layers[0]
    assert (type(layer).__name__, layer.depthwise_regularizer.l2, layer.pointwise_regularizer.l2) == (
        "SeparableConv2D",
        pytest.approx(0.01),
        pytest.approx(0.01),
    )


def test_a_residual_model_adds_each_layers_input_to_its_output(trial_config) -> None:
    """With weights of 0, only the shortcut is left."""
    import numpy as np

    from mnist_sweep.training import model as models

    residual = ("model=cnn", "model.residual=true", "model.padding=same", "model.pooling.kind=null", "model.dropout=0")
    model = models.build(trial_config(*residual, "model.filters=[4,4]"), SCHEMA)
    first, second, _, activation = model.layers[1:5]
    second.set_weights([np.zeros_like(w) for w in second.get_weights()])
    import keras

    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    before, after = keras.Model(model.input, [first.output, activation.output])(images)
    np.testing.assert_array_equal(before, after)
    wider = models.build(trial_config(*residual, "model.filters=[4,8]", "model.batch_normalization=true"), SCHEMA)
    projections = [layer for layer in wider.layers if type(layer).__name__ == "Conv2D" and layer.kernel_size == (1, 1)]
    assert [layer.filters for layer in projections] == [8]


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
            "def empty(config, shape, classes): return Sub()\n"
            "class Step(Sub):\n"
            "    def train_step(self, data): pass\n"
            "def step(config, shape, classes): return Step()\n"
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
            ("no_such_module:good", "there is no module no_such_module; "),
            ("user_models:missing", "user_models has no function missing"),
            ("user_models:god", "user_models has no function god; did you mean 'good'?"),
            ("hypermodels:build_model", "is called with a config, the shape of an input and the number of outputs ("),
            ("user_models:broken", "raised (KeyError at user_models.py:"),
            ("user_models:text", "returned str; return a keras.Model"),
            ("user_models:empty", "Sub cannot be called (NotImplementedError"),
            ("user_models:step", "Step overrides both call and train_step; write task=custom"),
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

    def test_a_key_that_the_builder_reads_and_nobody_gave_is_named(self, trial_config) -> None:
        with pytest.raises(UserError, match=r": 'depth'\); if it reads that from its config, write \+model\.depth=…$"):
            self.build(trial_config, "user_models:broken")

    def test_a_subclassed_model_is_trained_and_saved(self, trainer, trial_config, tmp_path: Path, monkeypatch) -> None:
        import numpy as np

        from mnist_sweep.training import saved

        (tmp_path / "own_class.py").write_text(
            "import keras\n"
            "@keras.saving.register_keras_serializable('own')\n"
            "class Net(keras.Model):\n"
            "    def __init__(self, units, **kwargs):\n"
            "        super().__init__(**kwargs)\n"
            "        self.units = units\n"
            "        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(units, 'relu')\n"
            "        self.dropout, self.last = keras.layers.Dropout(0.5), keras.layers.Dense(10, 'softmax')\n"
            "    def call(self, x, training=False):\n"
            "        return self.last(self.dropout(self.dense(self.flat(x)), training=training))\n"
            "    def get_config(self): return {**super().get_config(), 'units': self.units}\n"
            "def build(config, shape, classes): return Net(8)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        config = trial_config("model.builder=own_class:build", "training.epochs=2")
        (_, reports), (_, again) = (train(trainer, config, tmp_path / name) for name in ("a", "b"))
        assert timeless(reports) == timeless(again)
        with np.load(tmp_path / "a" / "sample_predictions.npz") as sample:
            predicted = saved.predict(saved.load(tmp_path / "a" / "model.h5"), {"x": sample["images"]})
            np.testing.assert_array_equal(predicted, sample["predictions"])
