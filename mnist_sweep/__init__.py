"""Hyperparameter sweeps and experiment tracking for Keras.

From Python, `load_runs` and `load_curves` give a sweep's runs as pandas frames; everything else is the command line's:
`python -m mnist_sweep --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_sweep.results.runs import load_curves, load_runs

__all__ = ["load_curves", "load_runs"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Worker processes and `--help` import this package too, and need neither pandas nor MLflow.
    if name in __all__:
        from mnist_sweep.results import runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
