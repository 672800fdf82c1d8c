"""Hyperparameter sweeps and experiment tracking for Keras.

From Python, `load_runs` and `load_curves` give a sweep's runs as pandas frames, `find_sweep` tells what it optimised,
`importances` which hyperparameters matter in them, and `marginal` how one of them does; everything else is the command
line's: `python -m mnist_sweep --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnist_sweep import _old_paths

if TYPE_CHECKING:
    from mnist_sweep.results.importance import importances, marginal
    from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs

_old_paths.keep()

__all__ = ["find_sweep", "importances", "load_curves", "load_runs", "marginal"]


def __getattr__(name: str) -> Any:
    # Worker processes and `--help` import this package too, and need neither pandas nor MLflow.
    if name in __all__:
        from mnist_sweep.results import importance
        from mnist_sweep.results.runs import find

        return getattr(importance if name in ("importances", "marginal") else find, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
