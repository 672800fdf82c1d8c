"""A keras-tuner user's own hypermodel in the config's terms: its space as sweeps at `model.values`.

A worker asks the user's function what it searches (`training/discovery.py`); here that becomes texts of the sweep
language, so that every algorithm, table and check takes it as it takes any other sweep. Nothing here loads Keras.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line, printable
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.grammar import Choice, Interval, read_sweep
from mnist_sweep.config.hypermodel_space import Domain, Parameter, among, cast, is_number, key_of, read
from mnist_sweep.config.space import Condition, Space
from mnist_sweep.config.trial_config import CNN, MLP

PREFIX = "model.values."


@dataclass(frozen=True)
class Expanded:
    """A trial's groups with the sweeps of a hypermodel in them.

    Attributes:
        trial: The groups model, optimizer and training; the optimizer is None, as the hypermodel brings its own.
        conditions: When which of its hyperparameters mean anything.
        keeping: Those that change neither the weights' shapes nor the optimizer's state.
        defaults: The value that the user's function would take by itself for each of its hyperparameters.
    """

    trial: dict[str, Any]
    conditions: dict[str, tuple[Condition, ...]]
    keeping: set[str]
    defaults: dict[str, Any]

    def space(self) -> Space:
        """The search space."""
        return Space(self.trial, self.conditions, self.keeping)

    def baseline(self, groups: Mapping[str, Any] | None) -> dict[str, Any]:
        """What an experiment is to be better than: the function's own defaults, in place of `conf/`'s model.

        Args:
            groups: The groups model, optimizer and training as they are without sweeps, where they are known.
        """
        return {**(groups or {}), "model": {"hypermodel": self.trial["model"]["hypermodel"], "values": self.defaults}}


def named(trial: Mapping[str, Any]) -> str | None:
    """The hypermodel that a config names, whose space must be discovered before there is one.

    Args:
        trial: The groups model, optimizer and training.

    Returns:
        `package.module:name`; None where there is none.

    Raises:
        UserError: It contradicts another key.
    """
    model = trial["model"]
    name = model.get("hypermodel")
    if name is None:
        return None
    if model.get("builder") is not None:
        raise UserError(f"model.hypermodel={name}: model.builder={model['builder']} is given too; take one of them")
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        raise UserError(
            f"model.hypermodel={as_written(name)}: must be package.module:name, of a build_model(hp) or a "
            "keras_tuner.HyperModel"
        )
    for key in model:
        # What the shipped models have stands in every config, and means nothing here.
        if key not in {*MLP.model_fields, *CNN.model_fields, "per_layer", "values"}:
            raise UserError(f"model.{key}: unknown key; a hypermodel's own hyperparameters are {PREFIX}{key}")
    for key, value in _flat(trial["optimizer"] or {}):
        if isinstance(value, str) and read_sweep(value, f"optimizer.{key}") is not None:
            raise UserError(f"optimizer.{key}={value}: {name} compiles its own optimizer; search it there, with hp")
    return name


def expand(trial: Mapping[str, Any], discovered: Mapping[str, Any]) -> Expanded:
    """Puts a hypermodel's space into a trial's config.

    Args:
        trial: The groups as the user wrote them. `model.values` may fix hyperparameters, or search other values of
            them: a text must be one that the function names, as another means nothing to it; a number may lie beyond,
            unless other hyperparameters depend on it, as nobody knows which there would be.
        discovered: What `discover` returned.

    Returns:
        The groups to make a `Space` of, with what goes with them.

    Raises:
        UserError: The hypermodel's space cannot be expressed, or `model.values` does not go with it.
    """
    name = trial["model"]["hypermodel"]
    parameters = _read(discovered, name)
    domains = {key: parameter.domain for key, parameter in parameters.items()}
    parents = {parent for parameter in parameters.values() for parent, _ in parameter.conditions}
    for key, value in _flat(trial["model"].get("values") or {}):
        if key not in parameters:
            known = did_you_mean(key, parameters) if parameters else ""
            raise UserError(f"{PREFIX}{key}={as_written(value)}: {name} has no such hyperparameter{known}")
        domains[key] = _overridden(parameters[key], value, key, within=key in parents, model=name)
    values: dict[str, Any] = {}
    conditions: dict[str, tuple[Condition, ...]] = {}
    for key, parameter in parameters.items():
        left = _left(parameter.conditions, domains, conditions)
        if left is None:
            continue
        values[key], conditions[PREFIX + key] = _written(domains[key]), left
    groups = {**trial, "model": {"hypermodel": name, "values": values}, "optimizer": None}
    return Expanded(
        groups,
        {key: left for key, left in conditions.items() if left},
        {PREFIX + key_of(kept) for kept in map(str, discovered.get("keeping", ()))},
        {key: parameter.default for key, parameter in parameters.items()},
    )


def _read(discovered: Mapping[str, Any], name: str) -> dict[str, Parameter]:
    """What a worker has found, which runs the user's code and may have sent anything."""
    waiting: list[Any] = [discovered]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and printable(one, len(one) + 1) != one:
            raise UserError(
                f"model.hypermodel={name}: its space has the text {printable(one, 100)}, which cannot be shown or "
                "stored as it is; use visible characters"
            )
    try:
        return read(discovered["space"], name)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"model.hypermodel={name}: its space cannot be understood ({first_line(error)})") from error


def _left(
    conditions: tuple[Condition, ...],
    domains: Mapping[str, Domain],
    earlier: Mapping[str, tuple[Condition, ...]],
) -> tuple[Condition, ...] | None:
    """What remains of conditions beside what the config fixes; None where they never hold."""
    left: dict[str, tuple[Any, ...]] = {}
    for parent, allowed in conditions:
        key, domain = PREFIX + parent, domains[parent]
        options = domain.options if isinstance(domain, Choice) else sorted(v for v in allowed if _inside(domain, v))
        possible = tuple(v for v in options if among(v, allowed))
        if key not in earlier or not possible:
            return None
        if len(possible) == domain.size:
            # It says nothing more than that the parent is active.
            left |= dict(earlier[key])
        else:
            left[key] = possible
    return tuple(left.items())


# ---- what the config says of it -----------------------------------------------------------------------------------


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield key_of(f"{prefix}{key}"), value


def _overridden(parameter: Parameter, written: Any, key: str, *, within: bool, model: str) -> Domain:
    domain = read_sweep(written, PREFIX + key) if isinstance(written, str) else None
    domain = Choice((written,)) if domain is None else domain
    what = f"{PREFIX}{key}={as_written(written)}"
    if isinstance(domain, Interval) and parameter.kind == "Int" and not domain.integer:
        raise UserError(f"{what}: must be whole numbers; write int({domain})")
    for value in domain.extremes():
        wrong = _fault(parameter, value)
        if wrong:
            raise UserError(f"{what}: {wrong}")
        if within and not _inside(parameter.domain, value):
            raise UserError(f"{what}: other hyperparameters of {model} depend on it; it must be in {parameter.domain}")
    if isinstance(domain, Choice):
        return Choice(tuple(cast(parameter.kind, parameter.domain, value) for value in domain.options))
    return domain if parameter.kind == "Int" else Interval(float(domain.low), float(domain.high), False, domain.log)


def _fault(parameter: Parameter, value: Any) -> str:
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
    return among(value, domain.options) if isinstance(domain, Choice) else domain.low <= value <= domain.high


def _written(domain: Domain) -> Any:
    """A domain as it would stand in a config: a plain value where there is one only."""
    if isinstance(domain, Interval) or len(domain.options) > 1:
        return str(domain)
    (value,) = domain.options
    return str(domain) if isinstance(value, str) and _reads_as_sweep(value) else value


def _reads_as_sweep(text: str) -> bool:
    try:
        return read_sweep(text, PREFIX) is not None
    except UserError:
        return True
