"""One real search by a peer, in one process: what `real.py` compares with.

The same models on the same images as this program's, trained by Keras's `fit` (`keras_fit.py`). The process ends as
soon as an epoch has reached the target, or the time is over, and says when that was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.search_quality.keras_fit import KerasFit
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import Choice, quote_sweeps
from mnist_sweep.config.settings import Settings, check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.config.trial_config import TrialConfig, check_trial

PRUNERS: dict[str, Callable[[Any, int], Any]] = {
    "ASHA": lambda pruners, epochs: pruners.SuccessiveHalvingPruner(1, 3),
    "Hyperband": lambda pruners, epochs: pruners.HyperbandPruner(1, epochs, 3),
}
"""Optuna's, with the rungs of ours, from its module `pruners` and the number of epochs."""
SYSTEMS = (
    *(f"keras-tuner: {oracle}" for oracle in ("RandomSearch", "Hyperband", "BayesianOptimization")),
    *(f"Optuna: TPE + {pruner}" for pruner in PRUNERS),
)
_MAX_TRIALS = 10_000
_BEGUN = time.time()


class _Counted:
    """Epochs of the whole process, and what ends it."""

    def __init__(self, target: float, limit: float) -> None:
        self._target, self._epochs = target, 0
        self._lock = threading.Lock()
        timer = threading.Timer(limit, lambda: self._leave(None))
        timer.daemon = True
        timer.start()

    def epoch(self, accuracy: float) -> None:
        self._epochs += 1
        if accuracy >= self._target:
            self._leave(time.time() - _BEGUN)

    def _leave(self, seconds: float | None) -> None:
        with self._lock:
            print(json.dumps({"seconds": seconds, "epochs": self._epochs}), flush=True)
            # keras-tuner catches every exception that a trial raises.
            os._exit(0)


def _callback(epoch: Callable[[int, float], None]) -> Any:
    import keras

    return keras.callbacks.LambdaCallback(on_epoch_end=lambda number, logs: epoch(number + 1, logs["val_accuracy"]))


def keras_tuner(kind: str, settings: Settings, space: Space, training: KerasFit, counted: _Counted, seed: int) -> None:
    """keras-tuner's own Tuner."""
    # On TensorFlow its Tuner imports this for each trial, without use, and does not require it.
    for name in ("tensorboard", "tensorboard.plugins", "tensorboard.plugins.hparams"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["tensorboard.plugins.hparams"].api = None  # type: ignore[attr-defined]
    import keras_tuner as kt

    from mnist_sweep.search.translation import from_keras_tuner, to_keras_tuner

    class Model(kt.HyperModel):  # type: ignore[misc]
        def config(self, hp: Any) -> TrialConfig:
            return check_trial(space.config(from_keras_tuner(hp.values, space)))

        def build(self, hp: Any) -> Any:
            return training.compiled(self.config(hp))

        def fit(self, hp: Any, model: Any, callbacks: list[Any], **kwargs: Any) -> Any:
            config = self.config(hp)
            callbacks = [*callbacks, _callback(lambda _, accuracy: counted.epoch(accuracy))]
            arguments = {"epochs": config.training.epochs, **training.arguments(config), **kwargs}
            return model.fit(**arguments, callbacks=callbacks)

    arguments: dict[str, Any] = {"max_trials": _MAX_TRIALS}
    if kind == "Hyperband":
        arguments = {"max_epochs": settings.trial["training"]["epochs"], "hyperband_iterations": 100}
    with tempfile.TemporaryDirectory() as folder:
        tuner = getattr(kt, kind)(
            Model(),
            objective=kt.Objective("val_accuracy", "max"),
            hyperparameters=to_keras_tuner(space),
            tune_new_entries=False,
            allow_new_entries=False,
            seed=seed * 100_003,
            directory=folder,
            **arguments,
        )
        tuner.search(verbose=0)


def optuna_tpe(pruner: str, settings: Settings, space: Space, training: KerasFit, counted: _Counted, seed: int) -> None:
    """Optuna's TPE with a pruner, as its Keras examples have it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: Any) -> float:
        values: Values = {}
        for hyperparameter in space.hyperparameters:
            name, domain = hyperparameter.name, hyperparameter.domain
            if not hyperparameter.active(values):
                continue
            if isinstance(domain, Choice):
                values[name] = trial.suggest_categorical(name, domain.options)
            elif domain.integer:
                values[name] = trial.suggest_int(name, domain.low, domain.high, log=domain.log)
            else:
                values[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        config = check_trial(space.config(values))
        scores: list[float] = []

        def epoch(number: int, accuracy: float) -> None:
            counted.epoch(accuracy)
            scores.append(accuracy)
            trial.report(accuracy, number)
            if trial.should_prune():
                raise optuna.TrialPruned

        training.compiled(config).fit(
            **training.arguments(config), epochs=config.training.epochs, callbacks=[_callback(epoch)]
        )
        return max(scores)

    sampler = optuna.samplers.TPESampler(seed=seed)
    chosen = PRUNERS[pruner](optuna.pruners, settings.trial["training"]["epochs"])
    optuna.create_study(direction="maximize", sampler=sampler, pruner=chosen).optimize(objective, _MAX_TRIALS)


def main() -> None:
    """Runs one search to its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1, help="from 1 on")
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("overrides", nargs="*", help="the config, as on this program's command line")
    options = parser.parse_intermixed_args()
    counted = _Counted(options.target, options.limit)
    settings = check_settings(compose.defaults(quote_sweeps(options.overrides)))
    space = Space(settings.trial)
    training = KerasFit(settings)
    library, _, kind = options.system.partition(": ")
    if library == "Optuna":
        optuna_tpe(kind.removeprefix("TPE + "), settings, space, training, counted, options.seed)
    else:
        keras_tuner(kind, settings, space, training, counted, options.seed)


if __name__ == "__main__":
    main()
