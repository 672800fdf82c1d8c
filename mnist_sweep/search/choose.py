"""Builds the search algorithm that a config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mnist_sweep.config import shipped
from mnist_sweep.config.search_config import (
    ASHASearch,
    CustomSearch,
    GridSearch,
    HyperbandSearch,
    MedianSearch,
    PBTSearch,
)
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.journal.trial import Outcome, Trial
from mnist_sweep.search.base import Search
from mnist_sweep.search.stopping import ASHA, Median, Stopping

# The keys of a search's config that its sampler gets.
_SAMPLER_KEYS = {
    "bayesian": ("num_initial_points", "alpha", "beta"),
    "tpe": ("startup_trials",),
    "gp": ("startup_trials",),
    "cmaes": ("startup_trials",),
    "nsga2": ("population",),
}


def go_on(settings: Settings) -> bool:
    """Whether trials may go on from the state in which others ended."""
    return isinstance(settings.search, PBTSearch | HyperbandSearch | CustomSearch)


def spent(settings: Settings, ended: int, trials: Mapping[int, Trial], outcomes: Mapping[int, Outcome]) -> set[int]:
    """The trials from whose state no other will go on, so that it need not be kept.

    Args:
        settings: The sweep's config.
        ended: The trial that has just ended.
        trials: The sweep's trials, by number.
        outcomes: Of those that have ended.
    """
    if isinstance(settings.search, PBTSearch):
        from mnist_sweep.search import pbt

        return pbt.spent(settings.search, trials, outcomes)
    return set() if go_on(settings) else {ended}


def create_search(
    settings: Settings,
    space: Space,
    enqueued: Sequence[Values] = (),
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Search:
    """Builds the search that a config names. May take seconds: it imports keras-tuner.

    With `search=asha` and `search=median` that is their sampler, with the values of its file in `conf/search/`; what
    stops trials is `search.stopping`'s.

    Args:
        settings: The sweep's config.
        space: The search space.
        enqueued: Settings to suggest before any other, each once; Hyperband starts its first trials with them.
        earlier: What earlier sweeps tell: `values`, active hyperparameters of this space, and `scores`, one for each
            objective. TPE, the Gaussian processes, CMA-ES and NSGA-II learn from them. They and random search try
            the same settings again only when there are no others; grid, Hyperband and PBT do not use them.

    Raises:
        UserError: The algorithm and the space do not go together.
    """
    from mnist_sweep.search import simple

    config, objectives = settings.search, settings.objectives
    if not space.hyperparameters:
        return simple.single()
    if isinstance(config, GridSearch):
        return simple.grid(space, enqueued)
    if isinstance(config, PBTSearch):
        from mnist_sweep.search import pbt

        return pbt.create(space, settings, enqueued)
    if isinstance(config, CustomSearch):
        from mnist_sweep.search import custom

        return custom.create(space, settings, enqueued, earlier)

    from mnist_sweep.search import oracles

    if isinstance(config, HyperbandSearch):
        epochs = settings.trial["training"]["epochs"]
        return oracles.hyperband(space, objectives[0], config, epochs, enqueued)
    sampler: str = config.algorithm
    values: Mapping[str, Any] = config.model_dump()
    if isinstance(config, ASHASearch | MedianSearch):
        sampler = config.sampler
        values = shipped.values(f"search/{sampler}")
    options = {key: values[key] for key in _SAMPLER_KEYS.get(sampler, ())}
    if sampler == "random":
        return oracles.random_search(space, objectives[0], config.seed, enqueued, earlier)
    if sampler == "bayesian":
        return oracles.bayesian(space, objectives[0], config.seed, enqueued, earlier, **options)

    from mnist_sweep.search import optuna_oracles

    families: dict[str, Callable[..., Search]] = {
        "tpe": optuna_oracles.tpe,
        "gp": optuna_oracles.gp,
        "cmaes": optuna_oracles.cmaes,
        "nsga2": optuna_oracles.nsga2,
    }
    return families[sampler](space, objectives, config.seed, enqueued, earlier, **options)


def create_stopping(settings: Settings) -> Stopping | None:
    """Builds the rule that a config names; None where no trial is to be stopped.

    Raises:
        UserError: A user's own rule cannot be built.
    """
    search, objective, epochs = settings.search, settings.objective, settings.trial["training"]["epochs"]
    if isinstance(search, ASHASearch):
        return ASHA(objective, epochs, search.factor, search.min_epochs)
    if isinstance(search, MedianSearch):
        return Median(objective, epochs, search.min_trials, search.min_epochs)
    if isinstance(search, CustomSearch):
        from mnist_sweep.search import custom

        return custom.stopping(settings)
    return None
