"""Converts the search space of a keras-tuner hypermodel into sweeps at `model.values`.

A worker runs the user's function to discover its space (`training/discovery.py`). Here the space becomes text in the
sweep language, so every algorithm, table and check handles it like any other sweep. Nothing here loads Keras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line, flat, printable
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.condition_text import Written
from mnist_sweep.config.conditions import Listed
from mnist_sweep.config.grammar import Choice, Domain, Interval, is_number, looks_like_sweep, read_sweep
from mnist_sweep.config.hypermodel_space import Parameter, cast, is_one_of, key_of, read
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import CNN, MLP, without_suffix

PREFIX = "model.values."


@dataclass(frozen=True)
class Expanded:
    """A trial's groups with the sweeps of a hypermodel.

    Attributes:
        trial: The groups model, optimizer and training; the optimizer is None because the hypermodel has its own.
        conditions: The conditions under which its hyperparameters are active, by key.
        keeps_weights: The hyperparameters that change neither the weights' shapes nor the optimizer's state.
        defaults: The default value of each hyperparameter in the user's function.
    """

    trial: dict[str, Any]
    conditions: dict[str, tuple[Listed, ...]]
    keeps_weights: set[str]
    defaults: dict[str, Any]

    def space(self, written: Mapping[str, Written] | None = None) -> Space:
        """Returns the search space.

        Args:
            written: The conditions of the config, in addition to those of the hypermodel.
        """
        defaults = {PREFIX + key: value for key, value in self.defaults.items()}
        return Space(self.trial, self.conditions, self.keeps_weights, written=written, defaults=defaults)

    def baseline(self, groups: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns the default configuration, which a search has to beat: the defaults of the user's function.

        Args:
            groups: The groups model, optimizer and training without their sweeps, if they are known.
        """
        return {**(groups or {}), "model": {"hypermodel": self.trial["model"]["hypermodel"], "values": self.defaults}}


def named(trial: Mapping[str, Any]) -> str | None:
    """Returns the hypermodel that a config names, whose space must be discovered.

    Args:
        trial: The groups model, optimizer and training.

    Returns:
        `package.module:name`; None if the config names none.

    Raises:
        UserError: The name is invalid, or contradicts another key.
    """
    model = trial["model"]
    name = model.get("hypermodel")
    if name is None:
        return None
    if model.get("builder") is not None:
        raise UserError(f"model.hypermodel={name}: model.builder={model['builder']} is set too; set only one of them")
    named = isinstance(name, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name)
    if not isinstance(name, str) or not named or ".py:" in name:
        raise UserError(
            f"model.hypermodel={as_written(name)}: must be package.module:name of a build_model(hp) or a "
            f"keras_tuner.HyperModel{without_suffix(str(name))}"
        )
    for key in model:
        # Every config has the keys of a shipped model, which a hypermodel ignores.
        if key not in {*MLP.model_fields, *CNN.model_fields, "per_layer", "values"}:
            raise UserError(f"model.{key}: unknown key; write a hypermodel's hyperparameters as {PREFIX}{key}")
    for key, value in flat(trial["optimizer"] or {}).items():
        if isinstance(value, str) and read_sweep(value, f"optimizer.{key}") is not None:
            raise UserError(f"optimizer.{key}={value}: {name} compiles its own optimizer; search it there, with hp")
    return name


def expand(trial: Mapping[str, Any], discovered: Mapping[str, Any]) -> Expanded:
    """Adds a hypermodel's space to a trial's config.

    Args:
        trial: The groups as the user wrote them. `model.values` may fix hyperparameters, or search other values of
            them. Text must be one of the function's own options. Numbers may be outside of the function's range,
            unless other hyperparameters depend on them: which of those would be active is unknown.
        discovered: What the worker discovered.

    Returns:
        The groups for a `Space`, and what else the space needs.

    Raises:
        UserError: The hypermodel's space cannot be expressed, or `model.values` does not fit it.
    """
    name = trial["model"]["hypermodel"]
    parameters = _read(discovered, name)
    domains = {key: parameter.domain for key, parameter in parameters.items()}
    parents = {parent for parameter in parameters.values() for parent, _ in parameter.conditions}
    for name_in_config, value in flat(trial["model"].get("values") or {}).items():
        key = key_of(name_in_config)
        if key not in parameters:
            known = did_you_mean(key, parameters) if parameters else ""
            raise UserError(f"{PREFIX}{key}={as_written(value)}: {name} has no such hyperparameter{known}")
        domains[key] = _overridden(parameters[key], value, key, within_range=key in parents, model=name)
    values: dict[str, Any] = {}
    conditions: dict[str, tuple[Listed, ...]] = {}
    for key, parameter in parameters.items():
        remaining = _remaining(parameter.conditions, domains, conditions)
        if remaining is None:
            continue
        values[key], conditions[PREFIX + key] = _in_config(domains[key]), remaining
    groups = {**trial, "model": {"hypermodel": name, "values": values}, "optimizer": None}
    return Expanded(
        groups,
        {key: remaining for key, remaining in conditions.items() if remaining},
        {PREFIX + key_of(name) for name in map(str, discovered.get("keeping", ()))},
        {key: parameter.default for key, parameter in parameters.items()},
    )


def _read(discovered: Mapping[str, Any], name: str) -> dict[str, Parameter]:
    """Reads what a worker discovered; it ran the user's code, so it may have sent anything."""
    unchecked: list[Any] = [discovered]
    while unchecked:
        part = unchecked.pop()
        if isinstance(part, dict):
            unchecked += [*part, *part.values()]
        elif isinstance(part, list):
            unchecked += part
        elif isinstance(part, str) and printable(part, len(part) + 1) != part:
            raise UserError(
                f"model.hypermodel={name}: its search space contains the text {printable(part, 100)}, which cannot be "
                "printed or stored; use visible characters only"
            )
    try:
        return read(discovered["space"], name)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"model.hypermodel={name}: its search space cannot be read ({first_line(error)})") from error


def _remaining(
    conditions: tuple[Listed, ...], domains: Mapping[str, Domain], earlier: Mapping[str, tuple[Listed, ...]]
) -> tuple[Listed, ...] | None:
    """Returns the conditions that the config does not already decide; None if they never hold."""
    remaining: dict[str, tuple[Any, ...]] = {}
    for parent, allowed in conditions:
        key, domain = PREFIX + parent, domains[parent]
        options = domain.options if isinstance(domain, Choice) else sorted(v for v in allowed if _inside(domain, v))
        possible = tuple(v for v in options if is_one_of(v, allowed))
        if key not in earlier or not possible:
            return None
        if len(possible) == domain.size:
            # The parent only has to be active.
            remaining |= dict(earlier[key])
        else:
            remaining[key] = possible
    return tuple(remaining.items())


# ---- values in the config -----------------------------------------------------------------------------------------


def _overridden(parameter: Parameter, value: Any, key: str, *, within_range: bool, model: str) -> Domain:
    domain = read_sweep(value, PREFIX + key) if isinstance(value, str) else None
    domain = Choice((value,)) if domain is None else domain
    what = f"{PREFIX}{key}={as_written(value)}"
    if isinstance(domain, Interval) and parameter.kind == "Int" and not domain.integer:
        raise UserError(f"{what}: must be whole numbers; write int({domain})")
    for extreme in domain.extremes():
        problem = _problem(parameter, extreme)
        if problem:
            raise UserError(f"{what}: {problem}")
        if within_range and not _inside(parameter.domain, extreme):
            raise UserError(f"{what}: other hyperparameters of {model} depend on it; it must be in {parameter.domain}")
    if isinstance(domain, Choice):
        return Choice(tuple(cast(parameter.kind, parameter.domain, option) for option in domain.options))
    return domain if parameter.kind == "Int" else Interval(float(domain.low), float(domain.high), False, domain.log)


def _problem(parameter: Parameter, value: Any) -> str:
    options = parameter.domain.options if isinstance(parameter.domain, Choice) else ()
    if options and isinstance(options[0], bool):
        return "" if isinstance(value, bool) else "must be true or false"
    if options and isinstance(options[0], str):
        return "" if value in options else f"must be in {parameter.domain}{did_you_mean(str(value), options)}"
    whole = parameter.kind == "Int" or (bool(options) and all(isinstance(o, int) for o in options))
    if not is_number(value) or (whole and not isinstance(value, int)):
        return f"must be a {'whole ' if whole else ''}number"
    return ""


def _inside(domain: Domain, value: Any) -> bool:
    return is_one_of(value, domain.options) if isinstance(domain, Choice) else domain.low <= value <= domain.high


def _in_config(domain: Domain) -> Any:
    """Returns a domain as a config has it: a plain value if there is only one."""
    if isinstance(domain, Interval) or len(domain.options) > 1:
        return str(domain)
    (value,) = domain.options
    return str(domain) if isinstance(value, str) and looks_like_sweep(value) else value
