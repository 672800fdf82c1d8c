"""Keeps the import paths of version 0.1 that users' own code has, such as a search algorithm's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MOVED = {
    "mnist_sweep.errors": "mnist_sweep.common.errors",
    "mnist_sweep.outcomes": "mnist_sweep.journal.ranking",
    "mnist_sweep.settings": "mnist_sweep.config.settings",
    "mnist_sweep.space": "mnist_sweep.config.space",
    "mnist_sweep.trial": "mnist_sweep.journal.trial",
}


class _Finder(MetaPathFinder, Loader):
    """Gives a module that has moved: the same object under its old name and its new one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        # What an import gives is what stands here when the module has been run.
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


def keep() -> None:
    """Makes the old paths importable."""
    sys.meta_path.append(_Finder())
