"""Gives a worker a fake GPU, which exists as long as a file does and computes on the CPU.

The file is `FAKE_GPUS/N` for the GPU that CUDA_VISIBLE_DEVICES names. The number in it is how many more epochs the GPU
starts before it disappears, together with the file. With an empty file the GPU stays, but pauses while the file
`FAKE_GPUS/hold` exists.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def _fake(gpu: Path) -> None:
    import tensorflow as tf
    from keras import Model

    from mnist_sweep.training import fit

    devices, begin, call = tf.config.list_physical_devices, fit._TrialCallback.on_epoch_begin, Model.__call__
    hold = gpu.with_name("hold")

    def list_physical_devices(kind: str | None = None) -> list[Any]:
        return devices(kind) if kind != "GPU" else [object()] if gpu.exists() else []

    def must_be_there() -> None:
        if not gpu.exists():
            raise tf.errors.InternalError(None, None, "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")

    def called(self: Model, *arguments: Any, **more: Any) -> Any:
        must_be_there()
        return call(self, *arguments, **more)

    def on_epoch_begin(self: Any, epoch: int, logs: Any = None) -> None:
        must_be_there()
        left = gpu.read_text()
        while not left and hold.exists():
            time.sleep(0.05)
        if left == "0":
            gpu.unlink()
        elif left:
            gpu.write_text(str(int(left) - 1))
        must_be_there()
        begin(self, epoch, logs)

    tf.config.list_physical_devices = list_physical_devices
    tf.config.experimental.set_memory_growth = lambda device, enable: None
    Model.__call__, fit._TrialCallback.on_epoch_begin = called, on_epoch_begin


if "mnist_sweep.workers.process" in sys.orig_argv:
    _fake(Path(os.environ["FAKE_GPUS"]) / os.environ["CUDA_VISIBLE_DEVICES"])
