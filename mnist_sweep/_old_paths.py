"""Keeps the import paths of version 0.1 that users' code may have, such as a custom search algorithm."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    # Their module imports half of Python's library, and this module is the first of the program that Python runs.
    class Loader:
        """Stands for `importlib.abc.Loader`."""

    class MetaPathFinder:
        """Stands for `importlib.abc.MetaPathFinder`."""


_MOVED = {
    "mnist_sweep.errors": "mnist_sweep.common.errors",
    "mnist_sweep.outcomes": "mnist_sweep.journal.ranking",
    "mnist_sweep.settings": "mnist_sweep.config.settings",
    "mnist_sweep.space": "mnist_sweep.config.space",
    "mnist_sweep.trial": "mnist_sweep.journal.trial",
}


class _Finder(MetaPathFinder, Loader):
    """Imports a module that has moved: its old name gives the same object as its new name."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # An import returns what is in `sys.modules` afterwards.
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


def keep() -> None:
    """Makes the old paths importable."""
    sys.meta_path.append(_Finder())
