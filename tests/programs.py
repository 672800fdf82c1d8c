"""Runs the command line as a user does: in a process of its own, without the environment of this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


# What a sweep does at its end takes seconds, and is not what most of these tests are about.
UNPUBLISHED = ("tracking.report=false", "tracking.register=false")


def command(*arguments: str, published: bool = False) -> list[str]:
    is_sweep = not arguments or "=" in arguments[0] or arguments[0] == "-m"
    more = UNPUBLISHED if is_sweep and not published and "--cfg" not in arguments else ()
    return [sys.executable, "-m", "mnist_sweep", *arguments, *more]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "HYDRA", "KERAS", "CUDA"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def with_store(folder: Path, store: Path) -> Path:
    (folder / "mlruns").mkdir()
    shutil.copy(store, folder / "mlruns")
    return folder
