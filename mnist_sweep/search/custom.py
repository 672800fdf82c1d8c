"""A user's search algorithm: `search: {_target_: package.module.Class, ...}`, or `package.module:Class`.

The class gets all keys except those of the budget (`max_trials`, `time_budget`, `target`, `max_failures`, `enqueue`,
`warm_start`, `seed`). It is imported in the driver, without TensorFlow; `import keras_tuner` works there.

A subclass of `mnist_sweep.search.Search` is built as `Class(space=..., objectives=..., seed=..., **keys)`: the
`mnist_sweep.space.Space`, a tuple of `mnist_sweep.settings.Objective`, and `search.seed`. Its methods are called from
one thread, which is not the thread of the sweep's loop. The class can also have

- `learn(values, scores)`: called with trials that it did not suggest itself. These are the trials of
  `search.warm_start`, before the first `ask`, and the values of `search.enqueue` and those that `steer add` adds, when
  their trials end (`scores` is None if a trial failed). When `steer set` narrows the space, the class is built again,
  and learns from all trials so far that are in the narrower space.
- a class method `stopping(objectives=..., seed=..., **keys)` that returns a `mnist_sweep.search.stopping.Stopping`.
  This is a separate object, as the loop's thread calls it while the search may be busy in another one.

A subclass of `keras_tuner.Oracle` is built with those of `objective`, `max_trials`, `hyperparameters`,
`allow_new_entries`, `seed`, `max_retries_per_trial`, `max_consecutive_failed_trials` and the keys that its `__init__`
takes; it must take `objective` (the first one if there are several) and `hyperparameters`. The sweep calls
`create_trial`, then `update_trial` (once, with the trial's best score) and `end_trial`. Trials of `search.warm_start`
are among its `trials` from the start, with the status COMPLETED. It can have `stopping`, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import threading
from dataclasses import replace
from importlib.machinery import PathFinder
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.search_config import CustomSearch
from mnist_sweep.search.base import Problem, Search
from mnist_sweep.search.custom_checked import CheckedSearch, CheckedStopping, call, checked_oracle, user_code_error
from mnist_sweep.search.stopping import Stopping

_import_lock = threading.Lock()


def check(config: CustomSearch) -> None:
    """Checks what can be known of a target without importing it.

    Raises:
        UserError: It is not of the form `package.module.Class`, or the module does not exist.
    """
    target = config.class_path
    module, name = _split(target)
    if not module or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UserError(f"search._target_={target}: must be package.module.Class")
    _find_modules_here()
    parts = module.split(".")
    spec = importlib.util.find_spec(parts[0])
    for i in range(1, len(parts)):
        # find_spec with the full name would import the packages above the module.
        path = None if spec is None else spec.submodule_search_locations
        spec = None if path is None else PathFinder.find_spec(".".join(parts[: i + 1]), path)
    if spec is None:
        raise UserError(
            f"search._target_={target}: there is no module {module} in the working directory or among the installed "
            "packages"
        )


def create(config: CustomSearch, problem: Problem) -> Search:
    """Builds a user's algorithm.

    Args:
        config: The config with `search._target_` and the keys of the algorithm.
        problem: What to search.

    Returns:
        The algorithm, with all of its answers checked.

    Raises:
        UserError: The class cannot be imported or built, is not a search, or cannot learn from earlier trials.
    """
    target, kind = config.class_path, _load(config)
    if issubclass(kind, Search):
        arguments = {"space": problem.space, "objectives": problem.objectives, "seed": problem.seed}
        search = call(target, "cannot be built", kind, **{**arguments, **_keys(config)})
        return CheckedSearch(search, target, problem)
    return CheckedSearch(_oracle_search(kind, config, problem), target, replace(problem, enqueued=(), earlier=()))


def stopping(config: CustomSearch, objectives: tuple[Objective, ...]) -> Stopping | None:
    """Builds the stopping rule of a user's algorithm; returns None if it has none.

    Raises:
        UserError: The algorithm cannot be imported, or its rule cannot be built.
    """
    target, kind = config.class_path, _load(config)
    make = getattr(kind, "stopping", None)
    if make is None:
        return None
    arguments = {"objectives": objectives, "seed": config.seed, **_keys(config)}
    rule = call(target, "cannot be built", make, **arguments)
    if not isinstance(rule, Stopping):
        raise UserError(f"search._target_={target}: its stopping returns {type(rule).__name__}; return a Stopping")
    return CheckedStopping(rule, target)


def cannot_start_over(config: CustomSearch) -> str:
    """Returns why a user's algorithm cannot be built again, to learn from the trials so far; "" if it can.

    Raises:
        UserError: The class cannot be imported.
    """
    kind = _load(config)
    if issubclass(kind, Search):
        learns = hasattr(kind, "learn") or kind.add is not Search.add
        return "" if learns else "it cannot learn from the trials so far (it has no method learn(values, scores))"
    hyperband = issubclass(kind, load_keras("keras_tuner").oracles.HyperbandOracle)
    return "it plans all of its trials in advance" if hyperband else ""


def _oracle_search(kind: type, config: CustomSearch, problem: Problem) -> Search:
    from mnist_sweep.search import oracles
    from mnist_sweep.search.oracle_search import OracleSearch

    target = config.class_path
    arguments = {**oracles.oracle_arguments(problem), "max_trials": config.max_trials}
    parameters = inspect.signature(kind).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        missing = {"objective", "hyperparameters"} - set(parameters)
        if missing:
            raise UserError(f"search._target_={target}: its __init__ must take {min(missing)}, or **kwargs")
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    checked = checked_oracle(kind, target, problem.space)
    oracle = call(target, "cannot be built", checked, **{**arguments, **_keys(config)})
    # The loop counts and retries, whatever the oracle's __init__ set.
    oracle.max_trials, oracle.max_retries_per_trial, oracle.max_consecutive_failed_trials = None, 0, None
    oracles.add_earlier_trials(oracle, problem)
    hyperband = issubclass(kind, oracles.kt.oracles.HyperbandOracle)
    return OracleSearch(oracle, problem, failed_as_worst=hyperband, refused_as_worst=False)


def _load(config: CustomSearch) -> type:
    """Imports the class that the config names."""
    target = config.class_path
    module, name = _split(target)
    _find_modules_here()
    # The search and its stopping rule are built in different threads.
    with _import_lock:
        # Imported before the user's module does it, which would load TensorFlow.
        oracle = load_keras("keras_tuner").Oracle
        try:
            kind = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise user_code_error(target, "cannot be imported", error) from error
    if not isinstance(kind, type) or not issubclass(kind, (Search, oracle)):
        raise UserError(
            f"search._target_={target}: is not a subclass of mnist_sweep.search.Search or keras_tuner.Oracle"
        )
    return kind


def _keys(config: CustomSearch) -> dict[str, Any]:
    """Returns the keys that go to the user's class."""
    return dict(config.model_extra or {})


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.rpartition(":" if ":" in target else ".")
    return module, name


def _find_modules_here() -> None:
    """Makes the working directory importable, as it is with `python -m` but not with the installed command."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
