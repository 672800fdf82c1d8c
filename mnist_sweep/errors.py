"""Errors that are meant for the user: one line, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend.

    Its message is one line that names the key, the value and what to do; the command line prints it and
    ends with exit code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggests the known name nearest to a misspelt one.

    Args:
        name: What the user wrote.
        known: The names that would have been right.

    Returns:
        `"; did you mean 'adam'?"`, or `"; known: adam, sgd"` where nothing is near.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {next(n for n in names if n.lower() == near[0])!r}?"
    return f"; known: {', '.join(names)}"
