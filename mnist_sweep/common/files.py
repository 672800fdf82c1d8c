"""The only module that replaces and removes files: a file appears only when complete, and users' files are kept.

No other module removes, renames or overwrites a file; `tests/common/test_files.py` checks the code for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

# Prefix of a file that is being written.
PARTIAL = "partial-mnist_sweep-"


def write_whole(
    path: Path, content: str | bytes | Callable[[Path], object], *, flush: bool = True, follow: bool = False
) -> None:
    """Writes a file atomically: to a temporary file first, which is flushed to the disk and then renamed.

    Args:
        path: The file. An existing one is replaced; the caller makes sure that this is allowed.
        content: The text or bytes, or a function that writes the file to the path that it gets.
        flush: Whether to wait for the disk. Without it, a power cut may leave an unreadable file.
        follow: Whether a user named the file. Then the target of a link is replaced, not the link, and a pipe or a
            device such as `/dev/stdout` is written to.

    Raises:
        OSError: The file cannot be written; it stays as it was.
    """
    if follow and path.is_symlink():
        path = path.resolve()
    if follow and path.exists() and not path.is_file():
        _write_into(path, content)
        return
    # Keras and NumPy choose the format by the suffix, so it stays last. The name does not change, so the next write
    # replaces what a killed process left.
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        if flush:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # NumPy and Python's `write` do not name the file.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        remove(temporary)


def _write_into(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    if callable(content):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def move(source: Path, target: Path) -> None:
    """Moves a finished file or folder to its final place.

    Args:
        source: A file or folder that this program made, on the same disk as `target`.
        target: Where it goes. An existing file is replaced; the caller makes sure that this is allowed.

    Raises:
        OSError: It cannot be moved, or `target` is a folder that is not empty.
    """
    source.replace(target)


def break_hard_links(path: Path) -> None:
    """Copies a file that shares its content with others (hard links, as `cp -al` makes them), before it is appended to.

    Args:
        path: The file; it need not exist.

    Raises:
        OSError: It cannot be written, or is a link, a pipe or anything other than a regular file.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if path.is_file() and path.stat().st_nlink > 1:
        write_whole(path, path.read_bytes())


def make_folder(folder: Path) -> None:
    """Creates a folder inside a sweep's folder, unless it exists.

    Args:
        folder: The folder.

    Raises:
        OSError: It cannot be created, or is a link, whose target may belong to someone else.
    """
    if folder.is_symlink():
        raise OSError(errno.ENOTDIR, "it is a link, not a folder", str(folder))
    folder.mkdir(exist_ok=True)


def remove(path: Path) -> None:
    """Removes a file that this program made, if it exists and can be removed.

    Args:
        path: A file or a symbolic link, never a folder.
    """
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path, files: Iterable[str]) -> bool:
    """Removes the files that this program made in a folder, and the folder if it is empty then.

    Args:
        folder: The folder; it need not exist.
        files: Names or patterns, such as `*.log`, of the files that this program made.

    Returns:
        Whether the folder is gone.
    """
    if folder.is_symlink():
        # Its target may belong to someone else.
        return False
    for pattern in files:
        for path in folder.glob(pattern):
            if path.is_symlink() or path.is_file():
                remove(path)
    remove_empty([folder])
    return not folder.exists()


def remove_tree(folder: Path) -> None:
    """Removes a temporary folder that this program made, with everything in it, as far as it can be removed."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes the folders that are empty, one after another."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
