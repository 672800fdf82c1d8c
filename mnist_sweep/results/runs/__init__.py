"""Finds sweeps in MLflow, and loads their trials as pandas data frames."""

from mnist_sweep.results.runs.find import find_sweep, load_curves, load_runs

__all__ = ["find_sweep", "load_curves", "load_runs"]
