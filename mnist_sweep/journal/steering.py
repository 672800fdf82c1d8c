"""What users have changed while a sweep ran, as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mnist_sweep.common.text import counted, format_setting, format_value, short_names
from mnist_sweep.journal.events import (
    SettingsChanged,
    SlotsChanged,
    Steered,
    SweepContinued,
    SweepPaused,
    TrialAdded,
    TrialStopped,
)
from mnist_sweep.journal.state import BUDGET


def what(event: Steered) -> str:
    """Returns what an event has changed: `stopped trial 17`."""
    match event:
        case TrialStopped():
            return f"stopped trial {event.trial}"
        case TrialAdded():
            short = short_names(list(event.values))
            values = " ".join(f"{short[name]}={format_value(value)}" for name, value in event.values.items())
            return f"added trial {event.trial}: {values}"
        case SweepPaused():
            return "paused the sweep"
        case SweepContinued():
            return "continued the sweep"
        case SettingsChanged():
            return ", ".join(
                f"{'set' if key.startswith(BUDGET) else 'narrowed'} {key}={format_setting(value)}"
                for key, value in event.settings.items()
            )
        case SlotsChanged():
            return f"limited the sweep to {counted(event.slots, 'slot')}"
    raise AssertionError(event)


def story(steered: Sequence[Steered]) -> list[dict[str, str]]:
    """Returns `time` (in UTC), `by` and `what` of each change."""
    return [
        {"time": f"{datetime.fromtimestamp(event.time, UTC):%Y-%m-%d %H:%M:%S}", "by": event.by, "what": what(event)}
        for event in steered
    ]
