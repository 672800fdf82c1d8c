"""The driver's log, `driver.log` in a sweep's folder."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from pathlib import Path

from mnist_sweep.common.files import break_hard_links
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import os_reason, printable
from mnist_sweep.journal.files import LOG

# Characters of one record; a traceback through Keras and TensorFlow has some thousands.
_LONGEST = 20_000


class _Formatter(logging.Formatter):
    """Writes records without passwords and terminal control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(printable(super().format(record), _LONGEST))


class _LogFile(logging.FileHandler):
    """A log that reports once that it cannot be written."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Reports that the log cannot be written; the sweep continues without it."""
        error = sys.exc_info()[1]
        if not self._told and error is not None:
            self._told = True
            _tell(Path(self.baseFilename), error)

    def close(self) -> None:
        """Closes the log; that the disk is full was reported before."""
        with contextlib.suppress(OSError):
            super().close()


def _tell(path: Path, error: BaseException) -> None:
    reason = os_reason(error)
    print(f"mnist_sweep: {path}: cannot be written ({reason}); the sweep continues without it", file=sys.stderr)


def log_to(folder: Path) -> None:
    """Sends this process's log to a sweep's folder, and no longer to any other file.

    Args:
        folder: The sweep's folder. If the log cannot be opened, a line on standard error says so.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()
    path = folder / LOG
    try:
        break_hard_links(path)
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        _tell(path, error)
        # Without any handler, Python would print errors, with the passwords in them.
        root.addHandler(logging.NullHandler())
        return
    handler.setFormatter(_Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def shown_traceback(error: BaseException) -> str:
    """Returns an exception's traceback without passwords and terminal control characters."""
    return masked(printable("".join(traceback.format_exception(error)), 10 * _LONGEST))
