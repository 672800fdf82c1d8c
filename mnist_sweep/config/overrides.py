"""Says how to write an argument that Hydra's grammar refuses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from mnist_sweep.config.foreign_sweeps import from_call
from mnist_sweep.config.grammar import parser

_OPEN, _CLOSE = "([{", ")]}"


def corrected(argument: str, following: Sequence[str] = ()) -> str | None:
    r"""Returns an argument that Hydra cannot parse as it has to be written, quoted for the shell.

    Args:
        argument: The argument, `KEY=VALUE`.
        following: The arguments after it: the shell may have split one at its spaces.

    Returns:
        What to type instead; None if there is no good guess.

    Example:
        >>> corrected("model.units=16,", ["32"])
        'model.units=16,32'
        >>> corrected("data.path=mnist (1).npz")
        '\'data.path="mnist (1).npz"\''
    """
    for candidate in _candidates(argument, following):
        if candidate != argument and _parses(candidate):
            return candidate if re.fullmatch(r"[\w.,/:+=@~-]+", candidate) else shlex.quote(candidate)
    return None


def _candidates(argument: str, following: Sequence[str]) -> Iterator[str]:
    key, equals, value = argument.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        return
    # In Python's and other languages' comparisons, two equals signs are usual.
    yield f"{key}={value.lstrip('= ')}"
    joined = " ".join([value, *_rest(value, following)])
    if joined != value:
        yield f"{key}={_compact(joined)}"
    yield f"{key}={_compact(joined).strip(',')}"
    numbers = re.fullmatch(r"range\(([-+\d.e]+) ([-+\d.e]+)(?: ([-+\d.e]+))?\)", joined)
    if numbers is not None:
        yield f"{key}=range({','.join(filter(None, numbers.groups()))})"
    sweep = from_call(joined)
    if sweep is not None:
        yield f"{key}={sweep}"
    brackets = re.fullmatch(r"[\[({](.*)[\])}]", joined)
    if brackets is not None and key == "objective":
        yield f"{key}=[{','.join(_in_quotes(name.strip()) for name in brackets[1].split(','))}]"
    elif brackets is not None:
        yield f"{key}={_compact(brackets[1])}"
    yield f"{key}={joined}{_missing_brackets(joined)}"
    # Quoted, a sweep that is not one would be text; and names allow no such characters.
    if not re.fullmatch(r"[\w.]*\w\s*\(.*\)", value) and key.lstrip("+") != "name":
        yield f"{key}={_in_quotes(value)}"


def _rest(value: str, following: Sequence[str]) -> Iterator[str]:
    """Yields the arguments that the shell has split off a list with spaces."""
    for argument in following:
        if "=" in argument or not (value.endswith(",") or argument.startswith(",") or _missing_brackets(value)):
            return
        value = f"{value} {argument}"
        yield argument


def _compact(text: str) -> str:
    return re.sub(r"\s*,\s*", ",", text.strip())


def _missing_brackets(text: str) -> str:
    stack: list[str] = []
    for character in text:
        if character in _OPEN:
            stack.append(_CLOSE[_OPEN.index(character)])
        elif stack and character == stack[-1]:
            stack.pop()
    return "".join(reversed(stack))


def _in_quotes(value: str) -> str:
    # Double quotes are easier to read inside the single ones of a shell.
    return QuotedString(value, Quote.single if '"' in value else Quote.double).with_quotes()


def _parses(argument: str) -> bool:
    try:
        parser().parse_overrides([argument])
    except (HydraException, ValueError):
        return False
    return True
