"""An end in time, whatever a process is doing when it is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Of the 5 that whoever sends a SIGTERM may wait before SIGKILL.
SECONDS = 4.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """The process was told to end.

    Python ends a process in which KeyboardInterrupt itself has left an `exec` by SIGINT, though it was caught later.
    """


def raise_on_signals() -> threading.Event:
    """Lets SIGINT, SIGTERM and SIGHUP raise `Ended`, and end the process within `SECONDS` in any case.

    Returns:
        What is set by then, as the exception alone is lost where it comes upon a callback of the garbage collector's.
    """
    ended = threading.Event()

    def end(_number: int, _frame: object) -> NoReturn:
        ended.set()
        end_in_time()
        raise Ended

    for number in SIGNALS:
        # `nohup` ignores SIGHUP, for good reason.
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, end)
    return ended


def end_in_time() -> None:
    """Ends this process after `SECONDS`, or after those that an earlier call has left."""
    # Not a thread: code in C, such as TensorFlow's while it is loaded, may keep Python's threads from running.
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)


def ends() -> list[signal.Signals]:
    """The signals that end this process, beside Ctrl-C; under nohup, a closed terminal is not one of them."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP do what Ctrl-C does, so that no temporary folder and no process stays behind."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
