"""A trainer on a few real digits, and trials of hypermodels. TensorFlow is imported lazily, as that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fitting import train

from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.trial_config import HyperModelConfig, TrialConfig, check_trial
from mnist_sweep.data.dataset import Dataset, split
from mnist_sweep.data.schema import of_images
from mnist_sweep.data.sources import Request, load


@pytest.fixture(scope="session")
def dataset(digits: Path) -> Dataset:
    return split(load(Request("npz", str(digits))), 0.2, seed=1)


@pytest.fixture(scope="session")
def trainer(dataset: Dataset) -> Any:
    from mnist_sweep.training.fit import Trainer

    return Trainer(dataset)


@pytest.fixture
def trial_config(compose_config) -> Callable[..., TrialConfig]:
    def made(*overrides: str) -> TrialConfig:
        config = compose_config(*overrides)
        config["model"].pop("per_layer", None)
        return check_trial({group: config[group] for group in TRIAL_GROUPS})

    return made


@pytest.fixture
def trial_of(trial_config) -> Callable[..., TrialConfig]:
    """Makes the config of a trial of one of tests/hypermodels.py."""

    def made(name: str, values: dict[str, Any], *overrides: str) -> TrialConfig:
        training = trial_config("training.batch_size=32", "training.epochs=3", *overrides).training.model_dump()
        model = {"hypermodel": f"hypermodels:{name}", "values": values}
        return check_trial({"model": model, "optimizer": None, "training": training})

    return made


@pytest.fixture
def built() -> Callable[..., Any]:
    """Builds one of tests/hypermodels.py."""

    def made(name: str, values: dict[str, Any], image: tuple[int, int, int] = (28, 28, 1)) -> Any:
        from mnist_sweep.training import custom_model

        return custom_model.build(
            HyperModelConfig(hypermodel=f"hypermodels:{name}", values=values), of_images(*image, 10)
        )

    return made


@pytest.fixture(scope="session")
def trained(trainer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains a trial of three epochs without interruption, once: its outcome, reports and folder."""
    runs: dict[str, Any] = {}

    def run(config: TrialConfig) -> Any:
        text = config.model_dump_json()
        if text not in runs:
            folder = tmp_path_factory.mktemp("trained")
            runs[text] = (*train(trainer, config, folder), folder)
        return runs[text]

    return run
