"""What training needs of JAX beside Keras. `tensorflow.py` has the same of TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mnist_sweep.data.images import Array

# What it raises where the machine, and not the user's code, is at fault: no memory, no GPU.
Errors = jax.errors.JaxRuntimeError


def configure(threads: int, *, gpu: bool) -> None:
    """Sets it up; once per process, before anything else of it is used.

    Args:
        threads: CPU threads that operations may use.
        gpu: Whether this process trains on a GPU; its memory is then taken as needed, not all at once.

    Raises:
        RuntimeError: The GPU is not there, and it would train on the CPU without a word.
    """
    # It reads these when it first computes; the number of threads has no other setting.
    # On CPU, a program of optimization level 1 is as fast as one of the usual level 3, and is compiled in two thirds of
    # the time, which for small models is most of a trial.
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
        raise RuntimeError("the GPU is gone, or JAX cannot use it; pip install 'jax[cuda12]'") from None


def resident(parts: Sequence[Array]) -> jax.Array:
    """Arrays, one behind the other, where the training reads them."""
    return jnp.asarray(np.concatenate(list(parts)))


def taken(values: jax.Array, indices: Any) -> jax.Array:
    """Some of the entries along the first axis."""
    # In bounds, as all of them are: JAX would look at each otherwise.
    return values.at[indices].get(mode="promise_in_bounds")


def shuffled(indices: Array, seed: int, epoch: int) -> Array:
    """Indices in an order that a seed and an epoch tell, int32."""
    return np.random.default_rng([seed, epoch]).permutation(indices).astype(np.int32)


class Number:
    """A number that a compiled program reads as it runs, so that it may change without compiling anew.

    The program takes the values of all its model's numbers as arguments, and `given` puts those in their place.
    """

    def __init__(self, value: float) -> None:
        """Begins with a value."""
        self.given: Any = jnp.float32(value)

    def assign(self, value: float) -> None:
        """Changes it."""
        self.given = jnp.float32(value)

    def read(self) -> Any:
        """Its value, float32."""
        return self.given


def dropout(inputs: Any, rate: Number, generator: keras.random.SeedGenerator) -> jax.Array:
    """Dropout in training.

    Args:
        inputs: A tensor.
        rate: Of what is dropped, in 0..1.
        generator: Of the layer.
    """
    keep = 1 - rate.read()
    kept = jax.random.bernoulli(generator.next(), keep, inputs.shape)
    return jnp.where(kept, inputs / keep.astype(inputs.dtype), jnp.zeros((), inputs.dtype))


# Nothing is to be gained.
Conv2D = keras.layers.Conv2D


def jit_compile(chosen: bool | str) -> bool | str:
    """What `training.jit_compile` means here: JAX has no other way to be fast than XLA."""
    return chosen


def quicken(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer faster: XLA does."""


def compiled(model: keras.Model, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """A model's prediction of one image as one call.

    Args:
        model: Of images (N, H, W, C), float32 in 0..1.
        shape: Height, width and channels.

    Returns:
        From (1, H, W, C), float32, to what the model gives for it; its first call is as fast as the others.
    """
    weights = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    graph = jax.jit(lambda weights, images: model.stateless_call(*weights, images, training=False)[0])

    def ask(images: Array) -> Any:
        return jax.tree.map(np.asarray, graph(weights, images.astype(np.float32)))

    ask(np.zeros((1, *shape), np.float32))
    return ask
