"""Messages about a running sweep, by services such as Slack or e-mail (`notify`), through Apprise."""

from __future__ import annotations

import importlib.util
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import pip_install
from mnist_sweep.common.text import counted, format_duration, format_value, short_names
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.services import KEY, services
from mnist_sweep.config.settings import Settings
from mnist_sweep.journal.events import Event, SweepEnded, TrialEnded
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Status

_LOG = logging.getLogger(__name__)
# Failed trials in a row of which a message is sent.
_IN_A_ROW = 2
# Messages that wait for a service that is slow; more are dropped.
_MOST_WAITING = 50
# Seconds that the end of a sweep waits for the last message.
_PATIENCE = 5.0
_SENT = {"done": "success", "failed": "failure", "stopped": "warning", "best": "info", "failures": "warning"}
_ENDS = {Status.COMPLETED: "done", Status.STOPPED: "stopped", Status.FAILED: "failed"}

Send = Callable[[str, str, str], str]
"""Sends a title, a text and the kind of message, which may take long; returns why it could not; "" if it could."""


class Notifier:
    """Takes a sweep's events, and sends messages about the most important ones, each service in a thread of its own.

    A service that is slow or dead never delays the sweep: messages for it are dropped, which is told once.
    """

    def __init__(self, settings: Settings, to: Sequence[tuple[str, Send]], tell: Callable[[str], None]) -> None:
        """Starts the threads.

        Args:
            settings: The config of the sweep.
            to: The services: how each is shown, and what sends.
            tell: Prints a line, from another thread.
        """
        self._state, self._objectives = SweepState(settings.objectives), settings.objectives
        self._services = [_Service(name, send, tell) for name, send in to]
        self._best: int | None = None
        self._failed = 0

    def known(self, events: Sequence[Event]) -> None:
        """Takes the events of earlier sessions, of which nothing is sent."""
        for event in events:
            self._take(event)

    def handle(self, *events: Event) -> None:
        """Takes events."""
        for event in events:
            if (message := self._take(event)) is not None:
                kind, title, text = message
                for service in self._services:
                    service.put(title, text, kind)

    def close(self) -> None:
        """Waits some seconds for the messages that are on their way."""
        until = time.monotonic() + _PATIENCE
        for service in self._services:
            service.close()
        for service in self._services:
            service.wait(max(0.0, until - time.monotonic()))

    def _take(self, event: Event) -> tuple[str, str, str] | None:
        """Returns the message of an event: its kind, title and text; None without one."""
        self._state.handle(event)
        if isinstance(event, SweepEnded):
            return self._ended(event)
        if not isinstance(event, TrialEnded):
            return None
        if event.outcome.failed:
            self._failed += 1
            if self._failed == _IN_A_ROW:
                return "failures", *self._failures(event)
            return None
        self._failed = 0
        best, before = self._state.results.winner(), self._best
        self._best = best
        trial = self._state.results.trials[event.trial]
        if best != event.trial or before in (None, best) or trial.confirms is not None:
            # The first one is the best in any case.
            return None
        return "best", f"{self._name}: new best", f"{self._about(event.trial)}; before: {self._score(before)}"

    def _ended(self, event: SweepEnded) -> tuple[str, str, str]:
        what = _ENDS.get(event.status, "failed")
        results, started = self._state.results, self._state.started
        trials = sum(trial.confirms is None for n, trial in results.trials.items() if n in results.outcomes)
        took = "" if started is None else f" in {format_duration(event.time - started.time)}"
        lines = [f"{counted(trials, 'trial')}{took}", *([event.reason] if event.reason else [])]
        if event.winner is not None:
            lines.append(f"Best: {self._about(event.winner)}")
        return what, f"{self._name}: {what}", "\n".join(lines)

    def _failures(self, event: TrialEnded) -> tuple[str, str]:
        last = f"Trial {event.trial}: {event.outcome.reason}"
        return f"{self._name}: {_IN_A_ROW} trials in a row have failed", last

    @property
    def _name(self) -> str:
        return self._state.started.sweep if self._state.started is not None else "mnist_sweep"

    def _about(self, number: int) -> str:
        values = self._state.results.trials[number].values
        short = short_names(list(values))
        shown = ", ".join(f"{short[name]}={format_value(value)}" for name, value in values.items())
        return f"trial {number}, {self._score(number)}{f' ({shown})' if shown else ''}"

    def _score(self, number: int | None) -> str:
        outcome = None if number is None else self._state.results.outcomes.get(number)
        objective: Objective = self._objectives[0]
        return "no score" if outcome is None or outcome.score is None else f"{objective.name} {outcome.score:.4f}"


class _Service:
    """Sends messages to one service."""

    def __init__(self, name: str, send: Send, tell: Callable[[str], None]) -> None:
        self._name, self._send, self._tell, self._told = name, send, tell, False
        self._queue: queue.Queue[tuple[str, str, str] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        self._thread.start()

    def put(self, *message: str) -> None:
        try:
            self._queue.put_nowait((message[0], message[1], message[2]))
        except queue.Full:
            self._fails(f"is too slow: {_MOST_WAITING} messages wait")

    def close(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._fails(f"did not accept the last message within {_PATIENCE:.0f} s")

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                reason = self._send(*message)
            except Exception as error:
                # Its text may have the secrets of the service.
                reason = type(error).__name__
            if reason:
                self._fails(f"did not accept a message ({reason})")

    def _fails(self, what: str) -> None:
        if not self._told:
            self._told = True
            line = f"{KEY}: {self._name} {what}; the sweep continues, and says this once"
            _LOG.warning(line)
            self._tell(line)


def create(settings: Settings, tell: Callable[[str], None]) -> Notifier | None:
    """Returns what sends messages about a sweep; None if it has no service.

    Args:
        settings: The config of the sweep.
        tell: Prints a line.

    Raises:
        UserError: Apprise is not installed, or does not know a service.
    """
    if not settings.notify:
        return None
    if importlib.util.find_spec("apprise") is None:
        raise UserError(f"{KEY}: needs Apprise, which is not installed; {pip_install('mnist_sweep[notify]')}")
    found = services(settings.notify)
    to = [(one.name, sender(one.name, one.url)) for one in found if one.url is not None]
    for one in found:
        if one.url is None:
            tell(f"{KEY}: {one.name} gets no messages, as its address is not kept with the sweep; add notify=[URL]")
    return Notifier(settings, to, tell) if to else None


def sender(name: str, url: str) -> Send:
    """Returns what sends to a service.

    Args:
        name: How it is shown.
        url: Its address.

    Raises:
        UserError: Apprise does not know it.
    """
    import apprise

    logger = logging.getLogger("apprise")
    # What it logs may have the secrets of a service.
    logger.propagate = False
    logger.handlers = [_REASONS]
    server: Any = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if server is None:
        raise UserError(
            f"{KEY}={name}: is not the address of a service that Apprise knows, or a part of it is missing; "
            "see https://github.com/caronc/apprise/wiki"
        )

    def send(title: str, text: str, kind: str) -> str:
        _REASONS.begin()
        took = server.notify(title=title, body=text, notify_type=_SENT[kind])
        return "" if took else _REASONS.take()

    return send


class _Reasons(logging.Handler):
    """Finds in Apprise's log, thread by thread, why a message was not sent, and keeps nothing else of it."""

    def __init__(self) -> None:
        super().__init__()
        self._found = threading.local()

    def begin(self) -> None:
        self._found.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if (code := re.search(r"error[= ](\d{3})\b", text)) is not None:
            self._found.text = f"HTTP {code[1]}"
        elif "onnection error" in text:
            self._found.text = "no connection"

    def take(self) -> str:
        return getattr(self._found, "text", "") or "the service refused it"


_REASONS = _Reasons()
