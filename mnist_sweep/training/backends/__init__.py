"""What differs between the libraries that Keras computes with; the rest of the training is the same on all.

`KERAS_BACKEND` says which it is, before Keras is imported. Only the chosen one need be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING or keras.backend.backend() != "jax":
    from mnist_sweep.training.backends.tensorflow import (
        Conv2D,
        Errors,
        Number,
        compiled,
        configure,
        dropout,
        jit_compile,
        quicken,
        resident,
        shuffled,
        taken,
    )
else:
    from mnist_sweep.training.backends.jax import (
        Conv2D,
        Errors,
        Number,
        compiled,
        configure,
        dropout,
        jit_compile,
        quicken,
        resident,
        shuffled,
        taken,
    )

__all__ = [
    "Conv2D",
    "Errors",
    "Number",
    "compiled",
    "configure",
    "dropout",
    "jit_compile",
    "quicken",
    "resident",
    "shuffled",
    "taken",
]
