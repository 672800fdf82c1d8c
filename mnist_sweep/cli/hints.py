"""Says what to type when the command line's first word is not a command."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Sequence

from mnist_sweep.cli.commands import COMMANDS, KEY
from mnist_sweep.cli.options import full_key
from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.invocation import command

# Words with which other programs start training: here, a sweep runs without a command.
_RUN = ("run", "train", "start", "sweep", "search", "tune", "fit", "experiment", "optimize", "study", "launch", "agent")
# Hydra's options that may follow.
_HYDRAS = ("-m", "--multirun", "-h", "--help")
# Other programs' names of commands.
_SYNONYMS = {
    "help": "--help",
    "version": "--version",
    "list": "experiments",
    "ls": "experiments",
    "data": "show-data",
    "dashboard": "ui",
    "mlflow": "ui",
    "continue": "resume",
    "leaderboard": "compare",
    "results": "compare",
    "runs": "compare",
    "test": "predict",
}


def no_such_command(given: Sequence[str]) -> UserError:
    """Describes a command line that starts with a word that is not a command.

    Args:
        given: The arguments.

    Returns:
        The error. It names the command that was meant, if one is similar: `quick epochs=3` becomes
        `+experiment=quick epochs=3`.
    """
    first, rest = given[0], list(given[1:])
    if (error := _of_a_key(first, rest)) is not None:
        return error
    running = first.lower() in _RUN
    words = _with_equals(rest if running else [first, *rest])
    experiment = next((word for word in words if "=" not in word and not word.startswith("-")), None)
    if first in _SYNONYMS:
        return UserError(f"{first}: no such command; write {command(_SYNONYMS[first])}")
    if experiment is not None:
        options = [word for word in words if word != experiment]
        similar = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.6)
        known = _experiments()
        if experiment in known or (not similar or running):
            meant = difflib.get_close_matches(experiment.lower(), known, n=1, cutoff=0.6)
            if meant:
                what = "no such command" if not running else "is not a command"
                chosen = f"+experiment={meant[0]}"
                right = shlex.join([chosen, *_with_full_keys(options, [chosen])])
                return UserError(f"{first}: {what}; write {command(right)}")
    if running:
        example = shlex.join(_with_full_keys(words)) if words and experiment is None else "+experiment=quick"
        return UserError(f"{first}: is not a command; to run a sweep, write {command(example)}")
    return UserError(f"{first}: no such command{did_you_mean(first, COMMANDS)}")


def _of_a_key(first: str, rest: Sequence[str]) -> UserError | None:
    """Describes a config key whose value is not behind an equals sign; None if it is something else."""
    if rest and rest[0].startswith("="):
        value = rest[0][1:] or " ".join(rest[1:2])
        return UserError(f"{first} {' '.join(rest[:2])}: must be one argument; write {first}={shlex.quote(value)}")
    key, colon, value = first.partition(":")
    if KEY.fullmatch(key) is None:
        return None
    value = value if colon else " ".join(rest[:1])
    typed = first if colon else f"{first} {value}".strip()
    return UserError(f"{typed}: write KEY=VALUE: {key}={shlex.quote(value) if value else '…'}")


def _with_equals(words: Sequence[str]) -> list[str]:
    """Returns arguments with options such as `--epochs 5` written as `epochs=5`."""
    found, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word not in _HYDRAS:
            has_value = "=" not in word and rest and "=" not in rest[0] and not rest[0].startswith("-")
            word = f"{word}={rest.pop(0)}" if has_value else word
            word = word.lstrip("-") if "=" in word else word
        found.append(word)
    return found


def _with_full_keys(words: Sequence[str], chosen: Sequence[str] = ()) -> list[str]:
    """Returns overrides with the full keys that short ones, such as `epochs`, stand for."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.isidentifier():
            # A file of the user's that cannot be read has nothing to do with this command line.
            with contextlib.suppress(UserError):
                key = full_key(key, chosen)
        found.append(f"{key}{equals}{value}")
    return found


def _experiments() -> list[str]:
    from mnist_sweep.config import compose

    try:
        return list(compose.experiments())
    except UserError:
        # A file of the user's cannot be read, which has nothing to do with this command line.
        return []
