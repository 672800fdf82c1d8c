"""Says what to type when the command line's first word is not a command."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.invocation import command

# Words with which other programs start training: here, a sweep runs without a command.
_RUN = ("run", "train", "start", "sweep", "search", "tune", "fit", "experiment", "optimize", "study", "launch", "agent")
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
    if rest[:1] and rest[0].startswith("="):
        value = rest[0][1:] or " ".join(rest[1:2])
        return UserError(f"{first} {' '.join(rest[:2])}: must be one argument; write {first}={shlex.quote(value)}")
    running = first.lower() in _RUN
    words = rest if running else [first, *rest]
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
                return UserError(f"{first}: {what}; write {command(shlex.join([f'+experiment={meant[0]}', *options]))}")
    if running:
        example = shlex.join(words) if words and experiment is None else "+experiment=quick"
        return UserError(f"{first}: is not a command; to run a sweep, write {command(example)}")
    return UserError(f"{first}: no such command{did_you_mean(first, COMMANDS)}")


def _experiments() -> list[str]:
    from mnist_sweep.config import compose

    try:
        return list(compose.experiments())
    except UserError:
        # A file of the user's cannot be read, which has nothing to do with this command line.
        return []
