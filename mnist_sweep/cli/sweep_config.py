"""Checks the config of a new sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnist_sweep.common.secrets import hide
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.unused import refuse_unused
from mnist_sweep.driver.backend_choice import with_backend
from mnist_sweep.driver.task_choice import with_task
from mnist_sweep.tracking.uri import with_password


def checked(config: dict[str, Any], code: Path | None = None) -> dict[str, Any]:
    """Checks the config of a new sweep.

    Args:
        config: The config as Hydra composed it, as plain data.
        code: A folder with the modules that the sweep carries; None if it carries none.

    Returns:
        The config with the backend, the task and the objective that `auto` chooses, and the tracking URI with its
        password, which is hidden from here on whenever it is printed.

    Raises:
        UserError: A value is invalid or would not be used, or the data cannot be loaded.
    """
    check_settings(config)
    config = with_task(with_backend(config), code)
    refuse_unused(config)
    uri = with_password(config["tracking"]["uri"])
    hide(uri)
    return {**config, "tracking": {**config["tracking"], "uri": uri}}
