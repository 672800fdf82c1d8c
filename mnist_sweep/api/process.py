"""The driver of a sweep that Python code has started: `python -m mnist_sweep.api.process`.

Its standard input is a pipe from the process that started it. The first line says what to do, as JSON; nothing else
follows. When that process ends, in whatever way, the system closes the pipe, and the sweep stops as after SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mnist_sweep.common import shadowing


def main() -> None:
    """Does what the first line of standard input says."""
    try:
        shadowing.check()
        from mnist_sweep.cli.main import exit_with
    except shadowing.HidesLibrary as error:
        print(f"mnist_sweep: {error}", file=sys.stderr)
        sys.exit(2)
    job = json.loads(_first_line())
    threading.Thread(target=_stop_with_starter, daemon=True).start()
    exit_with(lambda: _run(job))


def _first_line() -> bytes:
    found = b""
    while not found.endswith(b"\n") and (part := os.read(0, 2**16)):
        found += part
    return found


def _stop_with_starter() -> None:
    # Not through `sys.stdin`, whose lock a thread must not hold when Python exits.
    while os.read(0, 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


def _run(job: dict[str, Any]) -> int:
    from mnist_sweep.common.secrets import hide, remember
    from mnist_sweep.common.tables import line_printer, standard_output
    from mnist_sweep.common.termination import ended_by_signals
    from mnist_sweep.config import services
    from mnist_sweep.driver import launch, resume

    for hidden, uri in job.pop("secrets", {}).items():
        remember(hidden, uri)
    console = standard_output()
    for note in job.pop("notes"):
        line_printer(console)(note)
    with ended_by_signals():
        if "sweep" in job:
            overrides = [services.kept(override) for override in job.pop("overrides")]
            return resume.resume(job.pop("sweep"), overrides, console, **job)
        config = job.pop("config")
        hide(config["tracking"]["uri"])
        return launch.run(config, Path(job.pop("folder")), console, **job)


if __name__ == "__main__":
    main()
