"""Steers a running sweep from another process of the user who runs it."""

from __future__ import annotations

import contextlib
import json
import operator
import platform
import re
import shlex
import socket
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import command
from mnist_sweep.common.text import printable
from mnist_sweep.driver.steering_socket import near
from mnist_sweep.journal.files import LOCK, SOCKET
from mnist_sweep.journal.folders import SWEEPS, find, is_running, sweeps

# In place of a sweep's name.
LAST = "last"
# Seconds to wait for a sweep that starts, and for an answer.
_STARTING, _ANSWER = 20.0, 30.0
_LOOK = 0.1


@dataclass(frozen=True)
class Answer:
    """What the sweep has done.

    Attributes:
        text: What, in a sentence: `Trial 17 will stop after its current epoch`.
        trial: The number of the trial that was added; None if none was.
    """

    text: str
    trial: int | None = None


class Steering:
    """Steers a sweep that runs, as `python -m mnist_sweep steer` does.

    Each change is checked by the process that runs the sweep, written to the sweep's journal, and done: at once, or
    when the current epoch of a trial ends. It is kept when the sweep is interrupted and resumed.

    All methods raise `UserError` if no process runs the sweep, or if it refuses the change, with the reason.

    Example:
        ```py
        steering = Steering("experiments/cnn/2026-11-28_04-49-18")
        steering.stop(17)
        trial = steering.add("model.units=64", "optimizer.name=sgd").trial
        steering.set("search.max_trials=80")
        ```
    """

    def __init__(self, folder: Path | str) -> None:
        """Takes the sweep's folder; `running` finds that of a sweep by its name."""
        self._folder = Path(folder)

    def stop(self, trial: int) -> Answer:
        """Stops a trial after its current epoch. It keeps its result so far."""
        return self._ask({"do": "stop", "trial": _number("stop", trial)})

    def add(self, *values: str | Mapping[str, Any]) -> Answer:
        """Adds a trial, which starts next.

        Args:
            *values: Hyperparameter values, as on the command line (`"model.units=64"`), or one mapping of keys to
                values. The others are chosen as for `search.enqueue`.
        """
        if len(values) == 1 and isinstance(values[0], Mapping):
            return self._ask({"do": "add", "values": dict(values[0])})
        return self._ask({"do": "add", "values": list(values)})

    def pause(self) -> Answer:
        """Starts no more trials; running ones continue."""
        return self._ask({"do": "pause"})

    def unpause(self) -> Answer:
        """Starts trials again."""
        return self._ask({"do": "continue"})

    def set(self, *settings: str) -> Answer:
        """Changes the budget, or narrows what is searched.

        Args:
            *settings: Such as `search.max_trials=80`, `search.time_budget=2h` or `model.units=choice(16, 32)`.
        """
        return self._ask({"do": "set", "settings": list(settings)})

    def slots(self, count: int) -> Answer:
        """Limits the number of slots. A slot that is given back ends its process when its trial has ended."""
        return self._ask({"do": "slots", "slots": _number("slots", count)})

    def _ask(self, wish: Mapping[str, Any]) -> Answer:
        text = self._exchange(json.dumps(wish, default=_plain).encode() + b"\n")
        try:
            answer = json.loads(text)
        except ValueError:
            raise UserError(
                f"steer: {self._folder}: the process that runs the sweep ended before it answered; the sweep's journal "
                "has what was done"
            ) from None
        if "error" in answer:
            raise UserError(str(answer["error"]))
        return Answer(str(answer["done"]), answer.get("trial"))

    def _exchange(self, request: bytes) -> bytes:
        with self._connected() as connection:
            try:
                connection.settimeout(_ANSWER)
                connection.sendall(request)
                answer = b""
                while received := connection.recv(2**16):
                    answer += received
            except TimeoutError:
                raise UserError(
                    f"steer: {self._folder}: the process that runs the sweep has not answered within {_ANSWER:.0f} s"
                ) from None
            except OSError:
                return b""
            return answer

    def _connected(self) -> socket.socket:
        until = time.monotonic() + _STARTING
        while True:
            if not is_running(self._folder):
                raise _not_running(self._folder)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._connect(connection)
            except PermissionError:
                connection.close()
                raise UserError(f"steer: {self._folder}: only the user who runs the sweep can steer it") from None
            except (OSError, ValueError):
                connection.close()
                if time.monotonic() > until:
                    raise _unreachable(self._folder) from None
                time.sleep(_LOOK)
            else:
                return connection

    def _connect(self, connection: socket.socket) -> None:
        path = self._folder / SOCKET
        if stat.S_ISSOCK(path.lstat().st_mode):
            with near(self._folder) as place:
                connection.connect(f"{place}/{SOCKET}")
        else:
            # Where the folder's disk has no sockets.
            connection.connect(path.read_text())


def _plain(value: Any) -> Any:
    """Returns a value of NumPy's, as frames have them, as JSON has it."""
    if getattr(value, "ndim", None) != 0:
        raise UserError(f"steer: {value!r} must be a text, a number, true or false")
    return value.item()


def _number(wish: str, given: Any) -> int:
    """Returns a whole number, also one of NumPy's, as frames have them."""
    try:
        return operator.index(given)
    except TypeError:
        raise UserError(f"{wish}: {given!r} must be a whole number") from None


def running(sweep: str | None) -> Path:
    """Finds the folder of a sweep that runs.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for the one of its sweeps that runs; None or `last` for the only sweep
            that runs.

    Raises:
        UserError: It does not exist or does not run, or several run.
    """
    below = SWEEPS
    if sweep is not None and sweep != LAST:
        last = find(sweep, "steer")
        below = next((folder for folder in (Path(sweep), SWEEPS / sweep) if folder.is_dir()), last)
    found = sweeps(below)
    alive = [folder for folder in found if is_running(folder)]
    if len(alive) > 1:
        raise UserError(f"steer: several sweeps run ({', '.join(map(_name, alive))}); name one of them")
    if alive:
        return alive[0]
    if not found:
        raise UserError(f"steer: there is no sweep in {SWEEPS}/")
    raise _not_running(found[-1])


def _not_running(folder: Path) -> UserError:
    again = command(f"resume {shlex.quote(_name(folder))}")
    return UserError(f"steer: {folder}: no process runs this sweep; to continue it: {again}")


def _unreachable(folder: Path) -> UserError:
    with contextlib.suppress(OSError):
        holder = re.fullmatch(r"process \d+ on (\S+)", (folder / LOCK).read_text().strip())
        if holder and holder[1] != platform.node():
            return UserError(f"steer: {folder}: runs on {printable(holder[1])}; use this command there")
    return UserError(f"steer: {folder}: the sweep starts or ends now, and cannot be steered; try again in a minute")


def _name(folder: Path) -> str:
    """Returns how a command names a sweep: `NAME/TIME`, or its folder."""
    return str(folder.relative_to(SWEEPS)) if folder.is_relative_to(SWEEPS) else str(folder)


WISHES: Mapping[str, str] = {
    "stop": "stop TRIAL",
    "add": "add KEY=VALUE …",
    "pause": "pause",
    "continue": "continue",
    "set": "set KEY=VALUE …",
    "slots": "slots NUMBER",
}


def steer(sweep: str | None, wish: str, arguments: Sequence[str]) -> Answer:
    """Does what a command line says.

    Args:
        sweep: As for `running`.
        wish: One of `WISHES`.
        arguments: What follows it.

    Raises:
        UserError: The arguments are wrong, or as for `running` and `Steering`.
    """
    numbers = [int(text) for text in arguments if re.fullmatch(r"-?\d{1,9}", text)]
    if wish in ("pause", "continue"):
        fits = not arguments
    elif wish in ("stop", "slots"):
        fits = len(arguments) == len(numbers) == 1
    else:
        fits = bool(arguments)
    if not fits:
        raise UserError(f"steer: {' '.join([wish, *arguments])}: write {WISHES[wish]}")
    steering = Steering(running(sweep))
    match wish:
        case "stop":
            return steering.stop(numbers[0])
        case "add":
            return steering.add(*arguments)
        case "pause":
            return steering.pause()
        case "continue":
            return steering.unpause()
        case "set":
            return steering.set(*arguments)
    return steering.slots(numbers[0])
