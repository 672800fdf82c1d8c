"""Passwords and tokens: kept out of everything that is printed, logged, stored or seen by other users."""

from __future__ import annotations

import os
import re

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
HIDDEN = "***"
# No pattern here may look for its end from many beginnings of one long text: an error's message may have megabytes.
_RUN, _AUTHORITY = re.compile(r"[^\s'\"]+"), re.compile(r"://(?!/)")
_WORD = r"(?:password|passwd|pwd|passphrase|secret|token|(?:api|access|private|secret)[_-]?key|x-amz-signature)"
# `password=…`, `"api_key": "…"`, `PWD=…`, `search.token=…` and the like; of a file called `keys/token:` it is no value.
_NAMED = re.compile(
    rf"""(?P<key>(?:(?<![\w/.])(?:\w*{_WORD}|sig)["']?\s*(?:=|:|%3d)|(?<=[/.])\w*{_WORD}["']?\s*(?:=|%3d))\s*)
    (?P<value>"[^"\n]*"|'[^'\n]*'|\{{[^{{}}\n]*\}}|["']?(?:(?!%3b)[^\s&;,'"}})\]])+)""",
    re.IGNORECASE | re.VERBOSE,
)
_OPTION = re.compile(rf"(?P<key>(?<!\S)--(?:[\w-]{{0,40}}[_-])?{_WORD}\s+)(?P<value>(?!-)\S+)", re.IGNORECASE)
_BEARER = re.compile(r"\b(?P<key>(?:Bearer|Authorization: *Basic) +)(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE)
# Tokens that tell what they are by how they begin: GitHub's, GitLab's, AWS's, Databricks's, OpenAI's, Slack's, Hugging
# Face's, Google's, and any that are signed JSON.
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|dapi[0-9a-f]{24,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}|eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]*)"
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
    text = _RUN.sub(_without_user, text)
    for pattern in (_NAMED, _OPTION, _BEARER):
        text = pattern.sub(_without_value, text)
    return _KNOWN.sub(HIDDEN, text)


def _without_user(found: re.Match[str]) -> str:
    """A text without white space or quotes, and without what comes before the last @ of a URI in it."""
    run, begun = found[0], _AUTHORITY.search(found[0])
    at = run.rfind("@")
    return run if begun is None or at < begun.end() else f"{run[: begun.end()]}{HIDDEN}{run[at:]}"


def _without_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][0] in "\"'" else ""
    closed = len(found["value"]) > 1 and found["value"].endswith(quote)
    return f"{found['key']}{quote}{HIDDEN}{quote if closed else ''}"


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
