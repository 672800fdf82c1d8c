"""Hydra's sweep grammar as the language of search spaces, in YAML and on the command line alike.

`choice(16, 64)` or `16,64`, `range(1, 4)`, `interval(0, 0.5)`, `int(interval(16, 512))`,
`tag(log, interval(1e-4, 1e-1))`.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from mnist_sweep.errors import UserError

_SWEEP_CALL = re.compile(r"\s*(choice|range|interval|tag|shuffle|sort|glob|int|float|str|bool)\s*\(")


@dataclass(frozen=True)
class Choice:
    """A list of values, of any JSON type, in the order in which they were written."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        return f"choice({', '.join(o if isinstance(o, str) else json.dumps(o) for o in self.options)})"

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.options)

    def all(self) -> Iterator[Any]:
        """Every value."""
        return iter(self.options)

    def extremes(self) -> Sequence[Any]:
        """The values to check a config at: all of them."""
        return self.options

    def sample(self, rng: random.Random) -> Any:  # noqa: ANN401
        """A value drawn at random."""
        return rng.choice(self.options)


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: The least.
        high: The greatest.
        integer: Whether they are whole numbers.
        log: Whether they are drawn evenly in the logarithm.
    """

    low: float
    high: float
    integer: bool
    log: bool

    def __str__(self) -> str:
        text = f"interval({self.low:g}, {self.high:g})"
        text = f"int({text})" if self.integer else text
        return f"tag(log, {text})" if self.log else text

    @property
    def size(self) -> int | None:
        """How many values there are; None where they cannot be counted."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    def all(self) -> Iterator[Any]:
        """Every value of an interval of whole numbers."""
        return iter(range(int(self.low), int(self.high) + 1))

    def extremes(self) -> Sequence[Any]:
        """The values to check a config at: both ends."""
        return (self.low, self.high)

    def clamp(self, value: float) -> float:
        """The nearest value inside, as an int or a float as it should be."""
        inside = min(max(float(value), self.low), self.high)
        return round(inside) if self.integer else inside

    def sample(self, rng: random.Random) -> float:
        """A value drawn at random."""
        if self.log:
            return self.clamp(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if self.integer:
            return rng.randint(int(self.low), int(self.high))
        return self.clamp(rng.uniform(self.low, self.high))


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def read_sweep(text: str, key: str) -> Choice | Interval | None:
    """Reads one value in Hydra's sweep grammar.

    Args:
        text: The value as written.
        key: Its key, for the message.

    Returns:
        The domain, or None where the text is a plain value.

    Raises:
        UserError: It is meant as a sweep, but cannot be read, or is empty.
    """
    try:
        parsed = _parser().parse_overrides([f"key={text}"])[0]
    except HydraException as error:
        if _SWEEP_CALL.match(text):
            raise UserError(f"{key}={text}: cannot be read as a sweep ({str(error).splitlines()[0]})") from None
        return None
    if not parsed.is_sweep_override():
        return None
    sweep: Any = parsed.value()
    if isinstance(sweep, Glob):
        raise UserError(f"{key}={text}: glob picks files of a config group, which cannot be searched; write choice(…)")
    unknown = sweep.tags - {"log"}
    if unknown:
        raise UserError(f"{key}={text}: unknown tag {min(unknown)!r}; the one there is, is log")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, text, key)
    if sweep.tags:
        raise UserError(f"{key}={text}: tag(log, …) goes with interval(…)")
    options = _unique(list(sweep.range()) if isinstance(sweep, RangeSweep) else [_plain(v) for v in sweep.list])
    if not options:
        raise UserError(f"{key}={text}: holds no value")
    return Choice(options)


def _interval(sweep: IntervalSweep, text: str, key: str) -> Interval:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{key}={text}: both ends must be finite numbers")
    if low >= high:
        raise UserError(f"{key}={text}: the first number must be the smaller one")
    if log and low <= 0:
        raise UserError(f"{key}={text}: a logarithmic interval must start above 0")
    return Interval(low, high, isinstance(low, int) and isinstance(high, int), log)


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value


def _unique(options: Sequence[Any]) -> tuple[Any, ...]:
    # JSON tells 1 from True and 1.0, which Python's equality does not.
    return tuple({json.dumps(option, sort_keys=True): option for option in options}.values())


def parse_value(text: str, key: str) -> Any:  # noqa: ANN401 - any JSON type
    """Reads one plain value as Hydra reads it on the command line.

    Args:
        text: Such as `20`, `null` or `2h`.
        key: Its key, for the message.

    Raises:
        UserError: It cannot be read, or is a sweep.
    """
    try:
        parsed = _parser().parse_overrides([f"key={text}"])[0]
    except HydraException:
        raise UserError(f"{key}={text}: cannot be read") from None
    if parsed.is_sweep_override():
        raise UserError(f"{key}={text}: must be one value")
    return parsed.value()


def quote_sweeps(overrides: Sequence[str], *, intervals_only: bool = False) -> list[str]:
    """Quotes the command line's sweeps, which Hydra refuses outside multirun.

    Args:
        overrides: Arguments such as `model.units=16,64`.
        intervals_only: Leave the others to Hydra, which makes a sweep for each of their values under `-m`.

    Returns:
        The same, with each sweep as a quoted text: `model.units='16,64'`. What cannot be parsed stays as it is, so
        that Hydra reports it.
    """
    quoted = []
    for argument in overrides:
        try:
            override: Override = _parser().parse_overrides([argument])[0]
        except HydraException:
            quoted.append(argument)
            continue
        wanted = override.is_interval_sweep() if intervals_only else override.is_sweep_override()
        if wanted and not override.is_hydra_override():
            text = argument.partition("=")[2]
            argument = f"{override.get_key_element()}={QuotedString(text, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted
