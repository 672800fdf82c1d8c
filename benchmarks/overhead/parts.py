"""What is measured: for each part some cases, which take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.benchmark import SHARED, Case
from benchmarks.harness.sweeps import Arrays, Swept
from benchmarks.overhead import measure
from benchmarks.throughput import shapes

Figures = dict[str, Any]
_NO_CHECKPOINTS = ("workers.checkpoint_every=24h",)
# More trials than a sweep has.
_NEVER = 1_000_000


@dataclass(frozen=True)
class Setup:
    """What all parts get.

    Attributes:
        arrays: The images.
        few: At most 5,000 of them.
        tiny: An `.npz` whose epoch is one step.
        trials: Of a sweep of short trials.
        long_trials: Per slot, of a sweep of long trials.
        memory_trials: For the memory of a worker, and runs for `compare`.
        trivial: Trials of one step.
        timeout: Seconds for each process.
    """

    arrays: Arrays
    few: Arrays
    tiny: Path
    trials: int
    long_trials: int
    memory_trials: int
    trivial: int
    timeout: float

    def sweep(self, experiment: str, folder: Path, *, images: Path | None = None, **more: Any) -> Swept:  # noqa: ANN401
        """Runs a sweep."""
        images = images or self.arrays.whole
        return measure.sweep(folder, experiment=experiment, images=images, timeout=self.timeout, **more)

    def case(self, part: str, variant: str, shape: str, trials: int, epochs: int, **more: Any) -> Case:  # noqa: ANN401
        """Returns the case of a sweep over the trials of a shape."""
        experiment = shapes.experiment(shape, trials, epochs)
        work = self.work(shape=shape, trials=trials, epochs=epochs)
        return Case(part, variant, work, lambda folder: measure.figures(self.sweep(experiment, folder, **more)))

    def work(self, **more: object) -> dict[str, Any]:
        """Returns what must be the same to compare records: images, cores, and more."""
        return {**self.arrays.work(), "cores": machine.cores(), **more}


def profile(setup: Setup) -> list[Case]:
    """Sweeps with all defaults, to see where the time of the slots goes."""
    long = setup.long_trials * machine.cores()
    return [
        setup.case("profile", variant, shape, trials, epochs, arguments=())
        for variant, shape, trials, epochs in (
            ("long: Dense 512-512", "large", long, 8),
            ("long: Dense 16-16, 100 epochs", "small", long, 100),
            ("short: Dense 16-16, 5 epochs", "small", setup.trials, 5),
        )
    ]


def scaling(setup: Setup) -> list[Case]:
    """The same trials over more and more slots: of one thread each or, if there are GPUs, on each of them."""
    key = "workers.trials_per_gpu" if machine.gpus() else "workers.threads=1 workers.count"
    counts = [2**i for i in range(machine.cores().bit_length()) if 2**i < machine.cores()] + [machine.cores()]
    return [
        setup.case(
            "scaling", str(n), "small", setup.trials, 5, arguments=(*f"{key}={n}".split(), *measure.NOTHING_AFTER)
        )
        for n in counts
    ]


def trivial(setup: Setup) -> list[Case]:
    """Many trials of one step, logged and not."""

    def figures(off: str, folder: Path) -> Figures:
        return measure.figures(setup.sweep(measure.same(setup.trivial), folder, images=setup.tiny, off=off))

    work = {"trials": setup.trivial, "cores": machine.cores()}
    variants = {"all on": "", "without MLflow": "mlflow"}
    return [Case("trivial", variant, work, partial(figures, off)) for variant, off in variants.items()]


def logging(setup: Setup) -> list[Case]:
    """The same sweep with everything that it writes, and with its journal only."""
    without = {"off": "mlflow,files", "arguments": (*measure.NOTHING_AFTER, *_NO_CHECKPOINTS)}
    return [
        setup.case("logging", f"{shapes.SHAPES[shape].title}, {variant}", shape, trials, epochs, **more)
        for shape, trials, epochs in (("small", setup.trials, 10), ("large", setup.trials // 2, 8))
        for variant, more in (("on", {}), ("off", without))
    ]


def start(setup: Setup) -> list[Case]:
    """The time to the first training step, and the time Python takes to import TensorFlow."""
    trials = machine.cores()

    def ours(folder: Path) -> Figures:
        # Like the other one: the first run, which brings all files into memory, does not count.
        for _ in range(2):
            swept = setup.sweep(shapes.experiment("small", trials, 1), folder)
        begun, ended = measure.first_step(swept, -(-setup.arrays.images // 128))
        return {**measure.figures(swept), "step_begun": begun, "step_ended": ended}

    return [
        Case("start", "mnist_sweep", setup.work(trials=trials), ours),
        Case("start", "import tensorflow", {}, partial(measure.command, ["-c", "import tensorflow"])),
    ]


def memory(setup: Setup) -> list[Case]:
    """One worker's memory while it trains many trials, by default and if it is never replaced."""

    def figures(experiment: str, arguments: tuple[str, ...], folder: Path) -> Figures:
        options = ("workers.count=1", "workers.threads=1", *arguments, *measure.NOTHING_AFTER)
        swept = setup.sweep(experiment, folder, images=setup.few.whole, arguments=options, workers=True)
        return {**measure.figures(swept), "workers": measure.memory(swept)}

    trials = setup.memory_trials
    spaces = {"same": measure.same(trials), "mixed": shapes.experiment("mixed", trials, 1)}
    variants = {"as it is": (), "never replaced": (f"workers.recycle_after={_NEVER}",)}
    return [
        Case(
            "memory",
            f"{space}, {variant}",
            {"trials": trials, "space": space, **setup.few.work()},
            partial(figures, experiment, arguments),
        )
        for space, experiment in spaces.items()
        for variant, arguments in variants.items()
    ]


def commands(setup: Setup) -> list[Case]:
    """Commands that answer at once."""
    trials = setup.memory_trials

    def figures(arguments: list[str], returncode: int, folder: Path) -> Figures:
        # One store for all of them.
        shared = folder.with_name(SHARED)
        if not shared.exists():
            setup.sweep(measure.same(trials), shared, images=setup.tiny, keep=True)
        return measure.command(["-m", "mnist_sweep", *arguments], shared, returncode)

    asked = {
        "--help": (["--help"], 0),
        f"compare, {trials} runs": (["compare"], 0),
        "a config error": (["+experiment=measured", "optimizer.learning_rate=fast"], 2),
    }
    return [Case("commands", variant, {}, partial(figures, *found)) for variant, found in asked.items()]


PARTS: Mapping[str, tuple[Callable[[Setup], list[Case]], int]] = {
    "profile": (profile, 1),
    "scaling": (scaling, 3),
    "trivial": (trivial, 1),
    "logging": (logging, 4),
    "start": (start, 5),
    "memory": (memory, 1),
    "commands": (commands, 5),
}
"""The cases of each part, and its rounds unless the command line says otherwise."""
