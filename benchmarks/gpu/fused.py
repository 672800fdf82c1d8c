"""Trains trials of an architecture as one program, and one at a time: `python -m benchmarks.gpu.fused SHAPE DATA`.

A stack has a lane for each trial. `jax.vmap` turns the steps of this program's own compiled epoch into those of all
lanes. Each lane draws its own batches (`own`), or all lanes draw the same ones (`shared`), which saves memory traffic
but makes the order of the images the same for all trials. `alone` is the same program without lanes: what a worker runs
today.

The first eight lanes differ in their seed (weights, dropout, order of the images) and learning rate, and are compared
with the same trials alone: the training metrics after some steps, and the validation metrics then. Further lanes repeat
their weights and learning rates on other orders.

Each line of the output file is a measurement, written when it is complete. The process ends by itself in time, and says
what it has not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np

from benchmarks.harness import machine
from benchmarks.throughput import shapes
from mnist_sweep.config import compose
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.task import CLASSIFICATION
from mnist_sweep.config.trial_config import TrialConfig, check_trial
from mnist_sweep.data import sources
from mnist_sweep.data.dataset import split as parted
from mnist_sweep.training import model as models
from mnist_sweep.training import tasks
from mnist_sweep.training.fit import configure
from mnist_sweep.training.model_cache import CompiledModel, ModelCache
from mnist_sweep.training.splits import Split, Splits

ALONE = 0
_BATCH, _VALIDATION_BATCH, _DROPOUT = 128, 2048, 0.2
_COMPARED = 8
# SGD's learning rates are ten times Adam's.
_FACTORS = {"adam": 1.0, "sgd": 10.0}
# Steps before the clock starts, and how long the timed ones should take.
_WARM_UP, _TIMED_SECONDS = 2, 1.0


@dataclass
class Lanes:
    """Trials of one architecture and optimizer.

    Attributes:
        shape: Of `shapes.SHAPES`.
        optimizer: Its name.
        precision: `training.precision`.
        split: The images.
    """

    shape: str
    optimizer: str
    precision: str
    split: Split
    _cache: ModelCache = field(default_factory=ModelCache)

    @cached_property
    def compiled(self) -> CompiledModel:
        """The model and its program, which all lanes share."""
        return self._get(0)

    @cached_property
    def first(self) -> tuple[Any, Any]:
        """The variables of the compared lanes before the first step, and their numbers, with an axis for the lane."""
        found = [self._initial(lane) for lane in range(_COMPARED)]
        stacked = jax.tree.map(lambda *values: jnp.asarray(np.stack(values)), *found)
        return stacked[0], stacked[1]

    def indices(self, lane: int, order: str) -> Any:
        """Returns the order in which a lane's epoch goes through the images."""
        shuffled = self.split.shuffled(lane if order == "own" else 0, 0)
        return self.compiled.program._order(self.split, shuffled)

    def validated(self, state: Any) -> dict[str, float]:
        """Returns the validation metrics with a lane's variables."""
        program = self.compiled.program
        for variables, values in zip(program._variables["train"], state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return program.validate(self.split, _VALIDATION_BATCH)

    def _initial(self, lane: int) -> tuple[Any, Any]:
        model, program = self._get(lane).model, self.compiled.program
        generators = [g for layer in model._flatten_layers() for g in getattr(layer, "_seed_generators", [])]
        for i, generator in enumerate(generators):
            seed = np.random.SeedSequence([lane, 0, i]).generate_state(1)[0]
            generator.state.assign(np.array([seed, 0], generator.state.dtype))
        model.reset_metrics()
        # Copied, as the program overwrites its arguments.
        state = tuple([np.array(v.value) for v in kind] for kind in program._variables["train"])
        return state, [np.array(number.read()) for number in program._numbers]

    def _get(self, lane: int) -> CompiledModel:
        config = self._config(lane)
        keras.config.set_dtype_policy(self.precision)
        random.seed(lane)
        steps = models.batches(len(self.split.training), _BATCH)

        def compile_(model: keras.Model) -> None:
            assert config.optimizer is not None
            target, optimizer = self.split.schema.target, models.optimizer(config.optimizer, steps)
            loss, metrics = tasks.loss(config.task, target, None), tasks.metrics(config.task, target)
            model.compile(optimizer=optimizer, loss=loss, metrics=metrics)

        return self._cache.get(config, steps, self.split, None, compile_)

    def _config(self, lane: int) -> TrialConfig:
        shape = shapes.SHAPES[self.shape]
        rate = shapes.settings(self.shape, lane + 1)[lane].learning_rate * _FACTORS[self.optimizer]
        dense = {**shape.model.get("dense", {}), "dropout": _DROPOUT}
        values = {key: value for key, value in shape.model.items() if key not in ("dense", "dropout")}
        values |= {f"dense.{key}": value for key, value in dense.items()} if "dense" in shape.model else dense
        config = compose.defaults(
            [
                *(f"model={shape.group}", f"optimizer={self.optimizer}", "training.backend=jax"),
                *(f"model.{key}={json.dumps(value)}" for key, value in values.items()),
                *(f"optimizer.learning_rate={rate}", f"training.seed={lane}", f"training.precision={self.precision}"),
            ]
        )
        trial = check_trial(Space(check_settings(config).trial).config({}))
        return trial.model_copy(update={"task": CLASSIFICATION})


class Stack:
    """Some lanes as one compiled program, or with `ALONE` the program of a single trial."""

    def __init__(self, lanes: Lanes, count: int, order: str) -> None:
        """Compiles it."""
        self._lanes, self._count, self._order = lanes, count, order
        program = lanes.compiled.program
        started = time.perf_counter()
        if count == ALONE:
            self._run = program._function("train", lanes.split, _BATCH)
        else:
            axes = (0, 0, None, 0 if order == "own" else None, None, None)
            run = jax.vmap(partial(program._run, "train", _BATCH), in_axes=axes)
            lowered = jax.jit(run, donate_argnums=0).lower(*self._shapes(), *np.zeros(2, np.int32))
            self._run = lowered.compile()
        self.compile_seconds = time.perf_counter() - started

    def figures(self) -> dict[str, Any]:
        """Returns what the compiler knows: MiB of arguments and of work space; operations and bytes of a step."""
        memory, costs = self._run.memory_analysis(), self._run.cost_analysis() or {}
        return {
            "compile_seconds": self.compile_seconds,
            "argument_mib": memory.argument_size_in_bytes / 2**20,
            "temporary_mib": memory.temp_size_in_bytes / 2**20,
            "step_flops": costs.get("flops"),
            "step_bytes": costs.get("bytes accessed"),
        }

    def train(self, steps: int, most: int, lane: int = 0) -> tuple[float, list[dict[str, float]]]:
        """Trains `steps` steps from the start of an epoch, then up to `most` in all, for the time of one.

        Args:
            steps: After which the metrics are compared.
            most: Of an epoch.
            lane: Which one to train alone.

        Returns:
            Seconds of a step of all lanes; and the metrics of the compared lanes after `steps` steps.
        """
        arguments = self._arguments(lane)
        self._call(self._state(lane), arguments, 0, _WARM_UP)
        seconds, logs, state = self._call(self._state(lane), arguments, 0, steps)
        metrics = []
        for i in range(min(self._count or 1, _COMPARED)):
            own = state if self._count == ALONE else jax.tree.map(lambda value, i=i: value[i], state)
            of_lane = {name: float(np.ravel(values)[i]) for name, values in logs.items()}
            metrics.append({**of_lane, **self._lanes.validated(own)})
        more = min(most - steps, int(_TIMED_SECONDS * steps / seconds))
        if more > steps:
            seconds, steps = self._call(self._state(lane), arguments, steps, more)[0], more
        return seconds / steps, metrics

    def _of(self, values: Any, lane: int) -> Any:
        chosen = lane if self._count == ALONE else np.arange(self._count) % _COMPARED
        return jax.tree.map(lambda value: value[chosen], values)

    def _state(self, lane: int) -> Any:
        return self._of(self._lanes.first[0], lane)

    def _arguments(self, lane: int) -> tuple[Any, ...]:
        """Returns the numbers, the images with their labels, and the orders."""
        split, order = self._lanes.split, self._order
        if self._count == ALONE or order == "shared":
            indices = self._lanes.indices(lane, order)
        else:
            indices = np.stack([self._lanes.indices(lane, order) for lane in range(self._count)])
        return self._of(self._lanes.first[1], lane), split.tensors(train=True), jnp.asarray(indices)

    def _shapes(self) -> tuple[Any, ...]:
        def shape(value: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self._count, *value.shape[1:]), value.dtype)

        state, numbers = jax.tree.map(shape, self._lanes.first)
        split, lanes = self._lanes.split, () if self._order == "shared" else (self._count,)
        order = jax.ShapeDtypeStruct((*lanes, len(split.targets)), jnp.int32)
        return state, numbers, split.tensors(train=True), order

    def _call(self, state: Any, arguments: tuple[Any, ...], at: int, steps: int) -> tuple[float, dict[str, Any], Any]:
        """Trains some steps; returns the seconds, the metrics and the state."""
        # As `Program._call` does it: on CPU, convolutions are faster without a loop.
        looped = self._lanes.compiled.program._looped
        calls = [(at * _BATCH, steps)] if looped else [((at + i) * _BATCH, 1) for i in range(steps)]
        logs: dict[str, Any] = {}
        jax.block_until_ready(state)
        started = time.perf_counter()
        for place in calls:
            logs, state = self._run(state, *arguments, *np.array(place, np.int32))
        jax.block_until_ready((logs, state))
        return time.perf_counter() - started, logs, state


Kind = tuple[str, str, str]
"""Optimizer, order, precision."""


def cases(stacks: list[int]) -> list[tuple[Kind, int]]:
    """Returns what to measure, the most valuable first: stacks of some kind, each with the trial alone before them.

    Without stacks, a single trial with Adam is all.
    """
    if not stacks:
        return [(("adam", "own", "float32"), ALONE)]
    kinds: list[Kind] = [(optimizer, order, "float32") for optimizer in _FACTORS for order in ("own", "shared")]
    found = [(kind, count) for kind in kinds for count in (ALONE, *stacks)]
    return [*found, *((("adam", "own", "mixed_bfloat16"), count) for count in (ALONE, *stacks[len(stacks) // 2 :][:1]))]


def measure(shape: str, split: Split, stacks: list[int], steps: int, until: float) -> Iterator[dict[str, Any]]:
    """Yields the measurements; of a stack that runs out of memory `error`, and of one that is too late `skipped`.

    Args:
        shape: Of `shapes.SHAPES`.
        split: The images.
        stacks: Numbers of lanes, increasing.
        steps: After which the metrics are compared.
        until: When to end, as `time.monotonic` counts.
    """
    most = len(split.training) // _BATCH
    steps = min(steps, most)
    for (optimizer, precision), chosen in groupby(cases(stacks), lambda case: (case[0][0], case[0][2])):
        lanes = Lanes(shape, optimizer, precision, split)
        for order, group in groupby(chosen, lambda case: case[0][1]):
            alone: list[dict[str, float]] = []
            took = 0.0
            for _, count in group:
                case = {"shape": shape, "optimizer": optimizer, "order": order, "precision": precision, "lanes": count}
                started = time.monotonic()
                # The next stack is up to four times as large.
                if started + 2 * took > until:
                    yield {**case, "skipped": True}
                    continue
                try:
                    stack = Stack(lanes, count, order)
                    seconds, metrics = stack.train(steps, most)
                    if count == ALONE:
                        others = [stack.train(steps, steps, lane)[1][0] for lane in range(1, _COMPARED)]
                        alone = metrics = [*metrics, *others]
                    differences = {
                        name: max(abs(one[name] - other[name]) for one, other in zip(metrics, alone, strict=False))
                        for name in metrics[0]
                    }
                    yield {**case, **stack.figures(), "step_seconds": seconds, "steps": steps, "differ": differences}
                except jax.errors.JaxRuntimeError as error:
                    yield {**case, "error": str(error).splitlines()[0]}
                    break
                took = time.monotonic() - started


def main() -> None:
    """Measures a shape, and writes the measurements to a file, one in each line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fused", description=__doc__)
    parser.add_argument("shape", choices=[name for name in shapes.SHAPES if name != "mixed"])
    parser.add_argument("data", help="an mnist.npz as Keras has it")
    parser.add_argument("--to", type=Path, default=Path("fused.jsonl"))
    parser.add_argument("--seconds", type=float, default=600, help="end after this time")
    parser.add_argument("--stacks", type=int, nargs="*", default=[8, 32, 128, 512, 1], help="numbers of lanes")
    parser.add_argument("--steps", type=int, default=100, help="after which the metrics are compared")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    configure(machine.cores(), gpu=bool(machine.gpus()))
    loaded = sources.load(sources.Request("mnist", options.data))
    split = Splits(parted(loaded, 0.1, 1)).holdout().for_task(CLASSIFICATION)
    with options.to.open("w") as file:
        for found in measure(options.shape, split, options.stacks, options.steps, until):
            print(json.dumps(found), file=file, flush=True)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
