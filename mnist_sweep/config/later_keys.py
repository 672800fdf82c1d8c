"""Keys that earlier versions did not have, with the values that mean what those versions did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_sweep.config.augment import NONE as NO_AUGMENTATION
from mnist_sweep.config.task import CLASSIFICATION

_CNN = {"convolution": "standard", "residual": False}


def with_later_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sweep's config with the keys that later versions have, so that it can be compared with a new one.

    Args:
        config: The config of a sweep of any version.
    """
    model = config["model"]
    if model.get("kind") == "cnn" and model.get("builder") is None and model.get("hypermodel") is None:
        model = {**_CNN, **model, "pooling": {"global": None, **model["pooling"]}}
    task = {**CLASSIFICATION.model_dump(), **config.get("task", {})}
    return {"augment": NO_AUGMENTATION.model_dump(), "notify": [], **config, "task": task, "model": model}
