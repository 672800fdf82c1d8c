"""Search algorithms, behind one small interface."""

from __future__ import annotations

import math

from mnist_sweep.errors import UserError
from mnist_sweep.search.base import Answer, Search, Suggestion
from mnist_sweep.settings import BayesianSearch, GridSearch, HyperbandSearch, NoSearch, Settings
from mnist_sweep.space import Space

__all__ = ["Answer", "Search", "Suggestion", "check", "create"]

_LARGEST_GRID = 10_000


def check(settings: Settings, space: Space) -> None:
    """Checks, without loading keras-tuner, that an algorithm and a space go together.

    Raises:
        UserError: They do not.
    """
    config, continuous = settings.search, [h.name for h in space.hyperparameters if h.domain.size is None]
    searched = [h.name for h in space.hyperparameters]
    if isinstance(config, NoSearch) and searched:
        raise UserError(f"search=none: {searched[0]} is a sweep; give it one value, or take search=random")
    if isinstance(config, GridSearch):
        if continuous:
            raise UserError(
                f"search=grid: {continuous[0]} is an interval; write choice(…) or range(…), or take search=random"
            )
        if config.max_trials is None and (space.size or 0) > _LARGEST_GRID:
            raise UserError(
                f"search=grid: the space holds {space.size} settings; set search.max_trials, or take search=random"
            )
    if isinstance(config, HyperbandSearch) and searched:
        if "training.epochs" in searched:
            raise UserError(
                "search=hyperband: it decides the epochs itself; give training.epochs one value, the most to train"
            )
        needed = config.iterations * _first_rounds(settings.trial["training"]["epochs"], config.factor)
        if space.size is not None and space.size < needed:
            raise UserError(
                f"search=hyperband: its first rounds need {needed} different settings, but the space holds "
                f"{space.size}; take search=grid, or fewer training.epochs"
            )
    if (
        config.max_trials is None
        and config.time_budget is None
        and continuous
        and not isinstance(config, HyperbandSearch)
    ):
        raise UserError("search.max_trials=null: the space has no end; set search.max_trials or search.time_budget")


def _first_rounds(epochs: int, factor: int) -> int:
    """How many trials Hyperband starts anew in one iteration: its brackets' first rounds, as in keras-tuner."""
    brackets, last = 0, 1 + math.log(epochs, factor)
    while factor**brackets <= epochs:
        brackets += 1
    return sum(math.ceil(math.ceil(last) / (b + 1) * factor**b) for b in range(brackets))


def create(settings: Settings, space: Space) -> Search:
    """Builds the search that a config names. May take seconds: it imports keras-tuner.

    Raises:
        UserError: The algorithm and the space do not go together.
    """
    from mnist_sweep.search import simple

    config, objective = settings.search, settings.objective
    if not space.hyperparameters:
        return simple.single()
    if isinstance(config, GridSearch):
        return simple.grid(space)
    from mnist_sweep.search import oracles

    if isinstance(config, BayesianSearch):
        return oracles.bayesian(space, objective, config)
    if isinstance(config, HyperbandSearch):
        return oracles.hyperband(space, objective, config, settings.trial["training"]["epochs"])
    return oracles.random_search(space, objective, config.seed)
