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
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arithmetic import KERNEL, LIBRARIES, Layer
from benchmarks.harness import machine, show
from benchmarks.harness.benchmark import Benchmark, Case
from benchmarks.harness.records import Store, count
from benchmarks.throughput.shapes import SHAPES, Setting, settings

_SIDE, _CLASSES = 28, 10
_IMAGES, _VALIDATION = 54_000, 6_000

Rates = Mapping[str, Mapping[str, float]]
"""GFLOP per second of the whole machine, by model (`key`) and candidate."""


def layers(setting: Setting) -> list[Layer]:
    """Returns the layers of a setting's model that multiply."""
    side, channels = _SIDE, 1
    found: list[Layer] = []
    for filters in setting.filters:
        found.append(Layer("conv", side, side, channels, filters, int(bool(found))))
        side, channels = side - KERNEL + 1, filters
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


class _Workers:
    """Processes of one library that measure at the same time."""

    def __init__(self, library: str, processes: int, threads: int) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        env = {**os.environ, **limits, "TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        command = [sys.executable, "-m", "benchmarks.arithmetic", library, str(threads)]
        pipe = subprocess.PIPE
        self._processes = [
            subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            for _ in range(processes)
        ]
        self._read()

    def images_per_second(self, setting: Setting, seconds: float) -> float:
        """Returns the images per second of all processes together."""
        self._write(json.dumps({"layers": layers(setting), "batch": setting.batch_size, "seconds": seconds}))
        self._read()
        self._write("")
        return sum(json.loads(line) for line in self._read())

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.communicate()

    def _write(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

    def _read(self) -> list[str]:
        lines = [process.stdout.readline() for process in self._processes if process.stdout is not None]
        if not all(lines):
            raise RuntimeError(f"ended: {self._processes[0].args}")
        return lines


def _measure(
    library: str, processes: int, threads: int, models: Mapping[str, Setting], seconds: float, _: Path
) -> dict[str, float]:
    workers = _Workers(library, processes, threads)
    try:
        return {
            name: workers.images_per_second(setting, seconds) * operations(layers(setting), training=True) / 1e9
            for name, setting in models.items()
        }
    finally:
        workers.close()


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
