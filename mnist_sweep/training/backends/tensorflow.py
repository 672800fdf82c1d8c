"""What training needs from TensorFlow itself. `jax.py` is the same for JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mnist_sweep.data.dataset import Array
from mnist_sweep.training.backends import tensorflow_fused

# Raised when the machine, not the user's code, is at fault: out of memory, no GPU.
MachineErrors: type[Exception] = tf.errors.OpError

# A data set up to this size is kept in GPU memory, a larger one in main memory.
_MOST_BYTES_ON_GPU = 2**30


def configure(threads: int, *, gpu: bool) -> None:
    """Configures the backend. Call it once per process, before using anything else of the backend.

    Args:
        threads: CPU threads that operations may use.
        gpu: Whether this process trains on a GPU. GPU memory is then allocated as needed.

    Raises:
        RuntimeError: The GPU is missing; training would silently run on the CPU.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if not gpu:
        _optimize_graphs_once()
    if gpu or threads > 1:
        # A single CPU thread is deterministic anyway, and a tenth faster without this.
        tf.config.experimental.enable_op_determinism()
    if gpu:
        devices = tf.config.list_physical_devices("GPU")
        if not devices:
            raise RuntimeError("the GPU is gone, or TensorFlow cannot use it; pip install 'tensorflow[and-cuda]'")
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)


def _optimize_graphs_once() -> None:
    """Makes TensorFlow optimize a traced function once instead of twice: tracing is a tenth faster, training as fast.

    No public setting applies to functions. If a later TensorFlow drops this one, it has no effect.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    context.context()._config = config


def to_device(parts: Sequence[Array]) -> tf.Tensor:
    """Concatenates arrays where training reads them: on the GPU, unless they are too large."""
    on_gpu = tf.config.list_logical_devices("GPU") and sum(part.nbytes for part in parts) <= _MOST_BYTES_ON_GPU
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        return tf.concat(list(parts), axis=0)


def gather(values: tf.Tensor, indices: Any) -> tf.Tensor:
    """Returns some of the entries along the first axis."""
    return tf.gather(values, indices)


def shuffle(indices: Array, seed: int, epoch: int) -> tf.Tensor:
    """Returns indices in an order determined by a seed and an epoch, int32."""
    with tf.device("CPU:0"):
        chosen = tf.constant(indices, tf.int32)
        return tf.random.experimental.stateless_shuffle(chosen, seed=tf.constant([seed, epoch], tf.int64))


class Number:
    """A number that a compiled program reads while it runs, so that it can change without recompiling."""

    def __init__(self, value: float) -> None:
        """Takes the first value."""
        self._variable = tf.Variable(value, dtype=tf.float32, trainable=False)

    def assign(self, value: float) -> None:
        """Changes the value."""
        self._variable.assign(value)

    def read(self) -> tf.Tensor:
        """Returns the value, float32."""
        return self._variable.read_value()


def dropout(inputs: Any, rate: Number, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Applies dropout.

    Args:
        inputs: A tensor.
        rate: The share of units to drop, in 0..1.
        generator: The layer's seed generator.
    """
    # Keras draws 32 random bits per unit, which takes up to a quarter of a model's time. Here it is 8 bits. How many of
    # the 256 values mean "drop" varies by one between steps, so that the mean is exactly the rate.
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
    """Keras's layer, but faster to train on CPU. It is never saved.

    In Keras's layer, the gradient of the bias comes from TensorFlow's `BiasAddGrad`. oneDNN then computes it in one
    kernel with the gradient of the filters, which takes 1.1 to 3.4 times as long as two kernels. The forward pass is
    fused either way.
    """

    def call(self, inputs: Any) -> Any:  # noqa: D102
        if not self.use_bias or self.data_format != "channels_last" or tf.config.list_logical_devices("GPU"):
            return super().call(inputs)
        convolved = self.convolution_op(inputs, self.kernel)
        bias = tf.cast(tf.convert_to_tensor(self.bias), convolved.dtype)
        return self.activation(tf.raw_ops.AddV2(x=convolved, y=tf.reshape(bias, (1, 1, 1, self.filters))))


def jit_compile(chosen: bool | str) -> bool | str:
    """Resolves `training.jit_compile=auto`: off on CPU, where XLA makes convolutions four to five times slower."""
    if chosen != "auto":
        return chosen
    return "auto" if tf.config.list_logical_devices("GPU") else False


def speed_up(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer faster if that changes nothing but rounding."""
    tensorflow_fused.install(optimizer)


def compile_predict(model: keras.Model, example: Any) -> Callable[[Any], Any]:
    """Compiles the prediction of one row into one call. Layer by layer, it takes twenty times as long.

    Args:
        model: A model.
        example: The inputs of one row, (1, …); by name if there are several.

    Returns:
        A function from such inputs to the model's output. Its first call is as fast as the others.
    """
    flat = tf.nest.flatten(example)
    graph = tf.function(
        lambda *inputs: model(tf.nest.pack_sequence_as(example, inputs), training=False)
    ).get_concrete_function(*(tf.TensorSpec(array.shape, array.dtype) for array in flat))

    def predict(inputs: Any) -> Any:
        # `numpy` waits for the GPU, which may still be busy when the call returns.
        tensors = [tf.constant(one, like.dtype) for one, like in zip(tf.nest.flatten(inputs), flat, strict=True)]
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), graph(*tensors))

    predict(example)
    return predict
