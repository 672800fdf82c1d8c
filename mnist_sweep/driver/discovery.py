"""Asks a worker what a user's hypermodel searches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.workers.base import Died, Discover, Discovered, MachineFailed, Message, Ready, Workers


def discover(workers: Workers, name: str, timeout: float) -> dict[str, Any]:
    """Asks a worker for the space of a hypermodel. The pool can be used for trials afterwards.

    Args:
        workers: A pool, which may still be starting.
        name: `package.module:name`.
        timeout: Seconds to wait for the answer, once a worker is ready to be asked.

    Returns:
        As `keras_tuner.HyperParameters.get_config()`, and `keeping`: those that change no weights' shapes.

    Raises:
        UserError: The user's module or function is at fault, or no worker can start.
        MachineError: The machine is at fault.
    """
    asked: str | None = None
    deaths, until = 0, math.inf
    found: Discovered | None = None
    others: list[Message] = []
    while found is None:
        for message in workers.poll(1.0):
            if isinstance(message, MachineFailed):
                raise MachineError(message.reason)
            if isinstance(message, Discovered):
                found = message
            else:
                others.append(message)
            if isinstance(message, Died):
                if message.lost and not workers.slots():
                    raise UserError(f"workers: {message.slot} {message.reason}")
                if message.slot == asked:
                    asked, until, deaths = None, math.inf, deaths + 1
                    if deaths > 1:
                        raise UserError(f"model.hypermodel={name}: the process that builds it {message.reason}")
        waiting = _waiting(others)
        if asked is None and waiting is not None:
            # It may have been ready before the one that was asked died, and says so no more.
            others = [message for message in others if message is not waiting]
            asked, until = waiting.slot, time.monotonic() + timeout
            workers.submit(asked, Discover(name))
        if found is None and time.monotonic() > until:
            raise UserError(f"model.hypermodel={name}: its space is not known after {timeout:.0f} s of building it")
    if found.error:
        raise UserError(found.error)
    workers.put_back(others)
    return found.space


def _waiting(messages: Sequence[Message]) -> Ready | None:
    """The first slot that is ready: its process has not died since it said so."""
    ready: dict[str, Ready] = {}
    for message in messages:
        if isinstance(message, Ready):
            ready[message.slot] = message
        elif isinstance(message, Died):
            ready.pop(message.slot, None)
    return next(iter(ready.values()), None)
