"""What the GPU's driver (NVML) sees while something runs: use, memory, processes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from mnist_sweep.workers import devices

_INTERVAL = 0.2


@dataclass(frozen=True)
class Sample:
    """One reading.

    Attributes:
        time: In seconds since 1970.
        use: The percentage of the last moments in which a kernel ran; None where the driver does not tell.
        used: Bytes in use by any program.
        processes: Bytes by process id; None where the driver does not tell.
    """

    time: float
    use: float | None
    used: int
    processes: dict[int, int | None]


@dataclass
class Watch:
    """Reads the first GPU in a thread, while its `with` block runs; without a GPU it reads nothing.

    Attributes:
        samples: The readings.
    """

    samples: list[Sample] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Starts to read."""
        if gpus := devices.visible_gpus():
            self._thread = threading.Thread(target=self._run, args=(gpus[0],), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops reading."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def figures(self, begin: float = 0.0, end: float = float("inf")) -> dict[str, Any]:
        """Returns the figures of a span of time, in seconds since 1970; all are None without a GPU."""
        found = [sample for sample in self.samples if begin <= sample.time <= end]
        if not found:
            return {"gpu_use": None, "gpu_mib": None, "gpu_processes": None, "process_mib": None}
        uses = [sample.use for sample in found if sample.use is not None]
        memory = [size for sample in found for size in sample.processes.values() if size is not None]
        return {
            "gpu_use": sum(uses) / len(uses) / 100 if uses else None,
            "gpu_mib": max(sample.used for sample in found) / 2**20,
            "gpu_processes": max(len(sample.processes) for sample in found),
            "process_mib": max(memory) / 2**20 if memory else None,
        }

    def _run(self, gpu: str) -> None:
        while not self._ended.wait(_INTERVAL):
            read = devices.read_gpu(gpu)
            if read is not None:
                self.samples.append(Sample(time.time(), read.use, read.used, read.processes))
