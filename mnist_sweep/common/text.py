"""Makes text safe to print, log and store, and formats values for people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Characters of the longest message that is kept: more is of no use in a table or a tag.
LONGEST = 2000
# Characters that fit into a line or a cell; the journal and MLflow have the full text.
LONGEST_REASON = 300
# Cc: control characters, Cf: invisible ones, such as those that reverse the direction of writing, Cs: lone surrogates,
# Cn: unassigned code points, Zl and Zp: line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
# Printable ASCII, line feeds and tabs: most text has nothing else.
_PLAIN = re.compile(r"[\n\t -~]*")
# A number in a message, also at the end of a name that Keras has made: `max_pooling2d_3`.
_NUMBER = re.compile(r"(_\d+\b|\d+(\.\d+)?(e[+-]?\d+)?)")
# These join letters or emoji into one, and are part of the spelling of many languages.
_JOINERS = "\u200c\u200d"


def printable(text: str, most: int = LONGEST) -> str:
    r"""Makes text from outside safe to print, log and store.

    Args:
        text: Any text, such as an error's message, a file's name or a line of a log.
        most: The most characters to keep.

    Returns:
        The text with every character that is invisible or would control a terminal replaced by an escape (`\x1b`,
        `\udce9`), and cut to `most` characters, with `…` at the end. Line feeds and tabs are kept.

    Example:
        >>> printable("caf\udce9 \x1b[31mred")
        'caf\\udce9 \\x1b[31mred'
    """
    cut = len(text) > most
    kept = text[: max(0, most - 1)] if cut else text
    if _PLAIN.fullmatch(kept) is None:
        kept = "".join(map(_escaped, kept))
        if len(kept) > most:
            kept, cut = kept[: max(0, most - 1)], True
    return f"{kept}…" if cut else kept


def one_line(text: str, most: int = LONGEST) -> str:
    """Makes text from outside safe to print, as one line.

    Args:
        text: Any text.
        most: The most characters to keep.

    Returns:
        The text as `printable` returns it, with each run of white space replaced by one space.
    """
    # Cut first: splitting megabytes of text, only to cut it afterwards, wastes memory.
    return printable(" ".join(text[: 4 * most].split()), most)


def alike(reason: str) -> str:
    """Returns a text that is the same for two reasons that differ only in their numbers, such as those of a shape."""
    return _NUMBER.sub("#", reason)


def most_common(reasons: Iterable[str]) -> str:
    """Returns the first of those reasons that most are `alike`; of two equally common ones, the one that came later."""
    return max(reversed(grouped(reasons)), key=len)[0]


def grouped(reasons: Iterable[str]) -> list[list[str]]:
    """Groups those reasons that are `alike`, in the order of the first one of each group."""
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        groups.setdefault(alike(reason), []).append(reason)
    return list(groups.values())


def first_line(error: BaseException, most: int = LONGEST) -> str:
    """Returns the first line of an exception's message.

    Args:
        error: The exception.
        most: The most characters to keep.

    Returns:
        The first line that is not blank; the name of the exception's type if its message is empty.
    """
    try:
        text = str(error)
    except Exception:
        # A user's exception class may fail even here.
        text = ""
    lines = text[: 100 * most].strip().splitlines()
    return one_line(lines[0], most) if lines else type(error).__name__


def kind_and_line(error: BaseException, most: int = LONGEST) -> str:
    """Returns an unexpected exception's type and the first line of its message.

    Args:
        error: The exception.
        most: The most characters of its message to keep.

    Returns:
        The name of its type and the first line of its message; only the name if the message is empty.

    Example:
        >>> kind_and_line(KeyError("units"))
        "KeyError: 'units'"
    """
    kind, line = type(error).__name__, first_line(error, most)
    return kind if line == kind else f"{kind}: {line}"


def os_reason(error: BaseException) -> str:
    """Returns why a file or a socket cannot be used, such as `Permission denied`, without its error number and path."""
    return getattr(error, "strerror", None) or first_line(error)


def _escaped(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _UNPRINTABLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_duration(seconds: float) -> str:
    """Formats seconds for people: `2.4 s`, `45 s`, `3 min 20 s`, `1 h 05 min`."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def format_size(amount: int) -> str:
    """Formats an amount of memory for people, to four digits: `1.5 GB`."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if amount >= 10**power:
            return f"{amount / 10**power:,.4g} {unit}"
    return f"{amount} B"


def spaced(name: str) -> str:
    """Returns a name with spaces in place of underscores, except before a number.

    Args:
        name: The name, such as that of a hyperparameter.

    Example:
        >>> spaced("learning_rate"), spaced("units_0")
        ('learning rate', 'units_0')
    """
    return re.sub(r"_(?!\d)", " ", name)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Counts something in the singular or the plural: `1 trial`, `2 trials`, `1,200 trials`.

    Args:
        number: How many there are.
        noun: What is counted, in the singular.
        plural: Its plural; by default the singular with an `s`.

    Example:
        >>> counted(2, "class", "classes")
        '2 classes'
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """Names things by their numbers: `trial 3`, `trials 3, 7`."""
    return f"{noun if len(numbers) == 1 else f'{noun}s'} {', '.join(map(str, numbers))}"


def format_value(value: object) -> str:
    """Formats a hyperparameter's value for people."""
    if isinstance(value, float) and value.is_integer() and 1000 <= abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value), LONGEST_REASON)


def format_setting(value: object) -> str:
    """Formats a value of a config as the config has it: `null`, `true`, `0.001`."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else format_value(value)


def short_names(names: list[str]) -> dict[str, str]:
    """Shortens dotted names to the shortest ends that are still different.

    Args:
        names: Names such as `model.units` and `model.dense.units`.

    Returns:
        The short form of each name: `units`, `dense.units`; `optimizer` for `optimizer.name`.
    """
    short = {}
    for name in names:
        parts = name.removesuffix(".name").split(".")
        # A layer's number alone is not a name.
        for size in range(2 if parts[-1].isdigit() else 1, len(parts) + 1):
            end = ".".join(parts[-size:])
            same = [n for n in names if f".{n.removesuffix('.name')}".endswith(f".{end}")]
            if len(same) == 1 or size == len(parts):
                short[name] = end
                break
    return short


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested groups into one mapping with dotted keys.

    Args:
        tree: The groups; an empty group counts as a value.
        prefix: The start of each key.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return result
