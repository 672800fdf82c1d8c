"""What training needs of TensorFlow beside Keras. `jax.py` has the same of JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_sweep.training.backends import tensorflow_fused
from mnist_sweep.training.data import Array

# What it raises where the machine, and not the user's code, is at fault: no memory, no GPU.
Errors = tf.errors.OpError

# A data set up to this size is kept on the GPU that trains on it, a larger one in the computer's memory.
_ON_GPU = 2**30


def configure(threads: int, *, gpu: bool) -> None:
    """Sets it up; once per process, before anything else of it is used.

    Args:
        threads: CPU threads that operations may use.
        gpu: Whether this process trains on a GPU; its memory is then taken as needed, not all at once.

    Raises:
        RuntimeError: The GPU is not there, and it would train on the CPU without a word.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if gpu or threads > 1:
        # One CPU thread computes everything in one order, and a tenth faster without it.
        tf.config.experimental.enable_op_determinism()
    if gpu:
        devices = tf.config.list_physical_devices("GPU")
        if not devices:
            raise RuntimeError("the GPU is gone, or TensorFlow cannot use it; pip install 'tensorflow[and-cuda]'")
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)


def resident(parts: Sequence[Array]) -> tf.Tensor:
    """Arrays, one behind the other, where the training reads them: on the GPU, if they are not too large."""
    on_gpu = tf.config.list_logical_devices("GPU") and sum(part.nbytes for part in parts) <= _ON_GPU
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        return tf.concat(list(parts), axis=0)


def taken(values: tf.Tensor, indices: Any) -> tf.Tensor:  # noqa: ANN401
    """Some of the entries along the first axis."""
    return tf.gather(values, indices)


def shuffled(indices: Array, seed: int, epoch: int) -> tf.Tensor:
    """Indices in an order that a seed and an epoch tell, int32."""
    with tf.device("CPU:0"):
        chosen = tf.constant(indices, tf.int32)
        return tf.random.experimental.stateless_shuffle(chosen, seed=tf.constant([seed, epoch], tf.int64))


class Number:
    """A number that a compiled program reads as it runs, so that it may change without compiling anew."""

    def __init__(self, value: float) -> None:
        """Begins with a value."""
        self._variable = tf.Variable(value, dtype=tf.float32, trainable=False)

    def assign(self, value: float) -> None:
        """Changes it."""
        self._variable.assign(value)

    def read(self) -> tf.Tensor:
        """Its value, float32."""
        return self._variable.read_value()


def dropout(inputs: Any, rate: Number, generator: keras.random.SeedGenerator) -> tf.Tensor:  # noqa: ANN401
    """Dropout in training.

    Args:
        inputs: A tensor.
        rate: Of what is dropped, in 0..1.
        generator: Of the layer.
    """
    seed = tf.cast(generator.next(), tf.int32)
    rate_ = tf.cast(rate.read(), inputs.dtype)
    return tf.nn.experimental.stateless_dropout(inputs, rate=rate_, seed=seed, noise_shape=None)


def jit_compile(chosen: bool | str) -> bool | str:
    """What `training.jit_compile` means here: XLA makes convolutions four to five times slower on CPU."""
    if chosen != "auto":
        return chosen
    return "auto" if tf.config.list_logical_devices("GPU") else False


def quicken(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer faster, where that changes nothing but rounding."""
    tensorflow_fused.install(optimizer)


def compiled(model: keras.Model, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """A model's prediction of one image as one call: layer by layer takes twenty times as long.

    Args:
        model: Of images (N, H, W, C), float32 in 0..1.
        shape: Height, width and channels.

    Returns:
        From (1, H, W, C), float32, to what the model gives for it; its first call is as fast as the others.
    """
    graph = tf.function(lambda images: model(images, training=False)).get_concrete_function(
        tf.TensorSpec((1, *shape), tf.float32)
    )

    def ask(images: Array) -> Any:  # noqa: ANN401
        # Taken out of the tensor, as a GPU may still be at work when the call returns.
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), graph(tf.constant(images, tf.float32)))

    ask(np.zeros((1, *shape), np.float32))
    return ask
