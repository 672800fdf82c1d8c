"""Slots: which GPU, which share of a GPU, or how many CPU threads each worker gets."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import WorkersConfig

_Answer = TypeVar("_Answer")
# With more trials on one GPU, they wait for each other to submit work to it.
_MOST_SHARES = 16
# CPU threads of each share if more shares may be opened later.
_THREADS_OF_A_SHARE = 4


@dataclass(frozen=True)
class Slot:
    """A place for one worker process.

    Attributes:
        name: `gpu0`, `gpu0.1` (a share), or `cpu0`; `cpu0@node` on another machine.
        threads: CPU threads.
        gpu: The device as CUDA_VISIBLE_DEVICES names it; None for a worker without a GPU.
    """

    name: str
    threads: int
    gpu: str | None = None


def device(slot: str) -> str:
    """Returns the device that a slot is on.

    Args:
        slot: A slot's name.

    Returns:
        `gpu0` for `gpu0` and for its shares `gpu0.0`, `gpu0.1`; `gpu0@node` for those of a node.
    """
    name, at, node = slot.partition("@")
    return re.sub(r"\.\d+$", "", name) + at + node


def on_node(slot: str, node: str) -> str:
    """Returns the name of a node's slot."""
    return f"{slot}@{node}"


def node_of(slot: str) -> str:
    """Returns the name of the node that a slot is on; "" if it is on the driver's machine."""
    return slot.partition("@")[2]


def place(slot: str) -> str:
    """Returns what a failure on a slot may come from: its node, or its device on the driver's machine."""
    return node_of(slot) or device(slot)


def slots(config: WorkersConfig, most: int | None = None, usable: int | None = None) -> list[Slot]:
    """Finds the slots of this machine.

    Args:
        config: The group `workers`.
        most: The most trials that can run at once; None if unknown.
        usable: How many CPU cores to use; None for all of them.

    Raises:
        UserError: `devices: gpu`, but no GPU is visible.
    """
    gpus = [] if config.devices == "cpu" else visible_gpus()
    if config.devices == "gpu" and not gpus:
        raise UserError(
            "workers.devices=gpu: no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES); use workers.devices=auto"
        )
    usable = usable or cores()
    if gpus:
        return _gpu_slots(gpus, config, most, usable)
    count = config.count or max(1, usable // (config.threads or 1))
    if most is not None:
        count = min(count, most)
    # A single trial gets all cores; for parallel ones, one thread each wastes least.
    threads = config.threads or (usable if count == 1 and config.count is None else 1)
    return [Slot(f"cpu{i}", threads) for i in range(count)]


def _gpu_slots(gpus: list[str], config: WorkersConfig, most: int | None, usable: int) -> list[Slot]:
    if config.trials_per_gpu == "auto":
        threads = config.threads or max(1, min(_THREADS_OF_A_SHARE, usable // len(gpus)))
        return [Slot(f"gpu{i}.0", threads, gpu) for i, gpu in enumerate(gpus)][:most]
    shares = config.trials_per_gpu
    # Further shares of the same GPU come last, so that few trials spread over all GPUs.
    places = [(share, i, gpu) for share in range(shares) for i, gpu in enumerate(gpus)][:most]
    threads = config.threads or max(1, usable // len(places))
    return [Slot(f"gpu{i}.{share}" if shares > 1 else f"gpu{i}", threads, gpu) for share, i, gpu in places]


def most_shares(gpus: int) -> int:
    """Returns the most trials per GPU with `trials_per_gpu: auto`: each trial needs a CPU core."""
    return max(1, min(_MOST_SHARES, cores() // gpus))


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(usable_cores())


def usable_cores() -> list[int]:
    """Returns the numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def visible_gpus() -> list[str]:
    """Finds the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible, without loading TensorFlow.

    Returns:
        Names as in CUDA_VISIBLE_DEVICES: indices, the UUIDs that it contains, or those of the parts of a GPU that is
        divided with MIG, of which a process can use only one.
    """
    present = _count_gpus()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [name for gpu in map(str, range(present)) for name in _mig_instances(gpu) or [gpu]]

    def is_valid(name: str) -> bool:
        return present > 0 if name.startswith(("GPU-", "MIG-")) else name.isdigit() and int(name) < present

    # CUDA ignores the first invalid entry and everything after it.
    return list(itertools.takewhile(is_valid, (part.strip() for part in chosen.split(","))))


def _count_gpus() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0


def _mig_instances(gpu: str) -> list[str]:
    """Returns the UUIDs of the parts of a GPU that is divided with MIG; none if it is not."""
    import pynvml

    def read(handle: Any) -> list[str]:
        found = []
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            for i in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                # Not every number is in use.
                with contextlib.suppress(pynvml.NVMLError):
                    instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)
                    found.append(str(pynvml.nvmlDeviceGetUUID(instance)))
        return found

    return ask(gpu, read) or []


@functools.cache
def jax_finds_gpu() -> bool:
    """Returns whether JAX can use a GPU, which it can only with the CUDA plugin and a driver that is new enough.

    Another process imports JAX, which takes seconds.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        return not subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True, timeout=120
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def memory(gpu: str) -> tuple[int, int] | None:
    """Returns the memory of a GPU.

    Args:
        gpu: As CUDA_VISIBLE_DEVICES names it.

    Returns:
        Bytes in use, by any program, and in total; None if the GPU's driver does not report it.
    """
    import pynvml

    def read(handle: Any) -> tuple[int, int]:
        found = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(found.used), int(found.total)

    return ask(gpu, read)


@dataclass(frozen=True)
class GpuReading:
    """What a GPU's driver says at some moment; some virtual machines hide a part of it.

    Attributes:
        used: Bytes of memory that any program uses.
        total: Bytes of memory in total.
        use: The percentage of the last moments in which a kernel ran; None if unknown.
        watts: What it draws; None if unknown.
        processes: The bytes that each process uses, by its id; None for what is unknown.
    """

    used: int
    total: int
    use: float | None = None
    watts: float | None = None
    processes: dict[int, int | None] = field(default_factory=dict)


def read_gpu(gpu: str) -> GpuReading | None:
    """Reads a GPU; None if its driver does not report it.

    Args:
        gpu: As CUDA_VISIBLE_DEVICES names it.
    """
    import pynvml

    def read(handle: Any) -> GpuReading:
        use = watts = None
        processes: dict[int, int | None] = {}
        with contextlib.suppress(pynvml.NVMLError):
            use = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        with contextlib.suppress(pynvml.NVMLError):
            processes = {one.pid: one.usedGpuMemory for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return GpuReading(int(memory.used), int(memory.total), use, watts, processes)

    return ask(gpu, read)


@contextlib.contextmanager
def driver() -> Iterator[None]:
    """Keeps the GPUs' driver loaded, so that each question to it is answered faster; does nothing without one."""
    import pynvml

    with contextlib.ExitStack() as loaded:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            loaded.callback(pynvml.nvmlShutdown)
        yield


def held_by(process: int) -> int:
    """Returns the bytes of memory that a process holds on the visible GPUs; 0 if that is not known.

    Args:
        process: Its id.
    """
    import pynvml

    def held(handle: Any) -> int:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return sum(int(one.usedGpuMemory or 0) for one in found if one.pid == process)

    return sum(ask(gpu, held) or 0 for gpu in visible_gpus())


def identity_of(gpu: str) -> str:
    """Returns the name of a GPU that no other GPU has: its UUID; if its driver does not tell it, the name given.

    Args:
        gpu: As CUDA_VISIBLE_DEVICES names it.
    """
    import pynvml

    return ask(gpu, lambda handle: str(pynvml.nvmlDeviceGetUUID(handle))) or gpu


def name_of(gpu: str) -> str | None:
    """Returns the model of a GPU, such as `NVIDIA H100`; None if its driver does not tell it.

    Args:
        gpu: As CUDA_VISIBLE_DEVICES names it.
    """
    import pynvml

    return ask(gpu, lambda handle: str(pynvml.nvmlDeviceGetName(handle)))


def ask(gpu: str, question: Callable[[Any], _Answer]) -> _Answer | None:
    """Asks a GPU's driver something.

    Args:
        gpu: As CUDA_VISIBLE_DEVICES names it.
        question: Takes NVML's handle of the GPU, and returns the answer.

    Returns:
        The answer; None if the driver does not know it.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return question(_handle(gpu))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _handle(gpu: str) -> Any:
    import pynvml

    if gpu.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(gpu)
    except pynvml.NVMLError:
        # CUDA also takes the beginning of a UUID.
        for handle in map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount())):
            if str(pynvml.nvmlDeviceGetUUID(handle)).startswith(gpu):
                return handle
        raise
