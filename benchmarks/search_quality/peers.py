"""One real search by another system, in one process, for `real.py` to compare with.

The same models on the same images as this program's, trained by Keras's `fit` (`keras_fit.py`). The process ends when
an epoch reaches the target or the time is over, and prints how many epochs it has trained, or null.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.search_quality.keras_fit import KerasFit, composed
from mnist_sweep.config.grammar import Choice
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.config.trial_config import TrialConfig, check_trial

PRUNERS: dict[str, Callable[[Any, int], Any]] = {
    "ASHA": lambda pruners, epochs: pruners.SuccessiveHalvingPruner(1, 3),
    "Hyperband": lambda pruners, epochs: pruners.HyperbandPruner(1, epochs, 3),
}
"""Optuna's pruners with this program's rungs, from its module `pruners` and the number of epochs."""
SYSTEMS = (
    *(f"keras-tuner: {oracle}" for oracle in ("RandomSearch", "Hyperband", "BayesianOptimization")),
    *(f"Optuna: TPE + {pruner}" for pruner in PRUNERS),
)
_MAX_TRIALS = 10_000


class _Counted:
    """Counts the epochs of the whole process, and ends it."""

    def __init__(self, target: float, limit: float) -> None:
        self._target, self._epochs = target, 0
        self._lock = threading.Lock()
        timer = threading.Timer(limit, lambda: self._leave(None))
        timer.daemon = True
        timer.start()

    def epoch(self, accuracy: float) -> None:
        self._epochs += 1
        if accuracy >= self._target:
            self._leave(self._epochs)

    def _leave(self, epochs: int | None) -> None:
        with self._lock:
            print("\n" + json.dumps(epochs), flush=True)
            # keras-tuner catches every exception that a trial raises.
            os._exit(0)


@dataclass(frozen=True)
class _Search:
    """What every system searches, and with which seed."""

    settings: Settings
    space: Space
    training: KerasFit
    counted: _Counted
    seed: int

    @property
    def epochs(self) -> int:
        return int(self.settings.trial["training"]["epochs"])

    def fit(self, model: Any, config: TrialConfig, epoch: Callable[[int, float], None], **more: Any) -> Any:
        """Trains a model; `epoch` gets the number and the validation accuracy of each epoch."""
        import keras

        def ended(number: int, logs: dict[str, float]) -> None:
            self.counted.epoch(logs["val_accuracy"])
            epoch(number + 1, logs["val_accuracy"])

        arguments = {"epochs": config.training.epochs, **self.training.arguments(config), **more}
        arguments["callbacks"] = [*more.get("callbacks", ()), keras.callbacks.LambdaCallback(on_epoch_end=ended)]
        return model.fit(**arguments)


def keras_tuner(kind: str, search: _Search) -> None:
    """Runs keras-tuner's own Tuner."""
    # Its Tuner imports this for each trial on TensorFlow, does not use it, and does not require it.
    for name in ("tensorboard", "tensorboard.plugins", "tensorboard.plugins.hparams"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["tensorboard.plugins.hparams"].api = None  # type: ignore[attr-defined]
    import keras_tuner as kt

    from mnist_sweep.search.translation import Translation, to_keras_tuner

    class Model(kt.HyperModel):  # type: ignore[misc]
        def config(self, hp: Any) -> TrialConfig:
            return check_trial(search.space.config(Translation(search.space).decode(hp.values)))

        def build(self, hp: Any) -> Any:
            return search.training.compiled(self.config(hp))

        def fit(self, hp: Any, model: Any, **more: Any) -> Any:
            return search.fit(model, self.config(hp), lambda number, accuracy: None, **more)

    arguments: dict[str, Any] = {"max_trials": _MAX_TRIALS}
    if kind == "Hyperband":
        arguments = {"max_epochs": search.epochs, "hyperband_iterations": 100}
    with tempfile.TemporaryDirectory() as folder:
        tuner = getattr(kt, kind)(
            Model(),
            objective=kt.Objective("val_accuracy", "max"),
            hyperparameters=to_keras_tuner(search.space),
            tune_new_entries=False,
            allow_new_entries=False,
            seed=search.seed * 100_003,
            directory=folder,
            **arguments,
        )
        tuner.search(verbose=0)


def optuna_tpe(pruner: str, search: _Search) -> None:
    """Runs Optuna's TPE with a pruner, as in its Keras examples."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def suggest(trial: Any) -> Values:
        values: Values = {}
        for hyperparameter in search.space.hyperparameters:
            name, domain = hyperparameter.name, hyperparameter.domain
            if not hyperparameter.active(values):
                continue
            if isinstance(domain, Choice):
                values[name] = trial.suggest_categorical(name, domain.options)
            else:
                draw = trial.suggest_int if domain.integer else trial.suggest_float
                values[name] = draw(name, domain.low, domain.high, log=domain.log)
        return values

    def objective(trial: Any) -> float:
        config = check_trial(search.space.config(suggest(trial)))
        scores: list[float] = []

        def epoch(number: int, accuracy: float) -> None:
            scores.append(accuracy)
            trial.report(accuracy, number)
            if trial.should_prune():
                raise optuna.TrialPruned

        search.fit(search.training.compiled(config), config, epoch)
        return max(scores)

    sampler = optuna.samplers.TPESampler(seed=search.seed)
    chosen = PRUNERS[pruner](optuna.pruners, search.epochs)
    optuna.create_study(direction="maximize", sampler=sampler, pruner=chosen).optimize(objective, _MAX_TRIALS)


def main() -> None:
    """Runs one search until it reaches its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1, help="from 1")
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("overrides", nargs="*", help="the config, as on this program's command line")
    options = parser.parse_intermixed_args()
    counted = _Counted(options.target, options.limit)
    settings, space = composed(options.overrides)
    search = _Search(settings, space, KerasFit(settings), counted, options.seed)
    library, _, kind = options.system.partition(": ")
    if library == "Optuna":
        optuna_tpe(kind.removeprefix("TPE + "), search)
    else:
        keras_tuner(kind, search)


if __name__ == "__main__":
    main()
