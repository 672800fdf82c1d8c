"""The images that a tracked run was trained on, loaded again and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.checks import check
from mnist_sweep.config.settings import DataConfig
from mnist_sweep.data import images as data


def load(config: Mapping[str, Any], tags: Mapping[str, str], wanted_by: str) -> data.Dataset:
    """Loads and splits a run's images as its sweep did.

    Args:
        config: The run's, as it was logged: `data`, and `seed`, that of the split.
        tags: The run's, of which `data.digest` tells which images they were.
        wanted_by: The command or option, for the message.

    Raises:
        UserError: They cannot be found any more, or are others; or the config was damaged.
    """
    try:
        given, seed = dict(config["data"]), int(config["seed"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{wanted_by}: the run's config.yaml does not tell which images it was trained on") from None
    settings = check(DataConfig, given, "data.")
    images = data.load(settings.name, settings.path, settings.fallback)
    if images.digest() != tags["data.digest"]:
        raise UserError(
            f"{wanted_by}: the run was trained on {tags['data.name']} ({tags['data.digest']}), "
            f"but data={images.name} from {images.source} now is another ({images.digest()})"
        )
    return data.split(images, settings.validation_split, seed)
