"""Hyperparameter sweeps and experiment tracking for Keras.

In Python, `load_runs` and `load_curves` load a sweep's runs as pandas data frames, `find_sweep` finds a sweep and its
objectives, `importances` shows which hyperparameters matter, and `marginal` how the score depends on one of them. The
command line does everything else: `python -m mnist_sweep --help`.
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
    # Imported on demand: worker processes and `--help` need neither pandas nor MLflow.
    if name in __all__:
        from mnist_sweep.results import importance
        from mnist_sweep.results.runs import find

        return getattr(importance if name in ("importances", "marginal") else find, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
