"""Asks a worker what a user's hypermodel searches, or to check the user's model function."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.driver.receive import receive
from mnist_sweep.workers.base import Check, Died, Discover, Discovered, MachineFailed, Message, Ready, Workers


def discover(workers: Workers, name: str, timeout: float, objectives: Sequence[str] = ()) -> dict[str, Any]:
    """Asks a worker for the space of a hypermodel. The pool can be used for trials afterwards.

    Args:
        workers: A pool, which may still be starting.
        name: The hypermodel, `package.module:name`.
        timeout: Seconds to wait for the answer, once a worker was asked.
        objectives: The names of the metrics that its training must log.

    Returns:
        What `keras_tuner.HyperParameters.get_config()` returns, and `keeping`: the hyperparameters that change no
        weights' shapes.

    Raises:
        UserError: The user's module or function is at fault, or no worker can start.
        MachineError: The machine is at fault.
    """
    return _ask(_Discovery(workers, Discover(name, tuple(objectives)), f"model.hypermodel={name}", timeout))


def check(
    workers: Workers, configs: Sequence[dict[str, Any]], timeout: float, objectives: Sequence[str] = ()
) -> dict[str, Any]:
    """Lets a worker check the user's function that builds the models. The pool can be used for trials afterwards.

    Args:
        workers: A pool, which may still be starting.
        configs: Configs of trials, whose model names the function.
        timeout: Seconds to wait for the answer, once a worker was asked.
        objectives: The names of the metrics that training must log.

    Returns:
        What the worker's `Trainer.check` returns: `unread` and `notes`.

    Raises:
        UserError: The function cannot be imported, or its model could not be loaded after training.
        MachineError: The machine is at fault.
    """
    setting = f"model.builder={configs[0]['model']['builder']}"
    return _ask(_Discovery(workers, Check(tuple(configs), tuple(objectives)), setting, timeout))


def _ask(discovery: _Discovery) -> dict[str, Any]:
    receive(discovery.workers, discovery.handle, lambda: discovery.found is not None, before=discovery.ask)
    assert discovery.found is not None
    if discovery.found.error:
        raise UserError(discovery.found.error)
    discovery.workers.put_back(discovery.others)
    return discovery.found.space


class _Discovery:
    def __init__(self, workers: Workers, task: Discover | Check, setting: str, timeout: float) -> None:
        self.workers, self._task, self._setting, self._timeout = workers, task, setting, timeout
        self._asked: str | None = None
        self._deaths, self._until = 0, math.inf
        self.found: Discovered | None = None
        self.others: list[Message] = []

    def handle(self, message: Message) -> None:
        if isinstance(message, MachineFailed):
            raise MachineError(message.reason)
        if isinstance(message, Discovered):
            self.found = message
            return
        self.others.append(message)
        if isinstance(message, Died):
            if message.lost and not self.workers.slots():
                raise UserError(f"workers: {message.slot} {message.reason}")
            if message.slot == self._asked:
                self._asked, self._until, self._deaths = None, math.inf, self._deaths + 1
                if self._deaths > 1:
                    raise UserError(f"{self._setting}: the process that builds it {message.reason}")

    def ask(self) -> None:
        """Asks a slot that is ready, unless one was asked, which must answer in time."""
        ready = self._ready()
        if self._asked is None and ready is not None:
            self.others = [message for message in self.others if message is not ready]
            self._asked, self._until = ready.slot, time.monotonic() + self._timeout
            self.workers.submit(ready.slot, self._task)
        elif time.monotonic() > self._until:
            raise UserError(f"{self._setting}: building it took more than {self._timeout:.0f} s")

    def _ready(self) -> Ready | None:
        """The first slot that has reported that it is ready, and whose process has not died since."""
        ready: dict[str, Ready] = {}
        for message in self.others:
            if isinstance(message, Ready):
                ready[message.slot] = message
            elif isinstance(message, Died):
                ready.pop(message.slot, None)
        return next(iter(ready.values()), None)
