"""`python -m benchmarks.suggestion_cost`: what a suggestion costs, and restoring a search, after 1,000 finished trials.

Nothing is trained: the trials' scores are made up. The processor time next to the elapsed time does not depend on what
else the machine does. The Gaussian processes are measured after 100 trials, which are all random: keras-tuner's needs
20 s for a suggestion after 1,000.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path

from benchmarks.harness.benchmark import Benchmark, Case, Figures
from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search import Result, Search, Suggestion, choose, compatibility

# Ten hyperparameters, two of which only matter in deeper networks.
SPACE = (
    "model.layers=range(1,4)",
    "model.units=choice(32,64,128,256,512)",
    "model.per_layer=[units]",
    "model.activation=choice(relu,tanh,gelu)",
    "model.dropout=interval(0,0.5)",
    "model.batch_normalization=choice(false,true)",
    "optimizer.name=choice(adam,rmsprop,sgd)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "training.batch_size=int(interval(16,512))",
)
TRIALS = {"random": 1000, "tpe": 1000, "cmaes": 1000, "nsga2": 1000, "gp": 100, "bayesian": 100}
# Random trials first, so that what comes before the measurement does not take minutes.
_RANDOM_FIRST = {"gp": ("search.startup_trials=90",), "bayesian": ("search.num_initial_points=90",)}
_MEASURED, _SLOW_MEASURED = 50, 10
_SLOTS = 4


def maker(algorithm: str) -> Callable[[], Search]:
    """Returns what builds a search."""
    # No conf/ of the working directory may change what is measured.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        overrides = [f"search={algorithm}", *_RANDOM_FIRST.get(algorithm, ()), *SPACE]
        settings = check_settings(compose.defaults(quote_sweeps(overrides)))
    space = Space(settings.trial)
    compatibility.check(settings, space)
    return lambda: choose.create_search(settings, space)


def measure(algorithm: str, finished: int, measured: int, _: Path) -> Figures:
    """Runs a search with four slots, and measures its last suggestions, after so many finished trials."""
    try:
        make = maker(algorithm)
    except UserError as error:
        return {"error": str(error)}

    def tell(to: Search, number: int) -> None:
        if number >= _SLOTS - 1:
            ended = number - _SLOTS + 1
            to.tell(ended, Result((score(answers[ended].values),), 12))

    first = make()
    asks, busy, tells = [], [], []
    answers: list[Suggestion] = []
    for number in range(finished + measured):
        start, worked = time.perf_counter(), time.process_time()
        answer = first.ask(number)
        asks.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - worked))
        assert isinstance(answer, Suggestion)
        answers.append(answer)
        start = time.perf_counter()
        tell(first, number)
        tells.append(1000 * (time.perf_counter() - start))
    second = make()
    start = time.perf_counter()
    for number, answer in enumerate(answers):
        second.restore(number, answer)
        tell(second, number)
    last = sorted(asks[-measured:])
    return {
        "trials": finished,
        "median ms": statistics.median(last),
        "95th percentile": last[math.ceil(0.95 * measured) - 1],
        "of the processor": statistics.median(busy[-measured:]),
        "tell ms": statistics.median(tells[-measured:]),
        "restored in s": time.perf_counter() - start,
    }


def score(values: Values) -> float:
    """Returns a made-up accuracy."""
    rate = math.log10(values["optimizer.learning_rate"])
    units = sum(abs(math.log2(value) - 7) for name, value in values.items() if "units" in name)
    return float(0.95 - 0.03 * (rate + 2.7) ** 2 - 0.2 * (values["model.dropout"] - 0.2) ** 2 - 0.002 * units)


def _add_options(parser: ArgumentParser) -> None:
    known = ", ".join(TRIALS)
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=f"some of {known} (default: all)")
    parser.add_argument("--trials", type=int, default=max(TRIALS.values()), help="at most so many finished trials")


def _cases(options: Namespace, folder: Path) -> Iterable[tuple[Sequence[Case], int]]:
    if unknown := set(options.algorithms) - set(TRIALS):
        raise UserError(f"no such algorithm: {min(unknown)}; known: {', '.join(TRIALS)}")
    found = []
    for algorithm in options.algorithms or TRIALS:
        finished = min(TRIALS[algorithm], options.trials)
        measured = _SLOW_MEASURED if algorithm in _RANDOM_FIRST else _MEASURED
        run = partial(measure, algorithm, finished, measured)
        found.append(Case("suggestion", algorithm, {"trials": finished}, run))
    return [(found, 1)]


main = Benchmark(
    "suggestion_cost", __doc__ or "", _add_options, _cases, quick={"trials": 20}, told=("median ms",), resumes=False
).main

if __name__ == "__main__":
    main()
