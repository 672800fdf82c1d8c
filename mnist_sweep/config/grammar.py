"""Hydra's sweep grammar as the language of search spaces, in YAML and on the command line alike.

`choice(16, 64)` or `16,64`, `range(1, 4)`, `interval(0, 0.5)`, `int(interval(16, 512))`,
`tag(log, interval(1e-4, 1e-1))`.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException

from mnist_sweep.common.errors import UserError

_FORMS = "write choice(a, b), range(start, stop), interval(low, high), int(interval(…)) or tag(log, interval(…))"
_SWEEP_CALL = re.compile(r"\s*(choice|range|interval|tag|shuffle|sort|glob|int|float|str|bool)\s*\(")


# Of a range; each of them is checked before a sweep begins.
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class Choice:
    """A list of values, of any JSON type, in the order in which they were written."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        written = [repr(o) if isinstance(o, float) else _written(o) for o in self.options]
        return f"choice({', '.join(written)})"

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.options)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(type(option) in (int, float) for option in self.options)

    def all(self) -> Iterator[Any]:
        """Every value."""
        return iter(self.options)

    def extremes(self) -> Sequence[Any]:
        """The values to check a config at: all of them."""
        return self.options

    def sample(self, rng: random.Random) -> Any:
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
        text = f"interval({_written(self.low)}, {_written(self.high)})"
        text = f"int({text})" if self.integer else text
        return f"tag(log, {text})" if self.log else text

    @property
    def size(self) -> int | None:
        """How many values there are; None where they cannot be counted."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers: they are."""
        return True

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
    text = text.strip()
    choice = re.fullmatch(r"choice\((.*)\)", text, re.DOTALL)
    try:
        try:
            parsed = _parser().parse_overrides([f"key={text}"])[0]
        except HydraException:
            # Hydra's choice() takes no null, though null,1 is a choice.
            if choice is None or "null" not in text:
                raise
            parsed = _parser().parse_overrides([f"key={choice.group(1)}"])[0]
            if not parsed.is_sweep_override():
                return Choice((parsed.value(),))
        if not parsed.is_sweep_override():
            return None
        return _domain(parsed.value(), text, key)
    except (HydraException, ValueError) as error:
        if not _SWEEP_CALL.match(text):
            return None
        # Hydra's first line may only repeat the sweep, under the key that stands for the real one here.
        reasons = [line for line in str(error).splitlines() if "key=" not in line and "See http" not in line]
        raise UserError(f"{key}={text}: cannot be read as a sweep ({(reasons or [_FORMS])[0]})") from None


def _domain(sweep: Any, text: str, key: str) -> Choice | Interval:
    if isinstance(sweep, Glob):
        raise UserError(f"{key}={text}: glob picks files of a config group, which cannot be searched; write choice(…)")
    unknown = sweep.tags - {"log"}
    if unknown:
        raise UserError(f"{key}={text}: unknown tag {min(unknown)!r}; the one there is, is log")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, text, key)
    if sweep.tags:
        raise UserError(f"{key}={text}: tag(log, …) goes with interval(…)")
    if isinstance(sweep, RangeSweep):
        start, stop, step = (float(number or 0) for number in (sweep.start, sweep.stop, sweep.step))
        if step and not abs((stop - start) / step) <= _MOST_VALUES:
            raise UserError(f"{key}={text}: holds more than {_MOST_VALUES:,} values; write int(interval(…)) instead")
        options = _unique(list(sweep.range()))
    else:
        options = _unique([_plain(v) for v in sweep.list])
    if not options:
        raise UserError(f"{key}={text}: holds no value")
    return Choice(options)


def _interval(sweep: IntervalSweep, text: str, key: str) -> Interval:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{key}={text}: both ends must be finite numbers")
    if low == high and isinstance(low, int):
        raise UserError(f"{key}={text}: holds no whole number but {low}")
    if low >= high:
        raise UserError(f"{key}={text}: the first number must be the smaller one")
    if log and low <= 0:
        raise UserError(f"{key}={text}: a logarithmic interval must start above 0")
    return Interval(low, high, isinstance(low, int) and isinstance(high, int), log)


def _plain(value: Any) -> Any:
    if isinstance(value, Sweep):
        raise ValueError("a sweep cannot be a value of another")
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value


def _unique(options: Sequence[Any]) -> tuple[Any, ...]:
    # Their texts tell 1 from True and 1.0, which Python's equality does not.
    return tuple({_canonical(option): option for option in options}.values())


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return str(sorted((_canonical(key), _canonical(inner)) for key, inner in value.items()))
    return str([_canonical(inner) for inner in value]) if isinstance(value, list) else repr(value)


def _written(value: Any) -> str:
    """A value as Hydra's grammar reads it."""
    if isinstance(value, str):
        try:
            plain = parse_value(value, "") == value
        except UserError:
            plain = False
        # A backslash, plain by itself, escapes what follows it in a list.
        return value if plain and value and "\\" not in value else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written(k)}: {_written(v)}' for k, v in value.items())}}}"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "null" if value is None else str(value).lower()


def parse_value(text: str, key: str) -> Any:
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


def values_of(override: str) -> list[str]:
    """The texts that an override of the command line gives its key: one, or several where it is a sweep.

    Args:
        override: Such as `tracking.uri=http://box:5000`.

    Returns:
        The texts without quotes; none where the override cannot be read.
    """
    try:
        parsed: Override = _parser().parse_overrides([override])[0]
        value = parsed.value()
    except (HydraException, ValueError):
        return []
    found = value.list if isinstance(value, ChoiceSweep) else [value]
    return [text.text if isinstance(text, QuotedString) else str(text) for text in found]


def is_sweep(override: str) -> bool:
    """Whether an override of the command line gives its key a sweep, quoted for Hydra or not."""
    try:
        parsed: Override = _parser().parse_overrides([override])[0]
        if parsed.is_sweep_override():
            return True
        value = parsed.value()
        return isinstance(value, str) and read_sweep(value, str(parsed.key_or_group)) is not None
    except (HydraException, UserError):
        return False


def _quoted_choice(argument: str) -> str:
    """An override that Hydra's parser refuses, quoted if it is a choice with a null, which `read_sweep` takes."""
    key, _, text = argument.partition("=")
    try:
        sweep = read_sweep(text, key)
    except UserError:
        return argument
    return argument if sweep is None else f"{key}={QuotedString(text, Quote.single).with_quotes()}"


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
            quoted.append(argument if intervals_only else _quoted_choice(argument))
            continue
        wanted = override.is_interval_sweep() if intervals_only else override.is_sweep_override()
        if wanted and not override.is_hydra_override():
            text = argument.partition("=")[2]
            argument = f"{override.get_key_element()}={QuotedString(text, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted
