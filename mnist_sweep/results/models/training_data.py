"""Loads the images that a run was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.data_config import check_data
from mnist_sweep.config.task import target_of
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import Dataset, split


def load_training_data(
    config: Mapping[str, Any], tags: Mapping[str, str], wanted_by: str, code: Path | None = None
) -> Dataset:
    """Loads a run's images, checks that they are the same, and splits them as its sweep did.

    Args:
        config: The run's logged config, with `data` and the `seed` of the split.
        tags: The run's tags. `data.digest` identifies the images.
        wanted_by: The command or option that needs the images, for messages.
        code: A folder with the modules that the run's sweep carries; None if it carries none.

    Raises:
        UserError: The images cannot be found, or are not the same as then; or the config is damaged.
    """
    try:
        given, seed = dict(config["data"]), int(config["seed"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{wanted_by}: the run's config.yaml does not say which images it was trained on") from None
    settings = check_data(given)
    data = sources.load(sources.Request.of(given, target_of(config.get("task")), code))
    if data.digest() != tags["data.digest"]:
        raise UserError(
            f"{wanted_by}: the run was trained on {tags['data.name']} ({tags['data.digest']}), "
            f"but data={data.name} from {data.source} is different now ({data.digest()})"
        )
    return split(data, settings.validation_split, seed)
