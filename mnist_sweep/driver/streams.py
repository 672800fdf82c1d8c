"""Checks that a sweep can train on a stream (`data=loader`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import augment, shipped
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.data_config import LoaderData
from mnist_sweep.config.settings import Settings
from mnist_sweep.data.stream import Stream
from mnist_sweep.driver import task_choice

_OF_TABLES = ("target", "features", "drop", "categories", "text", "text_length", "group", "time")
_OF_ARRAYS = ("validation_batch_size", "steps_per_execution")
_SPLITS = ("validation_split", "test_split")


def used_by(config: Mapping[str, Any], settings: Settings, code: Path | None) -> str | None:
    """Returns the user's function whose stream the workers read; None if the data fit into memory.

    Args:
        config: The config of a sweep.
        settings: The same, checked.
        code: A folder with the modules that the sweep carries; None if it carries none.

    Raises:
        UserError: The data cannot be loaded, or the config sets something that does not work with a stream.
    """
    if not isinstance(settings.data, LoaderData):
        return None
    stream = task_choice.load(config, code).stream
    if stream is None:
        return None
    _check(config, settings, stream)
    return stream.loader


def _check(config: Mapping[str, Any], settings: Settings, stream: Stream) -> None:
    where, defaults = f"data.loader={stream.loader} returns a stream", shipped.values("data/loader")
    if settings.validation == "kfold":
        raise UserError(f"validation=kfold: {where}, which cannot be split into folds; write validation=holdout")
    for key in (*_SPLITS, *_OF_TABLES):
        if (value := config["data"].get(key)) != defaults[key]:
            todo = "with the parts as the function splits them" if key in _SPLITS else "which has no columns"
            raise UserError(f"data.{key}={as_written(value)}: is not used; {where}, {todo}")
    for step, value in augment.used(settings.trial["augment"]).items():
        raise UserError(f"augment.{step}={as_written(value)}: {where}; change its images in the function")
    usual, training = shipped.values("training/default"), settings.trial["training"]
    if stream.chooses_batches and training["batch_size"] != usual["batch_size"]:
        raise UserError(
            f"training.batch_size={training['batch_size']}: is not used; {where} of batches; leave it at "
            f"{usual['batch_size']}, or give the function a parameter batch_size"
        )
    for key in _OF_ARRAYS:
        if training[key] != usual[key]:
            raise UserError(f"training.{key}={as_written(training[key])}: is not used; {where}")
    schedule = (settings.trial["optimizer"] or {}).get("schedule") or {}
    counted = stream.steps is not None or "train" in stream.rows
    if schedule.get("name") is not None and not schedule.get("arguments") and not counted:
        raise UserError(
            f"optimizer.schedule.name={schedule['name']}: {where}, whose batches are not counted; write "
            "data.count=true, or give optimizer.schedule.arguments.decay_steps"
        )
    if "balanced" in str(settings.trial["task"].get("class_weight")) and not stream.counts:
        raise UserError(f"task.class_weight=balanced: {where}, whose classes are not counted; write data.count=true")
