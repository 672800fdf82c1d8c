"""`python -m benchmarks.limit`: the arithmetic of training alone, so that the distance to the hardware is a number.

For every model of `benchmarks.throughput` its matrix products and convolutions of one training step are called bare,
forward and backward, on one batch of random images: no loss, no activations, no optimizer, no data, no Keras. Counted
are 2·B·K·N operations for a product of (B, K) and (K, N), and 2·B·H·W·9·C·F for a convolution of C channels to
(B, H, W, F); a step needs that once forward, once for the gradient of the weights and, but in the first layer, once for
that of the input. Validation images go forward only; they are charged at the rate of the steps.

Candidates, of which each model gets its fastest: numpy's BLAS (convolutions as the products of their unrolled images,
the unrolling not counted), TensorFlow's operations (oneDNN), JAX's and PyTorch's where they are installed; each as one
process on all cores, and as one process per core with one thread each, all at once. A GPU, where the library uses one,
is used by one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.throughput.shapes import SHAPES, Setting, settings
from mnist_sweep.common.files import write_whole

_FOLDER = Path(__file__).parent / "results"
_LIBRARIES = ("numpy", "tensorflow", "jax", "torch")
_SIDE, _KERNEL, _CLASSES = 28, 3, 10
_IMAGES, _VALIDATION = 54_000, 6_000
# Steps in a compiled function, each on other images so that none is saved: one alone would mostly be the call.
_UNROLLED = 4

Product = tuple[str, int, int, int, int, int]
"""`conv` or `dense`; height, width and channels of the input (1, 1 and the units before, for a dense layer), units or
filters, and 1 where the gradient of the input is needed, else 0."""


def products(setting: Setting) -> list[Product]:
    """The layers of a setting's model that multiply."""
    side, channels, found = _SIDE, 1, []
    for filters in setting.filters:
        found.append(("conv", side, side, channels, filters, int(bool(found))))
        side, channels = side - _KERNEL + 1, filters
    if setting.filters:
        side //= 2
    width = side * side * channels
    for units in (*setting.units, _CLASSES):
        found.append(("dense", 1, 1, width, units, int(bool(found))))
        width = units
    return found


def operations(layers: Sequence[Product], *, training: bool) -> int:
    """Floating-point operations for one image.

    Args:
        layers: Of its model.
        training: Forward and backward, or forward only.
    """
    total = 0
    for kind, height, width, inputs, outputs, gradient in layers:
        forward = 2 * inputs * outputs
        if kind == "conv":
            forward *= _KERNEL**2 * (height - _KERNEL + 1) * (width - _KERNEL + 1)
        total += forward * (2 + gradient if training else 1)
    return total


def key(setting: Setting) -> str:
    """What a setting's arithmetic depends on, as the name of its measurement."""
    layers = "-".join([*(f"c{f}" for f in setting.filters), *map(str, setting.units)])
    return f"{layers} batch {setting.batch_size}"


def epoch_seconds(found: Mapping[str, Any], setting: Setting, images: int, validation: int) -> float | None:
    """Seconds that the arithmetic of a setting's epoch takes with the whole machine at it.

    Args:
        found: What this program wrote.
        setting: The trial's.
        images: Training images.
        validation: Images held out.

    Returns:
        None where that model was not measured.
    """
    rates = found["models"].get(key(setting))
    if rates is None:
        return None
    layers = products(setting)
    total = images * operations(layers, training=True) + validation * operations(layers, training=False)
    return float(total / 1e9 / max(rates.values()))


# ---- in a process of its own -------------------------------------------------------------------------------------


def _shapes(layers: Sequence[Product]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each layer's input (without the batch) and weights."""
    return [
        ((height, width, inputs), (_KERNEL, _KERNEL, inputs, outputs))
        if kind == "conv"
        else ((inputs,), (inputs, outputs))
        for kind, height, width, inputs, outputs, _ in layers
    ]


def _arrays(layers: Sequence[Product], batch: int) -> list[tuple[Any, Any, Any]]:
    """Of each layer: input, weights and the gradient of its output."""
    import numpy as np

    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    found = []
    for (kind, height, width, _, outputs, _), (x, w) in zip(layers, _shapes(layers), strict=True):
        y = (height - _KERNEL + 1, width - _KERNEL + 1, outputs) if kind == "conv" else (outputs,)
        found.append((drawn(batch, *x), drawn(*w), drawn(batch, *y)))
    return found


def _numpy(layers: Sequence[Product], batch: int, threads: int) -> Callable[[], None]:
    import numpy as np

    calls: list[tuple[Any, Any, Any]] = []
    rng = np.random.default_rng(0)
    for kind, height, width, inputs, outputs, gradient in layers:
        rows, inner = batch, inputs
        if kind == "conv":
            rows, inner = batch * (height - _KERNEL + 1) * (width - _KERNEL + 1), inputs * _KERNEL**2
        x, w, dy = (
            rng.standard_normal(s, dtype=np.float32) for s in ((rows, inner), (inner, outputs), (rows, outputs))
        )
        y, dw, dx = np.empty_like(dy), np.empty_like(w), np.empty_like(x)
        calls += [(x, w, y), (x.T, dy, dw)]
        if gradient:
            calls.append((dy, w.T, dx))

    def step() -> None:
        for a, b, c in calls:
            np.matmul(a, b, out=c)

    return step


def _tensorflow(layers: Sequence[Product], batch: int, threads: int) -> Callable[[], None]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    ops = tf.raw_ops
    conv = {"strides": [1, 1, 1, 1], "padding": "VALID"}
    # Variables, as a function's constants would be folded.
    held = [[tf.Variable(a) for a in arrays] for _ in range(_UNROLLED) for arrays in _arrays(layers, batch)]

    @tf.function(autograph=False)  # type: ignore[misc]
    def steps() -> list[Any]:
        found = []
        for (kind, *_, gradient), (x, w, dy) in zip(itertools.cycle(layers), held, strict=False):
            if kind == "conv":
                found.append(ops.Conv2D(input=x, filter=w, **conv))
                found.append(ops.Conv2DBackpropFilter(input=x, filter_sizes=w.shape, out_backprop=dy, **conv))
                if gradient:
                    found.append(ops.Conv2DBackpropInput(input_sizes=x.shape, filter=w, out_backprop=dy, **conv))
            else:
                found.append(ops.MatMul(a=x, b=w))
                found.append(ops.MatMul(a=x, b=dy, transpose_a=True))
                if gradient:
                    found.append(ops.MatMul(a=dy, b=w, transpose_b=True))
        return found

    def step() -> None:
        found = steps()
        if machine.gpus():
            found[-1].numpy()

    return step


def _jax(layers: Sequence[Product], batch: int, threads: int) -> Callable[[], None]:
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax

    held = [_arrays(layers, batch) for _ in range(_UNROLLED)]
    forward = [
        (lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        if kind == "conv"
        else (lambda x, w: x @ w)
        for kind, *_ in layers
    ]

    @jax.jit
    def steps(held: Any) -> Any:
        found = []
        for arrays in held:
            for layer, call, (x, w, dy) in zip(layers, forward, arrays, strict=True):
                y, backward = jax.vjp(call, x, w) if layer[-1] else jax.vjp(lambda w, x=x, call=call: call(x, w), w)
                found += [y, *backward(dy)]
        return found

    held = jax.device_put(held)
    return lambda: jax.block_until_ready(steps(held))


def _torch(layers: Sequence[Product], batch: int, threads: int) -> Callable[[], None]:
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = []
    for (kind, *_), arrays in zip(layers, _arrays(layers, batch), strict=True):
        x, w, dy = (torch.from_numpy(a).to(device) for a in arrays)
        if kind == "conv":
            x, w, dy = (
                t.permute(order).contiguous() for t, order in ((x, (0, 3, 1, 2)), (w, (3, 2, 0, 1)), (dy, (0, 3, 1, 2)))
            )
        held.append((x, w, dy))

    def once() -> None:
        for (kind, *_, gradient), (x, w, dy) in zip(layers, held, strict=True):
            if kind == "conv":
                torch.conv2d(x, w)
                torch.ops.aten.convolution_backward(
                    dy, x, w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (bool(gradient), True, False)
                )
            else:
                x @ w
                x.T @ dy
                if gradient:
                    dy @ w.T

    def step() -> None:
        for _ in range(_UNROLLED):
            once()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


_STEPS = {"numpy": _numpy, "tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _serve(library: str, threads: int) -> None:
    """Measures the models that stdin names, a JSON line each, as soon as the next line comes."""
    print(flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        layers = [tuple(layer) for layer in asked["layers"]]
        step = _STEPS[library](layers, asked["batch"], threads)
        for _ in range(3):
            step()
        print(flush=True)
        sys.stdin.readline()
        steps, begun = 0, time.perf_counter()
        while (took := time.perf_counter() - begun) < asked["seconds"]:
            step()
            steps += 1
        each = 1 if library == "numpy" else _UNROLLED
        print(json.dumps(steps * each * asked["batch"] / took), flush=True)


# ---- the processes together --------------------------------------------------------------------------------------


class _Workers:
    """Processes of one library that measure at the same time."""

    def __init__(self, library: str, processes: int, threads: int) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        env = {**os.environ, **limits, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        command = [sys.executable, "-m", "benchmarks.limit", "--serve", library, str(threads)]
        pipe = subprocess.PIPE
        self._processes = [
            subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            for _ in range(processes)
        ]
        self._read()

    def images_per_second(self, setting: Setting, seconds: float) -> float:
        """Of all together."""
        self._write(json.dumps({"layers": products(setting), "batch": setting.batch_size, "seconds": seconds}))
        self._read()
        self._write("")
        return sum(json.loads(line) for line in self._read())

    def close(self) -> None:
        """Ends them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def _write(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

    def _read(self) -> list[str]:
        lines = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"ended: {process.args}")
            lines.append(line)
        return lines


def measure(chosen: Sequence[Setting], seconds: float, console: Console) -> dict[str, dict[str, float]]:
    """Measures models.

    Args:
        chosen: Settings, of which those with the same arithmetic are measured once.
        seconds: For each of them, on each candidate.
        console: Where to say how far it is.

    Returns:
        By `key`: GFLOP per second of the whole machine, by the candidate's name.
    """
    models = {key(setting): setting for setting in chosen}
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    cores = machine.cores()
    ways = [(1, cores), (cores, 1)] if cores > 1 else [(1, 1)]
    for library in _LIBRARIES:
        if importlib.util.find_spec(library) is None:
            continue
        for processes, threads in ways[:1] if machine.gpus() and library != "numpy" else ways:
            name = f"{library}, {processes} × {threads} thread{'s' if threads > 1 else ''}"
            console.print(name, highlight=False)
            workers = _Workers(library, processes, threads)
            try:
                for model, setting in models.items():
                    rate = workers.images_per_second(setting, seconds)
                    found[model][name] = rate * operations(products(setting), training=True) / 1e9
            finally:
                workers.close()
    return found


def _show(found: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"Arithmetic alone, whole machine, {_IMAGES:,} training and {_VALIDATION:,} validation images", highlight=False
    )
    table = Table(box=box.SIMPLE)
    for heading in ("shape", "GFLOP / epoch", "GFLOP / s", "s / epoch", "epochs / s", "fastest"):
        table.add_column(heading, justify="left" if heading in ("shape", "fastest") else "right")
    for shape, row in found["shapes"].items():
        table.add_row(
            shape,
            f"{row['gflop_per_epoch']:.3g}",
            f"{row['gflop_per_second']:.3g}",
            f"{row['seconds_per_epoch']:.3g}",
            f"{row['epochs_per_second']:.3g}",
            row["fastest"],
        )
    console.print(table)


def summary(models: Mapping[str, Mapping[str, float]], names: Sequence[str], trials: int) -> dict[str, Any]:
    """The figures of each shape: of `mixed`, means over its trials.

    Args:
        models: What `measure` returned.
        names: Of the shapes.
        trials: Settings of each.
    """
    rows: dict[str, Any] = {}
    for name in names:
        chosen = settings(name, trials)
        gflop = seconds = 0.0
        for setting in chosen:
            layers = products(setting)
            total = _IMAGES * operations(layers, training=True) + _VALIDATION * operations(layers, training=False)
            gflop += total / 1e9 / len(chosen)
            seconds += total / 1e9 / max(models[key(setting)].values()) / len(chosen)
        best = [max(rates, key=rates.__getitem__) for rates in (models[key(setting)] for setting in chosen)]
        counts = {way: best.count(way) for way in dict.fromkeys(best)}
        rows[name] = {
            "gflop_per_epoch": gflop,
            "gflop_per_second": gflop / seconds,
            "seconds_per_epoch": seconds,
            "epochs_per_second": 1 / seconds,
            "fastest": max(counts, key=counts.__getitem__)
            + (f" (of {counts[max(counts, key=counts.__getitem__)]} of {trials})" if len(counts) > 1 else ""),
        }
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes `limit.json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.limit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--trials", type=int, default=24, help="whose models are measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each model on each candidate")
    parser.add_argument("--to", type=Path, default=_FOLDER, help="folder for limit.json")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        _serve(options.serve[0], int(options.serve[1]))
        return
    console = Console() if sys.stdout.isatty() else Console(width=140)
    chosen = [setting for shape in options.shapes for setting in settings(shape, options.trials)]
    models = measure(chosen, options.seconds, console)
    found = {
        "machine": machine.describe(),
        "shapes": summary(models, options.shapes, options.trials),
        "models": models,
    }
    _show(found, console)
    console.print(machine.line(found["machine"]), highlight=False, soft_wrap=True)
    options.to.mkdir(parents=True, exist_ok=True)
    write_whole(options.to / "limit.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
