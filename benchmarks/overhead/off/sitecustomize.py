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

    methods = dict.fromkeys(("handle", "measured", "close", "opened", "tick"), _nothing)
    values = {"behind": 0, "mended": "", "status": lambda _: "", "without_files": "", "complete": True}
    for name, value in {"__init__": begin, **methods, **values}.items():
        _replace(module.Tracker, name, value)


def _publish(module: ModuleType) -> None:
    _replace(module, "publish", lambda *_, **__: module.Published())


def _files(module: ModuleType) -> None:
    write = module.write_whole

    def write_others(path: Any, *more: Any, **options: Any) -> None:
        # Not earlier, as this module imports the changed one.
        from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, STATE_FILE

        if path.name not in (MODEL_FILE, SAMPLE_FILE, STATE_FILE):
            write(path, *more, **options)

    _replace(module, "write_whole", write_others)


def _reading(module: ModuleType) -> None:
    digest_of = module.digest_of
    _replace(module, "digest_of", lambda path, *more: digest_of(path, *more) if path.exists() else "")


def _sweep(module: ModuleType) -> None:
    _replace(module.Sweep, "_test_winner", _nothing)


_PARTS: dict[str, dict[str, Callable[[ModuleType], None]]] = {
    "mlflow": {"mnist_sweep.tracking.tracker": _tracking, "mnist_sweep.driver.publish": _publish},
    "files": {
        "mnist_sweep.common.files": _files,
        "mnist_sweep.common.reading": _reading,
        "mnist_sweep.driver.loop": _sweep,
    },
}
_CHANGES = {name: change for part in filter(None, _OFF) for name, change in _PARTS[part].items()}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to change, and changes each after its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_changed(module: ModuleType) -> None:
            run(module)
            _CHANGES[name](module)

        spec.loader.exec_module = run_changed  # type: ignore[method-assign]
        return spec


if _CHANGES:
    sys.meta_path.insert(0, _Finder())
