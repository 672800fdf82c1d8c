"""Conditions between hyperparameters: those that a config has, and those that follow from what Keras accepts.

A hyperparameter whose condition does not hold is inactive: a trial has no value for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config import keras_names
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.condition_text import Comparison, Written
from mnist_sweep.config.grammar import Choice, Domain, Interval, is_number
from mnist_sweep.config.key_names import unknown_key
from mnist_sweep.config.shipped import SEARCHED, TRIAL_GROUPS

# A list of the remaining values of an interval of whole numbers is not longer than this.
_MOST_LISTED = 1000
# The text values that Keras knows, of which a sweep need not search all that a condition names.
_KNOWN: dict[str, Collection[str]] = {
    "optimizer.name": keras_names.OPTIMIZERS,
    "optimizer.schedule.name": keras_names.SCHEDULES,
    "model.activation": keras_names.ACTIVATIONS,
    "model.dense.activation": keras_names.ACTIVATIONS,
}


@dataclass(frozen=True)
class Between:
    """The numbers of an interval, for a condition such as `model.dropout > 0.3`.

    Attributes:
        low: The smallest number.
        high: The largest number.
        above: Whether `low` itself is left out.
        below: Whether `high` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        if not is_number(value):
            return False
        assert isinstance(value, int | float)
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __and__(self, other: Between) -> Between:
        low, above = max((self.low, self.above), (other.low, other.above))
        high, not_below = min((self.high, not self.below), (other.high, not other.below))
        return Between(low, high, above, not not_below)

    def shown(self, name: str) -> str:
        """Returns the condition on a hyperparameter as text: `0.1 < model.dropout <= 0.3`."""
        if self.high == math.inf:
            return f"{name} {'>' if self.above else '>='} {self.low:g}"
        upper = f"{name} {'<' if self.below else '<='} {self.high:g}"
        return upper if self.low == -math.inf else f"{self.low:g} {'<' if self.above else '<='} {upper}"

    def some_value(self, domain: Interval) -> float | None:
        """Returns a number that is in this interval and in a domain; None if there is none."""
        low, high = max(self.low, domain.low), min(self.high, domain.high)
        if domain.integer:
            candidates: list[float] = [math.ceil(low), math.floor(low) + 1]
        else:
            candidates = [low, (low + high) / 2, high]
        inside = (c for c in candidates if c in self and domain.low <= c <= domain.high)
        return next(inside, None)


# The name of a hyperparameter, and the values of it that a condition allows.
Listed = tuple[str, tuple[Any, ...]]
Condition = tuple[str, tuple[Any, ...] | Between]


def shown(condition: Condition) -> str:
    """Returns a condition as text: `optimizer.name in ['sgd']`."""
    parent, allowed = condition
    return allowed.shown(parent) if isinstance(allowed, Between) else f"{parent} in {list(allowed)}"


def holds(conditions: tuple[Condition, ...], values: Mapping[str, Any]) -> bool:
    """Returns whether all conditions hold; one on an inactive hyperparameter does not."""
    return all(parent in values and values[parent] in allowed for parent, allowed in conditions)


def merged(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Merges the conditions on each parent into one, which may hold for no value."""
    found: dict[str, tuple[Any, ...] | Between] = {}
    for parent, allowed in conditions:
        before = found.get(parent)
        if before is None:
            found[parent] = allowed
        elif isinstance(before, Between) and isinstance(allowed, Between):
            found[parent] = before & allowed
        else:
            listed, other = (allowed, before) if isinstance(before, Between) else (before, allowed)
            assert not isinstance(listed, Between)
            found[parent] = tuple(value for value in listed if value in other)
    return tuple(found.items())


# ---- conditions that the config has ---------------------------------------------------------------------------------


def resolve(
    key: str, written: Written, domains: Mapping[str, Domain], plain: Mapping[str, Any]
) -> tuple[tuple[Condition, ...] | None, list[str]]:
    """Compares a written condition with the space.

    Args:
        key: The key that has the condition.
        written: The condition.
        domains: The domain of each hyperparameter, by name.
        plain: The values that are not searched, by dotted key.

    Returns:
        The conditions that trials decide, or None if it never holds because of values that are not searched; and
        what the user may want to know about it.

    Raises:
        UserError: It names an unknown key, or a value that the key cannot have, or it can never hold.
    """
    result: list[Condition] = []
    notes: list[str] = []
    never = False
    for comparison in written.comparisons:
        where = f"conditions.{key}={written.text}"
        if comparison.key == key:
            raise UserError(f"{where}: {key} depends on itself")
        if comparison.key in domains:
            allowed, missing = _allowed(where, comparison, domains[comparison.key])
            result.append((comparison.key, allowed))
            notes += [f"{where}: {comparison.key} is never {as_written(value)} in this sweep" for value in missing]
        elif comparison.key in plain:
            never |= not _decided(where, comparison, plain[comparison.key])
        else:
            raise UserError(f"{where}: {_no_such_parent(comparison.key, domains, plain)}")
    conditions = merged(tuple(result))
    for parent, allowed in conditions:
        domain = domains[parent]
        empty = not allowed if isinstance(allowed, tuple) else _is_empty(allowed, domain)
        if empty:
            raise UserError(f"conditions.{key}={written.text}: never holds; {parent} is searched in {domain}")
    return (None if never else conditions), notes


def _is_empty(allowed: Between, domain: Domain) -> bool:
    return isinstance(domain, Interval) and allowed.some_value(domain) is None


def _no_such_parent(key: str, domains: Mapping[str, Domain], plain: Mapping[str, Any]) -> str:
    layers = [name for name in domains if name.startswith(f"{key}.") and name.removeprefix(f"{key}.").isdigit()]
    if layers:
        return f"{key} is searched for each layer; name one, such as {layers[0]}"
    below = [name for name in [*domains, *plain] if name.startswith(f"{key}.")]
    if below:
        return f"{key} is a group; name one of its keys, such as {below[0]}"
    if key.partition(".")[0] not in TRIAL_GROUPS and "." in key:
        return f"{key} is not a part of the search space; name a key of {SEARCHED}"
    return unknown_key(key, [*domains, *plain])


def _decided(where: str, comparison: Comparison, value: Any) -> bool:
    """Whether a comparison with a value that is not searched holds."""
    if comparison.operator in ("in", "not in"):
        return any(_same(value, other) for other in comparison.values) == (comparison.operator == "in")
    if not is_number(value):
        raise UserError(f"{where}: {comparison.key} is {as_written(value)}, which is not a number")
    return value in _between(comparison)


def _allowed(where: str, comparison: Comparison, domain: Domain) -> tuple[tuple[Any, ...] | Between, list[Any]]:
    """Returns the values of a searched key for which a comparison holds, and the ones it names that are not searched.

    Raises:
        UserError: It names a value that the key cannot have.
    """
    key, operator = comparison.key, comparison.operator
    if operator not in ("in", "not in"):
        if not domain.numeric and not (isinstance(domain, Choice) and any(map(is_number, domain.options))):
            raise UserError(f"{where}: {key} is searched in {domain}, which are not numbers; use in, == or !=")
        between = _between(comparison)
        if isinstance(domain, Choice):
            return tuple(option for option in domain.options if option in between), []
        return between, []
    if isinstance(domain, Interval) and not domain.integer:
        raise UserError(
            f"{where}: {key} is searched in {domain}, an interval of real numbers; compare it with <, <=, > or >="
        )
    members = [value for value in comparison.values if _member(value, domain)]
    missing = [value for value in comparison.values if not _member(value, domain)]
    for value in missing:
        # Narrowing a space on the command line leaves values in the conditions of an experiment's file.
        if not members or not _may_be_left_out(key, value, domain):
            raise UserError(
                f"{where}: {key} is never {as_written(value)}; it is searched in {domain}{_near(key, value, domain)}"
            )
    if isinstance(domain, Choice):
        wanted = operator == "in"
        return tuple(o for o in domain.options if any(_same(o, v) for v in members) == wanted), missing
    if operator == "in":
        return tuple(int(value) for value in members), missing
    if (domain.size or 0) > _MOST_LISTED:
        raise UserError(f"{where}: {key} has too many other values; compare it with <, <=, > or >=")
    return tuple(value for value in domain.all() if value not in members), missing


def _between(comparison: Comparison) -> Between:
    (number,) = comparison.values
    if comparison.operator in (">", ">="):
        return Between(low=number, above=comparison.operator == ">")
    return Between(high=number, below=comparison.operator == "<")


def _member(value: Any, domain: Domain) -> bool:
    if isinstance(domain, Choice):
        return any(_same(value, option) for option in domain.options)
    return is_number(value) and value == round(value) and domain.low <= value <= domain.high


def _may_be_left_out(key: str, value: Any, domain: Domain) -> bool:
    known = _known(key)
    if known is not None:
        return value is None or str(value) in known or str(value).lower() in known
    return domain.numeric and is_number(value)


def _known(key: str) -> Collection[str] | None:
    """Returns the names that Keras knows for a key, or for a layer's value; None for any other key."""
    return _KNOWN.get(key.rstrip("0123456789").rstrip("."))


def _near(key: str, value: Any, domain: Domain) -> str:
    if not isinstance(value, str) or not isinstance(domain, Choice):
        return ""
    hint = did_you_mean(value, {*map(str, domain.options), *(_known(key) or ())})
    return hint if "did you mean" in hint else ""


def _same(one: Any, other: Any) -> bool:
    """Returns whether two values of a config are the same: 1 and 1.0 are, 1 and true are not."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


# ---- conditions that follow from what Keras accepts -----------------------------------------------------------------


@dataclass(frozen=True)
class Implied:
    """A condition that the config need not have.

    Attributes:
        condition: The condition.
        why: What is wrong with the other values.
        needed: Whether a trial is impossible without it.
    """

    condition: Condition
    why: str
    needed: bool


def implied(key: str, domains: Mapping[str, Domain], plain: Mapping[str, Any]) -> Iterator[Implied]:
    """Yields the conditions under which a key has an effect at all.

    Args:
        key: A key that is searched, or has one value.
        domains: The domain of each hyperparameter, by name.
        plain: The values that are not searched, by dotted key.
    """
    optimizer, schedule = "optimizer.arguments.", "optimizer.schedule.arguments."
    if key.startswith(optimizer):
        argument = key.removeprefix(optimizer).partition(".")[0]
        arguments = {name: frozenset(known) for name, known in keras_names.OPTIMIZERS.items()}
        yield from _taking(argument, "optimizer.name", arguments, domains)
    elif key.startswith(schedule):
        argument = key.removeprefix(schedule).partition(".")[0]
        arguments = {name: frozenset(a | b) for name, (a, b) in keras_names.SCHEDULES.items()}
        yield from _taking(argument, "optimizer.schedule.name", arguments, domains)
    if key not in domains:
        return
    unused: dict[str, tuple[str, Any]] = {
        "model.pooling.size": ("model.pooling.kind", None),
        "model.pooling.after": ("model.pooling.kind", None),
        "training.early_stopping.min_delta": ("training.early_stopping.patience", None),
        f"{optimizer}ema_momentum": (f"{optimizer}use_ema", False),
        f"{optimizer}ema_overwrite_frequency": (f"{optimizer}use_ema", False),
    }
    names = domains["optimizer.name"] if "optimizer.name" in domains else Choice((plain.get("optimizer.name"),))
    takers = {str(name).lower() for name in names.all() if "nesterov" in _arguments_of(name)}
    if takers == {"sgd"}:
        unused[f"{optimizer}nesterov"] = (f"{optimizer}momentum", 0)
    parent, off = unused.get(key, ("", None))
    domain = domains.get(parent)
    if isinstance(domain, Choice):
        used = tuple(option for option in domain.options if not _same(option, off))
        if 0 < len(used) < len(domain.options):
            yield Implied((parent, used), f"with {as_written(off)} it has no effect", needed=False)


def _arguments_of(optimizer: Any) -> set[str]:
    return keras_names.OPTIMIZERS.get(str(optimizer).lower(), set())


def _taking(
    argument: str, parent: str, arguments: Mapping[str, frozenset[str]], domains: Mapping[str, Domain]
) -> Iterator[Implied]:
    """Yields the condition that the optimizer or the schedule takes an argument, if only some of those searched do."""
    domain = domains.get(parent)
    if not isinstance(domain, Choice):
        return
    known = {name.lower(): taken for name, taken in arguments.items()}
    takes = {str(o): argument in known.get(str(o).lower(), ()) for o in domain.options}
    lacking = [as_written(o) for o in domain.options if not takes[str(o)]]
    if any(takes.values()) and lacking:
        have = "have" if len(lacking) > 1 else "has"
        allowed = tuple(o for o in domain.options if takes[str(o)])
        yield Implied((parent, allowed), f"{' and '.join(lacking)} {have} no such argument", needed=True)
