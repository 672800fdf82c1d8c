"""The table of search algorithms, and what a config chooses from it.

`docs/contributing.md` has the steps for adding an algorithm.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import shipped
from mnist_sweep.config.search_config import SEARCHES, ASHASearch, CustomSearch, MedianSearch, PBTSearch, SearchConfig
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.journal.trial import Outcome, Trial
from mnist_sweep.search import simple
from mnist_sweep.search.base import Problem, Search
from mnist_sweep.search.stopping import ASHA, Median, Stopping

Build = Callable[[Any, Problem], Search]

# ---- how each search is built -----------------------------------------------------------------------------------


def _lazy(module: str, function: str) -> Build:
    """Returns a function of a module of this folder that is imported when the function is called: it takes a second."""

    def build(config: SearchConfig, problem: Problem) -> Search:
        found: Build = getattr(importlib.import_module(f"mnist_sweep.search.{module}"), function)
        return found(config, problem)

    return build


def _sampler(config: ASHASearch | MedianSearch, problem: Problem) -> Search:
    """What proposes the trials that a stopping rule cuts: another algorithm, with the defaults of `conf/search/`."""
    budget = config.model_dump(include=set(SearchConfig.model_fields))
    own = SEARCHES[config.sampler].model_validate({**budget, **shipped.values(f"search/{config.sampler}")})
    return ALGORITHMS[config.sampler].build(own, problem)


# ---- how each stopping rule is built ----------------------------------------------------------------------------


def _asha_rule(config: ASHASearch, settings: Settings) -> Stopping:
    return ASHA(settings.objective, settings.trial["training"]["epochs"], config.factor, config.min_epochs)


def _median_rule(config: MedianSearch, settings: Settings) -> Stopping:
    return Median(settings.objective, settings.trial["training"]["epochs"], config.min_trials, config.min_epochs)


def _custom_rule(config: CustomSearch, settings: Settings) -> Stopping | None:
    from mnist_sweep.search import custom

    return custom.stopping(config, settings.objectives)


@dataclass(frozen=True)
class Algorithm:
    """What a sweep needs to know of a search algorithm.

    Attributes:
        build: Builds the search from its config and the problem.
        stopping: Builds its stopping rule; None if it does not stop trials early.
        several_objectives: Whether it takes more than one objective.
        learns: Whether it makes use of `search.warm_start`.
        ends: Whether it ends by itself in an infinite space, without `search.max_trials` or `search.time_budget`.
        sets_epochs: Whether it decides how many epochs a trial trains, so that `training.epochs` cannot be searched.
        continues: Whether its trials may continue from the saved state of others.
        plans: Whether it plans all of its trials in advance, so that it learns nothing from one that a user has added,
            and its space cannot be narrowed.
    """

    build: Build
    stopping: Callable[[Any, Settings], Stopping | None] | None = None
    several_objectives: bool = False
    learns: bool = True
    ends: bool = False
    sets_epochs: bool = False
    continues: bool = False
    plans: bool = False


# By `search.algorithm`; the one of a user's class is `own`.
ALGORITHMS: dict[str, Algorithm] = {
    "none": Algorithm(lambda _, problem: simple.grid(problem), several_objectives=True, learns=False),
    "grid": Algorithm(lambda _, problem: simple.grid(problem), several_objectives=True),
    "random": Algorithm(_lazy("oracles", "random_search"), several_objectives=True),
    "bayesian": Algorithm(_lazy("oracles", "bayesian")),
    "tpe": Algorithm(_lazy("optuna_oracles", "tpe"), several_objectives=True),
    "gp": Algorithm(_lazy("optuna_oracles", "gp")),
    "cmaes": Algorithm(_lazy("optuna_oracles", "cmaes")),
    "nsga2": Algorithm(_lazy("optuna_oracles", "nsga2"), several_objectives=True),
    "asha": Algorithm(_sampler, _asha_rule, sets_epochs=True),
    "median": Algorithm(_sampler, _median_rule, sets_epochs=True),
    "hyperband": Algorithm(
        _lazy("oracles", "hyperband"), learns=False, ends=True, sets_epochs=True, continues=True, plans=True
    ),
    "pbt": Algorithm(_lazy("pbt", "PBT"), learns=False, ends=True, sets_epochs=True, continues=True, plans=True),
    "own": Algorithm(_lazy("custom", "create"), _custom_rule, several_objectives=True, ends=True, continues=True),
}


def create_search(
    settings: Settings, space: Space, enqueued: Sequence[Values] = (), earlier: Sequence[Mapping[str, Any]] = ()
) -> Search:
    """Builds the search that a config names. May take seconds: it imports keras-tuner.

    Args:
        settings: The sweep's config.
        space: The search space.
        enqueued: Hyperparameter values to suggest before any others, each once; Hyperband starts its first trials with
            them.
        earlier: Trials of earlier sweeps, as in `Problem`. TPE, the Gaussian processes, CMA-ES and NSGA-II learn from
            them. They and random search repeat none of their values while there are others, and grid search none of
            them ever. Hyperband and PBT do not use them.

    Raises:
        UserError: The algorithm cannot search this space.
    """
    config = settings.search
    if not space.hyperparameters:
        return simple.single()
    epochs = settings.trial["training"]["epochs"]
    problem = Problem(space, settings.objectives, config.seed, epochs, enqueued, earlier)
    return ALGORITHMS[config.algorithm].build(config, problem)


def create_stopping(settings: Settings) -> Stopping | None:
    """Builds the stopping rule that a config names; None if it names none.

    Raises:
        UserError: A user's rule cannot be built.
    """
    build = ALGORITHMS[settings.search.algorithm].stopping
    return build(settings.search, settings) if build is not None else None


def go_on(settings: Settings) -> bool:
    """Returns whether trials may continue from the saved state of others."""
    return ALGORITHMS[settings.search.algorithm].continues


def narrow_search(
    settings: Settings,
    space: Space,
    enqueued: Sequence[Values],
    earlier: Sequence[Mapping[str, Any]],
    trials: int,
) -> Search:
    """Builds the search that takes the place of another one when its space is narrowed.

    Args:
        settings: The sweep's config.
        space: The narrower space.
        enqueued: As for `create_search`; what is outside the space is left out, as of `earlier`.
        earlier: As for `create_search`.
        trials: How many trials there have been, so that it does not repeat the draws of the search before.

    Raises:
        UserError: As `create_search`.
    """
    seed = random.Random(f"{settings.search.seed} {trials} {space.describe()}").getrandbits(31)
    return create_search(
        replace(settings, search=settings.search.model_copy(update={"seed": seed})),
        space,
        [values for values in enqueued if space.includes(values)],
        [trial for trial in earlier if space.includes(trial["values"])],
    )


def check_can_narrow(settings: Settings) -> None:
    """Refuses to narrow the space of an algorithm that cannot continue in another one.

    Raises:
        UserError: It names the algorithm and the reason.
    """
    name = settings.search.algorithm
    if ALGORITHMS[name].plans:
        reason = "it plans all of its trials in advance"
    elif isinstance(settings.search, CustomSearch):
        from mnist_sweep.search import custom

        name, reason = f"{{_target_: {settings.search.class_path}}}", custom.cannot_start_over(settings.search)
    else:
        return
    if reason:
        raise UserError(f"search={name}: cannot continue with fewer values, as {reason}; start a new sweep")


def spent(settings: Settings, ended: int, trials: Mapping[int, Trial], outcomes: Mapping[int, Outcome]) -> set[int]:
    """Returns the trials that no other will continue from, so that their state need not be kept.

    Args:
        settings: The sweep's config.
        ended: The trial that has just ended.
        trials: The sweep's trials, by number.
        outcomes: The outcomes of those that have ended.
    """
    if isinstance(settings.search, PBTSearch):
        from mnist_sweep.search import pbt

        return pbt.spent(settings.search, trials, outcomes)
    return set() if go_on(settings) else {ended}
