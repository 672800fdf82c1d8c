"""The versions of the software that a result depends on."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

_PACKAGES = ("mnist_sweep", "tensorflow", "jax", "keras", "keras-tuner", "mlflow", "hydra-core", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python and the packages that a result depends on, and the git commit if there is one."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # Not installed: an optional package, or this one in a source tree.
            continue
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return found
