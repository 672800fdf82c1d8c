"""Reads the conditions under which a hyperparameter is searched, as a config has them.

`optimizer.name in [sgd, rmsprop]`, `model.layers >= 2 and model.activation != relu`, `model.units > 64 else 0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import flat, one_line

Operator = Literal["in", "not in", "<", "<=", ">", ">="]

_FORMS = "write KEY in [a, b], KEY == value, KEY != value, KEY not in [a, b] or KEY > number, joined by and"
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'[^']*'|"[^"]*")|(?P<mark>[<>=!]=|[<>=!\[\],()])|(?P<word>[^\s\[\],()<>=!'"]+))"""
)
_WORDS: dict[str, Any] = {"null": None, "none": None, "~": None, "true": True, "false": False}


@dataclass(frozen=True)
class Comparison:
    """One part of a condition: a key, compared with some values.

    Attributes:
        key: The key of the config, dotted.
        operator: How it is compared. `==` is `in` with one value, `!=` is `not in`.
        values: The values; one number for `<`, `<=`, `>` and `>=`.
        text: The comparison as it was written.
    """

    key: str
    operator: Operator
    values: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class Written:
    """A condition as the config has it.

    Attributes:
        comparisons: All of them must hold.
        text: The condition as it was written.
        otherwise: What the key is where the condition does not hold, in a tuple; empty for its default.
    """

    comparisons: tuple[Comparison, ...]
    text: str
    otherwise: tuple[Any, ...] = ()


def read_conditions(raw: Mapping[str, Any]) -> dict[str, Written]:
    """Reads the group `conditions` of a config.

    Args:
        raw: Conditions by dotted key, or in nested groups. `null` stands for no condition.

    Returns:
        The conditions by dotted key.

    Raises:
        UserError: A condition cannot be read.

    Example:
        >>> read_conditions({"model.l2": "model.layers >= 2"})["model.l2"].comparisons
        (Comparison(key='model.layers', operator='>=', values=(2,), text='model.layers >= 2'),)
    """
    found = {}
    for key, text in flat(raw).items():
        if text is None or text == {} or (isinstance(text, str) and text.strip() == "null"):
            continue
        if not isinstance(text, str):
            raise UserError(f"conditions.{key}={one_line(str(text))}: must be text; {_FORMS}")
        found[key] = _Reader(key, text).read()
    return found


class _Reader:
    """Reads one condition, from left to right."""

    def __init__(self, key: str, text: str) -> None:
        self._key, self._text = key, one_line(text)
        self._tokens: list[tuple[str, int, int]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error("a quotation mark is missing")
            assert match.lastgroup is not None
            self._tokens.append((match[match.lastgroup], match.start(match.lastgroup), match.end()))
            position = match.end()
        self._source, self._at = text, 0

    def read(self) -> Written:
        comparisons = [self._comparison()]
        while self._next_is("and"):
            comparisons.append(self._comparison())
        otherwise: tuple[Any, ...] = ()
        if self._next_is("else"):
            otherwise = (self._value(),)
        if self._peek() == "or":
            raise self._error("'or' is not supported; for several values of one key, write KEY in [a, b]")
        if self._peek() is not None:
            raise self._error(f"{self._peek()!r} is not expected there; {_FORMS}")
        return Written(tuple(comparisons), self._text, otherwise)

    def _comparison(self) -> Comparison:
        first = self._at
        key = self._take("the key of a hyperparameter")
        if key == "not":
            raise self._error("'not' goes after the key; write KEY not in [a, b] or KEY != value")
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            raise self._error(f"{key!r} is not a key; the key comes first, as in model.layers >= 2")
        sign = self._take("one of in, not in, ==, !=, <, <=, > and >= after the key")
        values: tuple[Any, ...]
        operator: Operator
        if sign == "in" or (sign == "not" and self._next_is("in")):
            operator, values = "in" if sign == "in" else "not in", self._list()
        elif sign in ("==", "!="):
            operator, values = "in" if sign == "==" else "not in", (self._value(),)
        elif sign in ("<", "<=", ">", ">="):
            operator, number = sign, self._value()  # type: ignore[assignment]
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise self._error(f"{sign} needs a number after it")
            values = (number,)
        elif sign == "=":
            raise self._error("write == to compare")
        elif sign in ("and", "else", "or"):
            raise self._error(f"{key} is compared with nothing; write {key} == true, or {key} != null")
        else:
            raise self._error(f"{sign!r} is not expected there; {_FORMS}")
        if self._peek() in ("<", "<=", ">", ">=", "==", "!="):
            raise self._error("compare one pair at a time, as in model.dropout > 0.1 and model.dropout < 0.4")
        text = self._source[self._tokens[first][1] : self._tokens[self._at - 1][2]]
        return Comparison(key, operator, values, one_line(text))

    def _list(self) -> tuple[Any, ...]:
        if self._peek() not in ("[", "("):
            raise self._error("in needs a list after it, as in optimizer.name in [sgd, rmsprop]")
        values = self._value()
        if not values:
            raise self._error("the list is empty")
        return tuple(values)

    def _value(self) -> Any:
        quoted = self._at < len(self._tokens) and self._tokens[self._at][0][0] in "'\""
        token = self._take("a value")
        if quoted:
            return token[1:-1]
        if token in ("[", "("):
            values, end = [], "]" if token == "[" else ")"
            while not self._next_is(end):
                values.append(self._value())
                if self._peek() != end and not self._next_is(","):
                    raise self._error(f"{end} is missing")
            return values
        if token in ("]", ")", ",", "and", "else", "or") or token[0] in "<>=!":
            raise self._error(f"a value is missing before {token!r}")
        return _scalar(token)

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _next_is(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._at += 1
        return True

    def _take(self, what: str) -> str:
        token = self._peek()
        if token is None:
            raise self._error(f"ends before {what}" if self._tokens else f"is empty; {_FORMS}")
        self._at += 1
        return token

    def _error(self, problem: str) -> UserError:
        return UserError(f"conditions.{self._key}={self._text}: {problem}")


def _scalar(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        # Python's underscores in numbers, and words such as nan, are text here.
        if re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", text):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
