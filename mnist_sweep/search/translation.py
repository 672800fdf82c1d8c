"""Translates between the search space and keras-tuner's hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mnist_sweep.common.light_keras import load as load_keras
from mnist_sweep.config.conditions import Between
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.space import Space, Values

kt = load_keras("keras_tuner")
conditions = load_keras("keras_tuner.src.engine.conditions")
_Hyperparameters: Any = kt.HyperParameters


class Translation:
    """Translates the hyperparameter values of one space."""

    def __init__(self, space: Space) -> None:
        """Takes the space."""
        self._domains = {h.name: h.domain for h in space.hyperparameters}
        self._options = {
            name: {_encode(option, domain): option for option in domain.options}
            for name, domain in self._domains.items()
            if isinstance(domain, Choice)
        }

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values as keras-tuner takes them."""
        return {name: _encode(value, self._domains[name]) for name, value in values.items()}

    def decode(self, values: Mapping[str, Any]) -> Values:
        """Returns plain values inside the space's bounds, without keras-tuner's own entries."""
        plain: Values = {}
        for name, domain in self._domains.items():
            if name in values:
                value = values[name]
                plain[name] = domain.clamp(value) if isinstance(domain, Interval) else self._options[name][value]
        return plain


def to_keras_tuner(space: Space) -> Any:
    """Returns a space as `keras_tuner.HyperParameters`, with its conditions."""
    result = _Shared()
    domains = {h.name: h.domain for h in space.hyperparameters}
    for hyperparameter in space.hyperparameters:
        name, domain = hyperparameter.name, hyperparameter.domain
        # Its own scopes only accept a parent with the same conditions, so they are set without them.
        result._conditions = [
            conditions.Parent(parent, _allowed(allowed, domains[parent]))
            for parent, allowed in hyperparameter.conditions
        ]
        if isinstance(domain, Choice):
            result.Choice(name, [_encode(option, domain) for option in domain.options])
        else:
            kind = result.Int if domain.integer else result.Float
            kind(name, domain.low, domain.high, sampling="log" if domain.log else "linear")
    result._conditions = []
    return result


class _Shared(_Hyperparameters):  # type: ignore[misc]
    """Hyperparameters that do not change, so that all copies share them; only the values are copied."""

    def copy(self) -> _Shared:
        """Returns a copy; keras-tuner's takes milliseconds, and it makes one for every trial."""
        made = _Shared()
        made._hps, made._space, made.values = self._hps, self._space, dict(self.values)
        return made


class _Numbers(list[float]):
    """The numbers of an interval, as the list that keras-tuner takes for a condition."""

    def __init__(self, between: Between) -> None:
        # A list that starts with a whole number would be copied.
        super().__init__([float(between.low), float(between.high)])
        self._between = between

    def __contains__(self, value: object) -> bool:
        return value in self._between

    def __deepcopy__(self, memo: Any) -> _Numbers:
        return self


def _allowed(allowed: tuple[Any, ...] | Between, domain: Choice | Interval) -> list[Any]:
    return _Numbers(allowed) if isinstance(allowed, Between) else [_encode(value, domain) for value in allowed]


def _encode(value: Any, domain: Choice | Interval) -> Any:
    """Returns a value as keras-tuner's Choice takes it, which does not accept lists, null or mixed types."""
    if isinstance(domain, Interval):
        return value
    kinds = {type(option) for option in domain.options}
    return value if kinds in ({str}, {int}, {float}) else json.dumps(value)
