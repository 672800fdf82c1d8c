"""Compares the names of Keras in the code with the installed Keras.

Keras is loaded in a separate process: a process has only one Keras, and other tests need it with TensorFlow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from mnist_sweep.config import keras_names
from mnist_sweep.config.objective import direction_of

Keras = dict[str, Any]

# Optimizers that wrap others, which a config cannot name.
WRAPPERS = {"LossScaleOptimizer", "MultiOptimizer"}
# Arguments that have other keys in the config, or no meaning in a sweep.
ELSEWHERE = {"self", "name", "kwargs", "learning_rate", "initial_learning_rate"}

LOOK = """
import inspect, json
from mnist_sweep.common.light_keras import load
keras = load("keras")

def arguments(module, base):
    return {
        name: {
            key: {"required": p.default is p.empty, "default": p.default if isinstance(p.default, float) else None}
            for key, p in inspect.signature(cls.__init__).parameters.items()
        }
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    }

def got(get, name):
    try:
        return get(name)
    except Exception:
        return None

optimizers = arguments(keras.optimizers, keras.optimizers.Optimizer)
activations = [name for name, value in vars(keras.activations).items() if inspect.isfunction(value)]
config = {"learning_rate": 0.5}
print(json.dumps({
    "optimizers": optimizers,
    "schedules": arguments(keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
    "callbacks": arguments(keras.callbacks, keras.callbacks.Callback),
    "activations": activations,
    "losses": list(arguments(keras.losses, keras.losses.Loss)),
    "metrics": list(arguments(keras.metrics, keras.metrics.Metric)),
    "optimizers by name": {
        name: type(got(keras.optimizers.get, {"class_name": name.lower(), "config": config})).__name__
        for name in optimizers
    },
    "activations by name": [name for name in activations if callable(got(keras.activations.get, name))],
}))
"""


@pytest.fixture(scope="module")
def keras() -> Keras:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    looked: Keras = json.loads(done.stdout)
    return looked


def optimizers(keras: Keras) -> dict[str, Any]:
    return {name.lower(): arguments for name, arguments in keras["optimizers"].items() if name not in WRAPPERS}


def test_the_optimizers_are_those_of_keras(keras: Keras) -> None:
    assert set(keras_names.OPTIMIZERS) == set(optimizers(keras))


@pytest.mark.parametrize("name", sorted(keras_names.OPTIMIZERS))
def test_an_optimizers_arguments_are_those_of_keras(keras: Keras, name: str) -> None:
    assert keras_names.OPTIMIZERS[name] == set(optimizers(keras)[name]) - ELSEWHERE


@pytest.mark.parametrize("name", sorted(keras_names.OPTIMIZERS))
def test_an_optimizers_default_learning_rate_is_that_of_keras(keras: Keras, name: str) -> None:
    assert keras_names.default_learning_rate(name) == optimizers(keras)[name]["learning_rate"]["default"]


def test_the_schedules_are_those_of_keras(keras: Keras) -> None:
    assert set(keras_names.SCHEDULES) == set(keras["schedules"])


@pytest.mark.parametrize("name", sorted(keras_names.SCHEDULES))
def test_a_schedules_arguments_are_those_of_keras(keras: Keras, name: str) -> None:
    of_keras = {key: p["required"] for key, p in keras["schedules"][name].items() if key not in ELSEWHERE}
    required = {key for key, needed in of_keras.items() if needed}

    assert keras_names.SCHEDULES[name] == (required, set(of_keras) - required)


def test_the_callbacks_are_those_of_keras(keras: Keras) -> None:
    assert {*keras_names.CALLBACKS, *keras_names.OTHER_CALLBACKS} == set(keras["callbacks"])
    for name, arguments in keras_names.CALLBACKS.items():
        assert arguments == set(keras["callbacks"][name]) - ELSEWHERE


def test_the_losses_and_metrics_are_those_of_keras(keras: Keras) -> None:
    plain = keras_names.plain
    assert set(map(plain, keras_names.LOSSES)) == set(map(plain, keras["losses"]))
    assert set(map(plain, keras_names.METRICS)) == set(map(plain, keras["metrics"])) - {"meanmetricwrapper"}
    assert set(keras_names.SHORT.values()) <= keras_names.LOSSES | keras_names.METRICS


def test_the_better_direction_of_every_loss_and_metric_but_two_is_known() -> None:
    unknown = {name for name in keras_names.LOSSES | keras_names.METRICS if direction_of(f"val_mask_{name}") is None}
    assert unknown == {"mean", "sum"}


def test_the_steps_that_default_to_the_whole_trial_are_required_by_some_schedule() -> None:
    required = set().union(*(needed for needed, _ in keras_names.SCHEDULES.values()))

    assert required >= keras_names.SCHEDULE_STEPS


@pytest.mark.parametrize("name", sorted(keras_names.SCHEDULES))
def test_every_schedule_but_the_piecewise_one_starts_from_the_learning_rate(keras: Keras, name: str) -> None:
    starts = "initial_learning_rate" in keras["schedules"][name]

    assert starts == (name != "PiecewiseConstantDecay")


def test_the_activations_are_those_of_keras(keras: Keras) -> None:
    assert set(keras["activations"]) - {"get", "serialize", "deserialize"} == keras_names.ACTIVATIONS


def test_keras_finds_each_activation_by_its_name(keras: Keras) -> None:
    assert set(keras["activations by name"]) >= keras_names.ACTIVATIONS
