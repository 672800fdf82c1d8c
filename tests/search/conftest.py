"""A fixture that builds any search algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from playing import DISCRETE, MIXED, OVERRIDES, Made, Make

from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search.choose import create_search


@pytest.fixture
def make(compose_config) -> Make:
    def made(
        algorithm: str,
        *overrides: str,
        seed: int = 1,
        objectives: str | list[str] = "val_accuracy max",
        enqueued: Sequence[Values] = (),
        earlier: Sequence[dict[str, Any]] = (),
    ) -> Made:
        of_space = DISCRETE if algorithm == "grid" and not overrides else overrides or MIXED
        of_search = tuple(override for override in of_space if override.startswith("search."))
        # Two configs are merged, as composing each combination would take Hydra a tenth of a second.
        config = compose_config("training.epochs=9", *(override for override in of_space if override not in of_search))
        config["search"] = compose_config(*OVERRIDES.get(algorithm, (f"search={algorithm}",)), *of_search)["search"]
        config["search"]["seed"] = seed
        config["objective"] = objectives
        settings = check_settings(config)
        space = Space(settings.trial, written=settings.conditions)
        return Made(lambda: create_search(settings, space, enqueued, earlier), space, config)

    return made
