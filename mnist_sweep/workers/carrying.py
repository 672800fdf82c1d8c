"""Carries the files of a task from one machine to another: in a message, or through a storage if they are large."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mnist_sweep.common.errors import MachineError
from mnist_sweep.common.files import PARTIAL, write_whole
from mnist_sweep.common.text import first_line


@dataclass(frozen=True)
class Stored:
    """A file that is too large for a message.

    Attributes:
        name: Its name in the storage: the SHA-256 of its content.
        size: Its size in bytes.
    """

    name: str
    size: int


# By their names, relative to the folder that a task is about.
Files = Mapping[str, "bytes | Stored"]


@dataclass(frozen=True)
class Carrier:
    """Packs files into messages and unpacks them.

    Attributes:
        inline: The most bytes of a file in a message, if there is a storage.
        storage: The URL of a folder that both machines can reach; None if there is none.
    """

    inline: int
    storage: str | None

    def pack(self, path: Path) -> bytes | Stored:
        """Returns what to send instead of a file.

        Raises:
            OSError: It cannot be read.
            MachineError: The storage cannot be written.
        """
        content = path.read_bytes()
        if self.storage is None or len(content) <= self.inline:
            return content
        return self._store(content)

    def _store(self, content: bytes) -> Stored:
        stored = Stored(hashlib.sha256(content).hexdigest(), len(content))
        try:
            files, folder = self._opened()
            files.makedirs(folder, exist_ok=True)
            name = f"{folder}/{stored.name}"
            if not files.exists(name) or files.size(name) != stored.size:
                files.pipe_file(name, content)
        except Exception as error:
            raise MachineError(f"workers.storage={self.storage}: cannot be written ({first_line(error)})") from error
        return stored

    def _opened(self) -> tuple[Any, str]:
        """Returns the storage's file system, and the folder in it."""
        import fsspec

        files, folder = fsspec.core.url_to_fs(self.storage)
        return files, folder

    def unpack(self, files: Files, folder: Path) -> None:
        """Writes files that were sent.

        Args:
            files: What was sent.
            folder: Where they go, which exists.

        Raises:
            OSError: They cannot be written.
            MachineError: The storage cannot be read.
            ValueError: A name leads out of the folder.
        """
        for name, content in files.items():
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts:
                raise ValueError(f"{name}: leads out of the folder")
            path = folder / parts
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self._read(content) if isinstance(content, Stored) else content, flush=False)

    def _read(self, stored: Stored) -> bytes:
        try:
            files, folder = self._opened()
            content: bytes = files.cat_file(f"{folder}/{stored.name}")
        except Exception as error:
            raise MachineError(f"workers.storage={self.storage}: cannot be read ({first_line(error)})") from error
        return content

    def check(self) -> None:
        """Writes and removes a file in the storage, if there is one.

        Raises:
            MachineError: It cannot be used.
        """
        if self.storage is not None:
            content = secrets.token_bytes(8)
            self.remove(self._store(content))

    def remove(self, stored: Stored) -> None:
        """Removes a file from the storage, if it is there and can be removed."""
        try:
            files, folder = self._opened()
            files.rm_file(f"{folder}/{stored.name}")
        except Exception:
            return


def signature(path: Path) -> tuple[int, int, int]:
    """Returns what changes when a file is replaced."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def files_in(folder: Path) -> Iterator[Path]:
    """Yields the complete files in a folder and its folders."""
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(PARTIAL) and path.is_file() and not path.is_symlink():
            yield path
