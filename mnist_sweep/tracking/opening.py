"""Opens a store on another machine while a sweep starts, so that what is wrong with it is known before training."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.tracking import store
from mnist_sweep.tracking.faults import lasting_fault
from mnist_sweep.tracking.uri import absolute, is_server, sqlite_path

_LOG = logging.getLogger(__name__)
# Seconds for each call that are worth a line, and how often they are measured.
_SLOW_LOGIN, _TIMES = 0.1, 2
_OK = 200
CONTINUES = "training continues, and the journal keeps everything"


class Told:
    """The faults of a store that the user knows, whichever thread has met them first."""

    def __init__(self) -> None:
        """Starts with none."""
        self._faults, self._lock = set[str](), threading.Lock()

    def __bool__(self) -> bool:
        """Returns whether there are any."""
        return bool(self._faults)

    def is_new(self, fault: str) -> bool:
        """Returns whether a fault was not told yet, and takes note of it."""
        with self._lock:
            known = fault in self._faults
            self._faults.add(fault)
            return not known

    def clear(self) -> None:
        """Forgets all, as they are mended."""
        self._faults.clear()


def open_early(uri: str, tell: Callable[[str], None]) -> Told:
    """Opens a store in the background; an SQLite store is left to the tracker, as importing MLflow takes seconds.

    Args:
        uri: The store.
        tell: Prints a line, from another thread: about a fault that does not pass by itself.

    Returns:
        The faults that were told; filled later.
    """
    told = Told()

    def ask() -> None:
        try:
            store.connect(uri, create=True)
            if is_server(uri) and (slow := _slow_login(uri)):
                tell(slow)
        except Exception as error:
            _LOG.info("MLflow: %s", masked(first_line(error)))
            fault = lasting_fault(error, uri)
            if fault is not None and told.is_new(fault):
                tell(unusable(fault))

    if sqlite_path(absolute(uri)) is None:
        threading.Thread(target=ask, name="opening", daemon=True).start()
    return told


def _slow_login(uri: str) -> str:
    """Says that a server takes long to check the password at each call; empty if it does not.

    Both of these calls do next to nothing, and MLflow's server asks for the password only at the second.
    """
    least = math.inf
    for _ in range(_TIMES):
        free, asks = _seconds(uri, "/health"), _seconds(uri, "/version")
        if free is None or asks is None:
            return ""
        least = min(least, asks - free)
        if least < _SLOW_LOGIN:
            return ""
    return (
        f"MLflow's server takes {least:.2f} s for the password at each call, so MLflow may lag behind; its owner can "
        "set auth_cache_ttl_seconds = 300 in the server's basic_auth.ini (MLFLOW_AUTH_CONFIG_PATH)"
    )


def _seconds(uri: str, endpoint: str) -> float | None:
    """How long a call takes; None if the server does not have it."""
    from mlflow.utils import rest_utils
    from mlflow.utils.credentials import get_default_host_creds

    calls: Any = rest_utils
    credentials: Any = get_default_host_creds
    started = time.monotonic()
    answer = calls.http_request(credentials(uri), endpoint, "GET")
    return time.monotonic() - started if answer.status_code == _OK else None


def unusable(fault: str) -> str:
    """Returns the line that a store cannot be used, and that the sweep does not need it."""
    return f"MLflow cannot be used; {CONTINUES}: {fault}"
