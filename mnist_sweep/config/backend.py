"""Which library Keras computes with: the choice, before any of them is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mnist_sweep.common.errors import UserError

DEFAULT = "tensorflow"
ALL = ("tensorflow", "jax")


def of(config: Mapping[str, Any]) -> str:
    """The backend that a config names.

    Args:
        config: Of a sweep or a trial. What was logged before there was a choice lacks the key.
    """
    return str(config["training"].get("backend", DEFAULT))


def check_installed(name: str) -> None:
    """Refuses a backend that is not there.

    Raises:
        UserError: It says what to install.
    """
    if not is_installed(name):
        other = next((f", or take training.backend={each}" for each in ALL if is_installed(each)), "")
        raise UserError(f"training.backend={name}: is not installed; pip install {name}{other}")


def is_installed(name: str) -> bool:
    """Whether a backend is there; none is imported."""
    return find_spec(name) is not None


def to_load(config: Mapping[str, Any]) -> str:
    """The backend to ask a saved model on: its own, or else one that is there; Keras's files are the same for all.

    Args:
        config: Of the trial that the model is from.
    """
    return next((name for name in (of(config), *ALL) if is_installed(name)), DEFAULT)
