"""A short command: how long it takes, how much memory, and whether TensorFlow is loaded for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.overhead.sweeps import environment

# In a small process of its own: what the kernel tells of a process's memory includes what its parent had when it began.
_LAUNCHER = """if True:
    import json, os, sys, time
    nowhere = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
    begun = time.perf_counter()
    pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begun
    print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
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
    launched = [sys.executable, "-E", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launched, cwd=folder, env=environment(), stdout=subprocess.PIPE, check=True)
    figures = dict(zip(("wall_seconds", "cpu_seconds", "peak_mib"), json.loads(done.stdout), strict=True))
    return {**figures, "tensorflow": bool(_TENSORFLOW.search(told.stderr))}
