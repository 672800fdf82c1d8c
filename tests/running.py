"""Runs a sweep's loop in real time, with its journal and its socket, on workers that train nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes import FakeClock, FakeWorkers, InlineExecutor

from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.driver.steering_socket import SteeringSocket
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.journal import Journal
from mnist_sweep.search import choose
from mnist_sweep.search.in_thread import ThreadedSearch
from mnist_sweep.workers.base import Message


class _InRealTime(FakeWorkers):
    def poll(self, timeout: float) -> list[Message]:
        # Real workers are woken by what is asked of them.
        messages = super().poll(min(timeout, 0.05))
        time.sleep(max(0.0, self.clock.now - time.time()))
        return messages


@contextmanager
def running_sweep(
    folder: Path, config: Mapping[str, Any], *, slots: int = 2, epoch_seconds: float = 0.3
) -> Iterator[Sweep]:
    """Runs a sweep in a thread, which is stopped at the end.

    Args:
        folder: The sweep's folder, which need not exist.
        config: Its config.
        slots: How many trials run at once.
        epoch_seconds: How long an epoch takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = check_settings(dict(config))
    space, clock = Space(settings.trial, written=settings.conditions), FakeClock()
    clock.now = time.time()
    workers = _InRealTime(slots, lambda values, epoch: 1 - 0.5**epoch, clock, epoch_seconds=epoch_seconds)
    search = ThreadedSearch(lambda: choose.create_search(settings, space), InlineExecutor())
    with Journal(folder) as journal, SteeringSocket(folder) as socket:
        sweep = Sweep(
            settings, space, search, choose.create_stopping(settings), workers, folder=folder, listeners=[journal],
            clock=clock, image=(28, 28, 1), requests=socket.requests,
        )  # fmt: skip
        name = "/".join(folder.parts[-2:])
        sweep.emit(SweepStarted(clock(), name, dict(config), space.describe(), {"name": "mnist"}, {}))
        thread = threading.Thread(target=sweep.run, daemon=True)
        thread.start()
        try:
            yield sweep
        finally:
            sweep.stop("the test has ended")
            thread.join(20)
            assert not thread.is_alive()
