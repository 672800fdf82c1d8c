"""What each slot of a running sweep does and uses."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.journal.files import SLOTS
from mnist_sweep.journal.state import SweepState

# Seconds after which the figures are too old to be shown.
_FRESH = 15.0
_FIGURES = (
    "cpu_percent",
    "memory_bytes",
    "memory_total_bytes",
    "gpu_percent",
    "gpu_memory_bytes",
    "gpu_memory_total_bytes",
    "watts",
)


def slots(folder: Path, state: SweepState, gone: set[str], now: float) -> list[dict[str, Any]]:
    """Returns what is known of each slot.

    Args:
        folder: The sweep's folder.
        state: The sweep, which runs.
        gone: The slots that were closed or lost.
        now: The time in seconds since 1970.

    Returns:
        `name` and, if it is known, `device`; `trial`, `epoch` and `epochs` if it trains one; and the figures that were
        measured.
    """
    measured = _measured(folder, now)
    busy = {start.slot: number for number, start in state.open.items() if start.slot}
    names = sorted(((state.slots | measured.keys()) - gone) | busy.keys(), key=_natural)
    found = []
    for name in names:
        figures = measured.get(name, {})
        device = f"{figures.get('device') or ''}"
        node = f"{figures.get('node') or ''}"
        about = {key: figures[key] for key in _FIGURES if isinstance(figures.get(key), int | float)}
        where = f"{device} on {node}" if device and node else device
        found.append({"name": name, "device": where, **_trial(state, busy.get(name)), **about})
    return found


def _measured(folder: Path, now: float) -> Mapping[str, Mapping[str, Any]]:
    """Reads the file that the sweep writes every two seconds; nothing if it is old, missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content = json.loads((folder / SLOTS).read_bytes())
        if abs(now - content["time"]) < _FRESH:
            return {str(slot.get("name") or slot["slot"]): slot for slot in content["slots"]}
    return {}


def _trial(state: SweepState, number: int | None) -> dict[str, Any]:
    if number is None:
        return {}
    latest, start = state.latest.get(number), state.open[number]
    return {"trial": number, "epoch": latest.epoch if latest else 0, "epochs": start.trial.epochs}


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts `gpu2` before `gpu10`."""
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)(\d*)", name)]
