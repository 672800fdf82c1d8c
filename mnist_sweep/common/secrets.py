"""Keeps passwords and tokens out of everything that is printed, logged, stored or visible to other users."""

from __future__ import annotations

import os
import re
import secrets
from urllib.parse import unquote

from mnist_sweep.common.errors import UserError

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
TOKEN_VARIABLE = "MNIST_SWEEP_TOKEN"
# Characters that a header can carry. A shorter token can be guessed.
_TOKEN = re.compile(r"[\w.~+/=-]{16,}", re.ASCII)
# What MLflow, the drivers of databases and the libraries of object storage log in with.
_LOGIN_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
)
HIDDEN = "***"
# Every pattern must run in linear time: an error's message may have megabytes.
_RUN, _AUTHORITY = re.compile(r"[^\s'\"]+"), re.compile(r"://(?!/)")
# A user and password that contain quotes.
_QUOTED_USER = re.compile(r"(?<=://)(?!/)[^\s/@]{0,200}['\"][^\s/]{0,200}@")
_WORD = r"(?:password|passwd|pwd|passphrase|secret|token|(?:api|access|private|secret)[_-]?key|x-amz-signature)"
# `password=…`, `"api_key": "…"`, `PWD=…`, `search.token=…` and the like; not what follows a file's name, `keys/token:`.
_NAMED = re.compile(
    rf"""(?P<key>(?:(?<![\w/.])(?:\w*{_WORD}|sig)["']?\s*(?:=|:|%3d)|(?<=[/.])\w*{_WORD}["']?\s*(?:=|%3d))\s*)
    (?P<value>"[^"\n]*"|'[^'\n]*'|\{{[^{{}}\n]*\}}|["']?(?:(?!%3b)[^\s&;,'"}})\]])+)""",
    re.IGNORECASE | re.VERBOSE,
)
_KEY = re.compile(rf"(?:{_WORD}|sig)$", re.IGNORECASE)
_OPTION = re.compile(rf"(?P<key>(?<!\S)--(?:[\w-]{{0,40}}[_-])?{_WORD}\s+)(?P<value>(?!-)\S+)", re.IGNORECASE)
_BEARER = re.compile(r"\b(?P<key>(?:Bearer|Authorization: *Basic) +)(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE)
# Tokens with a known prefix: GitHub's, GitLab's, AWS's, Databricks's, OpenAI's, Slack's, Hugging Face's, Google's, and
# JSON web tokens.
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|dapi[0-9a-f]{24,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}|eyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]*)"
)

# Hidden URI → full URI, for those that `hide` got in this process.
_hidden_uris: dict[str, str] = {}
# Their passwords, which an error may contain without the rest of the URI. Short ones are left out: they would match
# parts of ordinary words.
_passwords: set[str] = set()
_SHORTEST = 6
# Characters of a part of a service's address that is a token for sure.
_SHORTEST_TOKEN = 12
_WHOLE = re.compile(r"(?:[\w+.-]+://)?\*{3}\d*")
_NUMBERED = re.compile(r"\*{3}\d+")


def access_token(given: str | None) -> tuple[str, bool]:
    """Returns the token that the clients of a server must have, and whether it is a new one.

    Args:
        given: The token; `auto` for a new one; None for the value of the variable MNIST_SWEEP_TOKEN, which is removed
            from the environment, as no child process needs it.

    Raises:
        UserError: It is too short, or has characters that a header cannot carry.
    """
    from_variable = os.environ.pop(TOKEN_VARIABLE, "")
    token = from_variable if given is None else given
    if token == "auto":
        return secrets.token_urlsafe(24), True
    if token and not _TOKEN.fullmatch(token):
        # The token is not printed, as the output may be kept somewhere.
        raise UserError(
            "a token must have at least 16 characters, of letters, digits and . _ ~ + / = -; auto generates one"
        )
    return token, False


def masked(text: str) -> str:
    """Hides passwords and tokens.

    Args:
        text: Any text, such as a URI, an error's message, a traceback or a file.

    Returns:
        The text with `***` in place of the user and password of URIs, the values of keys such as `password`,
        `api_key`, `PWD` and `token`, and tokens of well-known kinds.

    Example:
        >>> masked("postgresql://alice:hunter2@db/runs?sslpassword=x")
        'postgresql://***@db/runs?sslpassword=***'
    """
    for hidden, full in _hidden_uris.items():
        text = text.replace(full, hidden)
    for password in _passwords:
        text = text.replace(password, HIDDEN)
    return _mask_patterns(text)


def _mask_patterns(text: str) -> str:
    text = _RUN.sub(_without_user, _QUOTED_USER.sub(f"{HIDDEN}@", text))
    for pattern in (_NAMED, _OPTION, _BEARER):
        text = pattern.sub(_without_value, text)
    return _KNOWN.sub(HIDDEN, text)


def _without_user(found: re.Match[str]) -> str:
    """Hides the user and password, up to the last @, of a URI in a text without white space and quotes."""
    run, start = found[0], _AUTHORITY.search(found[0])
    at = run.rfind("@")
    return run if start is None or at < start.end() else f"{run[: start.end()]}{HIDDEN}{run[at:]}"


def _without_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][0] in "\"'" else ""
    closed = len(found["value"]) > 1 and found["value"].endswith(quote)
    return f"{found['key']}{quote}{HIDDEN}{quote if closed else ''}"


def hide(uri: str) -> str:
    """Hides a URI's secrets; `reveal` restores them in this process, and `masked` hides them in any text.

    Args:
        uri: A tracking URI.

    Returns:
        The URI with `***` in place of its user and password; with `***2` and so on if that is another URI already.
    """
    hidden = _hidden(uri)
    if hidden == uri:
        return uri
    hidden = _numbered(hidden, uri)
    remember(hidden, uri)
    _remember(user_of(uri).partition(":")[2])
    for key, _, value in (part.partition("=") for part in uri.partition("?")[2].split("&")):
        if _KEY.search(key):
            _remember(value)
    return hidden


def hide_whole(uri: str) -> str:
    """Hides a URI of which any part may be a secret; `reveal` and `masked` know it as after `hide`.

    Args:
        uri: Such as the address of a service that sends messages.

    Returns:
        Its scheme and `***`, as in `slack://***`; with `***2` and so on if that is another URI already.
    """
    if _WHOLE.fullmatch(uri):
        return uri
    scheme, separator, rest = uri.partition("://")
    hidden = _numbered(f"{scheme}://{HIDDEN}" if separator else HIDDEN, uri)
    remember(hidden, uri)
    _passwords.update(part for part in re.split(r"[/:@?&=,]", rest) if len(part) >= _SHORTEST_TOKEN and "." not in part)
    return hidden


def _numbered(hidden: str, uri: str) -> str:
    """Returns how a URI is written with its secrets hidden, unless another one is written so already."""
    found, number = hidden, 1
    while _hidden_uris.get(found, uri) != uri:
        number += 1
        found = hidden.replace(HIDDEN, f"{HIDDEN}{number}", 1)
    return found


def remember(hidden: str, uri: str) -> None:
    """Makes `reveal` and `masked` know a URI that another process has hidden."""
    _hidden_uris[hidden] = uri


def hide_login() -> None:
    """Makes `masked` hide the passwords, keys and tokens that the environment has for the stores."""
    for name in _LOGIN_VARIABLES:
        _remember(os.environ.get(name, ""))


def _remember(password: str) -> None:
    _passwords.update(text for text in (password, unquote(password)) if len(text) >= _SHORTEST)


def reveal(uri: str) -> str | None:
    """Restores a URI whose secrets were hidden.

    Args:
        uri: A URI that `masked` or `hide` returned, or one without secrets.

    Returns:
        The full URI: `uri` itself if nothing in it is hidden, else the one that `hide` got in this process or that
        is in the variable MLFLOW_TRACKING_URI; None if neither fits.
    """
    if HIDDEN not in uri:
        return uri
    variable = os.environ.get(STORE_VARIABLE, "")
    return _hidden_uris.get(uri) or (variable if _hidden(variable) == _NUMBERED.sub(HIDDEN, uri) else None)


def user_of(uri: str) -> str:
    """Returns the user and password of a text that is one URI, so its password may have any characters."""
    rest = uri.partition("://")[2]
    return "" if rest.startswith("/") else rest.rpartition("@")[0]


def _hidden(uri: str) -> str:
    user = user_of(uri)
    return _mask_patterns(uri.replace(f"://{user}@", f"://{HIDDEN}@", 1) if user else uri)
