"""Finds the other sweeps of this user that train on the same cores or GPUs, whatever their folder.

Each sweep writes a file into a folder of its user among the temporary files, and locks it. The lock belongs to the
operating system, which releases it when its holder dies in any way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnist_sweep.common.files import PARTIAL, move, remove, remove_empty
from mnist_sweep.common.text import counted, one_line
from mnist_sweep.workers.devices import Slot, cores, identity_of, usable_cores

_LOG = logging.getLogger(__name__)
_LONGEST = 2**16
# Characters of a folder; its end is the name of the sweep.
_LONGEST_FOLDER = 50


@dataclass(frozen=True)
class Neighbour:
    """Another sweep that runs on this machine.

    Attributes:
        sweep: Its name.
        folder: Its folder.
        process: The id of its driver.
        workers: How many workers it has on CPU cores.
        threads: How many threads they have together.
        cores: The cores that it may use.
        gpus: The GPUs that it uses, as `devices.identity_of` names them.
    """

    sweep: str
    folder: str
    process: int
    workers: int
    threads: int
    cores: list[int]
    gpus: list[str]

    def __str__(self) -> str:
        """Which sweep it is."""
        folder = one_line(self.folder)
        short = folder if len(folder) <= _LONGEST_FOLDER else f"…{folder[1 - _LONGEST_FOLDER :]}"
        return f"{short}, process {self.process}"


@contextlib.contextmanager
def registered(sweep: str, folder: Path, slots: Sequence[Slot]) -> Iterator[list[Neighbour]]:
    """Lets other sweeps know of this one while the block runs, and yields those that run already.

    Args:
        sweep: The sweep's name.
        folder: Its folder.
        slots: Its slots.
    """
    on_cpu = [slot.threads for slot in slots if slot.gpu is None]
    gpus = sorted({identity_of(slot.gpu) for slot in slots if slot.gpu is not None})
    mine = Neighbour(sweep, str(folder.absolute()), os.getpid(), len(on_cpu), sum(on_cpu), usable_cores(), gpus)
    with contextlib.ExitStack() as cleanup:
        others: list[Neighbour] = []
        try:
            shared = _shared_folder()
            cleanup.callback(remove_empty, [shared])
            others = _others(shared)
            cleanup.enter_context(_lock(shared, mine))
        except OSError:
            # Not worth the end of a sweep.
            _LOG.info("cannot tell other sweeps about this one", exc_info=True)
        yield others


def warnings(slots: Sequence[Slot], others: Sequence[Neighbour]) -> list[str]:
    """Returns what to tell the user about the sweeps that train on the same cores or GPUs.

    Args:
        slots: The slots of this sweep.
        others: The other sweeps.
    """
    threads = [slot.threads for slot in slots if slot.gpu is None]
    here, lines = set(usable_cores()), []
    on_cores = [other for other in others if other.threads and here & set(other.cores)]
    if threads and on_cores and sum(threads) + sum(other.threads for other in on_cores) > cores():
        share = max(1, cores() // (1 + len(on_cores)))
        # One worker has the threads of all cores.
        key, used = ("count", len(threads)) if len(threads) > 1 else ("threads", threads[0])
        share = max(1, share // max(threads)) if key == "count" else share
        todo = f" To share: workers.{key}={share}" if share < used else ""
        lines.append(f"{_named(on_cores)} on {_same(cores(), 'core')}, so each is slower.{todo}")
    mine = {identity_of(slot.gpu): slot for slot in slots if slot.gpu is not None}
    on_gpus = [other for other in others if mine.keys() & set(other.gpus)]
    if on_gpus:
        both = sorted(mine[gpu].gpu or "" for gpu in mine if any(gpu in other.gpus for other in on_gpus))
        todo = "To avoid that: workers.devices=cpu"
        if len(mine) > 1:
            half = [slot.gpu or "" for slot in mine.values()][len(mine) // 2 :]
            todo = f"To share: CUDA_VISIBLE_DEVICES={','.join(half)} for this one"
        lines.append(f"{_named(on_gpus)} on {_same(len(both), 'GPU')} ({', '.join(both)}), so each is slower. {todo}")
    return lines


def _same(number: int, noun: str) -> str:
    return f"the same {noun if number == 1 else counted(number, noun)}"


def _named(others: Sequence[Neighbour]) -> str:
    if len(others) == 1:
        return f"Another sweep ({others[0]}) trains"
    return f"{len(others)} other sweeps ({others[0]}, …) train"


def _shared_folder() -> Path:
    """The folder of this user's files, which nobody else may write to.

    Raises:
        OSError: It cannot be created, or somebody else made it.
    """
    folder = Path(tempfile.gettempdir()) / f"mnist_sweep-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder}: is not a folder that only this user can write to")
    return folder


@contextlib.contextmanager
def _lock(shared: Path, mine: Neighbour) -> Iterator[None]:
    # Containers may share the folder, and have processes with the same id.
    path = shared / f"{mine.process}-{secrets.token_hex(4)}.json"
    partial = path.with_name(f"{PARTIAL}{path.name}")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, json.dumps(asdict(mine)).encode())
        # Only now, as a file without a lock is taken to be that of a sweep that was killed.
        move(partial, path)
        yield
    finally:
        remove(partial)
        remove(path)
        os.close(file)


def _others(shared: Path) -> list[Neighbour]:
    found = []
    for path in sorted(shared.glob("*.json")):
        # Somebody may remove it in the meantime, and a later version may write it differently.
        with contextlib.suppress(OSError, ValueError, TypeError):
            if path.name.startswith(PARTIAL):
                continue
            if (text := _read_locked(path)) is None:
                remove(path)
            else:
                found.append(Neighbour(**json.loads(text)))
    return found


def _read_locked(path: Path) -> bytes | None:
    """Returns the content of a file that a process has locked; None if none has."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, _LONGEST)
    finally:
        os.close(file)
    return None
