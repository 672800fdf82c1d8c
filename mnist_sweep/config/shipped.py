"""The configs that come with the package, in `conf/`: the only place for default values."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.common.reading import read_yaml

# The groups of a trial's config, whose values can be searched.
TRIAL_GROUPS = ("model", "optimizer", "training", "task")


def folder() -> Path:
    """Returns the folder of the shipped configs: inside an installed package, next to it in a source tree."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


@functools.cache
def values(name: str) -> Mapping[str, Any]:
    """Returns the values in one file, without those of its Hydra defaults list.

    Args:
        name: The file below `conf/` without its suffix, such as `search/base/budget`.
    """
    path = folder() / f"{name}.yaml"
    return {key: value for key, value in read_yaml(path, str(path)).items() if key != "defaults"}


def trial_defaults(kind: str | None) -> dict[str, Mapping[str, Any]]:
    """Returns the default values of the groups of a trial's config.

    Args:
        kind: The kind of model, which decides its keys; for a user's own model, none of them is known.
    """
    return {
        "model": values(f"model/{kind}") if kind in ("mlp", "cnn") else {},
        "optimizer": {**values("optimizer/base/any"), **values("optimizer/adam")},
        "training": values("training/default"),
        "task": values("task/auto"),
    }
