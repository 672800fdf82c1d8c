"""The trials of earlier sweeps that a search learns from: `search.warm_start`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line
from mnist_sweep.config.dotted import MISSING, split_key, value_at
from mnist_sweep.config.lookup import member
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.config.trial_config import LAYERED, check_trial
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import WITHOUT_RESULT, Outcome

# The keys of `training` that may differ between trials whose scores are compared.
_SPEED = ("steps_per_execution", "validation_batch_size", "jit_compile", "backend")
_MAY_DIFFER = ("seed", "epochs", "early_stopping", *_SPEED)


def earlier(settings: Settings, space: Space, digest: str, find: Callable[[str], Path]) -> list[dict[str, Any]]:
    """Returns the trials of `search.warm_start` that a search can learn from.

    Args:
        settings: The config of the sweep.
        space: Its search space.
        digest: The digest of its data.
        find: Finds a sweep's folder by its name; raises `UserError` if there is none.

    Returns:
        `sweep`, `trial`, `values` (a value for every active hyperparameter of this space) and `scores` (one for each
        objective) of every trial that has all scores and whose config is in this space. Seeds, epochs and what only
        changes the speed may differ. Of trials that continue from one another, only the last one is returned.

    Raises:
        UserError: The sweep does not exist, or it was run on other data.
    """
    found: list[dict[str, Any]] = []
    for sweep in settings.search.warm_start:
        state = _read(sweep, find)
        try:
            data = (state.started.data["name"], state.started.data["digest"]) if state.started else ("nothing", "")
            objectives = Objective.parse_all(state.started.config["objective"]) if state.started else ()
        except (KeyError, TypeError, IndexError, AttributeError, UserError) as error:
            raise UserError(f"search.warm_start={sweep}: its first event is damaged ({first_line(error)})") from None
        if state.started is None or data[1] != digest:
            raise UserError(
                f"search.warm_start={sweep}: was run on {data[0]}{f' ({data[1]})' if state.started else ''}, but this "
                f"sweep's data is different ({digest}); scores on different data cannot be compared"
            )
        trials, outcomes = state.results.trials, state.results.outcomes
        continued = {trials[number].parent for number in outcomes if outcomes[number].score is not None}
        for number, outcome in outcomes.items():
            scores = _scores(outcome, objectives, settings.objectives)
            if scores is None or trials[number].confirms is not None or number in continued:
                continue
            values = _projected(trials[number].config, space)
            if values is not None:
                found.append({"sweep": state.started.sweep, "trial": number, "values": values, "scores": list(scores)})
    return found


def _read(sweep: str, find: Callable[[str], Path]) -> SweepState:
    try:
        folder = find(sweep)
    except UserError:
        raise UserError(f"search.warm_start={sweep}: no such sweep; write NAME/TIME") from None
    # The epochs, which need most of the memory, are not used.
    return SweepState.after(event for event in journal.read(folder) if not isinstance(event, EpochEnded))


def _scores(outcome: Outcome, theirs: tuple[Objective, ...], ours: tuple[Objective, ...]) -> tuple[float, ...] | None:
    if outcome.status in WITHOUT_RESULT or outcome.score is None:
        return None
    metrics = {"parameters": outcome.parameters, **outcome.metrics, theirs[0].name: outcome.score}
    scores = [metrics.get(objective.name) for objective in ours]
    known = [float(score) for score in scores if score is not None and math.isfinite(score)]
    return tuple(known) if len(known) == len(ours) else None


def _projected(config: Mapping[str, Any], space: Space) -> Values | None:
    """Returns the values with which a space gives a trial's config; None if there are none."""
    values: Values = {}
    for hyperparameter in space.hyperparameters:
        if hyperparameter.active(values):
            raw = value_at(config, hyperparameter.name)
            value = member(hyperparameter.domain, raw)
            if value is MISSING and isinstance(raw, list) and raw and all(r == raw[0] for r in raw):
                value = member(hyperparameter.domain, raw[0])
            if value is MISSING:
                return None
            values[hyperparameter.name] = value
    try:
        here = check_trial(space.config(values)).model_dump(mode="json")
        there = check_trial(config).model_dump(mode="json")
    except UserError:
        return None
    for name in space.unused(values):
        _forget(here, name)
        _forget(there, name)
    return values if _compared(here) == _compared(there) else None


def _compared(config: Mapping[str, Any]) -> str:
    """Returns what a trial's score depends on, with a list of one value per layer for each field of layers."""
    training = {key: value for key, value in config["training"].items() if key not in _MAY_DIFFER}
    return identity({**config, "model": _expanded(config["model"]), "training": training})


def _expanded(node: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.items():
        count = node.get("layers") if key in LAYERED else None
        if isinstance(value, Mapping):
            result[key] = _expanded(value)
        elif type(count) is int:
            result[key] = (list(value) if isinstance(value, list) else [value] * count)[:count]
        else:
            result[key] = value
    return result


def _forget(node: Any, name: str) -> None:
    """Removes the value at a dotted key, if there is one."""
    path = split_key(node, name) if isinstance(node, dict) else None
    if path is not None and path[1]:
        _forget(node[path[0]], path[1])
    elif path is not None:
        del node[path[0]]
