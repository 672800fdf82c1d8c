"""What differs between the libraries that Keras computes with; the rest of the training code is the same for all.

The environment variable `KERAS_BACKEND` chooses one before Keras is imported. Only that one must be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING or keras.backend.backend() != "jax":
    from mnist_sweep.training.backends import tensorflow as _backend
else:
    from mnist_sweep.training.backends import jax as _backend

Conv2D = _backend.Conv2D
MachineErrors = _backend.MachineErrors
MaxPooling2D = _backend.MaxPooling2D
Number = _backend.Number
compile_predict = _backend.compile_predict
configure = _backend.configure
dropout = _backend.dropout
gather = _backend.gather
jit_compile = _backend.jit_compile
shuffle = _backend.shuffle
speed_up = _backend.speed_up
to_device = _backend.to_device
