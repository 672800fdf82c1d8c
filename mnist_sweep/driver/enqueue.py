"""Hyperparameter values to try before the search suggests any: `search.enqueue`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config import keras_names
from mnist_sweep.config.dotted import MISSING, value_at
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.lookup import member
from mnist_sweep.config.settings import Settings
from mnist_sweep.config.space import Hyperparameter, Space, Values, identity

_RATE, _OPTIMIZER = "optimizer.learning_rate", "optimizer.name"


def enqueued(settings: Settings, space: Space, baseline: Mapping[str, Any] | None) -> list[Values]:
    """Returns the hyperparameter values of `search.enqueue`.

    Args:
        settings: The config of the sweep.
        space: Its search space.
        baseline: The values in `conf/`: the groups model, optimizer and training, without sweeps.

    Returns:
        For each item, a value for every active hyperparameter; no combination twice. `default` is the baseline, and is
        left out if any of its values is outside the space. Values that another item does not give are those of the
        baseline; if they are outside the space, the middle of an interval or the first option of a choice.

    Raises:
        UserError: An item names a key that is not searched, or a value that is not in its domain.
    """
    found: dict[str, Values] = {}
    for item in settings.search.enqueue:
        values = _default(settings, space, baseline) if item == "default" else filled(item, settings, space, baseline)
        if values is not None:
            found.setdefault(identity(values), values)
    return list(found.values())


def _default(settings: Settings, space: Space, baseline: Mapping[str, Any] | None) -> Values | None:
    def pick(hyperparameter: Hyperparameter, values: Values) -> Any:
        return member(hyperparameter.domain, _plain(baseline or {}, hyperparameter.name, values, settings))

    values = _filled(space, pick)
    return None if MISSING in values.values() else values


def filled(
    item: Mapping[str, Any],
    settings: Settings,
    space: Space,
    baseline: Mapping[str, Any] | None,
    what: str = "search.enqueue",
) -> Values:
    """Returns a configuration that has some values, and others as `enqueued` fills them.

    Args:
        item: The values, by dotted keys or in groups.
        settings: As for `enqueued`.
        space: As for `enqueued`.
        baseline: As for `enqueued`.
        what: What the values are, for messages.

    Raises:
        UserError: As `enqueued`.
    """
    given = dict(_flat(item, "", [h.name for h in space.hyperparameters], what))

    def pick(hyperparameter: Hyperparameter, values: Values) -> Any:
        name, domain = hyperparameter.name, hyperparameter.domain
        if name in given:
            value = member(domain, _plain(given, name, values, settings))
            if value is MISSING:
                raise UserError(f"{what}: {name}={given[name]}: must be in {domain}")
            return value
        value = member(domain, _plain(baseline or {}, name, values, settings))
        return _middle(domain) if value is MISSING else value

    values = _filled(space, pick)
    for name in given:
        if name not in values and name not in space.unused(values):
            raise UserError(f"{what}: {name}={given[name]}: its condition does not hold with the other values")
    return values


def _filled(space: Space, pick: Callable[[Hyperparameter, Values], Any]) -> Values:
    """Picks a value for every active hyperparameter, in the order of the space."""
    values: Values = {}
    # Keras's default learning rate depends on the optimizer.
    late = {_RATE}
    for hyperparameter in space.hyperparameters:
        if any(parent in late for parent, _ in hyperparameter.conditions):
            late.add(hyperparameter.name)
    for hyperparameter in sorted(space.hyperparameters, key=lambda h: h.name in late):
        if hyperparameter.active(values):
            values[hyperparameter.name] = pick(hyperparameter, values)
    return {h.name: values[h.name] for h in space.hyperparameters if h.name in values}


def _flat(item: Mapping[str, Any], prefix: str, known: Sequence[str], what: str) -> Iterator[tuple[str, Any]]:
    """Yields the hyperparameters that an item names, dotted or in groups, for all layers at once or for each."""
    for key, value in item.items():
        name = f"{prefix}{key}"
        layers = [hp for hp in known if hp.startswith(f"{name}.") and hp.removeprefix(f"{name}.").isdigit()]
        if name in known:
            yield name, value
        elif layers:
            each = [(layer, value_at(value, layer.removeprefix(f"{name}."))) for layer in layers]
            yield from ((layer, at) for layer, at in each if at is not MISSING)
        elif isinstance(value, Mapping) and any(hp.startswith(f"{name}.") for hp in known):
            yield from _flat(value, f"{name}.", known, what)
        else:
            raise UserError(f"{what}: {name}={value}: {name} is not searched{did_you_mean(name, known)}")


def _plain(config: Mapping[str, Any], name: str, values: Values, settings: Settings) -> Any:
    """Returns the value at a key; for `learning_rate: null`, Keras's default for the optimizer."""
    value = value_at(config, name)
    if name == _RATE and value is None:
        optimizer = values.get(_OPTIMIZER, settings.trial["optimizer"]["name"])
        return keras_names.default_learning_rate(str(optimizer).lower())
    return value


def _middle(domain: Choice | Interval) -> Any:
    if isinstance(domain, Choice):
        return domain.options[0]
    return domain.clamp(math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2)
