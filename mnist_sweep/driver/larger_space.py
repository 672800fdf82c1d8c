"""Continues a sweep in a larger search space: only what is new is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import flat
from mnist_sweep.config import backend, hypermodel
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.grammar import Choice, Domain, read_sweep
from mnist_sweep.config.later_keys import with_later_keys
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.space import Hyperparameter, Space, identity
from mnist_sweep.journal.state import SweepState

# Their suggestions do not depend on the space as it was.
_ALGORITHMS = ("grid", "random")


def is_searched(config: Mapping[str, Any], key: str) -> bool:
    """Returns whether a config searches a key."""
    value = _searched_groups(config).get(key)
    return isinstance(value, str) and read_sweep(value, key) is not None


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Returns whether two configs have different search spaces."""
    return bool(differing(old, new))


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the keys of the search space in which two configs differ."""
    before, after = _searched_groups(old), _searched_groups(new)
    return [key for key in before | after if before.get(key) != after.get(key)]


def with_space_of(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with the search space of another one."""
    return {**config, **{group: other[group] for group in TRIAL_GROUPS}}


def check(old: Mapping[str, Any], new: Mapping[str, Any], state: SweepState) -> None:
    """Refuses to continue a sweep in another space, unless that includes its space and the algorithm can.

    Args:
        old: The config that the sweep was last run with.
        new: The config to continue with.
        state: The state of the sweep.

    Raises:
        UserError: It says why, and what to do instead.
    """
    assert state.started is not None
    learn = f"start a new sweep that learns from this one: search=tpe 'search.warm_start=[{state.started.sweep}]'"
    settings = check_settings(new)
    algorithm, most = settings.search.algorithm, settings.search.max_trials
    after = _searched_groups(new)
    key = next(name for name in differing(old, new) if name in after)
    if algorithm not in _ALGORITHMS:
        raise UserError(
            f"resume: {key}={after[key]}: only search=grid and random can continue in a larger space, not "
            f"{algorithm}; {learn}"
        )
    if hypermodel.named(settings.trial) is not None:
        raise UserError(f"resume: {key}={after[key]}: the space of a hypermodel cannot grow; {learn}")
    problem = _missing(_space(old), _space(new))
    if problem:
        raise UserError(f"resume: {key}={after[key]}: {problem}; values can only be added. For another space, {learn}")
    if most is not None and len(state.searched) >= most:
        raise UserError(
            f"resume: {key}={after[key]}: all search.max_trials={most} have started, so nothing new would be trained; "
            f"raise it, too: search.max_trials={2 * most}"
        )


def _searched_groups(config: Mapping[str, Any]) -> dict[str, Any]:
    # Configs of old sweeps have no backend.
    config = with_later_keys(config)
    return {"training.backend": backend.DEFAULT, **flat({group: config[group] for group in TRIAL_GROUPS})}


def _space(config: Mapping[str, Any]) -> Space:
    settings = check_settings(config)
    return Space(settings.trial, written=settings.conditions)


def _missing(old: Space, new: Space) -> str:
    """Returns what a space lacks of another one, or has in the other's configurations; "" if it includes the other."""
    before = {h.name: h for h in old.hyperparameters}
    after = {h.name: h for h in new.hyperparameters}
    domains = {name: h.domain for name, h in before.items()}
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            return f"{name} is no longer searched"
        lost = _lost(was.domain, now.domain)
        if lost:
            return f"{lost} of {name} = {was.domain} is missing"
        if _conditions(was, domains) != _conditions(now, domains):
            return f"it changes when {name} is searched"
    for name, now in after.items():
        if name not in before and "[]" not in _conditions(now, domains).values():
            return f"{name} was not searched"
    return ""


def _lost(old: Domain, new: Domain) -> str:
    """Returns the first value that a domain lacks of another one, or all of it; "" if it has all."""
    if isinstance(old, Choice):
        return next((as_written(option) for option in old.options if not _has(new, option)), "")
    if isinstance(new, Choice) or old.integer != new.integer:
        return "a part"
    return next((f"{end:g}" for end in (old.low, old.high) if not new.low <= end <= new.high), "")


def _has(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return any(identity({"": value}) == identity({"": option}) for option in domain.options)
    return type(value) is (int if domain.integer else float) and domain.low <= value <= domain.high


def _conditions(hyperparameter: Hyperparameter, domains: Mapping[str, Domain]) -> dict[str, str]:
    """Returns when a hyperparameter is active in a space with these domains, as text by parent."""
    found = {}
    for parent, allowed in hyperparameter.conditions:
        domain = domains.get(parent)
        options = list(domain.options) if isinstance(domain, Choice) else []
        active = [option for option in options if option in allowed]
        if not options or active != options:
            found[parent] = json.dumps(active) if options else str(allowed)
    return found
