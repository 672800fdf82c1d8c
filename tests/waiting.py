"""Waits for what a pool of workers reports."""

from __future__ import annotations

import time

from mnist_sweep.workers.base import Message, Ready, Reported, Task, Workers


def wait_for(workers: Workers, kind: type[Message], seconds: float = 60) -> list[Message]:
    """Everything up to the first message of a kind."""
    until = time.monotonic() + seconds
    seen: list[Message] = []
    while time.monotonic() < until:
        for message in workers.poll(0.5):
            seen.append(message)
        if any(isinstance(message, kind) for message in seen):
            return seen
    raise AssertionError(f"no {kind.__name__} in {seconds} s, only {seen}")


def run(workers: Workers, task: Task) -> list[Message]:
    """Everything that the first slot reports about a task, until it is ready for the next one."""
    workers.submit(workers.slots()[0], task)
    return wait_for(workers, Ready)


def wait_for_reports(workers: Workers, count: int) -> list[Reported]:
    """A number of reports, which may arrive together or one by one; nothing else may arrive."""
    seen: list[Reported] = []
    while len(seen) < count:
        arrived = wait_for(workers, Reported)
        assert all(isinstance(message, Reported) for message in arrived), arrived
        seen += [message for message in arrived if isinstance(message, Reported)]
    return seen
