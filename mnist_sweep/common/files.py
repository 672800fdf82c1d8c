"""The one place where files are replaced and removed: they appear only when whole, and only our own are removed.

No other module removes, renames or overwrites a file; `tests/test_files.py` reads the code for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Begins the name of a file that is being written.
PARTIAL = "partial-mnist_sweep-"


def write_whole(
    path: Path, content: str | bytes | Callable[[Path], object], *, flush: bool = True, follow: bool = False
) -> None:
    """Writes to a temporary file of its own, flushes it to the disk, and gives it its name.

    Args:
        path: The file; one that is there is replaced, so the caller has made sure that it may be.
        content: Its text or bytes, or what writes it to the path that it is given.
        flush: Whether to wait for the disk; without, a power cut may leave a file that cannot be read.
        follow: Whether it is a user who named the file: then what a link points to is replaced, not the link, and a
            pipe or a device, `/dev/stdout` say, is written to.

    Raises:
        OSError: It cannot be written; the file is then as it was.
    """
    if follow and path.is_symlink():
        path = path.resolve()
    if follow and path.exists() and not path.is_file():
        _write_into(path, content)
        return
    # The suffix stays last, as Keras and NumPy tell the format by it. The name is none that a user's file has, and the
    # same each time, so that what a kill has left is replaced.
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
        # NumPy and Python's own `write` do not say which file it is.
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
    """Gives a finished file or folder its name.

    Args:
        source: What this program made, on the disk of `target`.
        target: Its place. A file that is there is replaced, so the caller has made sure that it may be.

    Raises:
        OSError: It cannot be moved, or a folder is in its place that is not empty.
    """
    source.replace(target)


def make_own(path: Path) -> None:
    """Gives a file that shares its content with others (hard links, as `cp -al` makes them) a content of its own.

    Args:
        path: The file, which is to be appended to; it need not exist.

    Raises:
        OSError: It cannot be written, or is a link, a pipe or anything else that is not this program's own.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if path.is_file() and path.stat().st_nlink > 1:
        write_whole(path, path.read_bytes())


def make_folder(folder: Path) -> None:
    """Makes a folder within a sweep's, unless it is there.

    Args:
        folder: The folder.

    Raises:
        OSError: It cannot be made, or is a link: what that points to may be anybody's.
    """
    if folder.is_symlink():
        raise OSError(errno.ENOTDIR, "it is a link, not a folder of its own", str(folder))
    folder.mkdir(exist_ok=True)


def remove(path: Path) -> None:
    """Removes a file that this program made; one that is not there, or cannot be removed, is left.

    Args:
        path: A file or a symbolic link, never a folder.
    """
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path, files: Iterable[str]) -> bool:
    """Removes the files of a folder that this program made, one by one, and the folder if nothing else is in it.

    Args:
        folder: The folder; it need not exist.
        files: The names of the files in it, or patterns such as `*.log`, that are this program's own.

    Returns:
        Whether the folder is gone.
    """
    if folder.is_symlink():
        # What it points to may be anybody's.
        return False
    for pattern in files:
        for path in folder.glob(pattern):
            if path.is_symlink() or path.is_file():
                remove(path)
    remove_empty([folder])
    return not folder.exists()


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of some folders that are empty, one after another."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
