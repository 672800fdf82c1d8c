"""Limits, memory and latency. Models are built, but not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from fitting import ACCURACY

from mnist_sweep.data.schema import of_images
from mnist_sweep.journal.trial import Status

IMAGE = (28, 28, 1)
INPUT = 784
# 784 → 16 → 10
PARAMETERS = 784 * 16 + 16 + 16 * 10 + 10
OUTPUTS = 784 + 16 + 10  # of Flatten and both Dense layers
SMALL = ("model.layers=1", "model.units=16", "model.dropout=0")


def compiled(config):
    from mnist_sweep.training import model as models

    model = models.build(config, of_images(*IMAGE, 10))
    model.compile(optimizer=models.optimizer(config.optimizer, 10), loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    ("optimizer", "slots"), [("adam", 2), ("sgd", 0), ("rmsprop", 1)], ids=["adam", "sgd", "rmsprop"]
)
def test_memory_is_weights_gradients_optimizer_batch_and_outputs(trial_config, optimizer: str, slots: int) -> None:
    from mnist_sweep.training import costs

    model = compiled(trial_config(*SMALL, f"optimizer={optimizer}"))
    expected = 4 * PARAMETERS * (2 + slots) + 32 * (4 * (INPUT + OUTPUTS) + 8)
    # The optimizer's step counter and learning rate take a few bytes more.
    assert 0 <= costs.memory(model, 32) - expected <= 16


def test_nested_and_shared_layers_are_counted() -> None:
    import keras

    from mnist_sweep.training import costs

    layers = keras.layers

    class Own(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers.Dense(9), layers.Dense(11)

        def call(self, x):
            return self.second(self.first(x))

    block = keras.Sequential([keras.Input((50,)), layers.Dense(20), layers.Dense(30)])
    shared = layers.Dense(5)
    images = keras.Input(IMAGE)
    x = Own()(block(layers.Flatten()(images)[:, :50]))
    model = keras.Model(images, layers.Add()([shared(x), shared(x)]))
    model.compile(optimizer="sgd")
    one, two = (costs.memory(model, n) for n in (1, 2))
    assert two - one == 8 + 4 * (784 + 784 + (20 + 30) + (9 + 11) + 2 * 5 + 5)


def test_outputs_take_half_the_memory_in_half_precision(trial_config) -> None:
    import keras

    from mnist_sweep.training import costs

    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(trial_config(*SMALL))
    finally:
        keras.config.set_dtype_policy("float32")
    one, two = (costs.memory(model, n) for n in (1, 2))
    # The softmax and the batch stay in float32.
    assert two - one == 8 + 4 * INPUT + 2 * (784 + 16) + 4 * 10


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"parameters": PARAMETERS, "memory": 10**6}, ""),
        ({"parameters": 10000}, f"limits.parameters=10000: the model has {PARAMETERS} parameters"),
        (
            {"parameters": PARAMETERS, "memory": 250_000},
            "limits.memory=250kB: a training step of the model needs about 408kB, "
            f"for {PARAMETERS} parameters and batches of 32 images",
        ),
    ],
)
def test_a_model_over_a_limit_is_refused_with_both_numbers(trial_config, limits, reason: str) -> None:
    from mnist_sweep.training import costs

    assert costs.exceeded_limit(compiled(trial_config(*SMALL)), limits, 32, "images") == reason


def test_a_refused_trial_is_not_trained_and_leaves_no_files(trainer, trial_config, tmp_path: Path) -> None:
    from mnist_sweep.training.fit import Job

    job = Job(trial_config(*SMALL), ACCURACY, 3, tmp_path / "trial", limits={"parameters": 100})
    outcome = trainer.train(job, report=None, stop=None)
    assert outcome.status is Status.REFUSED
    assert outcome.reason == f"limits.parameters=100: the model has {PARAMETERS} parameters"
    assert (outcome.parameters, outcome.score) == (PARAMETERS, None)
    assert not (tmp_path / "trial").exists()
