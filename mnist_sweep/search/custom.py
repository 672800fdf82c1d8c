"""A user's own algorithm: `search: {_target_: package.module.Class, ...}`, or `package.module:Class`.

All keys beside those of the budget (`max_trials`, `time_budget`, `target`, `max_failures`, `enqueue`, `warm_start`,
`seed`) go to the class. It is imported in the driver, without TensorFlow: `import keras_tuner` is fine there.

A subclass of `mnist_sweep.search.Search` is built as `Class(space=..., objectives=..., seed=..., **keys)`: the
`mnist_sweep.space.Space`, a tuple of `mnist_sweep.settings.Objective`, and `search.seed`. Its methods are called from
one thread, which is not the loop's. It may also have

- `learn(values, scores)`, told of what it did not suggest itself: of each trial of `search.warm_start` before it is
  first asked, and of each setting of `search.enqueue` when its trial has ended (`scores` are None where that failed);
- a class method `stopping(objectives=..., seed=..., **keys)` that returns a `mnist_sweep.search.stopping.Stopping`.
  That is an object of its own, as it is called from the loop's thread while the search may take its time in another.

A subclass of `keras_tuner.Oracle` is built with what its `__init__` takes of `objective`, `max_trials`,
`hyperparameters`, `allow_new_entries`, `seed`, `max_retries_per_trial`, `max_consecutive_failed_trials` and the keys;
it must take `objective` (the first, where there are several) and `hyperparameters`. It is asked by `create_trial`, and
told by `update_trial` (once, of a trial's best score) and `end_trial`; trials of `search.warm_start` are among its
`trials` from the start, with the status COMPLETED. It may have `stopping`, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.config.search_config import CustomSearch
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search.base import Search
from mnist_sweep.search.custom_checked import CheckedSearch, CheckedStopping, checked_oracle, failed
from mnist_sweep.search.stopping import Stopping

_importing = threading.Lock()


def check(config: CustomSearch) -> None:
    """Checks what can be known of a target without importing anything.

    Raises:
        UserError: It is not of the form `package.module.Class`, or there is no such module.
    """
    target = config.class_path
    module, name = _parts(target)
    if not module or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UserError(f"search._target_={target}: must be package.module.Class")
    _look_here()
    parts = module.split(".")
    found = importlib.util.find_spec(parts[0])
    for i in range(1, len(parts)):
        # Not find_spec of the whole name, which imports the packages above the module.
        below = None if found is None else found.submodule_search_locations
        found = None if below is None else PathFinder.find_spec(".".join(parts[: i + 1]), below)
    if found is None:
        raise UserError(
            f"search._target_={target}: there is no module {module}; it is looked for where mnist_sweep is started, "
            "and among the installed packages"
        )


def create(
    space: Space, settings: Settings, enqueued: Sequence[Values], earlier: Sequence[Mapping[str, Any]]
) -> Search:
    """Builds a user's own algorithm.

    Args:
        space: The search space.
        settings: The sweep's, with `search._target_`.
        enqueued: Settings to suggest first.
        earlier: What earlier sweeps tell: `values` and `scores` of each of their trials.

    Returns:
        The algorithm, behind a check of all that it says.

    Raises:
        UserError: It cannot be imported or built, is of neither kind, or cannot learn from `earlier`.
    """
    target, kind = _load(settings)
    if issubclass(kind, Search):
        arguments = {"space": space, "objectives": settings.objectives, "seed": settings.search.seed}
        search = _built(target, kind, {**arguments, **_keys(settings)})
        return CheckedSearch(search, target, space, enqueued, earlier)
    return CheckedSearch(_oracle(kind, target, space, settings, enqueued, earlier), target, space)


def stopping(settings: Settings) -> Stopping | None:
    """The rule of a user's own algorithm; None where it has none.

    Raises:
        UserError: The algorithm cannot be imported, or its rule not be built.
    """
    target, kind = _load(settings)
    make = getattr(kind, "stopping", None)
    if make is None:
        return None
    rule = _built(target, make, {"objectives": settings.objectives, "seed": settings.search.seed, **_keys(settings)})
    if not isinstance(rule, Stopping):
        raise UserError(f"search._target_={target}: its stopping returns {type(rule).__name__}; return a Stopping")
    return CheckedStopping(rule, target)


def _oracle(
    kind: type,
    target: str,
    space: Space,
    settings: Settings,
    enqueued: Sequence[Values],
    earlier: Sequence[Mapping[str, Any]],
) -> Search:
    from mnist_sweep.search import oracles
    from mnist_sweep.search.oracle_search import OracleSearch

    kt = load_keras("keras_tuner")
    known = {
        "objective": kt.Objective(settings.objective.name, settings.objective.direction),
        "max_trials": settings.search.max_trials,
        "hyperparameters": oracles.to_keras_tuner(space),
        "allow_new_entries": False,
        "seed": oracles.seeded(settings.search.seed),
        "max_retries_per_trial": 0,
        "max_consecutive_failed_trials": None,
    }
    parameters = inspect.signature(kind).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        missing = {"objective", "hyperparameters"} - set(parameters)
        if missing:
            raise UserError(f"search._target_={target}: its __init__ must take {min(missing)}, or **kwargs")
        known = {name: value for name, value in known.items() if name in parameters}
    oracle = _built(target, checked_oracle(kind, target, space), {**known, **_keys(settings)})
    # The loop counts and retries, whatever its __init__ made of what it was given.
    oracle.max_trials, oracle.max_retries_per_trial, oracle.max_consecutive_failed_trials = None, 0, None
    oracle.add_earlier(earlier)
    hyperband = issubclass(kind, kt.oracles.HyperbandOracle)
    return OracleSearch(oracle, space, [settings.objective], enqueued=enqueued, goes_on_after_failure=hyperband)


def _load(settings: Settings) -> tuple[str, type]:
    """A target and its class."""
    assert isinstance(settings.search, CustomSearch)
    target = settings.search.class_path
    module, name = _parts(target)
    _look_here()
    # One thread asks for the search, another for its rule.
    with _importing:
        # Before the user's module does, which would load TensorFlow with it.
        oracle = load_keras("keras_tuner").Oracle
        try:
            kind = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise failed(target, "cannot be imported", error) from error
    if not isinstance(kind, type) or not issubclass(kind, (Search, oracle)):
        raise UserError(
            f"search._target_={target}: is no subclass of mnist_sweep.search.Search, nor of keras_tuner.Oracle"
        )
    return target, kind


def _built(target: str, make: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(target, "cannot be built", error) from error


def _keys(settings: Settings) -> dict[str, Any]:
    """The user's own keys."""
    return dict(settings.search.model_extra or {})


def _parts(target: str) -> tuple[str, str]:
    module, _, name = target.rpartition(":" if ":" in target else ".")
    return module, name


def _look_here() -> None:
    """Finds modules in the working directory, as `python -m` does and the installed command does not."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
