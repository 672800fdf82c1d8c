"""What training needs from JAX itself. `tensorflow.py` is the same for TensorFlow, and documents each function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mnist_sweep.common import invocation
from mnist_sweep.data.dataset import Array

# Raised when the machine, not the user's code, is at fault: out of memory, no GPU.
MachineErrors: type[Exception] = jax.errors.JaxRuntimeError


def configure(threads: int, *, gpu: bool) -> None:
    """Configures the backend. Call it once per process, before using anything else of the backend."""
    # JAX reads these variables on first use; there is no other way to set the number of threads.
    # On CPU, a program compiled at optimization level 1 is as fast as at the default level 3, and compiling takes two
    # thirds of the time, which is most of a small model's trial.
    flags = ["--xla_gpu_deterministic_ops=true"] if gpu else ["--xla_backend_optimization_level=1"]
    flags += ["--xla_cpu_multi_thread_eigen=false"] if threads == 1 else []
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    os.environ["NPROC"] = os.environ["PJRT_NPROC"] = str(threads)
    if not gpu:
        jax.config.update("jax_platforms", "cpu")
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        jax.devices("gpu")
    except RuntimeError:
        todo = invocation.pip_install("mnist_sweep[gpu-jax]")
        raise RuntimeError(f"the GPU is gone, or JAX cannot use it; {todo}") from None


def to_device(parts: Sequence[Array]) -> jax.Array:
    """Concatenates arrays where training reads them."""
    return jnp.asarray(np.concatenate(list(parts)))


def gather(values: jax.Array, indices: Any) -> jax.Array:
    """Returns some of the entries along the first axis."""
    # All indices are in bounds, so JAX need not check them.
    return values.at[indices].get(mode="promise_in_bounds")


def shuffle(indices: Array, seed: int, epoch: int) -> Array:
    """Returns indices in an order determined by a seed and an epoch, int32."""
    return np.random.default_rng([seed, epoch]).permutation(indices).astype(np.int32)


class Number:
    """A number that a compiled program reads while it runs, so that it can change without recompiling.

    The program takes the values of all its model's numbers as arguments and puts them into `given`.
    """

    def __init__(self, value: float) -> None:
        """Takes the first value."""
        self.given: Any = jnp.float32(value)

    def assign(self, value: float) -> None:
        """Changes the value."""
        self.given = jnp.float32(value)

    def read(self) -> Any:
        """Returns the value, float32."""
        return self.given


def dropout(inputs: Any, rate: Number, generator: keras.random.SeedGenerator) -> jax.Array:
    """Applies dropout."""
    keep = 1 - rate.read()
    kept = jax.random.bernoulli(generator.next(), keep, inputs.shape)
    return jnp.where(kept, inputs / keep.astype(inputs.dtype), jnp.zeros((), inputs.dtype))


# Keras's layer is already as fast as possible.
Conv2D = keras.layers.Conv2D


def jit_compile(chosen: bool | str) -> bool | str:
    """Returns the choice unchanged: on JAX, XLA is the only way to be fast."""
    return chosen


def speed_up(optimizer: keras.optimizers.Optimizer) -> None:
    """Does nothing: XLA fuses an optimizer's update already."""


def compile_predict(model: keras.Model, example: Any) -> Callable[[Any], Any]:
    """Compiles the prediction of one row into one call."""
    weights = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    graph = jax.jit(lambda weights, inputs: model.stateless_call(*weights, inputs, training=False)[0])

    def predict(inputs: Any) -> Any:
        given = jax.tree.map(lambda one, like: np.asarray(one, like.dtype), inputs, example)
        return jax.tree.map(np.asarray, graph(weights, given))

    predict(example)
    return predict
