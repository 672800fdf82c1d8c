"""The phases of a sweep, and the reasons for which it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Phase(Enum):
    """What a sweep is doing."""

    SEARCHING = auto()
    """The search suggests trials."""
    STOPPING = auto()
    """The running trials end, as the budget is used up, the target is reached or too much has failed."""
    CONFIRMING = auto()
    """The best trials are retrained on new seeds."""
    TESTING = auto()
    """The winner is tested."""
    OVER = auto()


@dataclass
class Course:
    """How far a sweep has come, and why it ends; a reason is "" unless it applies.

    Attributes:
        phase: What the sweep is doing.
        stopped: Why the search was stopped.
        failure: Why the sweep has failed.
        interruption: Why the sweep is to be resumed later; set at any time, also by a signal handler.
        machine: What failed of the machine, which is why it was interrupted.
    """

    phase: Phase = Phase.SEARCHING
    stopped: str = ""
    failure: str = ""
    interruption: str = ""
    machine: str = ""

    def stop(self, reason: str) -> None:
        """Ends the search."""
        self.stopped = self.stopped or reason
        if self.phase is Phase.SEARCHING:
            self.phase = Phase.STOPPING
