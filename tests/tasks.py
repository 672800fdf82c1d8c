"""Tasks that train a small network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_sweep.journal.trial import Execution, Trial
from mnist_sweep.workers.base import Train


def small(
    compose_config: Callable[..., dict[str, Any]],
    number: int,
    folder: Path,
    epochs: int = 2,
    executions: list[Execution] | None = None,
    fields: dict[str, Any] | None = None,
    **changes: Any,
) -> Train:
    """Returns the task of a trial; `changes` are those of its config, by group, and `fields` those of the task."""
    config = compose_config("model.units=8", "optimizer.learning_rate=0.01", f"training.epochs={epochs}")
    config["model"].pop("per_layer")
    groups = {group: {**config[group], **changes.pop(group, {})} for group in ("model", "optimizer", "training")}
    trial = Trial(number, {}, groups, epochs, executions=executions or [])
    return Train(trial, ("val_accuracy", "max"), str(folder), **(fields or {}))
