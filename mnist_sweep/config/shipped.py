"""The configs that come with the package, in `conf/`: the only place for default values."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.common.reading import read_yaml


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
