"""Keeps decoded pictures, so that they are decoded once."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common import parallel
from mnist_sweep.common.files import PARTIAL, move, remove_tree, write_whole
from mnist_sweep.common.tables import counting
from mnist_sweep.common.text import counted
from mnist_sweep.data import pictures
from mnist_sweep.data.pictures import How

Array = NDArray[Any]
# Pixels (N, height, width, channels), uint8; and the names of the files that cannot be read, and why.
Decoded = tuple[Array, dict[str, str]]
# Returns the size and the colours, and the files that are known to be unreadable.
Plan = Callable[[], tuple[How, dict[str, str]]]

# To be changed when the same files become other pixels.
_VERSION = 1
_PIXELS, _WRONG = "pixels.npy", "unreadable.json"
_MOST_BYTES = 20 * 2**30
_UNUSED_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class Cache:
    """A folder of decoded pictures, which may be deleted at any time.

    Several processes may use it at once: an entry appears when it is complete, and one process at a time writes.

    Attributes:
        folder: The folder; it need not exist.
        most: How many bytes to keep; the entries used last are kept.
    """

    folder: Path
    most: int = _MOST_BYTES

    @classmethod
    def of_user(cls) -> Cache:
        """Returns the cache of this user, in `$XDG_CACHE_HOME` or `~/.cache`."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return cls(Path(home, "mnist_sweep", "pictures"))

    def read(self, root: Path, names: Sequence[str], options: Mapping[str, Any], plan: Plan) -> Decoded:
        """Returns pictures, decoded unless that was done before.

        Args:
            root: The folder that the names start from.
            names: The files.
            options: What changes the pixels besides the files.
            plan: Tells how to decode; called if that was not done before.

        Returns:
            The pixels in the order of the names, mapped into memory if they could be stored; and the files that cannot
            be read, whose pixels are 0.

        Raises:
            UserError: What `plan` raises.
        """
        plan = functools.cache(plan)
        try:
            entry = self.folder / _key(root, names, options)
            found = _opened(entry, len(names))
            if found is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with _locked(self.folder / ".lock"):
                    # Another process may have written it meanwhile.
                    found = _opened(entry, len(names)) or self._written(entry, root, names, plan)
            return found
        except OSError:
            # No home folder, no space, no locks: nothing is kept.
            how, wrong = plan()
            pixels = np.zeros((len(names), *how.shape), np.uint8)
            return pixels, _decode(root, names, how, wrong, pixels)

    def _written(self, entry: Path, root: Path, names: Sequence[str], plan: Plan) -> Decoded:
        how, wrong = plan()
        shape = (len(names), *how.shape)
        self._make_room(int(np.prod(shape)))
        partial = entry.with_name(f"{PARTIAL}{entry.name}")
        partial.mkdir()
        try:
            pixels = np.lib.format.open_memmap(partial / _PIXELS, mode="w+", dtype=np.uint8, shape=shape)
            _reserve(partial / _PIXELS)
            wrong = _decode(root, names, how, wrong, pixels)
            pixels.flush()
            write_whole(partial / _WRONG, json.dumps(wrong))
            remove_tree(entry)
            move(partial, entry)
        finally:
            remove_tree(partial)
        found = _opened(entry, len(names))
        return (pixels, wrong) if found is None else found

    def _make_room(self, needed: int) -> None:
        """Removes what killed processes left, what was not used for a month, and what is too much."""
        entries = []
        for path in self.folder.iterdir():
            if path.name.startswith(PARTIAL):
                remove_tree(path)
            elif path.is_dir():
                with contextlib.suppress(OSError):
                    entries.append((path.stat().st_mtime, (path / _PIXELS).stat().st_size, path))
        left = self.most - needed
        for used, size, path in sorted(entries, reverse=True):
            left -= size
            if left < 0 or used < time.time() - _UNUSED_SECONDS:
                remove_tree(path)


def _opened(entry: Path, count: int) -> Decoded | None:
    try:
        pixels: Array = np.load(entry / _PIXELS, mmap_mode="r", allow_pickle=False)
        wrong = json.loads((entry / _WRONG).read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError):
        return None
    if pixels.ndim != 4 or len(pixels) != count or pixels.dtype != np.uint8 or not isinstance(wrong, dict):
        return None
    with contextlib.suppress(OSError):
        # The time of its last use.
        os.utime(entry)
    return pixels, wrong


def _decode(root: Path, names: Sequence[str], how: How, known: Mapping[str, str], into: Array) -> dict[str, str]:
    """Decodes pictures into an array; returns those that cannot be read, with the known ones."""
    wrong = dict(known)
    places = [place for place, name in enumerate(names) if name not in known]
    with counting(f"Reading {counted(len(places), 'picture')}", len(places)) as step, warnings.catch_warnings():
        # Pillow warns of large pictures, and of odd metadata.
        warnings.simplefilter("ignore")

        def decode(place: int) -> None:
            try:
                into[place] = pictures.pixels(root / names[place], how)
            except pictures.UnreadableError as error:
                wrong[names[place]] = str(error)
            step()

        parallel.each(decode, places, pictures.threads())
    return {name: wrong[name] for name in names if name in wrong}


def _key(root: Path, names: Sequence[str], options: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([_VERSION, str(root.resolve()), dict(options)]).encode())
    for name in names:
        status = os.stat(root / name)
        digest.update(f"{name}\0{status.st_size} {status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _reserve(path: Path) -> None:
    """Takes a file's space on the disk: writing to mapped memory without space would end the process."""
    if hasattr(os, "posix_fallocate"):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
