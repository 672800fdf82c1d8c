"""Gives a worker, and no other process, a GPU that is there as long as a file is, and that computes on the CPU.

The file is `FAKE_GPUS/N` for the GPU that CUDA_VISIBLE_DEVICES names. The number in it is how many calls of the
training step the GPU still does before it disappears, and the file with it; an empty one lasts for ever, but rests as
long as there is a file `FAKE_GPUS/hold`.
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

    devices, make, call = tf.config.list_physical_devices, Model.make_train_function, Model.__call__
    hold = gpu.with_name("hold")

    def list_physical_devices(kind: str | None = None) -> list[Any]:
        return devices(kind) if kind != "GPU" else [object()] if gpu.exists() else []

    def must_be_there() -> None:
        if not gpu.exists():
            raise tf.errors.InternalError(None, None, "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure")

    def called(self: Model, *arguments: Any, **more: Any) -> Any:
        must_be_there()
        return call(self, *arguments, **more)

    def make_train_function(self: Model, force: bool = False) -> None:
        make(self, force)
        compiled = self.train_function

        def train(iterator: Any) -> Any:
            must_be_there()
            left = gpu.read_text()
            while not left and hold.exists():
                time.sleep(0.05)
            if left == "0":
                gpu.unlink()
            elif left:
                gpu.write_text(str(int(left) - 1))
            must_be_there()
            return compiled(iterator)

        self.train_function = train

    tf.config.list_physical_devices = list_physical_devices
    tf.config.experimental.set_memory_growth = lambda device, enable: None
    Model.__call__, Model.make_train_function = called, make_train_function


if "mnist_sweep.workers.process" in sys.orig_argv:
    _fake(Path(os.environ["FAKE_GPUS"]) / os.environ["CUDA_VISIBLE_DEVICES"])
