"""Waits for what the workers report."""

from __future__ import annotations

from collections.abc import Callable

from mnist_sweep.workers.base import Message, Workers

_SECONDS = 0.2


def receive(
    workers: Workers,
    handle: Callable[[Message], None],
    until: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
    timeout: Callable[[], float] = lambda: _SECONDS,
) -> None:
    """Hands over what the workers report, until a condition holds.

    All messages that have come by then are handed over, so none is lost.

    Args:
        workers: The pool.
        handle: Takes each message.
        until: The condition; checked before each wait.
        before: What to do before each wait.
        timeout: The most seconds of the next wait.
    """
    while not until():
        before()
        for message in workers.poll(timeout()):
            handle(message)
