"""A trainer on a few real digits, shared by the tests of this folder: importing TensorFlow takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.config import TrialConfig, check_trial
from mnist_sweep.training import data


@pytest.fixture(scope="session")
def dataset(digits: Path) -> data.Dataset:
    return data.split(data.load("npz", str(digits)), 0.2, seed=1)


@pytest.fixture(scope="session")
def trainer(dataset: data.Dataset) -> Any:
    from mnist_sweep.training.fit import Trainer

    return Trainer(dataset)


@pytest.fixture
def trial_config(compose_config) -> Callable[..., TrialConfig]:
    def made(*overrides: str) -> TrialConfig:
        config = compose_config(*overrides)
        config["model"].pop("per_layer", None)
        return check_trial({group: config[group] for group in ("model", "optimizer", "training")})

    return made
