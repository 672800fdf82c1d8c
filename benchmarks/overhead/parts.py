"""What is measured: for each part some cases, which take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.overhead import commands, sweeps
from benchmarks.throughput import shapes
from benchmarks.throughput.record import Arrays

Figures = dict[str, Any]
_TRIALS = 24
_NO_CHECKPOINTS = ("workers.checkpoint_every=24h",)
# Trials in each slot of the sweeps of long trials.
_LONG_TRIALS = 3
_MEMORY_TRIALS = 100
_COMPARED = 100
# More than a sweep has.
_NEVER = 1_000_000


@dataclass(frozen=True)
class Case:
    """One measurement of a part, done once in each round.

    Attributes:
        variant: Its name.
        work: What must be the same for two records of it to be compared.
        measure: Does it in a folder, and gives its figures.
    """

    variant: str
    work: dict[str, Any]
    measure: Callable[[Path], Figures]


@dataclass(frozen=True)
class Setup:
    """What all parts are given.

    Attributes:
        arrays: The images.
        few: Some thousand of them.
        tiny: An `.npz` of which an epoch is one step.
        trivial: One-step trials.
        timeout: Seconds for each process.
    """

    arrays: Arrays
    few: Arrays
    tiny: Path
    trivial: int
    timeout: float

    def work(self, **more: Any) -> dict[str, Any]:
        """The images, and more."""
        return {"data": self.arrays.name, "images": self.arrays.images, "cores": machine.cores(), **more}

    def sweep(self, experiment: str, folder: Path, *, data: Path | None = None, **more: Any) -> sweeps.Swept:
        """Runs one."""
        return sweeps.run(experiment, data or self.arrays.whole, folder, timeout=self.timeout, **more)

    def figures(self, experiment: str, folder: Path, **more: Any) -> Figures:
        """Of a sweep."""
        return self.sweep(experiment, folder, **more).figures()


def _listed(shape: str, trials: int, epochs: int) -> str:
    return shapes.experiment(shape, shapes.settings(shape, trials), epochs)


def profile(setup: Setup) -> list[Case]:
    """Sweeps with all defaults, of which the time of the slots is told apart."""
    long = _LONG_TRIALS * machine.cores()
    return [
        Case(
            name,
            setup.work(shape=shape, trials=trials, epochs=epochs),
            partial(setup.figures, _listed(shape, trials, epochs)),
        )
        for name, shape, trials, epochs in (
            ("long: Dense 512-512", "large", long, 8),
            ("long: Dense 16-16, 100 epochs", "small", long, 100),
            ("short: Dense 16-16, 5 epochs", "small", _TRIALS, 5),
        )
    ]


def scaling(setup: Setup) -> list[Case]:
    """The same trials over more and more slots, of a thread each or, where there are GPUs, on each of them."""
    key = "workers.trials_per_gpu" if machine.gpus() else "workers.threads=1 workers.count"
    counts = [2**i for i in range(machine.cores().bit_length()) if 2**i < machine.cores()] + [machine.cores()]
    experiment = _listed("small", _TRIALS, 5)
    return [
        Case(
            str(count),
            setup.work(shape="small", trials=_TRIALS, epochs=5),
            partial(setup.figures, experiment, overrides=(*f"{key}={count}".split(), *sweeps.NOTHING_AFTER)),
        )
        for count in counts
    ]


def trivial(setup: Setup) -> list[Case]:
    """Many trials of one step, logged and not."""
    experiment = sweeps.same(setup.trivial)
    return [
        Case(
            name,
            {"trials": setup.trivial, "cores": machine.cores()},
            partial(setup.figures, experiment, data=setup.tiny, overrides=sweeps.NOTHING_AFTER, off=off),
        )
        for name, off in (("all on", ""), ("without MLflow", "mlflow"))
    ]


def logging(setup: Setup) -> list[Case]:
    """The same sweep with everything that it writes but its journal, and without."""
    cases = []
    for shape, trials, epochs in (("small", _TRIALS, 10), ("large", _TRIALS // 2, 8)):
        experiment = _listed(shape, trials, epochs)
        for name, off, more in (("on", "", ()), ("off", "mlflow,files", _NO_CHECKPOINTS)):
            cases.append(
                Case(
                    f"{shapes.SHAPES[shape].title}, {name}",
                    setup.work(shape=shape, trials=trials, epochs=epochs),
                    partial(setup.figures, experiment, overrides=(*sweeps.NOTHING_AFTER, *more), off=off),
                )
            )
    return cases


def start(setup: Setup) -> list[Case]:
    """The time to the first training step, and of Python to import TensorFlow."""
    trials = machine.cores()
    experiment = _listed("small", trials, 1)

    def ours(folder: Path) -> Figures:
        # As the other way: the first run is not measured, so that all files are in memory.
        setup.sweep(experiment, folder, overrides=sweeps.NOTHING_AFTER)
        swept = setup.sweep(experiment, folder, overrides=sweeps.NOTHING_AFTER)
        begun, ended = swept.first_step(-(-setup.arrays.images // 128))
        return {**swept.figures(), "step_begun": begun, "step_ended": ended}

    def imports(folder: Path) -> Figures:
        return commands.run(["-c", "import tensorflow"], folder)

    work = setup.work(trials=trials)
    return [Case("mnist_sweep", work, ours), Case("import tensorflow", work, imports)]


def memory(setup: Setup) -> list[Case]:
    """One worker's memory while it trains many trials, as it is and if it is never replaced."""
    spaces = {"same": sweeps.same(_MEMORY_TRIALS), "mixed": _listed("mixed", _MEMORY_TRIALS, 1)}
    never = f"workers.recycle_after={_NEVER}"
    return [
        Case(
            f"{space}, {name}",
            {"trials": _MEMORY_TRIALS, "space": space, "data": setup.few.name, "images": setup.few.images},
            partial(_memory, setup, experiment, ("workers.count=1", "workers.threads=1", *more)),
        )
        for space, experiment in spaces.items()
        for name, more in (("as it is", ()), ("never replaced", (never,)))
    ]


def _memory(setup: Setup, experiment: str, overrides: tuple[str, ...], folder: Path) -> Figures:
    more = (*overrides, *sweeps.NOTHING_AFTER)
    swept = setup.sweep(experiment, folder, data=setup.few.whole, overrides=more, memory=True)
    return {**swept.figures(), "workers": swept.memory()}


def command(setup: Setup) -> list[Case]:
    """Commands that answer at once."""
    asked = {
        "--help": (["--help"], 0),
        f"compare, {_COMPARED} runs": (["compare"], 0),
        "a config error": (["+experiment=measured", "optimizer.learning_rate=fast"], 2),
    }

    def measure(arguments: list[str], returncode: int, folder: Path) -> Figures:
        # A store for all of them, made once.
        shared = folder.with_name("compared")
        if not (shared / "mlruns").exists():
            setup.sweep(sweeps.same(_COMPARED), shared, data=setup.tiny, overrides=sweeps.NOTHING_AFTER, keep=True)
        return commands.run(["-m", "mnist_sweep", *arguments], shared, returncode)

    return [Case(name, {}, partial(measure, *found)) for name, found in asked.items()]


PARTS: Mapping[str, tuple[Callable[[Setup], list[Case]], int]] = {
    "profile": (profile, 1),
    "scaling": (scaling, 3),
    "trivial": (trivial, 1),
    "logging": (logging, 4),
    "start": (start, 5),
    "memory": (memory, 1),
    "commands": (command, 5),
}
"""The cases of each part, and its rounds where the command line does not say."""
