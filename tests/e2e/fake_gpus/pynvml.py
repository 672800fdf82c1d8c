"""Replaces NVIDIA's library: each file of the folder FAKE_GPUS is a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def nvmlInit() -> None:  # noqa: N802
    if not nvmlDeviceGetCount():
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return sum(path.name != "hold" for path in Path(os.environ["FAKE_GPUS"]).iterdir())


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetHandleByUUID(name: str) -> str:  # noqa: N802
    if not (Path(os.environ["FAKE_GPUS"]) / name).exists():
        raise NVMLError("Not Found")
    return name


def nvmlDeviceGetUUID(handle: int | str) -> str:  # noqa: N802
    # Other sweeps of the tests have other GPUs.
    return f"{os.environ['FAKE_GPUS']}-{handle}"


def nvmlDeviceGetMigMode(handle: int | str) -> list[int]:  # noqa: N802
    return [0, 0]


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(used=10**9, total=10**10)


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=75)


def nvmlDeviceGetPowerUsage(handle: int) -> int:  # noqa: N802
    return 150_000


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:  # noqa: N802
    return []


def nvmlShutdown() -> None: ...  # noqa: N802
