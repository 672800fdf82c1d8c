"""Passwords and tokens: kept out of everything that is printed, logged, stored or seen by other users."""

from __future__ import annotations

import os
import re

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
HIDDEN = "***"
# What comes before the last @ of a URI's authority, which ends at a slash, a quote or white space.
_AUTHORITY = re.compile(r"(?<=://)(?!/)[^\s'\"]*@")
# `password=…`, `"api_key": "…"`, `PWD=…`, `--token …` and the like.
_NAMED = re.compile(
    r"""(?P<key>(?<![\w/.])(?:\w*(?:password|passwd|pwd|passphrase|secret|token|(?:api|access|private|secret)[_-]?key)|sig)
    ["']?\s*(?:=|:|%3d)\s*["']?)(?!\*\*\*)(?:(?!%3b)[^\s&;,'"})\]])+""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\b(?P<key>(?:Bearer|Authorization: *Basic) +)[\w.~+/=-]{8,}", re.IGNORECASE)
# Tokens that tell what they are by how they begin: GitHub's, GitLab's, AWS's, Databricks's, OpenAI's, Slack's.
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|dapi[0-9a-f]{24,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,})"
)

# From each URI as it may be shown to the whole one, for those that this process was given.
_given: dict[str, str] = {}


def masked(text: str) -> str:
    """Hides passwords and tokens.

    Args:
        text: Any text: a URI, an error's message, a traceback, a file.

    Returns:
        The text with `***` in place of what stands before the `@` of a URI, of the values of keys such as `password`,
        `api_key`, `PWD` and `token`, and of tokens of well-known kinds.

    Example:
        >>> masked("postgresql://alice:hunter2@db/runs?sslpassword=x")
        'postgresql://***@db/runs?sslpassword=***'
    """
    text = _AUTHORITY.sub(f"{HIDDEN}@", text)
    for pattern in (_NAMED, _BEARER):
        text = pattern.sub(rf"\g<key>{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def hide(uri: str) -> str:
    """Hides a URI's secrets, which `reveal` gives back in this process.

    Args:
        uri: A tracking URI.
    """
    shown = masked(uri)
    if shown != uri:
        _given[shown] = uri
    return shown


def reveal(uri: str) -> str | None:
    """The URI whose secrets were hidden.

    Args:
        uri: As `masked` or `hide` gives it, or one without secrets.

    Returns:
        The whole URI: `uri` itself where nothing in it is hidden, else what `hide` was given in this process or what
        the variable MLFLOW_TRACKING_URI holds; None where neither is this one.
    """
    if HIDDEN not in uri:
        return uri
    given = os.environ.get(STORE_VARIABLE, "")
    return _given.get(uri) or (given if masked(given) == uri else None)
