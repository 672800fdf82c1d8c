"""Writes events to MLflow in a background thread, while the sweep runs."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UnreachableError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import counted, first_line, format_duration, printable
from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import Event
from mnist_sweep.tracking.faults import fault_of_files, lasting_fault
from mnist_sweep.tracking.opening import CONTINUES, Told, unusable
from mnist_sweep.tracking.recorder import Measured, Plots, Recorder
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
# Seconds that a flush waits for files, so that their run is marked by the same call.
_FOR_FILES = 1.0
# Seconds after which a store that does not answer, or takes no files, is told; and how far it may be behind.
_SOON, _LATE = 5.0, 30.0


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
    out. The events of a second are written together, as each call to MLflow takes time. Files may have a store of their
    own, and wait for it on their own.

    Attributes:
        error: Why events are waiting, or, after `close`, were not logged; None if MLflow has them.
        refusals: What is left out.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        plots: Callable[[], Plots],
        tell: Callable[[str], None] = _quiet,
        told: Told | None = None,
    ) -> None:
        """Starts the thread, which imports MLflow and opens the store with the first event.

        Args:
            settings: The config of the sweep.
            folder: The sweep's folder, from which models are logged.
            plots: Loads what draws the plots, as for `Recorder`.
            tell: Prints a line, from another thread: about a fault of the store that does not pass by itself, as soon
                as it is met.
            told: Faults that were told before, from `open_early`.
        """
        self._uri, self._tell = settings.tracking.uri, tell
        self._told = Told() if told is None else told
        self._given_up = False
        # Each with the time at which it came.
        self._events: queue.SimpleQueue[tuple[float, Event] | None] = queue.SimpleQueue()
        self._recorder = Recorder(settings, folder, plots, patience=_FOR_FILES)
        self._recorder.files.changed = self._files_changed
        self._closing = threading.Event()
        # When those came that are being written.
        self._taken: list[float] = []
        # When the first of several attempts failed, and whether the user knows that.
        self._since, self._told_outage = 0.0, False
        self._files_since, self._told_files = 0.0, set[str]()
        self._notes: list[str] = []
        self.error: Exception | None = None
        self.refusals = Refusals(tell)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def handle(self, *events: Event) -> None:
        """Takes events, to be logged soon."""
        for event in events:
            self._events.put((time.monotonic(), event))

    def measured(self, trial: int, metrics: Mapping[str, float], time: float) -> None:
        """Logs what the slot of a trial uses; drops it while the store does not answer.

        Args:
            trial: The trial's number.
            metrics: The figures, by the names of MLflow's own metrics of the system, without `system/`.
            time: When, in seconds since 1970.
        """
        if self.error is None and not self._told_outage:
            self.handle(Measured(time, trial, metrics))

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

    def opened(self, seconds: float) -> None:
        """Waits until the store has the sweep's own run with its files, or is known not to take it, or does not answer.

        Args:
            seconds: How long to wait at most.
        """
        until = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until:
            if self.error is not None or self._recorder.files.error is not None:
                return
            if self._recorder.has_started and not self._recorder.files and not self._taken:
                return
            time.sleep(0.02)

    @property
    def fault(self) -> str | None:
        """What `error` says about the store, if somebody must mend it."""
        return None if self.error is None else lasting_fault(self.error, self._uri)

    @property
    def without_files(self) -> str:
        """Why files are not where MLflow keeps them; empty if they are."""
        return self._recorder.files.missing

    def status(self) -> str:
        """Says in a few words that something waits for the store; empty if it works."""
        now, files = time.monotonic(), self._recorder.files
        asked, behind = self._recorder.waiting_since, self._lag(now)
        late = f", {format_duration(behind)} behind" if behind > _LATE else ""
        if self.error is not None:
            known = "cannot be used" if self._told else "does not answer, and is tried again"
            return f"MLflow {known}{late}"
        if asked is not None and now - asked > _PATIENCE:
            return f"MLflow has not answered for {format_duration(now - asked)}"
        if late:
            return f"MLflow is {format_duration(behind)} behind"
        if files.error is not None and now - self._files_since > _SOON:
            return f"{counted(len(files), 'file')} {'waits' if len(files) == 1 else 'wait'} for MLflow's file store"
        return ""

    def tick(self) -> None:
        """Tells once that the store does not answer, or cannot keep up, and that it does again. Called again and again.

        Called by the driver, as the thread that writes may wait for the store.
        """
        now = time.monotonic()
        asked, behind = self._recorder.waiting_since, self._lag(now)
        # At the start at once, as somebody looks.
        patience = _SOON if self._recorder.has_started else 0.0
        failing = self.error is not None and now - self._since > patience
        silent = asked is not None and now - asked > _PATIENCE
        if not self._told_outage and (failing or silent or behind > _LATE) and not self._told:
            self._told_outage = True
            reason = f" ({masked(first_line(self.error))})" if failing and self.error is not None else ""
            self._tell(f"{self.status()}{reason}; {CONTINUES}")
        elif self._told_outage and self.error is None and not silent and behind < _EVERY + _SOON:
            self._told_outage = False
            self._tell("MLflow answers again, and has everything.")

    def _lag(self, now: float) -> float:
        """For how many seconds the oldest event has been waiting."""
        taken = self._taken
        return now - taken[0] if taken else 0.0

    @property
    def complete(self) -> bool:
        """Whether MLflow has everything that was handled so far."""
        return self.error is None and self.refusals.count == 0 and not self._recorder.files

    @property
    def mended(self) -> str:
        """What was deleted of the sweep in MLflow, and is restored; empty if nothing was."""
        return str(self._recorder.mended)

    @property
    def behind(self) -> int:
        """How many events and files are waiting."""
        return self._events.qsize() + len(self._taken) + len(self._recorder.files)

    def _work(self) -> None:
        more = True
        while more:
            started = time.monotonic()
            events, more = self._take()
            if not (self._log(events) if events else self._mark()):
                return
            self._taken = []
            self._closing.wait(max(0.0, started + _EVERY - time.monotonic()))
        try:
            self._recorder.finish()
        except Exception as error:
            self._failed(error)

    def _take(self) -> tuple[list[Event], bool]:
        """Waits for events, and returns those that have come and whether there may be more.

        Returns none if runs may have got their files meanwhile.
        """
        events: list[Event] = []
        while len(events) < AT_ONCE and not (events and self._events.empty()):
            try:
                taken = self._events.get(timeout=_EVERY if self._recorder.unmarked else None)
            except queue.Empty:
                break
            if taken is None:
                return events, False
            self._taken.append(taken[0])
            events.append(taken[1])
        return events, True

    def _mark(self) -> bool:
        try:
            self._recorder.mark()
        except Exception as error:
            self._failed(error)
            return not self._is_final(error)
        return True

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
        if self.error is None:
            self._since = time.monotonic()
        self.error = error
        fault = masked(first_line(error)) if is_refusal(error) else lasting_fault(error, self._uri)
        if fault is not None and not self._closing.is_set() and self._told.is_new(fault):
            self._tell(unusable(fault))

    def _is_final(self, error: Exception) -> bool:
        """Returns whether to give up: trying again would not help, or would keep the sweep from ending."""
        waited = self._closing.is_set() and isinstance(error, UnreachableError)
        return is_refusal(error) or waited or self._given_up

    def _succeeded(self) -> None:
        if self._given_up:
            return
        notes = [note for note in self._recorder.notes if note not in self._notes]
        self._notes += notes
        for note in notes:
            self._tell(note)
        if self._told:
            self._told.clear()
            self._tell("MLflow: works again, and gets everything that was waiting.")
        self.error = None

    def _files_changed(self) -> None:
        """Tells why files wait, once for each reason, and when they no longer do."""
        files, now = self._recorder.files, time.monotonic()
        error = files.error
        if error is None:
            self._files_since = 0.0
            if self._told_files:
                self._told_files.clear()
                self._tell("MLflow's file store takes files again; those that were waiting are written.")
            return
        self._files_since = self._files_since or now
        reason, lasts = fault_of_files(error)
        # The name of the file differs from one to the next.
        kind = reason.partition(" (")[0] if lasts else ""
        worth_telling = lasts or not files.worked or now - self._files_since > _SOON
        if kind not in self._told_files and worth_telling and not self._closing.is_set():
            self._told_files.add(kind)
            self._tell(
                f"MLflow's files cannot be written to {files.place}: {reason}; everything else is logged, and "
                "they are tried again"
            )
