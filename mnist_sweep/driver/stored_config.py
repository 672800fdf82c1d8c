"""The config as a sweep's folder keeps it: without passwords, and without paths into its project, which may move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnist_sweep.common.secrets import masked
from mnist_sweep.journal.folders import elsewhere
from mnist_sweep.tracking.uri import as_kept_in, as_seen_from, below, given_now, with_password


def to_store(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a config as the folder of its sweep keeps it."""
    tracking, project = dict(config["tracking"]), elsewhere(folder) or Path.cwd()
    tracking["uri"] = masked(as_kept_in(tracking["uri"], project))
    tracking["artifacts"] = masked(_inside(tracking["artifacts"], project))
    stored = {key: value for key, value in config.items() if key != "resume"} | {"tracking": tracking}
    if elsewhere(folder) is not None and config.get("data", {}).get("path"):
        stored["data"] = {**config["data"], "path": _inside(config["data"]["path"], project)}
    return stored


def from_store(config: dict[str, Any], folder: Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Returns a config that a sweep's folder keeps as this process can use it: the inverse of `to_store`.

    Args:
        config: The config.
        folder: The sweep's folder.
        tracking_uri: Another store to log to. Without it, MLFLOW_TRACKING_URI wins over the store in the config.
    """
    tracking, project = dict(config["tracking"]), elsewhere(folder)
    now = given_now(tracking_uri)
    tracking["uri"] = now or as_seen_from(with_password(tracking["uri"]), project)
    if project is not None:
        if "://" not in tracking["artifacts"]:
            tracking["artifacts"] = str(project / tracking["artifacts"])
        path = config.get("data", {}).get("path")
        if path and not path.startswith("~"):
            config = {**config, "data": {**config["data"], "path": str(project / path)}}
    return {**config, "tracking": tracking}


def _inside(path: str, project: Path) -> str:
    """Returns an absolute path into a project as one that is relative to it, and any other path unchanged."""
    inside = below(Path(path), project) if Path(path).is_absolute() else None
    return path if inside is None else str(inside)
