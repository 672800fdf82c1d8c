"""The search space: converts a config with sweeps to hyperparameters, and their values to one trial's config."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.common.text import counted
from mnist_sweep.config.grammar import Choice, Domain, Interval, read_sweep
from mnist_sweep.config.trial_config import LAYERED, TrialConfig, check_trial

Values = dict[str, Any]
# The name of a hyperparameter, and the values of it that a condition allows.
Condition = tuple[str, tuple[Any, ...]]

# All combinations of extremes are checked up to this many.
_MOST_CORNERS = 2000


@dataclass(frozen=True)
class Hyperparameter:
    """One dimension of the space.

    Attributes:
        name: The config's key, such as `model.units`, or `model.units.1` for the first layer only.
        domain: Its values.
        conditions: Other hyperparameters, with the values for which this one is active; all of them must hold.
        keeps_weights: Whether it is known to change neither the weights' shapes nor the optimizer's state.
    """

    name: str
    domain: Domain
    conditions: tuple[Condition, ...] = ()
    keeps_weights: bool = False

    def active(self, values: Mapping[str, Any]) -> bool:
        """Returns whether this hyperparameter is active, given the values of those before it."""
        return all(parent in values and values[parent] in allowed for parent, allowed in self.conditions)


@dataclass(frozen=True)
class _Placeholder:
    """The place of a hyperparameter's value in a trial's config."""

    name: str


@dataclass(frozen=True)
class _Layers:
    """The place of a list with one value per layer in a trial's config."""

    names: tuple[str, ...]


class Space:
    """The search space of a sweep.

    Attributes:
        hyperparameters: The dimensions, parents before their children.
    """

    def __init__(
        self,
        trial: Mapping[str, Any],
        conditions: Mapping[str, tuple[Condition, ...]] | None = None,
        keeps_weights: Collection[str] = (),
    ) -> None:
        """Reads a space from a config.

        Args:
            trial: The groups model, optimizer and training; any value may be a sweep.
            conditions: When each sweep is active, in addition to the conditions of layers. A condition may only name
                earlier sweeps.
            keeps_weights: The sweeps that are known to change neither the weights' shapes nor the optimizer's state.

        Raises:
            UserError: A sweep cannot be read, is empty, or contradicts another value.
        """
        trial = dict(trial)
        model = dict(trial["model"])
        per_layer = model.pop("per_layer", [])
        trial["model"] = model
        self._found: dict[str, Domain] = {}
        self._template = _find(trial, "", self._found)
        self.hyperparameters = [
            replace(
                h, conditions=h.conditions + (conditions or {}).get(h.name, ()), keeps_weights=h.name in keeps_weights
            )
            for h in _with_layers(self._template, self._found, per_layer)
        ]
        _check_lists(self._template, self._template["model"], "model", self._found)

    @property
    def size(self) -> int | None:
        """The number of configurations in the space; None if they cannot be counted."""
        last = {parent: i for i, h in enumerate(self.hyperparameters) for parent, _ in h.conditions}
        # Configurations are grouped by the values that later hyperparameters depend on: far fewer than all of them.
        counts: Counter[tuple[tuple[str, Any], ...]] = Counter({(): 1})
        for i, hyperparameter in enumerate(self.hyperparameters):
            before, counts = counts, Counter()
            for state, count in before.items():
                kept = tuple((name, value) for name, value in state if last[name] > i)
                domain = hyperparameter.domain
                if not hyperparameter.active(dict(state)):
                    counts[kept] += count
                elif domain.size is None:
                    return None
                elif hyperparameter.name in last:
                    for value in domain.all():
                        counts[(*kept, (hyperparameter.name, value))] += count
                else:
                    counts[kept] += count * domain.size
        return counts.total()

    def grid(self) -> Iterator[Values]:
        """Yields every configuration once; the last hyperparameter changes fastest."""
        return _product(self.hyperparameters)

    def choose(self, value: Callable[[Hyperparameter], Any]) -> Values:
        """Returns a configuration.

        Args:
            value: Called with each active hyperparameter, parents before their children; returns its value.
        """
        values: Values = {}
        for hyperparameter in self.hyperparameters:
            if hyperparameter.active(values):
                values[hyperparameter.name] = value(hyperparameter)
        return values

    def sample(self, rng: random.Random) -> Values:
        """Draws a configuration at random."""
        return self.choose(lambda hyperparameter: hyperparameter.domain.sample(rng))

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns one trial's config.

        Args:
            values: A value for every active hyperparameter.

        Returns:
            The groups model, optimizer and training without sweeps. An inactive hyperparameter has its first value,
            which the model does not use.
        """

        def fill(node: Any) -> Any:
            if isinstance(node, _Placeholder):
                return values[node.name] if node.name in values else self._found[node.name].extremes()[0]
            if isinstance(node, _Layers):
                return [values[name] for name in node.names if name in values]
            if isinstance(node, dict):
                return {key: fill(inner) for key, inner in node.items()}
            return [fill(inner) for inner in node] if isinstance(node, list) else node

        filled: dict[str, Any] = fill(self._template)
        return filled

    def inactive(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the names of the hyperparameters that are inactive in a configuration."""
        return [h.name for h in self.hyperparameters if h.name not in values]

    def describe(self) -> dict[str, str]:
        """Returns each hyperparameter's domain in the language of the config, and when it is active."""
        return {h.name: f"{h.domain}{_when(h.conditions)}" for h in self.hyperparameters}

    def corners(self) -> Iterator[Values]:
        """Yields the configurations to check before a sweep starts.

        Yields:
            All combinations of choices and ends of intervals, if there are at most 2,000. Otherwise each choice and
            each end, combined with the first and with the last values of all others, and 1,000 random combinations.
        """
        ends = [tuple(h.domain.extremes()) for h in self.hyperparameters]
        if math.prod(len(e) for e in ends) <= _MOST_CORNERS:
            yield from (self._active(combination) for combination in itertools.product(*ends))
            return
        for base in ([e[0] for e in ends], [e[-1] for e in ends]):
            for i, end in enumerate(ends):
                yield from (self._active([*base[:i], value, *base[i + 1 :]]) for value in end)
        rng = random.Random(0)
        yield from (self._active([rng.choice(e) for e in ends]) for _ in range(1000))

    def check(self) -> Iterator[TrialConfig]:
        """Checks every corner of the space.

        Yields:
            The typed config at each corner that is possible.

        Raises:
            UserError: A value at a corner is invalid, or no corner is possible.
        """
        possible, impossible = False, None
        for values in self.corners():
            try:
                config = check_trial(self.config(values))
            except ImpossibleError as error:
                impossible = impossible or error
            except UserError as error:
                key = str(error).partition("=")[0]
                domain = self._found.get(key)
                if isinstance(domain, Interval) and not domain.integer and "whole number" in str(error):
                    raise UserError(f"{key}={domain}: must be whole numbers; write int({domain})") from None
                raise
            else:
                possible = True
                yield config
        if impossible is not None and not possible:
            raise impossible

    def _active(self, combination: Sequence[Any]) -> Values:
        values = dict(zip((h.name for h in self.hyperparameters), combination, strict=True))
        return self.choose(lambda hyperparameter: values[hyperparameter.name])


def identity(values: Mapping[str, Any]) -> str:
    """Returns a text that is the same for two configurations if and only if they are equal."""
    return json.dumps(values, sort_keys=True)


def _when(conditions: Sequence[Condition]) -> str:
    return "".join(
        f" {'and' if i else 'if'} {parent} in {list(allowed)}" for i, (parent, allowed) in enumerate(conditions)
    )


def _product(hyperparameters: Sequence[Hyperparameter]) -> Iterator[Values]:
    def extend(values: Values, rest: Sequence[Hyperparameter]) -> Iterator[Values]:
        if not rest:
            yield dict(values)
        elif rest[0].active(values):
            for value in rest[0].domain.all():
                yield from extend({**values, rest[0].name: value}, rest[1:])
        else:
            yield from extend(values, rest[1:])

    return extend({}, hyperparameters)


# ---- reading a config -------------------------------------------------------------------------------------------


def _find(node: Any, key: str, found: dict[str, Domain]) -> Any:
    """Replaces the sweeps in a config by placeholders, and collects their domains."""
    if isinstance(node, Mapping):
        return {name: _find(inner, f"{key}.{name}" if key else name, found) for name, inner in node.items()}
    if isinstance(node, list):
        return [_find(inner, f"{key}.{i}", found) for i, inner in enumerate(node, start=1)]
    domain = read_sweep(node, key) if isinstance(node, str) else None
    if domain is None:
        return node
    if key == "model.kind":
        raise UserError(
            f"{key}={node}: the kind of model cannot be searched; run one sweep per kind with -m model=mlp,cnn"
        )
    found[key] = domain
    return _Placeholder(key)


# ---- layers -----------------------------------------------------------------------------------------------------


def _with_layers(template: dict[str, Any], found: Mapping[str, Domain], per_layer: Any) -> list[Hyperparameter]:
    """Orders the hyperparameters, expands those of `per_layer`, and makes those of layers depend on the layers."""
    if not (isinstance(per_layer, list) and all(isinstance(f, str) for f in per_layer)):
        raise UserError(f"model.per_layer={per_layer}: must be a list of fields such as [units, activation]")
    expanded = {f"model.{field}" for field in per_layer}
    for key in sorted(expanded):
        if key.rpartition(".")[2] not in LAYERED:
            raise UserError(f"model.per_layer={per_layer}: {key} is not a field of layers")
        if key not in found:
            raise UserError(f"model.per_layer={per_layer}: {key} is not a sweep; write choice(…) or remove it")
    counts = {_count_key(key) for key in found if _count_key(key)}
    ordered = sorted(found, key=lambda key: key not in counts)
    result: list[Hyperparameter] = []
    for key in ordered:
        count = _count_key(key)
        layers = _layer_counts(template, found, count) if count else None
        if count is None or layers is None:
            if key in expanded:
                raise UserError(f"model.per_layer={per_layer}: {key} needs a whole number for {count}")
            result.append(Hyperparameter(key, found[key]))
        elif not any(n >= _position(key) for n in layers):
            # The value is for a layer that never exists.
            continue
        else:
            names = {key: _position(key)}
            if key in expanded:
                names = {f"{key}.{layer}": layer for layer in range(1, max(layers) + 1)}
                _put(template, key, _Layers(tuple(names)))
            for name, layer in names.items():
                enough = tuple(n for n in layers if n >= layer)
                depends = count in found and min(layers) < layer
                result.append(Hyperparameter(name, found[key], ((count, enough),) if depends else ()))
    return result


def _position(key: str) -> int:
    """Returns the first layer that a value applies to: `model.units.2` → 2, `model.units` → 1."""
    last = key.rpartition(".")[2]
    return int(last) if last.isdigit() else 1


def _count_key(key: str) -> str | None:
    """Returns the key of the number of layers that a field belongs to: `model.dense.units` → `model.dense.layers`."""
    parts = key.split(".")
    if parts[-1].isdigit():
        parts.pop()
    # The names of a hypermodel have no such meaning.
    if parts[0] != "model" or parts[1:2] == ["values"] or len(parts) < 2 or parts[-1] not in LAYERED:
        return None
    return ".".join([*parts[:-1], "layers"])


def _layer_counts(template: Mapping[str, Any], found: Mapping[str, Domain], key: str) -> list[int] | None:
    """Returns the possible numbers of layers; None if the config has no such key, as with custom models."""
    node: Any = template
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    domain = found.get(key)
    options = list(domain.all()) if domain is not None and domain.size is not None else [node]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in options)
    return options if whole else None


def _put(template: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    node = template
    for part in parents:
        node = node[part]
    node[last] = value


def _readable(option: list[Any], found: Mapping[str, Domain]) -> str:
    if not any(isinstance(value, _Placeholder) for value in option):
        return str(option)
    return f"[{', '.join(str(found[v.name] if isinstance(v, _Placeholder) else v) for v in option)}]"


def _check_lists(
    template: Mapping[str, Any], node: Mapping[str, Any], prefix: str, found: Mapping[str, Domain]
) -> None:
    """Refuses lists with more values than layers, because the surplus would be ignored silently."""
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if isinstance(value, dict):
            _check_lists(template, value, key, found)
        count = _count_key(key)
        layers = _layer_counts(template, found, count) if count else None
        domain = found.get(key)
        for option in domain.options if isinstance(domain, Choice) else [value]:
            if isinstance(option, list) and layers and len(option) > max(layers):
                raise UserError(
                    f"{key}={_readable(option, found)}: has {counted(len(option), 'value')} for "
                    f"{counted(max(layers), 'layer')}; "
                    f"give one for each layer, or set {count}={len(option)}"
                )
