"""Writes events to MLflow in a background thread, while the sweep runs."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UnreachableError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import counted, first_line, printable
from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import Event
from mnist_sweep.tracking.faults import lasting_fault
from mnist_sweep.tracking.recorder import Plots, Recorder
from mnist_sweep.tracking.writer import is_refusal

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0
# How MLflow answers when something is written to a deleted run or experiment.
_DELETED = "must be in the 'active' state"
# Seconds that the end of a sweep waits for a store that does not answer.
_PATIENCE = 10.0
# Reasons that are printed; each may name another run.
_MOST_REASONS = 5
# Seconds between one writing and the next, and how many events one takes.
_EVERY = 1.0
AT_ONCE = 500


_GOES_ON = "MLflow cannot be used; training continues, and the journal keeps everything"


def _quiet(_: str) -> None:
    """Prints nothing."""


class Refusals:
    """Events that MLflow refused although it can be reached. They are reported, and everything else is logged.

    Attributes:
        count: How many events are not in MLflow, or only in part.
        reason: What MLflow answered to the first of them.
    """

    def __init__(self, tell: Callable[[str], None] = _quiet) -> None:
        """Starts with none.

        Args:
            tell: Prints a line when a reason is met for the first time.
        """
        self.count, self.reason = 0, ""
        self._tell, self._told = tell, set[str]()

    def __str__(self) -> str:
        """Returns one line about all of them; empty if there are none."""
        events = counted(self.count, "event")
        return (
            f"{events} could not be logged completely, because MLflow rejects a part: {self.reason}"
            if self.count
            else ""
        )

    def add(self, event: Event, error: Exception) -> None:
        """Counts an event, and logs the reason once."""
        reason = masked(first_line(error))
        if _DELETED in reason:
            sync = invocation.command("sync")
            reason = f"its run or experiment was deleted while the sweep ran; {sync} restores it"
        self.count += 1
        self.reason = self.reason or reason
        if reason not in self._told and len(self._told) < _MOST_REASONS:
            self._told.add(reason)
            _LOG.error("MLflow rejects (a part of) %s: %s", type(event).__name__, reason)
            self._tell(f"MLflow rejects a part of what is logged: {reason}. Everything else is logged.")


def write(recorder: Recorder, events: Sequence[Event], refusals: Refusals) -> None:
    """Writes events to MLflow, one by one if it refuses any.

    Args:
        recorder: Writes them.
        events: The events in their order; any of them may have been written before.
        refusals: Collects what MLflow rejects.

    Raises:
        Exception: MLflow cannot be reached, or it refuses the sweep's own run, without which nothing can be logged.
    """
    try:
        recorder.handle(*events)
    except Exception as error:
        if not is_refusal(error) or not recorder.has_started:
            raise
        if len(events) == 1:
            refusals.add(events[0], error)
            return
        for event in events:
            write(recorder, [event], refusals)


class Tracker:
    """Takes events without delay, and logs them in the background.

    While MLflow cannot be reached, events wait and are retried, and the sweep continues. What MLflow rejects is left
    out. The events of a second are written together, as each call to MLflow takes time.

    Attributes:
        error: Why events are waiting, or, after `close`, were not logged; None if MLflow has them.
        refusals: What is left out.
    """

    def __init__(
        self, settings: Settings, folder: Path, plots: Callable[[], Plots], tell: Callable[[str], None] = _quiet
    ) -> None:
        """Starts the thread, which imports MLflow and opens the store with the first event.

        Args:
            settings: The config of the sweep.
            folder: The sweep's folder, from which models are logged.
            plots: Loads what draws the plots, as for `Recorder`.
            tell: Prints a line, from another thread: about a fault of the store that does not pass by itself, as soon
                as it is met.
        """
        self._uri, self._tell = settings.tracking.uri, tell
        self._told: set[str] = set()
        self._given_up = False
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._recorder = Recorder(settings, folder, plots)
        self._closing = threading.Event()
        self._taken = 0
        self.error: Exception | None = None
        self.refusals = Refusals(tell)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def handle(self, *events: Event) -> None:
        """Takes events, to be logged soon."""
        for event in events:
            self._events.put(event)

    def close(self) -> None:
        """Waits until everything is logged, or `error` says why it cannot be.

        A store that does not answer is given up after ten seconds.
        """
        self._events.put(None)
        self._closing.set()
        started = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            asked = self._recorder.waiting_since
            if asked is not None and time.monotonic() - max(asked, started) > _PATIENCE:
                # The thread does not keep the process from ending.
                self._given_up = True
                self.error = UnreachableError(f"it does not answer within {_PATIENCE:.0f} s")
                return

    @property
    def fault(self) -> str | None:
        """What `error` says about the store, if somebody must mend it."""
        return None if self.error is None else lasting_fault(self.error, self._uri)

    def status(self) -> str:
        """Says in a few words that events are waiting for the store; empty if it works."""
        if self.error is None:
            return ""
        return "MLflow cannot be used" if self._told else "MLflow does not answer, and is tried again"

    @property
    def complete(self) -> bool:
        """Whether MLflow has everything that was handled so far."""
        return self.error is None and self.refusals.count == 0

    @property
    def mended(self) -> str:
        """What was deleted of the sweep in MLflow, and is restored; empty if nothing was."""
        return str(self._recorder.mended)

    @property
    def behind(self) -> int:
        """How many events are waiting."""
        return self._events.qsize() + self._taken

    def _work(self) -> None:
        more = True
        while more:
            started = time.monotonic()
            events, more = self._take()
            if events and not self._log(events):
                return
            self._taken = 0
            self._closing.wait(max(0.0, started + _EVERY - time.monotonic()))

    def _take(self) -> tuple[list[Event], bool]:
        """Waits for events, and returns those that have come and whether there may be more."""
        events: list[Event] = []
        while len(events) < AT_ONCE and not (events and self._events.empty()):
            event = self._events.get()
            if event is None:
                return events, False
            events.append(event)
            self._taken += 1
        return events, True

    def _log(self, events: Sequence[Event]) -> bool:
        if len(events) > 1:
            try:
                write(self._recorder, events, self.refusals)
            except Exception as error:
                self._failed(error)
                if self._is_final(error):
                    return False
                self._closing.wait(1.0)
            else:
                self._succeeded()
                return True
        # One by one, so that an event that cannot be written delays only those after it.
        return all(self._log_one(event) for event in events)

    def _log_one(self, event: Event) -> bool:
        pause = 1.0
        while True:
            last = self._closing.is_set()
            try:
                write(self._recorder, [event], self.refusals)
            except Exception as error:
                self._failed(error)
                if last or self._is_final(error):
                    return False
            else:
                self._succeeded()
                return True
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _failed(self, error: Exception) -> None:
        _LOG.error("MLflow: %s", printable(masked(traceback.format_exc()), 20_000))
        if self._given_up:
            return
        self.error = error
        fault = masked(first_line(error)) if is_refusal(error) else lasting_fault(error, self._uri)
        if fault is not None and fault not in self._told and not self._closing.is_set():
            self._told.add(fault)
            self._tell(f"{_GOES_ON}: {fault}")

    def _is_final(self, error: Exception) -> bool:
        """Returns whether to give up: trying again would not help, or would keep the sweep from ending."""
        waited = self._closing.is_set() and isinstance(error, UnreachableError)
        return is_refusal(error) or waited or self._given_up

    def _succeeded(self) -> None:
        if self._given_up:
            return
        if self.error is not None and self._told:
            self._told.clear()
            self._tell("MLflow: works again, and gets everything that was waiting.")
        self.error = None
