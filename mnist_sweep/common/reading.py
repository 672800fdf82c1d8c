"""Reads files from outside safely: in bounded time and memory, with a one-line error when something is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import first_line, format_size, one_line, os_reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Bytes of a config, or of any other text that people write.
_MOST_TEXT = 1_000_000
# Values of a YAML file with its aliases expanded: ten lines can expand to billions.
_MOST_NODES = 50_000
# Levels of a YAML file: PyYAML recurses for each of them.
_DEEPEST = 50
# Characters of a value that PyYAML parses as a number, which takes quadratic time.
_LONGEST_NUMBER = 5_000
# NumPy's own limit; NumPy checks it only after reading the whole header, which may be gigabytes long. Up to 12 bytes
# precede the header.
_LONGEST_HEADER = 10_000
_CHUNK = 2**18
# For other compression methods, zipfile inflates a whole chunk at once, to as much as 20,000 times its size.
_SMALL_CHUNK = 2**12
# Advice for a damaged model; MLflow's copy may be the same file.
TRAIN_AGAIN = "train its trial again with the command retrain SWEEP TRIAL, or choose another trial"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class RefusedError(UserError):
    """A file that must not be read: reading it would never end, or need more memory than is available."""


def open_file(path: Path, what: str) -> BufferedReader:
    """Opens a regular file.

    Args:
        path: The file.
        what: The start of an error's message, such as `data.path=FILE`.

    Raises:
        RefusedError: It is a folder, a pipe, a socket or a device; reading some of these never ends.
        UserError: It does not exist, or cannot be opened.
    """
    try:
        _check_kind(os.stat(path), what)
        # O_NONBLOCK: a pipe may have replaced the file in the meantime.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{what}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what}: cannot be opened ({os_reason(error)})") from None
    file = open(descriptor, "rb")  # noqa: SIM115 - the caller closes it
    try:
        _check_kind(os.fstat(descriptor), what)
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{what}: is {_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")


def read_bytes(path: Path, what: str, most: int = _MOST_TEXT) -> bytes:
    """Reads a whole file.

    Args:
        path: The file.
        what: As for `open_file`.
        most: The largest size to accept, in bytes.

    Raises:
        RefusedError: It is not a file, or is too large.
        UserError: It cannot be read.
    """
    with open_file(path, what) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"{what}: cannot be read ({os_reason(error)})") from None
    if len(content) > most:
        raise RefusedError(f"{what}: is larger than {format_size(most)}, the limit for such a file")
    return content


def read_text(path: Path, what: str, most: int = _MOST_TEXT) -> str:
    """Reads a file of UTF-8 text.

    Args:
        path: The file.
        what: As for `open_file`.
        most: The largest size to accept, in bytes.

    Raises:
        UserError: As for `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})") from None


def read_yaml(path: Path, what: str) -> Any:
    """Reads a YAML file; tags in it cannot create objects.

    Args:
        path: The file.
        what: As for `open_file`.

    Raises:
        UserError: It cannot be read, is not YAML, or is too large with its aliases expanded.
    """
    import yaml

    text = read_text(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_tree(text, what)
            return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        # Besides YAMLError, whatever constructors raise, such as for dates that do not exist.
        raise UserError(f"{what}: is not valid YAML ({one_line(str(error) or type(error).__name__, 300)})") from None


def _check_tree(text: str, what: str) -> None:
    """Refuses what would take too long to build. Reads the parser's events only, without building any value."""
    import yaml

    anchors: dict[str | None, int | None] = {}
    # For each open collection: its anchor, and its number of nodes so far.
    collections: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        nodes = 0
        if isinstance(event, yaml.CollectionStartEvent):
            collections.append((event.anchor, 1))
            if event.anchor is not None:
                anchors[event.anchor] = None
            if len(collections) > _DEEPEST:
                raise RefusedError(f"{what}: is nested more than {_DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes = collections.pop()
            if anchor is not None:
                anchors[anchor] = nodes
        elif isinstance(event, yaml.AliasEvent):
            found = anchors.get(event.anchor, 1)
            if found is None:
                raise RefusedError(f"{what}: {one_line(str(event.anchor), 50)} refers to itself")
            nodes = found
        elif isinstance(event, yaml.ScalarEvent):
            nodes = 1
            if event.anchor is not None:
                anchors[event.anchor] = 1
            if len(event.value) > _LONGEST_NUMBER and (event.implicit[0] or event.tag is not None):
                raise RefusedError(f"{what}: has a value of {len(event.value)} characters; quote it if it is text")
        parent, before = collections[-1]
        collections[-1] = parent, before + nodes
        if before + nodes > _MOST_NODES:
            raise RefusedError(f"{what}: has more than {_MOST_NODES} values with its aliases expanded")


# ---- digests ----------------------------------------------------------------------------------------------------


def digest_of(path: Path, what: str | None = None) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits.

    Args:
        path: The file.
        what: As for `open_file`; the path by default.

    Raises:
        UserError: As for `open_file`.
    """
    with open_file(path, str(path) if what is None else what) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str, what: str, instead: str = TRAIN_AGAIN) -> None:
    """Checks that a file has not changed since it was written.

    Args:
        path: The file.
        digest: Its SHA-256 when it was written; if empty, nothing is checked.
        what: As for `open_file`.
        instead: What the user can do if it has changed.

    Raises:
        UserError: It has changed, or cannot be read.
    """
    if digest and digest_of(path, what) != digest:
        raise UserError(f"{what}: was changed or damaged since it was written; {instead}")


# ---- memory -----------------------------------------------------------------------------------------------------


def check_fits(needed: int, what: str) -> None:
    """Checks that something fits into this machine's free memory.

    Args:
        needed: The bytes that it needs.
        what: As for `open_file`.

    Raises:
        RefusedError: It does not fit.
    """
    free = _free_memory()
    if needed > free:
        raise RefusedError(
            f"{what}: needs {format_size(needed)} of memory, but this machine has {format_size(free)} free"
        )


def _free_memory() -> int:
    import psutil

    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        # A container's limit, which the system's numbers do not include; `max` if there is none.
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return free


# ---- arrays -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The header of a `.npy` file.

    Attributes:
        shape: The array's shape.
        dtype: The array's type.
        fortran: Whether the array is stored column by column.
        start: The offset of the array's data, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        """The array's size in bytes, in the file and in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class Npz:
    """An archive of arrays, written by `np.savez` or `np.savez_compressed`, whose headers are checked first.

    Example:
        >>> with Npz(Path("images.npz"), "data.path=images.npz") as archive:
        ...     if len(archive.header("x_train").shape) == 3:
        ...         images = archive.read(["x_train"])["x_train"]
    """

    def __init__(self, path: Path, what: str) -> None:
        """Opens an archive.

        Args:
            path: The file.
            what: As for `open_file`.

        Raises:
            UserError: It is not a file, or not an archive of arrays.
        """
        self._what = what
        self._file = open_file(path, what)
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._entries = {entry.filename.removesuffix(".npy"): entry for entry in self._archive.infolist()}
        except Exception as error:
            self._file.close()
            raise self._unreadable(error) from None
        self._headers: dict[str, Header] = {}

    @property
    def names(self) -> list[str]:
        """The arrays' names."""
        return list(self._entries)

    def header(self, name: str) -> Header:
        """Returns an array's header, without reading the array.

        Args:
            name: One of `names`.

        Raises:
            UserError: It is not an array of numbers or text, or does not have the size that its header gives.
        """
        if name not in self._headers:
            entry = self._entries[name]
            if entry.flag_bits & 1:
                raise self._unreadable(ValueError(f"{name} is encrypted"))
            try:
                with self._archive.open(entry) as content, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    header = _header(content.read(_LONGEST_HEADER + 12))
            except Exception as error:
                raise self._unreadable(error) from None
            if header is None:
                raise UserError(f"{self._what}: {one_line(name, 100)} is not an array")
            if header.dtype.hasobject:
                raise self._unreadable(ValueError("it contains Python objects, not numbers"))
            if header.start + header.nbytes != entry.file_size:
                raise self._unreadable(
                    ValueError(f"{name} should have {header.nbytes} bytes, but has {entry.file_size - header.start}")
                )
            self._headers[name] = header
        return self._headers[name]

    def read(self, names: Iterable[str] | None = None, copies: int = 1) -> dict[str, NDArray[Any]]:
        """Reads arrays.

        Args:
            names: The arrays to read; all by default.
            copies: How many copies of them must fit into memory, because the caller makes some.

        Raises:
            RefusedError: They do not fit into memory.
            UserError: One is damaged.
        """
        wanted = self.names if names is None else list(names)
        check_fits(copies * sum(self.header(name).nbytes for name in wanted), self._what)
        try:
            return {name: self._read(name) for name in wanted}
        except MemoryError:
            raise RefusedError(f"{self._what}: its arrays need more memory than is available") from None
        except Exception as error:
            raise self._unreadable(error) from None

    def _read(self, name: str) -> NDArray[Any]:
        import numpy as np

        header, entry = self._headers[name], self._entries[name]
        chunk = _CHUNK if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else _SMALL_CHUNK
        raw = np.empty(header.nbytes, np.uint8)
        with self._archive.open(entry) as content:
            content.read(header.start)
            found = fill(raw, content, chunk)
        if found < len(raw):
            raise EOFError(f"{name} is cut off after {found} bytes")
        # At the end of the entry, zipfile has compared its checksum.
        array = raw.view(header.dtype) if header.nbytes else np.empty(0, header.dtype)
        return array.reshape(header.shape[::-1]).T if header.fortran else array.reshape(header.shape)

    def _unreadable(self, error: Exception) -> UserError:
        reason = "it is cut off" if isinstance(error, EOFError) and not str(error) else first_line(error, 200)
        return UserError(f"{self._what}: cannot be read as .npz ({reason})")

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()
        self._file.close()


def read_npz(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """Reads all arrays of an archive.

    Args:
        path: The file.
        what: As for `open_file`.

    Raises:
        UserError: As for `Npz` and its `read`.
    """
    with Npz(path, what) as archive:
        return archive.read()


def fill(array: NDArray[Any], content: IO[bytes] | BufferedIOBase, chunk: int = _CHUNK) -> int:
    """Fills an array with bytes from a file, until either ends.

    Args:
        array: (N,), uint8.
        content: The file.
        chunk: How many bytes to read at a time.

    Returns:
        How many bytes were read, at most N.
    """
    view, done = array.data, 0
    while done < len(view) and (part := content.read(min(chunk, len(view) - done))):
        view[done : done + len(part)] = part
        done += len(part)
    return done


def _header(start: bytes) -> Header | None:
    """Reads the header of a `.npy` file (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
    from numpy.lib import format as npy

    content = BytesIO(start)
    if not start.startswith(npy.MAGIC_PREFIX):
        return None
    version = npy.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        # Later versions are only for arrays with named fields, which are refused anyway.
        raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format is not supported")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(content)
    except Exception:
        # NumPy uses Python's parser, which may also raise RecursionError and MemoryError.
        raise ValueError("its header is damaged") from None
    if any(side < 0 for side in shape) or dtype.names is not None or not (dtype.itemsize or dtype.hasobject):
        raise ValueError("its header is damaged")
    return Header(shape, dtype, fortran, content.tell())
