"""What each slot of a running sweep does and uses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.journal.state import SweepState

# Written by the sweep while it runs, every two seconds.
FILE = "slots.json"
# Seconds after which its figures are too old to be shown.
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
        `name`; `trial`, `epoch` and `epochs` if it trains one; and the figures that were measured.
    """
    measured = _measured(folder, now)
    if not measured:
        busy = {start.slot: number for number, start in state.open.items() if start.slot}
        names = sorted((state.slots | busy.keys()) - gone, key=_natural)
        return [{"name": name, **_trial(state, busy.get(name))} for name in names]
    nodes = len({slot.get("node", "") for slot in measured}) > 1
    return [_slot(state, slot, with_node=nodes) for slot in measured]


def _measured(folder: Path, now: float) -> Sequence[Mapping[str, Any]]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content = json.loads((folder / FILE).read_bytes())
        if abs(now - content["time"]) < _FRESH:
            return [slot for slot in content["slots"] if isinstance(slot, dict)]
    return []


def _slot(state: SweepState, slot: Mapping[str, Any], *, with_node: bool) -> dict[str, Any]:
    trial, node = slot.get("trial"), slot.get("node")
    figures = {name: slot[name] for name in _FIGURES if isinstance(slot.get(name), int | float)}
    where = f" on {node}" if with_node and node else ""
    return {
        "name": f"{slot.get('slot', '')}",
        "device": f"{slot.get('device', '')}{where}",
        **_trial(state, trial if isinstance(trial, int) else None),
        **figures,
    }


def _trial(state: SweepState, number: int | None) -> dict[str, Any]:
    start = None if number is None else state.open.get(number)
    if start is None:
        return {}
    latest = state.latest.get(start.trial.number)
    return {"trial": number, "epoch": latest.epoch if latest else 0, "epochs": start.trial.epochs}


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts `gpu2` before `gpu10`."""
    parts, digits = [], ""
    word = ""
    for character in f"{name} ":
        if character.isdigit():
            digits += character
        elif digits:
            parts.append((word, int(digits)))
            word, digits = character, ""
        else:
            word += character
    return (*parts, (word, 0))
