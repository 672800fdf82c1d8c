"""What is measured: for each part some cases, which take turns."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.benchmark import SHARED, Case, Figures
from benchmarks.harness.sweeps import Arrays, Swept
from benchmarks.overhead import measure
from benchmarks.overhead.measure import NOTHING_AFTER
from benchmarks.throughput.shapes import SHAPES, experiment

_NO_CHECKPOINTS = "workers.checkpoint_every=24h"
_NO_FIGURES = "tracking.system_metrics=null"
_NEVER_REPLACED = "workers.recycle_after=1000000"


@dataclass(frozen=True)
class Setup:
    """What all parts get: the images, at most 5,000 of them, an `.npz` whose epoch is one step, and the options."""

    arrays: Arrays
    few: Arrays
    tiny: Path
    options: Namespace

    def sweep(self, text: str, folder: Path, *, images: Path | None = None, **more: Any) -> Swept:
        """Runs a sweep of an experiment file's text, on all images if not on others."""
        images = images or self.arrays.whole
        return measure.sweep(folder, experiment=text, images=images, timeout=self.options.timeout, **more)

    def case(self, part: str, variant: str, shape: str, trials: int, epochs: int, **more: Any) -> Case:
        """Returns the case of a sweep over the trials of a shape."""
        text, work = experiment(shape, trials, epochs), self.work(shape=shape, trials=trials, epochs=epochs)
        return Case(part, variant, work, lambda folder: measure.figures(self.sweep(text, folder, **more)))

    def work(self, **more: object) -> dict[str, Any]:
        """Returns what must be the same to compare records: images, cores, and more."""
        return {**self.arrays.work(), "cores": machine.cores(), **more}


def profile(setup: Setup) -> list[Case]:
    """Sweeps with all defaults, to see where the time of the slots goes."""
    long, short = setup.options.long_trials * machine.cores(), setup.options.trials
    return [
        setup.case("profile", "long: Dense 512-512", "large", long, 8, arguments=()),
        setup.case("profile", "long: Dense 16-16, 100 epochs", "small", long, 100, arguments=()),
        setup.case("profile", "short: Dense 16-16, 5 epochs", "small", short, 5, arguments=()),
    ]


def scaling(setup: Setup) -> list[Case]:
    """The same trials over more and more slots: of one thread each or, if there are GPUs, on each of them."""
    options = ["workers.trials_per_gpu="] if machine.gpus() else ["workers.threads=1", "workers.count="]
    counts = [2**i for i in range(machine.cores().bit_length()) if 2**i < machine.cores()] + [machine.cores()]
    found = []
    for slots in counts:
        arguments = (*options[:-1], f"{options[-1]}{slots}", *NOTHING_AFTER)
        found.append(setup.case("scaling", str(slots), "small", setup.options.trials, 5, arguments=arguments))
    return found


def trivial(setup: Setup) -> list[Case]:
    """Many trials of one step, logged and not."""
    trials = setup.options.trivial

    def figures(off: str, folder: Path) -> Figures:
        return measure.figures(setup.sweep(measure.same(trials), folder, images=setup.tiny, off=off))

    work = {"trials": trials, "cores": machine.cores()}
    variants = {"all on": "", "without MLflow": "mlflow"}
    return [Case("trivial", variant, work, partial(figures, off)) for variant, off in variants.items()]


def logging(setup: Setup) -> list[Case]:
    """The same sweep with everything that it writes, and with its journal only."""
    without = {"off": "mlflow,files", "arguments": (*NOTHING_AFTER, _NO_CHECKPOINTS)}
    trials = setup.options.trials
    return [
        setup.case("logging", f"{SHAPES[shape].title}, {variant}", shape, count, epochs, **more)
        for shape, count, epochs in (("small", trials, 10), ("large", trials // 2, 8))
        for variant, more in (("on", {}), ("off", without))
    ]


def figures(setup: Setup) -> list[Case]:
    """The same sweeps with what their slots use measured and logged, and without."""
    trials = setup.options.trivial

    def one_step(arguments: tuple[str, ...], folder: Path) -> Figures:
        return measure.figures(
            setup.sweep(measure.same(trials), folder, images=setup.tiny, arguments=(*NOTHING_AFTER, *arguments))
        )

    work, found = {"trials": trials, "cores": machine.cores()}, []
    for variant, arguments in (("on", ()), ("off", (_NO_FIGURES,))):
        found.append(Case("figures", f"trials of one step, {variant}", work, partial(one_step, arguments)))
        more = {"arguments": (*NOTHING_AFTER, *arguments)}
        found.append(
            setup.case("figures", f"{SHAPES['small'].title}, {variant}", "small", setup.options.trials, 10, **more)
        )
    return found


def start(setup: Setup) -> list[Case]:
    """The time to the first training step, and the time Python takes to import TensorFlow."""
    trials = machine.cores()

    def ours(folder: Path) -> Figures:
        # Like the other one: the first run, which brings all files into memory, does not count.
        for _ in range(2):
            swept = setup.sweep(experiment("small", trials, 1), folder)
        begun, ended = measure.first_step(swept, -(-setup.arrays.images // 128))
        return {**measure.figures(swept), "step_begun": begun, "step_ended": ended}

    imports = partial(measure.command, ["-c", "import tensorflow"])
    return [
        Case("start", "mnist_sweep", setup.work(trials=trials), ours),
        Case("start", "import tensorflow", {}, imports),
    ]


def memory(setup: Setup) -> list[Case]:
    """One worker's memory while it trains many trials, by default and if it is never replaced."""
    trials = setup.options.memory_trials

    def figures(text: str, more: list[str], folder: Path) -> Figures:
        arguments = ("workers.count=1", "workers.threads=1", *more, *NOTHING_AFTER)
        swept = setup.sweep(text, folder, images=setup.few.whole, arguments=arguments, workers=True)
        return {**measure.figures(swept), "workers": measure.memory(swept)}

    work = {"trials": trials, **setup.few.work()}
    return [
        Case("memory", f"{space}, {variant}", work, partial(figures, text, more))
        for space, text in (("same", measure.same(trials)), ("mixed", experiment("mixed", trials, 1)))
        for variant, more in (("as it is", []), ("never replaced", [_NEVER_REPLACED]))
    ]


def commands(setup: Setup) -> list[Case]:
    """Commands that answer at once."""
    trials = setup.options.memory_trials

    def figures(arguments: list[str], returncode: int, folder: Path) -> Figures:
        # One store for all of them.
        shared = folder.with_name(SHARED)
        if not shared.exists():
            setup.sweep(measure.same(trials), shared, images=setup.tiny, keep=True)
        return measure.command(["-m", "mnist_sweep", *arguments], shared, returncode)

    wrong = ["+experiment=measured", "optimizer.learning_rate=fast"]
    return [
        Case("commands", "--help", {}, partial(figures, ["--help"], 0)),
        Case("commands", f"compare, {trials} runs", {}, partial(figures, ["compare"], 0)),
        Case("commands", "a config error", {}, partial(figures, wrong, 2)),
    ]


PARTS: Mapping[str, tuple[Callable[[Setup], list[Case]], int]] = {
    "profile": (profile, 1),
    "scaling": (scaling, 3),
    "trivial": (trivial, 1),
    "logging": (logging, 4),
    "figures": (figures, 4),
    "start": (start, 5),
    "memory": (memory, 1),
    "commands": (commands, 5),
}
"""The cases of each part, and its rounds unless the command line says otherwise."""
