"""Runs of sweeps, from MLflow to pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs

__all__ = ["find_sweep", "load_curves", "load_runs"]


def __getattr__(name: str) -> Any:
    # As in version 0.1; not imported at once, as `find` needs the modules beside it.
    if name in __all__:
        from mnist_sweep.results.runs import find

        return getattr(find, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
