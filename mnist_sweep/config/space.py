"""The search space: converts a config with sweeps to hyperparameters, and their values to one trial's config."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.common.text import counted, flat
from mnist_sweep.config import shipped
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.condition_text import Written
from mnist_sweep.config.conditions import Between, Condition, holds, implied, merged, resolve, shown
from mnist_sweep.config.dotted import MISSING, put, value_at
from mnist_sweep.config.grammar import Choice, Domain, Interval, read_sweep
from mnist_sweep.config.key_names import unknown_key
from mnist_sweep.config.trial_config import LAYERED, TrialConfig, check_trial

Values = dict[str, Any]

# All combinations of extremes are checked up to this many.
_MOST_CORNERS = 2000
_NO_CONDITIONS: Mapping[str, Written] = MappingProxyType({})
# Groups of keys that Keras has defaults for.
_ARGUMENTS = ("optimizer.arguments.", "optimizer.schedule.arguments.")
# Keys that are the same in all trials.
_COMMON = ("model.kind", "model.builder", "model.hypermodel", "training.backend")
_ABSENT = object()


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
        return holds(self.conditions, values)


@dataclass(frozen=True)
class _Placeholder:
    """The place of a hyperparameter's value in a trial's config."""

    name: str


@dataclass(frozen=True)
class _Layers:
    """The place of a list with one value per layer in a trial's config; `count` is the key of the number of layers."""

    names: tuple[str, ...]
    count: str


@dataclass(frozen=True)
class _Fixed:
    """The place of a value that is not searched, but has a condition."""

    name: str
    value: Any


@dataclass(frozen=True)
class _Conditional:
    """A key with a condition.

    Attributes:
        conditions: When its value counts; None if never.
        exists: When a model has a use for the key at all.
        default: What it is where its condition does not hold; `_ABSENT` to leave it out.
    """

    conditions: tuple[Condition, ...] | None
    exists: tuple[Condition, ...]
    default: Any


class Space:
    """The search space of a sweep.

    Attributes:
        hyperparameters: The dimensions, parents before their children.
        notes: What the user may want to know about the conditions, in lines.
    """

    def __init__(
        self,
        trial: Mapping[str, Any],
        conditions: Mapping[str, tuple[Condition, ...]] | None = None,
        keeps_weights: Collection[str] = (),
        *,
        written: Mapping[str, Written] | None = _NO_CONDITIONS,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Reads a space from a config.

        Args:
            trial: The groups model, optimizer and training; any value may be a sweep.
            conditions: When each sweep is active, in addition to the conditions of layers.
            keeps_weights: The sweeps that are known to change neither the weights' shapes nor the optimizer's state.
            written: The conditions of the config, by key; those that follow from what Keras accepts are added. None for
                sweeps of versions without them.
            defaults: Values of keys whose condition does not hold, where they are not those of `conf/`.

        Raises:
            UserError: A sweep cannot be read, is empty, or contradicts another value, or a condition is wrong.
        """
        trial = dict(trial)
        model = dict(trial["model"])
        per_layer = model.pop("per_layer", [])
        trial["model"] = model
        self._found: dict[str, Domain] = {}
        self._template = _find(trial, "", self._found)
        hyperparameters = [
            replace(
                h, conditions=h.conditions + (conditions or {}).get(h.name, ()), keeps_weights=h.name in keeps_weights
            )
            for h in _with_layers(self._template, self._found, per_layer)
        ]
        self.notes: list[str] = []
        self._conditional: dict[str, _Conditional] = {}
        if written is not None:
            hyperparameters = self._conditioned(hyperparameters, written, defaults or {})
        self.hyperparameters = _ordered(hyperparameters)
        self._conditions_on: dict[str, list[tuple[Any, ...] | Between]] = {}
        for hyperparameter in self.hyperparameters:
            for parent, allowed in hyperparameter.conditions:
                self._conditions_on.setdefault(parent, []).append(allowed)
        fixed = list(_check_lists(self._template, self._template["model"], "model", self._found))
        self.notes += fixed if self.hyperparameters else []

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
                    for value, number in _told_apart(domain, self._conditions_on[hyperparameter.name]):
                        counts[(*kept, (hyperparameter.name, value))] += count * number
                else:
                    counts[kept] += count * domain.size
        return counts.total()

    def narrowed(self, parts: Mapping[str, Domain]) -> Space:
        """Returns this space with smaller domains.

        Args:
            parts: Domains by the names of their hyperparameters; each has values of the domain in this space only.
        """
        made = copy.copy(self)
        made.hyperparameters = [replace(h, domain=parts.get(h.name, h.domain)) for h in self.hyperparameters]
        return made

    def includes(self, values: Mapping[str, Any]) -> bool:
        """Returns whether a configuration of a larger space with the same hyperparameters is in this one."""
        domains = {h.name: h.domain for h in self.hyperparameters}
        return all(domains[name].includes(value) for name, value in values.items())

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
            The groups model, optimizer and training without sweeps. A key whose condition does not hold has its default
            of `conf/`, or is left out if it is an argument. A hyperparameter of a layer that does not exist has its
            first value, which the model does not use.
        """

        def fill(node: Any) -> Any:
            if isinstance(node, _Placeholder):
                return self._value(node.name, values)
            if isinstance(node, _Fixed):
                known = self._conditional[node.name]
                active = known.conditions is not None and holds(known.conditions, values)
                return node.value if active else known.default
            if isinstance(node, _Layers):
                count = (
                    self._value(node.count, values)
                    if node.count in self._found
                    else value_at(self._template, node.count)
                )
                return [self._value(name, values) for name in node.names[: fill(count)]]
            if isinstance(node, dict):
                return {key: value for key, inner in node.items() if (value := fill(inner)) is not _ABSENT}
            return [fill(inner) for inner in node] if isinstance(node, list) else node

        filled: dict[str, Any] = fill(self._template)
        return filled

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        known = self._conditional.get(name)
        if name in values:
            return values[name]
        if known is not None and holds(known.exists, values):
            return known.default
        return self._found[name if name in self._found else name.rpartition(".")[0]].extremes()[0]

    def inactive(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the names of the hyperparameters that are inactive in a configuration."""
        return [h.name for h in self.hyperparameters if h.name not in values]

    def unused(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the names of those inactive hyperparameters whose value in the config has no effect."""
        return [name for name in self.inactive(values) if name not in self._conditional]

    def describe(self) -> dict[str, str]:
        """Returns each hyperparameter's domain in the language of the config, and when it is active."""
        return {h.name: f"{h.domain}{_when(h.conditions)}" for h in self.hyperparameters}

    def corners(self) -> Iterator[Values]:
        """Yields the configurations to check before a sweep starts.

        Yields:
            All combinations of choices and ends of intervals, if there are at most 2,000. Otherwise each choice and
            each end, combined with the first and with the last values of all others, and 1,000 random combinations.
        """
        ends = [self._ends(h) for h in self.hyperparameters]
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

    def _ends(self, hyperparameter: Hyperparameter) -> tuple[Any, ...]:
        """Returns the values to check, with one for which each condition on the hyperparameter holds."""
        domain = hyperparameter.domain
        ends = list(domain.extremes())
        if isinstance(domain, Interval):
            for allowed in self._conditions_on.get(hyperparameter.name, ()):
                if not any(end in allowed for end in ends):
                    ends.append(allowed.some_value(domain) if isinstance(allowed, Between) else allowed[0])
        return tuple(ends)

    def _active(self, combination: Sequence[Any]) -> Values:
        values = dict(zip((h.name for h in self.hyperparameters), combination, strict=True))
        return self.choose(lambda hyperparameter: values[hyperparameter.name])

    # ---- conditions ---------------------------------------------------------------------------------------------

    def _conditioned(
        self, hyperparameters: Sequence[Hyperparameter], written: Mapping[str, Written], defaults: Mapping[str, Any]
    ) -> list[Hyperparameter]:
        """Adds the conditions of the config, and those that follow from what Keras accepts."""
        domains = {h.name: h.domain for h in hyperparameters}
        plain = {key: value for key, value in flat(self._template).items() if not _has_sweep(value)}
        decided: dict[str, tuple[Condition, ...] | None] = {}
        otherwise: dict[str, Any] = {}
        named: dict[str, set[str]] = {}
        for key, condition in written.items():
            keys = [name for name in [*domains, *plain] if name == key or name.startswith(f"{key}.")]
            if not keys and key in self._found:
                # The value is for a layer that never exists.
                continue
            _check_conditional(key, keys, domains, plain)
            conditions, notes = resolve(key, condition, domains, plain)
            if conditions is None:
                notes.append(f"{key} keeps its default: its condition {condition.text} never holds")
            self.notes += notes
            for name in keys:
                before = decided.get(name, ())
                decided[name] = None if before is None or conditions is None else merged(before + conditions)
                named.setdefault(name, set()).update(comparison.key for comparison in condition.comparisons)
                if condition.otherwise:
                    otherwise[name] = condition.otherwise[0]
        elsewhere: dict[str, Any] = {}
        for name in [*domains, *(key for key in plain if key.startswith(_ARGUMENTS))]:
            for found in implied(name, domains, plain):
                before = decided.get(name, ())
                parent, allowed = found.condition
                if parent in named.get(name, ()):
                    # The config has a condition on it, which may be narrower.
                    theirs = dict(before or ()).get(parent, ())
                    if found.needed and any(
                        option in theirs and option not in allowed for option in domains[parent].all()
                    ):
                        raise UserError(f"conditions.{name}: {found.why}")
                elif before is not None:
                    decided[name] = merged((*before, found.condition))
                    does = "is searched" if name in domains else "is used"
                    self.notes.append(f"{name} {does} only if {_either(found.condition)}: {found.why}")
        own = {h.name: h.conditions for h in hyperparameters}
        for name, conditions in decided.items():
            together = None if conditions is None else merged(own.get(name, ()) + conditions)
            if together is not None and any(allowed == () for _, allowed in together):
                together = None
            default = otherwise[name] if name in otherwise else self._default(name, defaults)
            if name in named and default is not _ABSENT and conditions is not None and plain.get(name) != default:
                elsewhere[_field(name)] = default
            self._conditional[name] = _Conditional(together, own.get(name, ()), default)
            if name in plain:
                put(self._template, name, _Fixed(name, plain[name]))
        self.notes += [
            f"{key} is {as_written(value)} where its condition does not hold" for key, value in elsewhere.items()
        ]
        found_conditions = {h.name: self._conditional[h.name].conditions for h in hyperparameters if h.name in decided}
        return [
            replace(h, conditions=conditions)
            for h in hyperparameters
            if (conditions := found_conditions.get(h.name, h.conditions)) is not None
        ]

    def _default(self, name: str, defaults: Mapping[str, Any]) -> Any:
        """Returns what a key is where its condition does not hold."""
        if name.startswith(_ARGUMENTS):
            return _ABSENT
        if name in defaults:
            return defaults[name]
        groups = shipped.trial_defaults(self._template["model"].get("kind"))
        groups["training"] = {**groups["training"], "seed": self._template["training"].get("seed")}
        default = value_at(groups, name)
        return None if default is MISSING else _first_value(default, self._found)


def identity(values: Mapping[str, Any]) -> str:
    """Returns a text that is the same for two configurations if and only if they are equal."""
    return json.dumps(values, sort_keys=True)


def _when(conditions: Sequence[Condition]) -> str:
    return "".join(f" {'and' if i else 'if'} {shown(condition)}" for i, condition in enumerate(conditions))


def _field(name: str) -> str:
    """Returns the key of a value, without the number of its layer."""
    field, _, last = name.rpartition(".")
    return field if last.isdigit() else name


def _either(condition: Condition) -> str:
    parent, allowed = condition
    return shown(condition) if isinstance(allowed, Between) else f"{parent} is {' or '.join(map(as_written, allowed))}"


def _check_conditional(
    key: str, keys: Collection[str], domains: Mapping[str, Domain], plain: Mapping[str, Any]
) -> None:
    """Refuses a condition on a key that is not in the space, or that has to be the same in all trials."""
    common = next((name for name in keys if name in _COMMON), None)
    if common is not None:
        raise UserError(f"conditions.{key}: {common} is the same in all trials of a sweep, so it can have no condition")
    if keys:
        return
    if key.partition(".")[0] not in shipped.TRIAL_GROUPS:
        raise UserError(f"conditions.{key}: only keys of {shipped.SEARCHED} can have a condition")
    if key.startswith(_ARGUMENTS):
        raise UserError(f"conditions.{key}: this argument is neither searched nor set; write +{key}=…, or remove this")
    raise UserError(f"conditions.{unknown_key(key, [*domains, *plain])}")


def _ordered(hyperparameters: Sequence[Hyperparameter]) -> list[Hyperparameter]:
    """Moves each hyperparameter behind those that it depends on, and leaves the order as it is otherwise."""
    rest, placed = list(hyperparameters), dict[str, Hyperparameter]()
    while rest:
        ready = next((h for h in rest if all(parent in placed for parent, _ in h.conditions)), None)
        if ready is None:
            break
        placed[ready.name] = ready
        rest.remove(ready)
    unplaced = {h.name: next(p for p, _ in h.conditions if p not in placed) for h in rest}
    if unplaced:
        chain = [next(iter(unplaced))]
        while chain[-1] in unplaced and chain.count(chain[-1]) == 1:
            chain.append(unplaced[chain[-1]])
        circle = chain[chain.index(chain[-1]) :]
        raise UserError(f"conditions.{circle[0]}: is circular: {' depends on '.join(circle)}")
    return list(placed.values())


def _told_apart(domain: Domain, conditions: Sequence[tuple[Any, ...] | Between]) -> Iterator[tuple[Any, int]]:
    """Yields one value of each kind that some conditions tell apart, with the number of such values."""
    found: dict[tuple[bool, ...], tuple[Any, int]] = {}
    for value, number in _runs(domain, conditions):
        kind = tuple(value in allowed for allowed in conditions)
        first, count = found.get(kind, (value, 0))
        found[kind] = (first, count + number)
    yield from found.values()


def _runs(domain: Domain, conditions: Sequence[tuple[Any, ...] | Between]) -> Iterator[tuple[Any, int]]:
    """Yields the values of a domain, with the number of those in a row that no condition tells apart."""
    if isinstance(domain, Choice):
        yield from ((option, 1) for option in domain.options)
        return
    low, high = int(domain.low), int(domain.high)
    bounds = [
        bound
        for allowed in conditions
        for bound in ((allowed.low, allowed.high) if isinstance(allowed, Between) else allowed)
        if math.isfinite(bound)
    ]
    cuts = {math.floor(bound) + i for bound in bounds for i in (0, 1)}
    starts = sorted({low, *(cut for cut in cuts if low < cut <= high)})
    yield from ((start, end - start) for start, end in itertools.pairwise([*starts, high + 1]))


def _has_sweep(node: Any) -> bool:
    """Whether a value of a space's template contains the place of a hyperparameter."""
    if isinstance(node, list):
        return any(map(_has_sweep, node))
    return isinstance(node, _Placeholder | _Layers)


def _first_value(node: Any, found: Mapping[str, Domain]) -> Any:
    return found[node.name].extremes()[0] if isinstance(node, _Placeholder) else node


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
                put(template, key, _Layers(tuple(names), count))
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
    domain = found.get(key)
    options = list(domain.all()) if domain is not None and domain.size is not None else [value_at(template, key)]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in options)
    return options if whole else None


def _readable(option: list[Any], found: Mapping[str, Domain]) -> str:
    if not any(isinstance(value, _Placeholder) for value in option):
        return str(option)
    return f"[{', '.join(str(found[v.name] if isinstance(v, _Placeholder) else v) for v in option)}]"


def _check_lists(
    template: Mapping[str, Any], node: Mapping[str, Any], prefix: str, found: Mapping[str, Domain]
) -> Iterator[str]:
    """Refuses lists with more values than layers, because the surplus would be ignored silently.

    Yields:
        A line on each list that is not searched, because other programs would search its values.
    """
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if isinstance(value, dict):
            yield from _check_lists(template, value, key, found)
        count = _count_key(key)
        layers = _layer_counts(template, found, count) if count else None
        domain = found.get(key)
        plain = isinstance(value, list) and not any(isinstance(one, _Placeholder) for one in value)
        searched = f"{key}={','.join(map(as_written, value))}" if plain else ""
        for option in domain.options if isinstance(domain, Choice) else [value]:
            if isinstance(option, list) and layers and len(option) > max(layers):
                raise UserError(
                    f"{key}={_readable(option, found)}: has {counted(len(option), 'value')} for "
                    f"{counted(max(layers), 'layer')}; give one for each layer, or set {count}={len(option)}"
                    f"{f'; to search these values: {searched}' if plain else ''}"
                )
        if plain and layers and len(set(map(str, value))) > 1:
            yield f"{key} has one value for each layer; to search these values instead: {searched}"
