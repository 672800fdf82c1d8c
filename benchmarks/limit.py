"""`python -m benchmarks.limit`: the arithmetic of training alone, the limit that the hardware sets.

For every model of `benchmarks.throughput`, this calls the matrix products and convolutions of one training step,
forward and backward, on one batch of random images: no loss, no activations, no optimizer, no data, no Keras. A product
of (B, K) and (K, N) counts as 2·B·K·N operations, and a convolution of C channels to (B, H, W, F) as 2·B·H·W·9·C·F. A
step needs that once forward, once for the gradient of the weights and, except in the first layer, once for that of the
input. Validation images go forward only, at the rate of the steps.

Each model gets the fastest of these: numpy's BLAS (a convolution is a product of its image patches; making the patches
does not count), TensorFlow's operations (oneDNN), and JAX's and PyTorch's if they are installed. Each runs as one
process on all cores, and as one process per core with one thread each, at the same time. Only one process uses a GPU.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.harness import machine, show
from benchmarks.harness.benchmark import Benchmark, Case
from benchmarks.harness.records import Store, count
from benchmarks.throughput.shapes import SHAPES, Setting, settings

_SIDE, _KERNEL, _CLASSES = 28, 3, 10
_IMAGES, _VALIDATION = 54_000, 6_000
# Steps in a compiled function, each on other images, so that none is optimized away: a single step would mostly measure
# the call.
_UNROLLED = 4
# Seconds that the processes wait for each other.
_TIMEOUT = 600

Rates = Mapping[str, Mapping[str, float]]
"""GFLOP per second of the whole machine, by model (`key`) and candidate."""


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
        return (self.height - _KERNEL + 1, self.width - _KERNEL + 1) if self.kind == "conv" else ()

    def operations(self, *, training: bool) -> int:
        """Returns the floating-point operations for one image: forward and backward, or forward only."""
        forward = 2 * self.inputs * self.outputs
        if self.kind == "conv":
            forward *= _KERNEL**2 * self.places[0] * self.places[1]
        return forward * (2 + self.gradient if training else 1)

    def arrays(self, batch: int) -> tuple[Any, Any, Any]:
        """Returns a random input, random weights, and a random gradient of the output."""
        rng = np.random.default_rng(0)
        conv = self.kind == "conv"
        return (
            rng.standard_normal((batch, *((self.height, self.width) if conv else ()), self.inputs), dtype=np.float32),
            rng.standard_normal((*((_KERNEL, _KERNEL) if conv else ()), self.inputs, self.outputs), dtype=np.float32),
            rng.standard_normal((batch, *self.places, self.outputs), dtype=np.float32),
        )

    def product(self) -> Layer:
        """Returns the dense layer that multiplies a convolution's image patches; of a dense layer, itself."""
        if self.kind == "dense":
            return self
        return Layer("dense", 1, 1, self.inputs * _KERNEL**2, self.outputs, self.gradient)


def layers(setting: Setting) -> list[Layer]:
    """Returns the layers of a setting's model that multiply."""
    side, channels = _SIDE, 1
    found: list[Layer] = []
    for filters in setting.filters:
        found.append(Layer("conv", side, side, channels, filters, int(bool(found))))
        side, channels = side - _KERNEL + 1, filters
    if setting.filters:
        side //= 2
    width = side * side * channels
    for units in (*setting.units, _CLASSES):
        found.append(Layer("dense", 1, 1, width, units, int(bool(found))))
        width = units
    return found


def operations(found: Sequence[Layer], *, training: bool) -> int:
    """Returns the floating-point operations for one image: forward and backward, or forward only."""
    return sum(layer.operations(training=training) for layer in found)


def key(setting: Setting) -> str:
    """Returns the name of a setting's model: two with the same name have the same arithmetic."""
    names = "-".join([*(f"c{filters}" for filters in setting.filters), *map(str, setting.units)])
    return f"{names} batch {setting.batch_size}"


def _gflop(setting: Setting, images: int, validation: int) -> float:
    found = layers(setting)
    return (images * operations(found, training=True) + validation * operations(found, training=False)) / 1e9


def epoch_seconds(rates: Rates, setting: Setting, images: int, validation: int) -> float | None:
    """Returns the seconds that the arithmetic of an epoch takes the whole machine; None if it was not measured."""
    found = rates.get(key(setting))
    return _gflop(setting, images, validation) / max(found.values()) if found else None


def rates(store: Store) -> Rates:
    """Returns what was measured; empty if nothing was."""
    found: dict[str, dict[str, float]] = {}
    for record in store.records:
        for model, rate in record.figures.items():
            found.setdefault(model, {})[record.variant] = rate
    return found


# ---- in processes of their own -----------------------------------------------------------------------------------


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

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
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

    @jax.jit  # type: ignore[untyped-decorator]
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


def _work(library: str, threads: int, models: Sequence[Setting], seconds: float, together: Barrier) -> list[float]:
    """Returns the images per second of each model; all processes start each at the same time."""
    # TensorFlow writes there; exceptions reach the caller in another way.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    found = []
    for setting in models:
        steps = LIBRARIES[library](layers(setting), setting.batch_size, threads)
        for _ in range(3):
            steps()
        together.wait(_TIMEOUT)
        calls, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            steps()
            calls += 1
        found.append(calls * _UNROLLED * setting.batch_size / took)
    return found


def _measure(
    library: str, processes: int, threads: int, models: Mapping[str, Setting], seconds: float, _: Path
) -> dict[str, float]:
    # The libraries read these when they are imported.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"})
    context, chosen = get_context("spawn"), list(models.values())
    with context.Manager() as manager, ProcessPoolExecutor(processes, mp_context=context) as executor:
        together = manager.Barrier(processes)
        futures = [executor.submit(_work, library, threads, chosen, seconds, together) for _ in range(processes)]
        rates = [sum(each) for each in zip(*(future.result() for future in futures), strict=True)]
    gflop = [operations(layers(setting), training=True) / 1e9 for setting in chosen]
    return {name: rate * each for name, rate, each in zip(models, rates, gflop, strict=True)}


# ---- all together ------------------------------------------------------------------------------------------------


def summary(found: Rates, shape: str, trials: int) -> tuple[float, float, str]:
    """Returns the means of a shape's trials: GFLOP and seconds of an epoch, and the fastest candidate."""
    chosen = settings(shape, trials)
    gflop = [_gflop(setting, _IMAGES, _VALIDATION) for setting in chosen]
    candidates = [found[key(setting)] for setting in chosen]
    seconds = [each / max(speeds.values()) for each, speeds in zip(gflop, candidates, strict=True)]
    best = Counter(max(speeds, key=speeds.__getitem__) for speeds in candidates)
    fastest, times = best.most_common(1)[0]
    more = f" (of {times} of {trials})" if len(best) > 1 else ""
    return sum(gflop) / trials, sum(seconds) / trials, fastest + more


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--trials", type=int, default=24, help="the number of trials whose models are measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each model and candidate")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    chosen = [setting for shape in options.shapes for setting in settings(shape, options.trials)]
    models = {key(setting): setting for setting in chosen}
    work: dict[str, Any] = {"shapes": options.shapes, "trials": options.trials, "seconds": options.seconds}
    cores, found = machine.cores(), []
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            continue
        # The same way twice if there is one core.
        ways = dict.fromkeys([(1, cores), (cores, 1)])
        for processes, threads in list(ways)[: 1 if machine.gpus() and library != "numpy" else 2]:
            measure = partial(_measure, library, processes, threads, models, options.seconds)
            found.append(Case("arithmetic", f"{library}, {processes} × {count(threads, 'thread')}", work, measure))
    return [(found, 1)]


def _show(store: Store, options: Namespace, console: Console) -> None:
    found, work = rates(store), store.records[-1].work
    rows = []
    for shape in work["shapes"]:
        gflop, seconds, fastest = summary(found, shape, work["trials"])
        figures = (gflop, gflop / seconds, seconds, 1 / seconds)
        rows.append([shape, *(f"{figure:.3g}" for figure in figures), fastest])
    title = f"Arithmetic alone, whole machine, {_IMAGES:,} training and {_VALIDATION:,} validation images"
    headings = ("shape", "GFLOP / epoch", "GFLOP / s", "s / epoch", "epochs / s", "fastest")
    console.print(show.table(headings, rows, title))


main = Benchmark(
    "limit",
    __doc__ or "",
    _add_options,
    _cases,
    _show,
    quick={"trials": 1, "seconds": 0.1},
    told=(),
    resumes=False,
).main

if __name__ == "__main__":
    main()
