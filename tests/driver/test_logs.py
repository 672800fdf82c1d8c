"""The driver's log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_sweep.driver import logs
from mnist_sweep.journal.files import LOG


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """Restores the handlers of the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    # Others may have been left by other tests, and say something of their own.
    root.handlers.clear()
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_goes_to_one_folder_at_a_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        logs.log_to(tmp_path / name)
        logging.getLogger("x").info("into %s", name)
    assert (tmp_path / "a" / LOG).read_text().endswith("[x][INFO] into a\n")
    assert (tmp_path / "b" / LOG).read_text().endswith("[x][INFO] into b\n")


def test_contains_no_passwords_and_no_control_characters(tmp_path: Path, root: logging.Logger) -> None:
    logs.log_to(tmp_path)
    (log,) = [handler for handler in root.handlers if isinstance(handler, logs._LogFile)]
    try:
        raise ValueError("postgresql://alice:hunter2@db \x1b[2J \udce9")
    except ValueError:
        # Not through the logger: pytest could not hand over what it captures of it.
        log.handle(logging.LogRecord("x", logging.ERROR, "", 1, "no %s", ("api_key=hunter2",), sys.exc_info()))
    written = (tmp_path / LOG).read_text()
    assert "no api_key=***" in written
    assert "ValueError: postgresql://***@db \\x1b[2J \\udce9" in written
    assert "hunter2" not in written.replace('"postgresql://alice:hunter2', "")


def test_a_full_disk_is_reported_once(tmp_path: Path, root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.log_to(tmp_path)
    (log,) = [handler for handler in root.handlers if isinstance(handler, logs._LogFile)]
    log.setStream(open("/dev/full", "w"))  # noqa: SIM115 - the handler closes it
    for number in range(3):
        logging.getLogger("x").info("%d", number)
    told = capsys.readouterr().err
    assert told == (
        f"mnist_sweep: {tmp_path / LOG}: cannot be written (No space left on device); the sweep continues without it\n"
    )


def test_a_log_that_cannot_be_opened_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / LOG).mkdir()
    logs.log_to(tmp_path)
    logging.getLogger("x").info("nowhere")
    assert capsys.readouterr().err.count("cannot be written (it is not a regular file)") == 1


def test_a_traceback_contains_no_password() -> None:
    try:
        uri = "postgresql://alice:hunter2@db"
        raise ConnectionError(f"cannot connect to {uri}")
    except ConnectionError as error:
        shown = logs.shown_traceback(error)
    assert "ConnectionError: cannot connect to postgresql://***@db" in shown
    assert "hunter2" not in shown.replace('uri = "postgresql://', "")


def test_a_log_shared_with_a_hard_linked_copy_is_copied(tmp_path: Path) -> None:
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "original" / LOG).write_text("before\n")
    (tmp_path / "copy" / LOG).hardlink_to(tmp_path / "original" / LOG)
    logs.log_to(tmp_path / "copy")
    logging.getLogger("x").info("now")
    assert (tmp_path / "original" / LOG).read_text() == "before\n"
    assert (tmp_path / "copy" / LOG).read_text().startswith("before\n[")
