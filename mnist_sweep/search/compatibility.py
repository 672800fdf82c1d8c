"""Whether an algorithm, its settings and a space go together, without loading any of them."""

from __future__ import annotations

import importlib.util
import math

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import Choice
from mnist_sweep.config.search_config import (
    ASHASearch,
    CustomSearch,
    GridSearch,
    HyperbandSearch,
    MedianSearch,
    NoSearch,
    NSGA2Search,
    PBTSearch,
    RandomSearch,
    TPESearch,
)
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space
from mnist_sweep.search import custom, pbt

_LARGEST_GRID = 10_000
_OF_SEVERAL_OBJECTIVES = (TPESearch, NSGA2Search, RandomSearch, GridSearch, NoSearch, CustomSearch)


def check(settings: Settings, space: Space) -> None:
    """Checks that an algorithm and a space go together.

    Raises:
        UserError: They do not.
    """
    config = settings.search
    continuous = [h.name for h in space.hyperparameters if h.domain.size is None]
    if len(settings.objectives) > 1 and not isinstance(config, _OF_SEVERAL_OBJECTIVES):
        names = ", ".join(o.name for o in settings.objectives)
        raise UserError(
            f"search={config.algorithm}: takes one objective, not [{names}]; take search=tpe, nsga2, random or grid"
        )
    if config.warm_start and isinstance(config, NoSearch | GridSearch | HyperbandSearch | PBTSearch):
        raise UserError(
            f"search.warm_start={config.warm_start[0]}: search={config.algorithm} learns nothing from earlier sweeps; "
            "take search=tpe or asha, or leave it out"
        )
    if isinstance(config, NoSearch) and space.hyperparameters:
        first = space.hyperparameters[0].name
        raise UserError(f"search=none: {first} is a sweep; give it one value, or take search=random")
    if isinstance(config, GridSearch):
        _check_grid(config, space, continuous)
    if isinstance(config, CustomSearch):
        custom.check(config)
    if space.hyperparameters:
        if isinstance(config, PBTSearch):
            _check_population(settings, space)
        _check_epochs(settings, space)
        _check_sampler(settings, space)
    ends_by_itself = isinstance(config, HyperbandSearch | PBTSearch | CustomSearch)
    if config.max_trials is None and config.time_budget is None and continuous and not ends_by_itself:
        raise UserError("search.max_trials=null: the space has no end; set search.max_trials or search.time_budget")


def _check_population(settings: Settings, space: Space) -> None:
    if not pbt.perturbable(space):
        raise UserError(
            "search=pbt: nothing that is searched can change while a model trains; search optimizer.learning_rate, "
            "a dropout, an l2, training.batch_size or one of optimizer.arguments"
        )
    if settings.confirm is not None:
        raise UserError(
            "confirm: search=pbt changes settings while it trains, so that its trials cannot be trained anew; "
            "set confirm=null"
        )


def _check_grid(config: GridSearch, space: Space, continuous: list[str]) -> None:
    if continuous:
        raise UserError(
            f"search=grid: {continuous[0]} is an interval; write choice(…) or range(…), or take search=random"
        )
    if config.max_trials is None and (space.size or 0) > _LARGEST_GRID:
        raise UserError(
            f"search=grid: the space holds {space.size} settings; set search.max_trials, or take search=random"
        )


def _check_epochs(settings: Settings, space: Space) -> None:
    """Algorithms that decide on a trial's epochs need to know how many there are, and some to decide on."""
    config = settings.search
    if not isinstance(config, HyperbandSearch | ASHASearch | MedianSearch | PBTSearch):
        return
    if any(h.name == "training.epochs" for h in space.hyperparameters):
        raise UserError(
            f"search={config.algorithm}: it decides the epochs itself; give training.epochs one value, "
            "the most to train"
        )
    epochs = settings.trial["training"]["epochs"]
    if isinstance(config, HyperbandSearch):
        needed = config.iterations * _first_rounds(epochs, config.factor)
        if space.size is not None and space.size < needed:
            raise UserError(
                f"search=hyperband: its first rounds need {needed} different settings, but the space holds "
                f"{space.size}; take search=grid, or fewer training.epochs"
            )
    elif isinstance(config, ASHASearch) and epochs < config.factor * config.min_epochs:
        raise UserError(
            f"search=asha: with training.epochs={epochs} nothing is left to save; it needs "
            f"search.factor x search.min_epochs = {config.factor * config.min_epochs} epochs or more"
        )
    elif isinstance(config, MedianSearch) and epochs <= config.min_epochs:
        raise UserError(
            f"search.min_epochs={config.min_epochs}: with training.epochs={epochs} no trial could be stopped; "
            "take fewer, or more training.epochs"
        )
    elif isinstance(config, PBTSearch) and epochs <= config.interval:
        raise UserError(
            f"search.interval={config.interval}: with training.epochs={epochs} the members would never be "
            "compared; take fewer, or more training.epochs"
        )


def _check_sampler(settings: Settings, space: Space) -> None:
    config = settings.search
    sampler = config.sampler if isinstance(config, ASHASearch | MedianSearch) else config.algorithm
    key = "search.sampler" if isinstance(config, ASHASearch | MedianSearch) else "search"
    if sampler == "gp" and importlib.util.find_spec("torch") is None:
        raise UserError(f"{key}=gp: needs PyTorch; pip install torch greenlet, or take {key}=tpe")
    if sampler == "cmaes" and not any(_is_of_numbers(h.domain) for h in space.hyperparameters):
        raise UserError(
            f"{key}=cmaes: nothing that is searched is a number, which is all that it varies; take {key}=tpe"
        )


def _is_of_numbers(domain: object) -> bool:
    if not isinstance(domain, Choice):
        return True
    return domain.size > 1 and all(isinstance(o, int | float) and not isinstance(o, bool) for o in domain.options)


def _first_rounds(epochs: int, factor: int) -> int:
    """How many trials Hyperband starts anew in one iteration: its brackets' first rounds, as in keras-tuner."""
    brackets, last = 0, 1 + math.log(epochs, factor)
    while factor**brackets <= epochs:
        brackets += 1
    return sum(math.ceil(math.ceil(last) / (b + 1) * factor**b) for b in range(brackets))
