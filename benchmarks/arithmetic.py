"""A process that does nothing but the arithmetic of models: `python -m benchmarks.arithmetic LIBRARY THREADS`.

It measures the models that standard input names, one JSON line each. Each time it is ready, it prints an empty line,
waits for an empty line, and then prints the images per second. `benchmarks.limit` starts several of them and lets them
measure at the same time.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import machine

KERNEL = 3
# Steps in a compiled function, each on other images, so that none is optimized away: a single step would mostly measure
# the call.
_UNROLLED = 4


class Layer(NamedTuple):
    """A layer that multiplies.

    Attributes:
        kind: `conv` or `dense`.
        height: Of its input; 1 for a dense layer.
        width: Of its input; 1 for a dense layer.
        inputs: Its input's channels or units.
        outputs: Its filters or units.
        gradient: 1 if training needs the gradient of the input, else 0.
    """

    kind: str
    height: int
    width: int
    inputs: int
    outputs: int
    gradient: int

    @property
    def places(self) -> tuple[int, ...]:
        """Height and width of a convolution's output; () for a dense layer."""
        return (self.height - KERNEL + 1, self.width - KERNEL + 1) if self.kind == "conv" else ()

    def operations(self, *, training: bool) -> int:
        """Returns the floating-point operations for one image: forward and backward, or forward only."""
        forward = 2 * self.inputs * self.outputs
        if self.kind == "conv":
            forward *= KERNEL**2 * self.places[0] * self.places[1]
        return forward * (2 + self.gradient if training else 1)

    def arrays(self, batch: int) -> tuple[Any, Any, Any]:
        """Returns a random input, random weights, and a random gradient of the output."""
        rng = np.random.default_rng(0)
        conv = self.kind == "conv"
        return (
            rng.standard_normal((batch, *((self.height, self.width) if conv else ()), self.inputs), dtype=np.float32),
            rng.standard_normal((*((KERNEL, KERNEL) if conv else ()), self.inputs, self.outputs), dtype=np.float32),
            rng.standard_normal((batch, *self.places, self.outputs), dtype=np.float32),
        )

    def product(self) -> Layer:
        """Returns the dense layer that multiplies a convolution's image patches; of a dense layer, itself."""
        if self.kind == "dense":
            return self
        return Layer("dense", 1, 1, self.inputs * KERNEL**2, self.outputs, self.gradient)


def _numpy(layers: Sequence[Layer], batch: int, threads: int) -> Callable[[], object]:
    calls: list[tuple[Any, Any, Any]] = []
    for layer in layers:
        # A convolution is a product of its image patches.
        rows = batch * math.prod(layer.places)
        x, w, dy = layer.product().arrays(rows)
        calls += [(x, w, np.empty_like(dy)), (x.T, dy, np.empty_like(w))]
        if layer.gradient:
            calls.append((dy, w.T, np.empty_like(x)))

    def steps() -> None:
        for _ in range(_UNROLLED):
            for a, b, c in calls:
                np.matmul(a, b, out=c)

    return steps


def _tensorflow(layers: Sequence[Layer], batch: int, threads: int) -> Callable[[], object]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    ops = tf.raw_ops
    conv = {"strides": [1, 1, 1, 1], "padding": "VALID"}
    # Variables, as TensorFlow would fold constants.
    held = [[tf.Variable(a) for a in layer.arrays(batch)] for _ in range(_UNROLLED) for layer in layers]

    @tf.function(autograph=False)  # type: ignore[misc]
    def compiled() -> list[Any]:
        found = []
        for layer, (x, w, dy) in zip(itertools.cycle(layers), held, strict=False):
            if layer.kind == "conv":
                found.append(ops.Conv2D(input=x, filter=w, **conv))
                found.append(ops.Conv2DBackpropFilter(input=x, filter_sizes=w.shape, out_backprop=dy, **conv))
                if layer.gradient:
                    found.append(ops.Conv2DBackpropInput(input_sizes=x.shape, filter=w, out_backprop=dy, **conv))
            else:
                found.append(ops.MatMul(a=x, b=w))
                found.append(ops.MatMul(a=x, b=dy, transpose_a=True))
                if layer.gradient:
                    found.append(ops.MatMul(a=dy, b=w, transpose_b=True))
        return found

    on_gpu = bool(machine.gpus())

    def steps() -> None:
        found = compiled()
        if on_gpu:
            found[-1].numpy()

    return steps


def _jax(layers: Sequence[Layer], batch: int, threads: int) -> Callable[[], object]:
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax

    def conv(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def dense(x: Any, w: Any) -> Any:
        return x @ w

    @jax.jit
    def compiled(held: Any) -> Any:
        found = []
        for arrays in held:
            for layer, (x, w, dy) in zip(layers, arrays, strict=True):
                call = conv if layer.kind == "conv" else dense
                y, backward = (
                    jax.vjp(call, x, w) if layer.gradient else jax.vjp(lambda w, x=x, call=call: call(x, w), w)
                )
                found += [y, *backward(dy)]
        return found

    held = jax.device_put([[layer.arrays(batch) for layer in layers] for _ in range(_UNROLLED)])
    return lambda: jax.block_until_ready(compiled(held))


def _torch(layers: Sequence[Layer], batch: int, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def moved(array: Any, order: tuple[int, ...]) -> Any:
        tensor = torch.from_numpy(array).to(device)
        return tensor.permute(order).contiguous() if array.ndim == 4 else tensor

    first, weights = (0, 3, 1, 2), (3, 2, 0, 1)
    held = []
    for layer in layers:
        x, w, dy = layer.arrays(batch)
        held.append((moved(x, first), moved(w, weights), moved(dy, first)))

    def steps() -> None:
        for layer, (x, w, dy) in itertools.chain.from_iterable([list(zip(layers, held, strict=True))] * _UNROLLED):
            if layer.kind == "conv":
                torch.conv2d(x, w)
                wanted = (bool(layer.gradient), True, False)
                torch.ops.aten.convolution_backward(dy, x, w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, wanted)
            else:
                x @ w
                x.T @ dy
                if layer.gradient:
                    dy @ w.T
        if device == "cuda":
            torch.cuda.synchronize()

    return steps


LIBRARIES = {"numpy": _numpy, "tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def main(library: str, threads: int) -> None:
    """Serves until standard input ends."""
    print(flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        steps = LIBRARIES[library]([Layer(*layer) for layer in asked["layers"]], asked["batch"], threads)
        for _ in range(3):
            steps()
        print(flush=True)
        sys.stdin.readline()
        calls, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < asked["seconds"]:
            steps()
            calls += 1
        print(json.dumps(calls * _UNROLLED * asked["batch"] / took), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
