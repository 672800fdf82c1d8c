"""Ends a process in time when a signal asks for it, whatever the process is doing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Senders of SIGTERM commonly wait 5 seconds before they send SIGKILL.
SECONDS = 4.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked the process to end.

    Python ends a process with SIGINT if KeyboardInterrupt itself has left an `exec`, even when it is caught later; a
    subclass avoids that.
    """


def raise_on_signals() -> threading.Event:
    """Makes SIGINT, SIGTERM and SIGHUP raise `Ended`, and end the process within `SECONDS` in any case.

    Returns:
        An event that is set when a signal arrives: an exception that is raised inside a callback of the garbage
        collector is lost.
    """
    ended = threading.Event()

    def end(_number: int, _frame: object) -> NoReturn:
        ended.set()
        end_in_time()
        raise Ended

    for number in SIGNALS:
        # `nohup` ignores SIGHUP on purpose.
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, end)
    return ended


def end_in_time() -> None:
    """Ends this process after `SECONDS`, counted from the first call."""
    # Not with a thread: C code, such as TensorFlow's while it loads, can keep Python's threads from running.
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)


def ending_signals() -> list[signal.Signals]:
    """Returns the signals besides Ctrl-C that end this process; under nohup, closing the terminal does not."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, so that no temporary folder or process is left behind."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ending_signals()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
