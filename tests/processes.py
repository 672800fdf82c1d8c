"""Waits for processes that end by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def gone(processes: Iterable[psutil.Process], seconds: float = 15) -> bool:
    """Whether all of the processes end within some seconds."""
    until = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < until:
        left = [process for process in left if not _has_ended(process)]
        time.sleep(0.02)
    return not left


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        # It ended between the two calls.
        return True
