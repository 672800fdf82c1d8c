"""Checks whether an algorithm, its config and a space go together, without loading any of them."""

from __future__ import annotations

import importlib.util
import math

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.config.search_config import ASHASearch, CustomSearch, HyperbandSearch, MedianSearch, PBTSearch
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.search import custom, pbt
from mnist_sweep.search.choose import ALGORITHMS

_LARGEST_GRID = 10_000


def check(settings: Settings, space: Space) -> None:
    """Checks that an algorithm can search a space.

    Raises:
        UserError: It cannot.
    """
    config, algorithm = settings.search, ALGORITHMS[settings.search.algorithm]
    continuous = [h.name for h in space.hyperparameters if h.domain.size is None]
    if len(settings.objectives) > 1 and not algorithm.several_objectives:
        names = ", ".join(o.name for o in settings.objectives)
        raise UserError(
            f"search={config.algorithm}: takes one objective, not [{names}]; use search=tpe, nsga2, random or grid"
        )
    if config.warm_start and not algorithm.learns:
        raise UserError(
            f"search.warm_start={config.warm_start[0]}: search={config.algorithm} does not learn from earlier sweeps; "
            "use search=tpe or asha, or leave it out"
        )
    if config.algorithm == "none" and (several := [h.name for h in space.hyperparameters if h.domain.size != 1]):
        first = several[0]
        raise UserError(f"search=none: {first} is a sweep; give it one value, or use search=random")
    if config.algorithm == "grid":
        _check_grid(space, continuous, config.max_trials)
    if isinstance(config, CustomSearch):
        custom.check(config)
    if space.hyperparameters:
        if isinstance(config, PBTSearch):
            _check_population(settings, space)
        if algorithm.sets_epochs:
            _check_epochs(settings, space)
        _check_sampler(settings, space)
    if config.max_trials is None and config.time_budget is None and continuous and not algorithm.ends:
        raise UserError(
            "search.max_trials=null: the search would never end; set search.max_trials or search.time_budget"
        )


def _check_population(settings: Settings, space: Space) -> None:
    if not pbt.perturbable(space):
        raise UserError(
            "search=pbt: none of the searched hyperparameters can change while a model trains; search "
            "optimizer.learning_rate, a dropout, an l2, training.batch_size or one of optimizer.arguments"
        )
    if settings.confirm is not None:
        raise UserError(
            "confirm: search=pbt changes hyperparameters while a trial trains, so its trials cannot be retrained; "
            "set confirm=null"
        )


def _check_grid(space: Space, continuous: list[str], max_trials: int | None) -> None:
    if continuous:
        raise UserError(
            f"search=grid: {continuous[0]} is an interval; write choice(…) or range(…), or use search=random"
        )
    if max_trials is None and (space.size or 0) > _LARGEST_GRID:
        raise UserError(
            f"search=grid: the space has {space.size} combinations; set search.max_trials, or use search=random"
        )


def _check_epochs(settings: Settings, space: Space) -> None:
    """Checks the number of epochs for an algorithm that divides it up."""
    config = settings.search
    if any(h.name == "training.epochs" for h in space.hyperparameters):
        raise UserError(
            f"search={config.algorithm}: it sets the number of epochs itself; give training.epochs one value, the "
            "maximum"
        )
    epochs = settings.trial["training"]["epochs"]
    if isinstance(config, HyperbandSearch):
        needed = config.iterations * _first_rounds(epochs, config.factor)
        if space.size is not None and space.size < needed:
            raise UserError(
                f"search=hyperband: its first rounds need {needed} different combinations, but the space has "
                f"{space.size}; use search=grid, or fewer training.epochs"
            )
    elif isinstance(config, ASHASearch) and epochs < config.factor * config.min_epochs:
        raise UserError(
            f"search=asha: training.epochs={epochs} is too few to stop a trial early; it needs "
            f"search.factor x search.min_epochs = {config.factor * config.min_epochs} epochs or more"
        )
    elif isinstance(config, MedianSearch) and epochs <= config.min_epochs:
        raise UserError(
            f"search.min_epochs={config.min_epochs}: with training.epochs={epochs} no trial could be stopped early; "
            "use a smaller value, or more training.epochs"
        )
    elif isinstance(config, PBTSearch) and epochs <= config.interval:
        raise UserError(
            f"search.interval={config.interval}: with training.epochs={epochs} the members would never be "
            "compared; use a smaller value, or more training.epochs"
        )


def _check_sampler(settings: Settings, space: Space) -> None:
    config = settings.search
    key, sampler = "search", config.algorithm
    if isinstance(config, ASHASearch | MedianSearch):
        key, sampler = "search.sampler", config.sampler
    if sampler == "gp" and importlib.util.find_spec("torch") is None:
        raise UserError(f"{key}=gp: needs PyTorch; {invocation.pip_install('torch', 'greenlet')}, or use {key}=tpe")
    if sampler == "cmaes" and not any(h.domain.numeric and h.domain.size != 1 for h in space.hyperparameters):
        raise UserError(
            f"{key}=cmaes: varies numbers only, and none of the searched hyperparameters is one; use {key}=tpe"
        )


def _first_rounds(epochs: int, factor: int) -> int:
    """Returns how many new trials Hyperband starts in one iteration: its brackets' first rounds, as in keras-tuner."""
    brackets, last = 0, 1 + math.log(epochs, factor)
    while factor**brackets <= epochs:
        brackets += 1
    return sum(math.ceil(math.ceil(last) / (b + 1) * factor**b) for b in range(brackets))
