"""The process that runs a sweep for Python code, as that code sees it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO, Any

from mnist_sweep.common.errors import UserError

_PREFIX = "mnist_sweep: "
_USER_ERROR = 2
# Lines of its output that are kept.
_LINES = 500
# Seconds that it may take to end at once.
_AT_ONCE = 10.0


class Driver:
    """A driver process, in a session of its own: Ctrl-C reaches it only through `stop`."""

    def __init__(self, job: Mapping[str, Any], *, output: Callable[[str], None] | None, inherits: bool = False) -> None:
        """Starts it.

        Args:
            job: What to do, as `process.py` reads it.
            output: Takes each line that it prints, in a thread; None to drop them.
            inherits: Whether it prints on this process's standard output itself, as to redraw a table in a terminal.
        """
        self._errors: deque[str] = deque(maxlen=_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mnist_sweep.api.process"],
            stdin=subprocess.PIPE,
            stdout=None if inherits else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=args, daemon=True)
            for args in (
                (self._process.stdout, output, None),
                (self._process.stderr, _to_stderr if output is not None or inherits else None, self._errors),
            )
            if args[0] is not None
        ]
        for reader in self._readers:
            reader.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()

    @staticmethod
    def _read(stream: IO[bytes], output: Callable[[str], None] | None, kept: deque[str] | None) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            if kept is not None:
                kept.append(line)
            # What it fails with is raised.
            if output is not None and not (output is _to_stderr and line.startswith(_PREFIX)):
                output(line)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Asks it to end the sweep when the running epochs have ended; the second time, at once."""
        if self.running:
            self._process.send_signal(signal.SIGINT)

    def end_at_once(self) -> None:
        """Ends it now."""
        self.stop()
        try:
            self._process.wait(_AT_ONCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until it has ended, or for some seconds; returns whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            for reader in self._readers:
                reader.join()
            return True
        return False

    def check(self) -> None:
        """Raises the error that it has ended with, if it has.

        Raises:
            UserError: The user can fix it.
            RuntimeError: It was killed, or there is a bug.
        """
        code = self._process.returncode
        message = next((line.removeprefix(_PREFIX) for line in reversed(self._errors) if line.startswith(_PREFIX)), "")
        if code == _USER_ERROR:
            raise UserError(message)
        if code is not None and code < 0:
            name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
            why = " (out of memory?)" if code == -signal.SIGKILL else ""
            raise RuntimeError(f"the process that ran the sweep was killed by {name}{why}; its resume() continues it")
        if code == 1 and message:
            raise RuntimeError(message)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
