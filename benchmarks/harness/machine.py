"""The machine and the versions that the figures come from."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_SHOWN = ("tensorflow", "keras", "keras-tuner", "optuna", "ray")
_PACKAGES = ("mnist_sweep", *_SHOWN, "mlflow", "numpy", "jax", "jaxlib", "torch")


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that `CUDA_VISIBLE_DEVICES` does not hide."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []


def commit() -> str | None:
    """Returns the program's commit as `git describe` prints it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        # Git is not installed.
        return None
    return done.stdout.strip() or None


def describe() -> dict[str, Any]:
    """Returns CPU, cores, memory, GPUs, versions, commit and date."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = {"python": platform.python_version(), "linux": platform.release()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
        "versions": versions,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def line(machine: Mapping[str, Any]) -> str:
    """Formats a description as one line."""
    parts = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB", *machine["gpus"]]
    parts += [f"{name} {version}" for name, version in machine["versions"].items() if name in _SHOWN]
    return ", ".join([*parts, machine["date"][:10]])
