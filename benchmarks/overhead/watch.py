"""What the processes of a running sweep take: the driver's processor time, the memory of each worker."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine

_INTERVAL = 0.1
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """A process's memory at a moment, in MiB.

    Attributes:
        time: In seconds since 1970.
        slot: The worker's; `server` for what workers are forked from.
        pid: Its process.
        rss: What it has in memory.
        pss: The same, but a page that n processes share counts 1/n.
    """

    time: float
    slot: str
    pid: int
    rss: float
    pss: float


class Watch:
    """Looks at the sweep that this process runs by `machine.measure`, in a thread, ten times a second."""

    def __init__(self, *, memory: bool) -> None:
        """Begins to look.

        Args:
            memory: Whether also at the workers' memory, which costs some per cent of a core.
        """
        self.samples: list[Sample] = []
        self._memory, self._driver_ticks = memory, 0
        self._driver: int | None = None
        self._slots: dict[tuple[int, int], str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def driver_seconds(self) -> float:
        """User and system time of the command's own process, as of the last look."""
        return self._driver_ticks / _TICK

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            if self._memory or self._driver is None:
                found = machine.descendants()
                # What later ones leave behind becomes this process's child, too.
                mine = [process for process in found if process.parent == os.getpid()]
                if self._driver is None and mine:
                    self._driver = min(mine, key=lambda process: process.started).pid
                if self._memory:
                    self._look_at_workers(found)
            if self._driver is not None:
                with contextlib.suppress(OSError, IndexError):
                    fields = Path(f"/proc/{self._driver}/stat").read_text().rpartition(")")[2].split()
                    self._driver_ticks = int(fields[11]) + int(fields[12])

    def _look_at_workers(self, found: list[machine.Process]) -> None:
        for process in found:
            key = process.pid, process.started
            if key not in self._slots:
                # A worker writes to its slot's log, however it was started.
                with contextlib.suppress(OSError):
                    log = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
                    if log.parent.name == "workers" and log.suffix == ".log":
                        self._slots[key] = log.stem
            if key in self._slots:
                with contextlib.suppress(OSError, KeyError):
                    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
                    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
                    sample = Sample(time.time(), self._slots[key], process.pid, kib["Rss"] / 1024, kib["Pss"] / 1024)
                    self.samples.append(sample)
