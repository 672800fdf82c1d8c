"""The folders of sweeps: how a new sweep claims one, how it gives it up, and how commands find them."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mnist_sweep.common.errors import UserError, suggestion
from mnist_sweep.common.files import PARTIAL, remove, remove_empty, remove_folder
from mnist_sweep.common.text import printable
from mnist_sweep.journal.files import ARRAYS, CODE, COMPILED, CONFIGS, DATA, FILE, LOCK, LOG, SOCKET, WORKERS

_CONFIG_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")
# The files in the copy of the data.
_ARRAYS = ("*.npy", "schema.json", "stream.json")
_SHOWN = 3
# Seconds after which the process that claimed a folder without writing a journal is taken to have ended.
_ABANDONED = 3600.0


@dataclass(frozen=True)
class Claim:
    """A folder that this process has claimed for a sweep.

    Attributes:
        wished: The folder that was asked for, which may belong to another sweep.
        folder: The folder that was claimed.
        made: The folders that were created for it, itself first, then those above it.
    """

    wished: Path
    folder: Path
    made: tuple[Path, ...]

    def give_up(self) -> None:
        """Removes what was written for a sweep that never started, and the folders that were created for it."""
        if _has_started(self.folder):
            return
        _remove_unused(self.folder)
        remove_empty(self.made)


def claim(wished: Path, key: str = "hydra.run.dir") -> Claim:
    """Claims a folder for a sweep of this process.

    Args:
        wished: The folder that is asked for. If it holds a sweep, the first of `wished-2`, `wished-3` … that does not
            is claimed.
        key: The config key that names the folder, for messages.

    Raises:
        UserError: The folder holds something else, or cannot be written.
    """
    for number in itertools.count(1):
        candidate = wished if number == 1 else wished.with_name(f"{wished.name}-{number}")
        try:
            if holds_a_sweep(candidate):
                continue
            check_free(candidate, key)
            made = _made(candidate)
            (candidate / LOCK).touch(exist_ok=False)
        except FileExistsError:
            # Another process has just claimed it.
            continue
        except OSError as error:
            raise UserError(f"{candidate}: cannot be written ({error.strerror})") from None
        return Claim(wished, candidate, made)
    raise AssertionError


def check_free(folder: Path, key: str = "hydra.run.dir") -> None:
    """Refuses a folder that is not empty, as a sweep replaces files in its folder.

    Args:
        folder: The folder; it need not exist.
        key: The config key that names it, for the message.

    Raises:
        UserError: It is a file, or is not empty.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        what = "is a file" if folder.exists() else "is a broken link"
        raise UserError(f"{key}={printable(str(folder))}: {what}; name a folder that is new or empty")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if there:
        shown = printable(", ".join(there[:_SHOWN]) + (" …" if len(there) > _SHOWN else ""))
        raise UserError(
            f"{key}={printable(str(folder))}: contains files that do not belong to a sweep ({shown}); "
            "name a folder that is new or empty"
        )


def holds_a_sweep(folder: Path) -> bool:
    """Whether a sweep has claimed a folder, whatever has become of the sweep."""
    if begins_a_sweep(folder):
        return True
    # A process has just claimed it, or was killed then; or the journal was emptied.
    locked = (folder / LOCK).is_file() and _is_ours(folder / LOCK)
    if (folder / FILE).is_file():
        return locked and not (folder / FILE).stat().st_size
    return locked and {path.name for path in folder.iterdir()} <= {LOCK, LOG, CONFIGS, DATA, CODE}


def never_started(below: Path) -> list[Path]:
    """Returns the folders directly below a folder in which a sweep was killed before its first event.

    They hold nothing else. A sweep whose journal was emptied later has more in its folder, and is not among them.
    """
    found = [path.parent for path in below.glob(f"*/{LOCK}") if path.is_file() and _is_ours(path)]
    return [folder for folder in found if _is_unused(folder) and not is_running(folder) and not list(_others(folder))]


def discard(folder: Path) -> None:
    """Removes the folder of a sweep that never started, file by file.

    Args:
        folder: One that `never_started` returned.
    """
    _remove_unused(folder)
    remove_empty([folder])


def tidy(folder: Path) -> None:
    """Removes what no session of the sweep will use: the copy of the data, compiled programs, a dead socket."""
    remove(folder / SOCKET)
    remove_folder(folder / ARRAYS, (*_ARRAYS, f"{PARTIAL}*"))
    remove_folder(folder / COMPILED, ("jit_*", "*-cache", "*-atime", "xla_gpu_*/*"))


def _made(folder: Path) -> tuple[Path, ...]:
    """Creates a folder with those above it, and returns those that did not exist before, itself first."""
    new = tuple(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(new)
        raise
    return new


def _is_ours(lock: Path) -> bool:
    """Whether a lock looks as this program leaves it, which writes into it when it opens the journal."""
    with open(lock, "rb") as file:
        return file.read(8) in (b"", b"process ")


def _has_started(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return (folder / FILE).stat().st_size > 0
    return False


def _is_unused(folder: Path) -> bool:
    if (folder / FILE).is_file():
        return not (folder / FILE).stat().st_size
    # Another process may have claimed it a moment ago, and be about to open its journal.
    return time.time() - (folder / LOCK).stat().st_mtime > _ABANDONED


def _remove_unused(folder: Path) -> None:
    tidy(folder)
    remove_folder(folder / CONFIGS, _CONFIG_FILES)
    remove_folder(folder / WORKERS, ("*.log",))
    remove_folder(folder / CODE, ("*.py", f"{PARTIAL}*"))
    for name in (DATA, LOG, LOCK, FILE):
        remove(folder / name)


def _others(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder that a sweep that never started does not write."""
    patterns = (
        *(FILE, LOCK, LOG, ARRAYS, CONFIGS, WORKERS, f"{WORKERS}/*.log"),
        *(f"{ARRAYS}/{name}" for name in _ARRAYS),
        *(DATA, CODE, f"{CODE}/*.py"),
        *(f"{CONFIGS}/{name}" for name in _CONFIG_FILES),
    )
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not (path.name.startswith(PARTIAL) or any(fnmatch(name, pattern) for pattern in patterns)):
            yield path


# The folders of the sweeps, below the working directory.
SWEEPS = Path("experiments")

# `name/time/number`, and one more if the sweeps of each project are in a folder of their own.
_DEEPEST = 4
# Below a sweep's folder, the folders of the runs that retrain its trials.
_RETRAINED = re.compile(r"retrained-\d+(-\d+)?")


def is_running(folder: Path) -> bool:
    """Whether a process runs the sweep now, which is assumed if this user may not read the lock."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def sweeps(below: Path) -> list[Path]:
    """Returns the folders of the sweeps below a folder, or that folder itself, the most recently written one last.

    Sweeps that were killed before their first event are not among them, nor are the runs that retrain a trial: only
    their own folder leads to them.
    """
    found: list[tuple[float, Path]] = []
    top = len(below.parts)
    for name, folders, files in os.walk(below):
        folder = Path(name)
        if FILE in files:
            with contextlib.suppress(OSError):
                # It may have been removed in the meantime, or be a broken link.
                stat = (folder / FILE).stat()
                if (folder / FILE).is_file() and stat.st_size:
                    found.append((stat.st_mtime, folder))
        if FILE in files or len(folder.parts) - top >= _DEEPEST:
            # Sweeps are never nested, and the user may have named the root of the disk.
            folders.clear()
        folders[:] = [name for name in folders if not _RETRAINED.fullmatch(name)]
    return [folder for _, folder in sorted(found)]


def begins_a_sweep(folder: Path) -> bool:
    """Whether a folder has a journal that starts like that of a sweep."""
    try:
        with open(folder / FILE, "rb") as file:
            return file.read(32).startswith(b'{"event": "sweep_started"')
    except OSError:
        return False


def retraining(sweep: Path, trial: int) -> Claim:
    """Claims a folder for a run that retrains a trial.

    Args:
        sweep: The folder of the trial's sweep; it need not exist.
        trial: The trial.

    Raises:
        UserError: The folder cannot be written.
    """
    for killed in never_started(sweep):
        discard(killed)
    return claim(sweep / f"retrained-{trial}", "retrain")


def retrainings(sweep: Path) -> list[Path]:
    """Returns the folders of the runs that retrain a sweep's trials, by name."""
    return sorted(
        path for path in sweep.glob("retrained-*") if _RETRAINED.fullmatch(path.name) and (path / FILE).is_file()
    )


def find(sweep: str, wanted_by: str) -> Path:
    """Finds the folder of a sweep below the working directory.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one.
        wanted_by: The command or the key of the config, for the message.

    Raises:
        UserError: The sweep does not exist.
    """
    for folder in (Path(sweep), SWEEPS / sweep):
        if (folder / FILE).is_file():
            return folder
        found = sweeps(folder)
        if found:
            return found[-1]
    names = [path.name for path in SWEEPS.iterdir() if sweeps(path)] if SWEEPS.is_dir() else []
    what = suggestion(sweep, names) or "; write NAME, NAME/TIME or its folder"
    raise UserError(f"{wanted_by} {sweep}: no such sweep in {SWEEPS}/{what}")


def elsewhere(folder: Path) -> Path | None:
    """Returns the project folder of a sweep, to which the paths in its config are relative.

    Args:
        folder: The sweep's folder. If it is not below an `experiments/`, its project is the working directory.

    Returns:
        The project folder; None if it is the working directory, where the paths can be used as they are.
    """
    parents = [parent for parent in folder.absolute().resolve().parents if parent.name == str(SWEEPS)]
    project = parents[0].parent if parents else Path.cwd().resolve()
    return None if project == Path.cwd().resolve() else project
