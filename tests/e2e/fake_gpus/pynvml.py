"""Stands in for NVIDIA's library: there is a GPU for each file of the folder FAKE_GPUS."""

from __future__ import annotations

import os
from pathlib import Path


class NVMLError(Exception):
    pass


def nvmlInit() -> None:  # noqa: N802
    if not nvmlDeviceGetCount():
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return sum(path.name != "hold" for path in Path(os.environ["FAKE_GPUS"]).iterdir())


def nvmlShutdown() -> None: ...  # noqa: N802
