"""The other systems, each as its own documentation shows it: `python -m benchmarks.throughput.peers SYSTEM PLAN`.

All train the same models with plain Keras: `model.fit` on float32 arrays that were scaled once, `validation_data`, and
Keras's defaults for everything else. Only the progress bar is off (`verbose=0`), as it costs time. All report the
validation accuracy after each epoch.

- keras-tuner: the stock `RandomSearch` in one process, on all cores, with its own checkpoints. Its only hyperparameter
  is the index in the list of trials. It draws until it gets a new one (by default it gives up after 20 draws).
- Optuna: a plain study in one process, on all cores, `n_jobs=1`, in memory, with a `GridSampler` over the indices.
  Keras's session is cleared between trials, as in Optuna's examples.
- Ray Tune: one CPU per trial and as many trials at a time as there are cores. TensorFlow has one thread in each (by
  default each would take all cores). `tune.with_parameters` puts the data into shared memory once, and `reuse_actors`
  saves importing TensorFlow for each trial (the default). No dashboard. On GPUs each trial also gets a part of one.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput.shapes import Setting

Curves = dict[int, list[float]]
"""The validation accuracy of each epoch, by the trial's index."""
_KEYS = ("x_train", "y_train", "x_val", "y_val")


@dataclass(frozen=True)
class Plan:
    """One system's work.

    Attributes:
        settings: The trials.
        epochs: Of each trial.
        data: An `.npz` with x_train, y_train, x_val and y_val; the images as bytes.
        cores: Of the machine.
        gpu_share: Of each trial, if the system leaves that to its user; 0 without GPUs.
    """

    settings: list[Setting]
    epochs: int
    data: str
    cores: int
    gpu_share: float


def load(path: str) -> dict[str, Any]:
    """Reads training and validation images, as float32 in 0..1, and their labels."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in _KEYS}
    for key in ("x_train", "x_val"):
        arrays[key] = arrays[key].astype("float32") / 255
    return arrays


def build(setting: Setting) -> Any:
    """Returns the compiled model of a setting."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters in setting.filters:
        model.add(layers.Conv2D(filters, 3, activation="relu"))
    if setting.filters:
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    for units in setting.units:
        model.add(layers.Dense(units, activation=setting.activation))
        if setting.dropout:
            model.add(layers.Dropout(setting.dropout))
    model.add(layers.Dense(10, activation="softmax"))
    optimizer = keras.optimizers.get(
        {"class_name": setting.optimizer, "config": {"learning_rate": setting.learning_rate}}
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(setting: Setting, data: dict[str, Any], epochs: int, report: Callable[[int, float], None]) -> list[float]:
    """Trains a setting, and returns the validation accuracy of each epoch."""
    import keras

    keras.utils.set_random_seed(1)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: report(epoch, logs["val_accuracy"]))
    history = build(setting).fit(
        data["x_train"],
        data["y_train"],
        batch_size=setting.batch_size,
        epochs=epochs,
        validation_data=(data["x_val"], data["y_val"]),
        callbacks=[callback],
        verbose=0,
    )
    return [float(value) for value in history.history["val_accuracy"]]


def keras_tuner(plan: Plan) -> Curves:
    """Runs keras-tuner."""
    import keras
    import keras_tuner as kt

    data, curves = load(plan.data), Curves()

    class Model(kt.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            keras.utils.set_random_seed(1)
            return build(plan.settings[hp.Choice("setting", list(range(len(plan.settings))))])

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            index = hp.get("setting")
            history = model.fit(*args, batch_size=plan.settings[index].batch_size, **kwargs)
            curves[index] = [float(value) for value in history.history["val_accuracy"]]
            return history

    tuner = kt.RandomSearch(
        Model(),
        objective="val_accuracy",
        max_trials=len(plan.settings),
        seed=1,
        directory="keras_tuner",
        project_name="it",
    )
    tuner.oracle._max_collisions = 1_000_000
    tuner.search(
        data["x_train"], data["y_train"], epochs=plan.epochs, validation_data=(data["x_val"], data["y_val"]), verbose=0
    )
    return curves


def optuna(plan: Plan) -> Curves:
    """Runs Optuna around `model.fit`."""
    import keras
    import optuna

    data, curves = load(plan.data), Curves()
    indexs = list(range(len(plan.settings)))

    def objective(trial: optuna.Trial) -> float:
        keras.utils.clear_session()
        index = trial.suggest_categorical("setting", indexs)
        curves[index] = train(
            plan.settings[index], data, plan.epochs, lambda epoch, accuracy: trial.report(accuracy, epoch)
        )
        return max(curves[index])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler({"setting": indexs}))
    study.optimize(objective, n_trials=len(indexs))
    return curves


def _ray_trial(config: dict[str, Any], data: dict[str, Any], plan: Plan) -> None:
    import keras
    import tensorflow as tf
    from ray import tune

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.clear_session()
    setting = plan.settings[config["setting"]]
    train(setting, data, plan.epochs, lambda _, accuracy: tune.report({"val_accuracy": accuracy}))


def ray_tune(plan: Plan) -> Curves:
    """Runs Ray Tune with one CPU for each trial."""
    import ray
    from ray import tune

    resources: dict[str, float] = {"cpu": 1}
    if plan.gpu_share:
        resources["gpu"] = plan.gpu_share
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        ray.init("local", num_cpus=plan.cores, include_dashboard=False, _temp_dir=folder)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_ray_trial, data=load(plan.data), plan=plan), resources),
            param_space={"setting": tune.grid_search(list(range(len(plan.settings))))},
            tune_config=tune.TuneConfig(metric="val_accuracy", mode="max", reuse_actors=True),
            run_config=tune.RunConfig(name="it", storage_path=str(Path("ray").absolute()), verbose=0),
        )
        results = tuner.fit()
        curves = {
            result.config["setting"]: result.metrics_dataframe["val_accuracy"].tolist()
            for result in results
            if result.error is None
        }
        ray.shutdown()
    return curves


PEERS = {"keras-tuner": keras_tuner, "optuna": optuna, "ray": ray_tune}


def main(system: str, plan: str) -> None:
    """Runs one system on a plan, and writes `curves.json` to the working directory."""
    curves = PEERS[system](pickle.loads(Path(plan).read_bytes()))
    Path("curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main(*sys.argv[1:])
