"""Hydra's sweep grammar as the language of search spaces, in YAML and on the command line.

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

from hydra.core.override_parser import types as hydra_types
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mnist_sweep.common.errors import UserError

FORMS = "write choice(a, b), range(start, stop), interval(low, high), int(interval(…)) or tag(log, interval(…))"
_SWEEP_CALL = re.compile(r"\s*(choice|range|interval|tag|shuffle|sort|glob|int|float|str|bool)\s*\(")

# Keys of which every value is text.
_NAMES = ("name", "description")
# The group of conditions, and how values of it start that Hydra can read.
_CONDITIONS, _NOT_QUOTED = "conditions", ("'", '"', "{")
# Values of a range; each of them is checked before a sweep starts.
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class Choice:
    """A list of values, of any JSON type, in the order of the config."""

    options: tuple[Any, ...]

    def __str__(self) -> str:
        written = [repr(o) if isinstance(o, float) else _written(o) for o in self.options]
        return f"choice({', '.join(written)})"

    @property
    def size(self) -> int:
        """The number of values."""
        return len(self.options)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(type(option) in (int, float) for option in self.options)

    def includes(self, value: Any) -> bool:
        """Returns whether a value of a larger domain is in this one."""
        return _canonical(value) in map(_canonical, self.options)

    def all(self) -> Iterator[Any]:
        """Returns every value."""
        return iter(self.options)

    def extremes(self) -> Sequence[Any]:
        """Returns the values to check a config with: all of them."""
        return self.options

    def sample(self, rng: random.Random) -> Any:
        """Draws a value at random."""
        return rng.choice(self.options)


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: The smallest value.
        high: The largest value.
        integer: Whether the values are whole numbers.
        log: Whether values are drawn evenly on a logarithmic scale.
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
        """The number of values; None if they cannot be counted."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers: they are."""
        return True

    def includes(self, value: Any) -> bool:
        """Returns whether a value of a larger domain is in this one."""
        return bool(self.low <= value <= self.high)

    def all(self) -> Iterator[Any]:
        """Returns every value of an interval of whole numbers."""
        return iter(range(int(self.low), int(self.high) + 1))

    def extremes(self) -> Sequence[Any]:
        """Returns the values to check a config with: both ends."""
        return (self.low, self.high)

    def clamp(self, value: float) -> float:
        """Returns the closest value inside the interval, as an int or a float."""
        inside = min(max(float(value), self.low), self.high)
        return round(inside) if self.integer else inside

    def sample(self, rng: random.Random) -> float:
        """Draws a value at random."""
        if self.log:
            return self.clamp(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if self.integer:
            return rng.randint(int(self.low), int(self.high))
        return self.clamp(rng.uniform(self.low, self.high))


Domain = Choice | Interval
"""The values of a hyperparameter."""


@functools.cache
def parser() -> OverridesParser:
    """Returns Hydra's parser of overrides, which takes a while to create."""
    return OverridesParser.create()


def read_sweep(text: str, key: str) -> Domain | None:
    """Parses one value in Hydra's sweep grammar.

    Args:
        text: The value as text.
        key: Its key, for error messages.

    Returns:
        The domain, or None if the text is a plain value.

    Raises:
        UserError: The text looks like a sweep, but cannot be read or is empty.
    """
    text = text.strip()
    choice = re.fullmatch(r"choice\((.*)\)", text, re.DOTALL)
    try:
        try:
            parsed = parser().parse_overrides([f"key={text}"])[0]
        except HydraException:
            # Hydra's choice() does not accept null, although null,1 is a choice.
            if choice is None or "null" not in text:
                raise
            parsed = parser().parse_overrides([f"key={choice.group(1)}"])[0]
            if not parsed.is_sweep_override():
                return Choice((parsed.value(),))
        if not parsed.is_sweep_override():
            return None
        return _domain(parsed.value(), text, key)
    except (HydraException, ValueError) as error:
        if not _SWEEP_CALL.match(text):
            return None
        # Hydra's first line may only repeat the sweep, with the placeholder `key`.
        reasons = [line for line in str(error).splitlines() if "key=" not in line and "See http" not in line]
        raise UserError(f"{key}={text}: cannot be read as a sweep ({(reasons or [FORMS])[0]})") from None


def looks_like_sweep(text: str) -> bool:
    """Returns whether a text is a sweep, readable or not."""
    try:
        return read_sweep(text, "") is not None
    except UserError:
        return True


def is_number(value: object) -> bool:
    """Returns whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _domain(sweep: Any, text: str, key: str) -> Domain:
    if isinstance(sweep, hydra_types.Glob):
        raise UserError(f"{key}={text}: glob picks files of a config group, which cannot be searched; write choice(…)")
    unknown = sweep.tags - {"log"}
    if unknown:
        raise UserError(f"{key}={text}: unknown tag {min(unknown)!r}; the only tag is log")
    if isinstance(sweep, hydra_types.IntervalSweep):
        return _interval(sweep, text, key)
    if sweep.tags:
        raise UserError(f"{key}={text}: tag(log, …) works only with interval(…)")
    if isinstance(sweep, hydra_types.RangeSweep):
        start, stop, step = (float(number or 0) for number in (sweep.start, sweep.stop, sweep.step))
        if step and not abs((stop - start) / step) <= _MOST_VALUES:
            raise UserError(f"{key}={text}: has more than {_MOST_VALUES:,} values; write int(interval(…)) instead")
        options = _unique(list(sweep.range()))
    else:
        options = _unique([_plain(v) for v in sweep.list])
    if not options:
        raise UserError(f"{key}={text}: has no values")
    return Choice(options)


def _interval(sweep: hydra_types.IntervalSweep, text: str, key: str) -> Interval:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{key}={text}: both ends must be finite numbers")
    if low == high and isinstance(low, int):
        raise UserError(f"{key}={text}: contains only one whole number; write {key}={low}")
    if low >= high:
        raise UserError(f"{key}={text}: the first number must be smaller than the second")
    if log and low <= 0:
        raise UserError(f"{key}={text}: a logarithmic interval must start above 0")
    return Interval(low, high, isinstance(low, int) and isinstance(high, int), log)


def _plain(value: Any) -> Any:
    if isinstance(value, hydra_types.Sweep):
        raise ValueError("a sweep cannot contain another sweep")
    if isinstance(value, hydra_types.QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value


def _unique(options: Sequence[Any]) -> tuple[Any, ...]:
    # Compared as text: in Python, 1 equals True and 1.0.
    return tuple({_canonical(option): option for option in options}.values())


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return str(sorted((_canonical(key), _canonical(inner)) for key, inner in value.items()))
    return str([_canonical(inner) for inner in value]) if isinstance(value, list) else repr(value)


def _written(value: Any) -> str:
    """Returns a value in Hydra's grammar."""
    if isinstance(value, str):
        try:
            plain = parse_value(value, "") == value
        except UserError:
            plain = False
        # A backslash is plain outside a list, but escapes the next character in one.
        return value if plain and value and "\\" not in value else _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written(k)}: {_written(v)}' for k, v in value.items())}}}"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "null" if value is None else str(value).lower()


def parse_value(text: str, key: str) -> Any:
    """Parses one plain value as Hydra does on the command line.

    Args:
        text: A value such as `20`, `null` or `2h`.
        key: Its key, for error messages.

    Raises:
        UserError: The text cannot be read, or is a sweep.
    """
    try:
        parsed = parser().parse_overrides([f"key={text}"])[0]
    except HydraException:
        raise UserError(f"{key}={text}: cannot be read") from None
    if parsed.is_sweep_override():
        raise UserError(f"{key}={text}: must be a single value")
    return parsed.value()


def values_of(override: str) -> list[str]:
    """Returns the values in an override of the command line, as text: one, or several if it is a sweep.

    Args:
        override: An override such as `tracking.uri=http://box:5000`.

    Returns:
        The values without quotes; none if the override cannot be read.
    """
    try:
        parsed: hydra_types.Override = parser().parse_overrides([override])[0]
        value = parsed.value()
    except (HydraException, ValueError):
        return []
    found = value.list if isinstance(value, hydra_types.ChoiceSweep) else [value]
    return [text.text if isinstance(text, hydra_types.QuotedString) else str(text) for text in found]


def is_sweep(override: str) -> bool:
    """Returns whether the value of a command-line override is a sweep, quoted for Hydra or not."""
    try:
        parsed: hydra_types.Override = parser().parse_overrides([override])[0]
        if parsed.is_sweep_override():
            return True
        value = parsed.value()
        return isinstance(value, str) and read_sweep(value, str(parsed.key_or_group)) is not None
    except (HydraException, UserError):
        return False


def _quoted(text: str) -> str:
    return hydra_types.QuotedString(text, hydra_types.Quote.single).with_quotes()


def _quoted_choice(argument: str) -> str:
    """Quotes an override that Hydra cannot parse, if it is a choice with a null, which `read_sweep` accepts."""
    key, _, text = argument.partition("=")
    try:
        sweep = read_sweep(text, key)
    except UserError:
        return argument
    return argument if sweep is None else f"{key}={_quoted(text)}"


def quote_sweeps(overrides: Sequence[str], *, intervals_only: bool = False) -> list[str]:
    """Quotes the sweeps on a command line, which Hydra refuses outside of multirun, and the conditions.

    Args:
        overrides: Arguments such as `model.units=16,64`.
        intervals_only: Whether to quote only intervals; under `-m`, Hydra runs one sweep per value of the others.

    Returns:
        The arguments, with each sweep as quoted text: `model.units='16,64'`. Arguments that cannot be parsed are left
        unchanged for Hydra to report.
    """
    quoted = []
    for argument in overrides:
        key, equals, text = argument.partition("=")
        if equals and key.strip().lstrip("+").partition(".")[0] == _CONDITIONS:
            # Hydra's grammar has no comparisons, and its config has no such key yet.
            quoted.append(f"++{key.strip().lstrip('+')}={text if text[:1] in _NOT_QUOTED else _quoted(text.strip())}")
            continue
        try:
            override: hydra_types.Override = parser().parse_overrides([argument])[0]
        except HydraException:
            quoted.append(argument if intervals_only else _quoted_choice(argument))
            continue
        to_quote = override.is_interval_sweep() if intervals_only else override.is_sweep_override()
        if override.key_or_group in _NAMES and not override.is_sweep_override() and override.value() is not None:
            # A name such as 2026, nan or 1e3 is text as it was typed.
            to_quote = not isinstance(override.value(), str | hydra_types.QuotedString)
        if to_quote and not override.is_hydra_override():
            argument = f"{override.get_key_element()}={_quoted(argument.partition('=')[2])}"
        quoted.append(argument)
    return quoted
