"""Which library Keras computes with: the choice, before any of them is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError

# For configs that were logged before `training.backend` existed; `conf/` names the default of new sweeps.
DEFAULT: Final = "tensorflow"
ALL = ("tensorflow", "jax")
# Chosen when a sweep starts.
AUTO = "auto"


def of(config: Mapping[str, Any]) -> str:
    """Returns the backend that a config names.

    Args:
        config: The config of a sweep or a trial; old ones lack the key.
    """
    return str(config.get("training", {}).get("backend", DEFAULT))


def check_installed(name: str) -> None:
    """Checks that a backend is installed.

    Raises:
        UserError: It is not; the message says what to install.
    """
    if not is_installed(name):
        other = next((f", or use training.backend={each}" for each in ALL if is_installed(each)), "")
        wanted = "mnist_sweep[jax]" if name == "jax" else name
        raise UserError(f"training.backend={name}: is not installed; {invocation.pip_install(wanted)}{other}")


def is_installed(name: str) -> bool:
    """Returns whether a backend is installed, without importing it."""
    return find_spec(name) is not None


def to_load(config: Mapping[str, Any]) -> str:
    """Returns the backend to load a saved model with: its own if installed, else another; Keras's files fit all.

    Args:
        config: The config of the model's trial.
    """
    return next((name for name in (of(config), *ALL) if is_installed(name)), DEFAULT)
