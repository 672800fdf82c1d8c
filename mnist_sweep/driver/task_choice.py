"""Chooses the task and the objective of a new sweep (`task=auto`, `objective=auto`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.config.objective import AUTO
from mnist_sweep.config.task import Kind, kind_of, objective_of, target_of
from mnist_sweep.config.trial_config import made_by
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import LoadedData
from mnist_sweep.data.schema import Schema

# The data that were loaded last, by their request.
_LAST: dict[str, LoadedData] = {}


def request(config: Mapping[str, Any], code: Path | None = None) -> sources.Request:
    """Returns which data a config names, and what its task needs of them."""
    return sources.Request.of(config["data"], target_of(config.get("task")), code)


def load(config: Mapping[str, Any], code: Path | None = None) -> LoadedData:
    """Loads the data that a config names; those that were loaded last are not read again.

    Args:
        config: The config of a sweep.
        code: A folder with the modules that the sweep carries; None if it carries none.

    Raises:
        UserError: They cannot be loaded.
    """
    wanted = repr(request(config, code))
    if wanted not in _LAST:
        _LAST.clear()
        _LAST[wanted] = sources.load(request(config, code))
    return _LAST[wanted]


def forget() -> None:
    """Frees the memory of the data that were loaded last, in a process that does not train on them."""
    _LAST.clear()


def with_task(config: dict[str, Any], code: Path | None = None) -> dict[str, Any]:
    """Returns a config that names its task and its objective.

    Args:
        config: The config of a sweep, checked.
        code: As for `load`.

    Raises:
        UserError: The data cannot be loaded.
    """
    kind = kind_of(config.get("task"))
    if kind == "auto" and config["data"]["name"] in sources.OF_IMAGES_IN_CLASSES:
        kind = "classification"
    elif kind == "auto":
        data = load(config, code)
        kind = _fitting(data.schema, own_model=made_by(config["model"]) is not None)
        # With the task that fits them, they are the same.
        chosen = {**config, "task": {**config.get("task", {}), "kind": kind}}
        _LAST[repr(request(chosen, code))] = data
    if "task" in config:
        config = {**config, "task": {**config["task"], "kind": kind}}
    if config["objective"] == AUTO:
        config = {**config, "objective": objective_of(AUTO, config.get("task", {"kind": kind}))}
    return config


def _fitting(schema: Schema, *, own_model: bool) -> Kind:
    target = schema.target
    if target.kind in ("array", "several"):
        return "custom"
    if target.kind == "labels":
        return "multilabel"
    if target.kind == "numbers":
        return "regression"
    # The user's function gets the number of classes, and most end with as many outputs.
    return "binary" if target.size == 2 and not own_model else "classification"
