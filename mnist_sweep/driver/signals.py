"""Ctrl-C and SIGTERM while a sweep runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.driver.loop import Sweep


@contextmanager
def stopping_on_signals(sweep: Sweep, console: Console) -> Iterator[None]:
    """Stops the sweep after the running epochs on Ctrl-C or SIGTERM, and at once on a second Ctrl-C.

    In both cases, it can be resumed.
    """
    # A terminal sends SIGHUP when it is closed, a cluster SIGTERM when it needs the machine.
    kinds = (signal.SIGINT, *termination.ending_signals())

    def handler(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        sweep.stop("stopped by Ctrl-C" if number == signal.SIGINT else f"stopped by {name}")
        for kind in kinds:
            signal.signal(kind, signal.default_int_handler)
        console.print("Stopping when the running epochs have ended; Ctrl-C again to stop at once.", style="yellow")

    before = {number: signal.signal(number, handler) for number in kinds}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
