"""Makes trials, and the tasks that train them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import check_shape, check_trial
from mnist_sweep.config.units import seconds, size
from mnist_sweep.driver.state import LoopState
from mnist_sweep.journal.files import trial_folder
from mnist_sweep.journal.trial import Execution, Trial
from mnist_sweep.search.base import Suggestion
from mnist_sweep.search.choose import go_on
from mnist_sweep.workers.base import Train

SEED = "training.seed"


def suggested(settings: Settings, space: Space, number: int, suggestion: Suggestion) -> Trial:
    """Returns the trial that a search suggests; see `impossible`."""
    config = space.config(suggestion.values)
    with contextlib.suppress(UserError):
        config = check_trial(config).model_dump(mode="json")
    return Trial(
        number,
        suggestion.values,
        config,
        suggestion.epochs or config["training"]["epochs"],
        suggestion.initial_epoch,
        suggestion.parent,
        space.inactive(suggestion.values),
        executions(settings, config["training"]["seed"]),
    )


def impossible(trial: Trial, image: Sequence[int] | None) -> str:
    """Returns why a trial cannot be trained, as far as its config tells; "" if nothing speaks against it.

    Args:
        trial: The trial.
        image: Height, width and channels of the images; None if the data are not images.
    """
    try:
        check_shape(check_trial(trial.config), image)
    except UserError as error:
        return str(error)
    return ""


def retrained(settings: Settings, trial: Trial, number: int, seed: int) -> Trial:
    """Returns a trial that trains another one's hyperparameter values from the start, on a new seed."""
    folds = settings.validation == "kfold"
    return replace(
        trial,
        number=number,
        values={**trial.values, SEED: seed} if SEED in trial.values else trial.values,
        config={**trial.config, "training": {**trial.config["training"], "seed": seed}},
        initial_epoch=0,
        parent=None,
        executions=[e for e in executions(settings, seed) if e.seed == seed] if folds else [],
        confirms=trial.number,
    )


def executions(settings: Settings, seed: int) -> list[Execution]:
    """Returns the trainings of a trial: every fold on its seed, then on the next one; none if there is only one."""
    seeds = [(seed + i) % 2**31 for i in range(settings.repeats)]
    if settings.validation == "kfold":
        return [Execution(s, fold, settings.folds) for s in seeds for fold in range(1, settings.folds + 1)]
    return [Execution(s) for s in seeds] if settings.repeats > 1 else []


def task(settings: Settings, folder: Path, trial: Trial, state: LoopState, stop: str) -> Train:
    """Returns the task that trains a trial.

    Args:
        settings: The config of the sweep.
        folder: The sweep's folder.
        trial: The trial.
        state: The state of the sweep, with what an earlier attempt has trained.
        stop: Why the trial must not train any further epoch, only save what it has; "" to train.
    """
    objective, number = settings.objective, trial.number
    return Train(
        trial,
        (objective.name, objective.direction),
        folder=str(trial_folder(folder, number)),
        parent=None if trial.parent is None else str(trial_folder(folder, trial.parent)),
        waits=state.may_be_cut(trial),
        stop=stop,
        known=[state.last_epoch(number, 1 + i) for i in range(len(trial.executions) or 1)],
        limits=_limits(settings),
        latency=any(objective.name == "latency" for objective in settings.objectives),
        checkpoint_every=seconds(settings.workers.checkpoint_every),
        keep=trial.confirms is None and go_on(settings),
    )


def _limits(settings: Settings) -> dict[str, int]:
    written: Mapping[str, Any] = settings.limits.model_dump(exclude_none=True)
    return {name: size(value) if isinstance(value, str) else value for name, value in written.items()}
