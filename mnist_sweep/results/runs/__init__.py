"""Finds sweeps in MLflow, and loads their trials as pandas data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs

__all__ = ["find_sweep", "load_curves", "load_runs"]


def __getattr__(name: str) -> Any:
    # Imported on demand, because `find` imports the other modules of this package.
    if name in __all__:
        from mnist_sweep.results.runs import find

        return getattr(find, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
