"""Runs a command, and ends it and all its child processes when the process that started this one is gone.

`python -I supervisor.py COMMAND…`, with a pipe as standard input: the command ends when the other end of the pipe is
closed, which the system does even after a `kill -9`. The id of the command's process group is printed on standard
output. This file imports nothing from the package, so it starts immediately.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

# From SIGTERM to SIGKILL.
_SECONDS = 1.5


def main(command: Sequence[str]) -> int:
    """Runs the command.

    Args:
        command: The program and its arguments.

    Returns:
        Its exit code.
    """
    groups, ended = list[int](), threading.Event()

    def end(*_: object) -> None:
        ended.set()
        for group in groups:
            _end(group)

    # Before the command starts: a signal in between would end this process alone.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    # A new process group, which its child processes belong to.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)
    groups.append(process.pid)
    if ended.is_set():
        end()
    print(process.pid, flush=True)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _end(process.pid)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    _end(process.pid)
    return code


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
