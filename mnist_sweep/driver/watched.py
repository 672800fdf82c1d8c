"""A sweep as its journal shows it, whichever process runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.driver.progress import Progress
from mnist_sweep.journal.events import Event, SweepResumed, SweepStarted
from mnist_sweep.journal.folders import is_running
from mnist_sweep.journal.follow import Follower
from mnist_sweep.journal.trial import Status

Phase = Literal["starting", "running", "complete", "stopped", "failed", "interrupted"]


class Watched:
    """Follows a sweep through its journal.

    Attributes:
        folder: The sweep's folder.
        progress: How far it is; None before its first event.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Takes the sweep's folder, whose journal need not exist yet."""
        self.folder, self._clock = folder, clock
        self.progress: Progress | None = None
        self._follower, self._past = Follower(folder), list[Event]()

    def update(self) -> bool:
        """Reads what has happened since the last call; returns whether anything has."""
        return bool(list(self.new()))

    def new(self) -> Iterator[Event]:
        """Yields what has happened since the last call, each event after `progress` has taken note of it."""
        for event in self._follower.new():
            self._handle(event)
            yield event

    def _handle(self, event: Event) -> None:
        if isinstance(event, SweepStarted | SweepResumed):
            # A new session may have a larger budget.
            self.progress = _progress(event, self._now)
            self.progress.started = event.time
            for past in self._past:
                self.progress.handle(past)
        if self.progress is not None:
            self.progress.handle(event)
        self._past.append(event)

    def _now(self) -> float:
        """The time, which stands still when the sweep has ended."""
        ended = None if self.progress is None else self.progress.state.ended
        return self._clock() if ended is None else ended.time

    @property
    def phase(self) -> Phase:
        """What the sweep does now; `interrupted` if the process that ran it was killed."""
        if self.progress is None:
            return "starting"
        ended = self.progress.state.ended
        if ended is None:
            return "running" if is_running(self.folder) else "interrupted"
        if ended.status is Status.COMPLETED:
            return "complete"
        return "failed" if ended.status is Status.FAILED else "stopped"


def _progress(event: SweepStarted | SweepResumed, clock: Callable[[], float]) -> Progress:
    settings = check_settings(event.config)
    size: int | None = None
    if settings.trial["model"].get("hypermodel") is None:
        try:
            size = Space(settings.trial, written=settings.conditions).size
        except UserError:
            # A sweep of an earlier version.
            size = None
    return Progress(settings.objective, settings.search, None, lambda _: size, clock, confirm=settings.confirm)
