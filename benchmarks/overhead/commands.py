"""A short command: how long it takes, how much memory, and whether TensorFlow is loaded for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.overhead.sweeps import environment

_TENSORFLOW = re.compile(r"^import time:.*\|\s+tensorflow$", re.MULTILINE)


def run(arguments: Sequence[str], folder: Path, returncode: int = 0) -> dict[str, Any]:
    """Runs Python twice, and measures the second run.

    Args:
        arguments: Of Python.
        folder: Where to run.
        returncode: The exit status that is right.

    Returns:
        Seconds of wall and processor time, the most memory that its largest process had, in MiB, and whether it loads
        TensorFlow, as the first run told.

    Raises:
        RuntimeError: It ended otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *arguments]
    told = subprocess.run(
        command,
        cwd=folder,
        env={**environment(), "PYTHONPROFILEIMPORTTIME": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if told.returncode != returncode:
        lines = [line for line in told.stderr.splitlines() if not line.startswith("import time:")]
        raise RuntimeError(f"{' '.join(command)}: ended with {told.returncode}\n" + "\n".join(lines[-20:]))
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall_seconds": wall,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "tensorflow": bool(_TENSORFLOW.search(told.stderr)),
    }
