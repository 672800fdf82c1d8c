"""Passwords and tokens: kept out of everything that is printed, logged, stored or seen by other users."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
HIDDEN = "***"
# No pattern here may look for its end from many beginnings of one long text: an error's message may have megabytes.
_RUN, _AUTHORITY = re.compile(r"[^\s'\"]+"), re.compile(r"://(?!/)")
# A user and password with quotes in them.
_ODD_USER = re.compile(r"(?<=://)(?!/)[^\s/@]{0,200}['\"][^\s/]{0,200}@")
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
# Their passwords, which errors may tell without the rest; those that are part of many a word are left.
_words: set[str] = set()
_SHORTEST = 6
_NUMBERED = re.compile(r"\*{3}\d+")


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
    for shown, whole in _given.items():
        text = text.replace(whole, shown)
    for word in _words:
        text = text.replace(word, HIDDEN)
    return _patterns(text)


def _patterns(text: str) -> str:
    text = _RUN.sub(_without_user, _ODD_USER.sub(f"{HIDDEN}@", text))
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
    """Hides a URI's secrets, which `reveal` gives back in this process; `masked` then knows them in any text.

    Args:
        uri: A tracking URI.

    Returns:
        The URI with `***` in place of its user and password; `***2` and so on where that means another URI already.
    """
    shown, number = _hidden(uri), 1
    if shown == uri:
        return uri
    while _given.get(shown, uri) != uri:
        number += 1
        shown = _hidden(uri).replace(HIDDEN, f"{HIDDEN}{number}", 1)
    _given[shown] = uri
    password = _user(uri).partition(":")[2]
    _words.update(word for word in (password, unquote(password)) if len(word) >= _SHORTEST)
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
    return _given.get(uri) or (given if _hidden(given) == _NUMBERED.sub(HIDDEN, uri) else None)


def _user(uri: str) -> str:
    """What stands before the host in a URI, of which all is known to be one: there may be anything in a password."""
    rest = uri.partition("://")[2]
    return "" if rest.startswith("/") else rest.rpartition("@")[0]


def _hidden(uri: str) -> str:
    user = _user(uri)
    return _patterns(uri.replace(f"://{user}@", f"://{HIDDEN}@", 1) if user else uri)
