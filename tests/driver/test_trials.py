"""What a trial consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import trials

Compose = Callable[..., dict[str, Any]]


def test_executions_are_every_fold_on_every_seed(compose_config: Compose) -> None:
    def executions(*overrides: str) -> list[tuple[int, int | None, int | None]]:
        return [(e.seed, e.fold, e.folds) for e in trials.executions(check_settings(compose_config(*overrides)), 7)]

    assert executions() == []
    assert executions("repeats=2") == [(7, None, None), (8, None, None)]
    assert executions("validation=kfold", "folds=2", "repeats=2") == [(7, 1, 2), (7, 2, 2), (8, 1, 2), (8, 2, 2)]
