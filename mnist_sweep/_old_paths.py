"""Keeps the import paths of version 0.1 that users' own code has: searches, stopping rules, notebooks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MOVED = {
    "mnist_sweep.errors": "mnist_sweep.common.errors",
    "mnist_sweep.grammar": "mnist_sweep.config.grammar",
    "mnist_sweep.light_keras": "mnist_sweep.common.light_keras",
    "mnist_sweep.outcomes": "mnist_sweep.journal.ranking",
    "mnist_sweep.settings": "mnist_sweep.config.settings",
    "mnist_sweep.space": "mnist_sweep.config.space",
    "mnist_sweep.trial": "mnist_sweep.journal.trial",
    "mnist_sweep.results.api": "mnist_sweep.results.runs.api",
    "mnist_sweep.results.frames": "mnist_sweep.results.runs.frames",
    "mnist_sweep.results.models": "mnist_sweep.results.models.tracked",
}


class _Finder(MetaPathFinder, Loader):
    """Gives the module that is now elsewhere, the same object under both names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(_MOVED[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Has been run under its own name."""


def keep() -> None:
    """Makes the old paths importable."""
    sys.meta_path.append(_Finder())
