"""A trainer on a few real digits, shared by the tests of this folder: importing TensorFlow takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.config.trial_config import TrialConfig, check_trial
from mnist_sweep.data import images


@pytest.fixture(scope="session")
def dataset(digits: Path) -> images.Dataset:
    return images.split(images.load("npz", str(digits)), 0.2, seed=1)


@pytest.fixture(scope="session")
def trainer(dataset: images.Dataset) -> Any:
    from mnist_sweep.training.fit import Trainer

    return Trainer(dataset)


@pytest.fixture
def trial_config(compose_config) -> Callable[..., TrialConfig]:
    def made(*overrides: str) -> TrialConfig:
        config = compose_config(*overrides)
        config["model"].pop("per_layer", None)
        return check_trial({group: config[group] for group in ("model", "optimizer", "training")})

    return made
