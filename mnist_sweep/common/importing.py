"""Faster imports of large packages."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Collector:
    """Keeps the garbage collector off for as long as any thread needs it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._was_on = 0, False

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._was_on = gc.isenabled()
                gc.disable()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._was_on:
                    gc.enable()


# For imports: imported objects stay, and collecting garbage among them again and again takes a quarter of the time.
without_collector = _Collector().off


class _Hider(MetaPathFinder):
    def __init__(self, packages: Collection[str]) -> None:
        self._packages, self._thread = packages, threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Other threads still find the packages: one of them may be importing MLflow, which needs them.
        if fullname.partition(".")[0] in self._packages and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


@contextmanager
def hidden(packages: Collection[str]) -> Iterator[None]:
    """Hides packages that are not loaded yet from the imports of this thread."""
    hider = _Hider(packages)
    sys.meta_path.insert(0, hider)
    try:
        yield
    finally:
        sys.meta_path.remove(hider)
