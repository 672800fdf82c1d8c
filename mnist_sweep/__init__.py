"""Hyperparameter sweeps and experiment tracking for Keras.

In Python, `sweep` runs a sweep, `Sweep` finds one, and `load_config` composes the config of one. `load_runs` and
`load_curves` load a sweep's runs as pandas data frames, `find_sweep` finds a sweep and its objectives, `importances`
shows which hyperparameters matter, and `marginal` how the score depends on one of them. `OptunaOracle` brings Optuna's
samplers to a `keras_tuner.Tuner`. The command line: `python -m mnist_sweep --help`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mnist_sweep import _old_paths

if TYPE_CHECKING:
    from mnist_sweep.api.sweeps import Sweep, load_config, sweep
    from mnist_sweep.common.errors import UserError
    from mnist_sweep.results.importance import importances, marginal
    from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs
    from mnist_sweep.search.tuner_oracle import OptunaOracle

_old_paths.keep()

__all__ = [
    "OptunaOracle",
    "Sweep",
    "UserError",
    "find_sweep",
    "importances",
    "load_config",
    "load_curves",
    "load_runs",
    "marginal",
    "sweep",
]

_MODULES = {
    "OptunaOracle": "mnist_sweep.search.tuner_oracle",
    "Sweep": "mnist_sweep.api.sweeps",
    "UserError": "mnist_sweep.common.errors",
    "find_sweep": "mnist_sweep.results.runs.find",
    "importances": "mnist_sweep.results.importance",
    "load_config": "mnist_sweep.api.sweeps",
    "load_curves": "mnist_sweep.results.runs.find",
    "load_runs": "mnist_sweep.results.runs.find",
    "marginal": "mnist_sweep.results.importance",
    "sweep": "mnist_sweep.api.sweeps",
}


def __getattr__(name: str) -> Any:
    # Imported on demand: worker processes and `--help` need neither pandas nor MLflow.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
