"""Text that came from outside, made fit to be printed, logged and stored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# The longest message that is kept whole: what is longer is a dump that nobody reads in a table or a tag.
LONGEST = 2000
# Cc: control characters, Cf: invisible ones, such as those that reverse the direction of writing, Cs: lone surrogates,
# Cn: code points that stand for nothing, Zl and Zp: line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
# Printable ASCII, line feeds and tabs, which most text is made of.
_PLAIN = re.compile(r"[\n\t -~]*")
# These join letters and emoji into one, and are part of many languages' spelling.
_JOINERS = "\u200c\u200d"


def printable(text: str, most: int = LONGEST) -> str:
    r"""Makes text from outside safe to print, log and store.

    Args:
        text: Any text: an error's message, a file's name, a line of a log.
        most: The most characters to keep.

    Returns:
        The text with every character that is invisible or would control a terminal written as an escape (`\x1b`,
        `\udce9`), and cut to `most` characters with `…` at its end. Line feeds and tabs are kept.

    Example:
        >>> printable("caf\udce9 \x1b[31mred")
        'caf\\udce9 \\x1b[31mred'
    """
    cut = len(text) > most
    kept = text[: max(0, most - 1)] if cut else text
    if _PLAIN.fullmatch(kept) is None:
        kept = "".join(map(_shown, kept))
        if len(kept) > most:
            kept, cut = kept[: max(0, most - 1)], True
    return f"{kept}…" if cut else kept


def one_line(text: str, most: int = LONGEST) -> str:
    """Makes text from outside fit into one line.

    Args:
        text: Any text.
        most: The most characters to keep.

    Returns:
        The text as `printable` gives it, with each run of white space replaced by one space.
    """
    # Cut first: to split a text of megabytes that is cut anyway takes memory for nothing.
    return printable(" ".join(text[: 4 * most].split()), most)


def first_line(error: BaseException, most: int = LONGEST) -> str:
    """What an exception says, in one line.

    Args:
        error: The exception.
        most: The most characters to keep.

    Returns:
        The first line of its message that is not blank; the name of its type where there is none.
    """
    try:
        text = str(error)
    except Exception:
        # A user's own exception class may fail at that, too.
        text = ""
    lines = text[: 100 * most].strip().splitlines()
    return one_line(lines[0], most) if lines else type(error).__name__


def kind_and_line(error: BaseException, most: int = LONGEST) -> str:
    """What an unexpected exception is and says, in one line.

    Args:
        error: The exception.
        most: The most characters to keep of its message.

    Returns:
        The name of its type and the first line of its message; the name alone where there is no message.

    Example:
        >>> kind_and_line(KeyError("units"))
        "KeyError: 'units'"
    """
    kind, line = type(error).__name__, first_line(error, most)
    return kind if line == kind else f"{kind}: {line}"


def _shown(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# Characters of a text from outside that a line or a cell has room for; journal and MLflow have all of it.
LONGEST_REASON = 300


def format_duration(seconds: float) -> str:
    """Seconds for people: `2.4 s`, `45 s`, `3 min 20 s`, `1 h 05 min`."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_value(value: object) -> str:
    """A hyperparameter's value for people."""
    if isinstance(value, float) and value.is_integer() and 1000 <= abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value), LONGEST_REASON)


def short_names(names: list[str]) -> dict[str, str]:
    """The shortest ends of dotted names that still tell them apart.

    Args:
        names: Such as `model.units` and `model.dense.units`.

    Returns:
        From each name to its end: `units`, `dense.units`; `optimizer` for `optimizer.name`.
    """
    short = {}
    for name in names:
        parts = name.removesuffix(".name").split(".")
        # A layer's number alone says nothing.
        for size in range(2 if parts[-1].isdigit() else 1, len(parts) + 1):
            end = ".".join(parts[-size:])
            same = [n for n in names if f".{n.removesuffix('.name')}".endswith(f".{end}")]
            if len(same) == 1 or size == len(parts):
                short[name] = end
                break
    return short


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as one mapping from dotted keys.

    Args:
        tree: The groups; an empty one is a value.
        prefix: What each key begins with.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return result
