"""Switches off parts of the program that have no setting: put this folder on PYTHONPATH and name them in PARTS_OFF.

`mlflow`: nothing is logged. `files`: no model, sample or checkpoint is written, and the winner is not tested, as there
is no model to load. Each part is replaced when its module is imported, in every process. If it is no longer there, that
import fails.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_OFF = os.environ.get("PARTS_OFF", "").split(",")


def _replace(owner: Any, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__} no longer has {name}; correct {__file__}")
    setattr(owner, name, value)


def _nothing(*_: object, **__: object) -> None:
    return


def _tracking(module: ModuleType) -> None:
    def begin(self: Any, *_: object) -> None:
        self.error, self.refusals = None, module.Refusals()

    _replace(module.Tracker, "__init__", begin)
    for name in ("handle", "close"):
        _replace(module.Tracker, name, _nothing)
    _replace(module.Tracker, "behind", 0)


def _publish(module: ModuleType) -> None:
    _replace(module, "publish", lambda *_, **__: module.Published())


def _files(module: ModuleType) -> None:
    write = module.write_whole

    def write_others(path: Any, *more: Any, **options: Any) -> None:
        # Not earlier, as this module imports the changed one.
        from mnist_sweep.trial import MODEL_FILE, SAMPLE_FILE, STATE_FILE

        if path.name not in (MODEL_FILE, SAMPLE_FILE, STATE_FILE):
            write(path, *more, **options)

    _replace(module, "write_whole", write_others)


def _reading(module: ModuleType) -> None:
    digest_of = module.digest_of

    def digest_if_there(path: Any, *more: Any) -> str:
        return digest_of(path, *more) if path.exists() else ""

    _replace(module, "digest_of", digest_if_there)


def _sweep(module: ModuleType) -> None:
    _replace(module.Sweep, "_test_winner", _nothing)


_CHANGES: dict[str, Callable[[ModuleType], None]] = {}
if "mlflow" in _OFF:
    _CHANGES |= {"mnist_sweep.tracking": _tracking, "mnist_sweep.publish": _publish}
if "files" in _OFF:
    _CHANGES |= {"mnist_sweep.files": _files, "mnist_sweep.reading": _reading, "mnist_sweep.sweep": _sweep}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to change, and changes each after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = _CHANGES.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if change else None
        if change is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_changed(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_changed  # type: ignore[method-assign]
        return spec


if _CHANGES:
    sys.meta_path.insert(0, _Finder())
