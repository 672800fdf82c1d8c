"""What training needs of TensorFlow beside Keras. `jax.py` has the same of JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_sweep.data.images import Array
from mnist_sweep.training.backends import tensorflow_fused

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
    if not gpu:
        _optimize_graphs_once()
    if gpu or threads > 1:
        # One CPU thread computes everything in one order, and a tenth faster without it.
        tf.config.experimental.enable_op_determinism()
    if gpu:
        devices = tf.config.list_physical_devices("GPU")
        if not devices:
            raise RuntimeError("the GPU is gone, or TensorFlow cannot use it; pip install 'tensorflow[and-cuda]'")
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)


def _optimize_graphs_once() -> None:
    """Lets TensorFlow go over a traced function once, and not twice: a tenth less of tracing, and the same speed then.

    No public setting reaches functions. Where TensorFlow knows this one no more, it is without effect.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    context.context()._config = config


def resident(parts: Sequence[Array]) -> tf.Tensor:
    """Arrays, one behind the other, where the training reads them: on the GPU, if they are not too large."""
    on_gpu = tf.config.list_logical_devices("GPU") and sum(part.nbytes for part in parts) <= _ON_GPU
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        return tf.concat(list(parts), axis=0)


def taken(values: tf.Tensor, indices: Any) -> tf.Tensor:
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


def dropout(inputs: Any, rate: Number, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Dropout in training.

    Args:
        inputs: A tensor.
        rate: Of what is dropped, in 0..1.
        generator: Of the layer.
    """
    # Keras draws 32 random bits for each unit and selects, which takes up to a quarter of a model's time. Of 8 bits, so
    # many of the 256 values are dropped that it is the rate in the mean: one more in a share of the steps.
    rate_ = rate.read()
    units = tf.size(inputs)
    drawn = tf.random.stateless_uniform(
        [units // 4 + 2], seed=tf.cast(generator.next(), tf.int32), minval=None, maxval=None, dtype=tf.int32
    )
    dropped = tf.floor(rate_ * 256 + tf.cast(drawn[-1], tf.float32) * 2.0**-32 + 0.5)
    values = tf.reshape(tf.reshape(tf.bitcast(drawn, tf.uint8), [-1])[:units], tf.shape(inputs))
    kept = tf.cast(tf.cast(values, tf.float32) >= dropped, inputs.dtype)
    return inputs * (kept * tf.cast(1 / (1 - rate_), inputs.dtype))


class Conv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """Keras's, whose training takes less time on CPU. It is never saved.

    Where the gradient of the bias comes from TensorFlow's `BiasAddGrad`, as it does in Keras's, oneDNN computes it in
    one kernel with that of the filters, which takes 1.1 to 3.4 times as long as both alone. The forward pass is fused
    all the same.
    """

    def call(self, inputs: Any) -> Any:  # noqa: D102
        if not self.use_bias or self.data_format != "channels_last" or tf.config.list_logical_devices("GPU"):
            return super().call(inputs)
        convolved = self.convolution_op(inputs, self.kernel)
        bias = tf.cast(tf.convert_to_tensor(self.bias), convolved.dtype)
        return self.activation(tf.raw_ops.AddV2(x=convolved, y=tf.reshape(bias, (1, 1, 1, self.filters))))


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

    def ask(images: Array) -> Any:
        # Taken out of the tensor, as a GPU may still be at work when the call returns.
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), graph(tf.constant(images, tf.float32)))

    ask(np.zeros((1, *shape), np.float32))
    return ask
