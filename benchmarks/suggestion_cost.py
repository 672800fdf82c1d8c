"""How long a search takes for one suggestion, and to be restored, at 1,000 finished trials.

    python benchmarks/suggestion_cost.py [ALGORITHM …]

Nothing is trained: the trials' scores are made up. Beside the time that passes stands that of the processor, which does
not depend on what else the machine does. The Gaussian processes are measured at 100 trials, all random: keras-tuner's
own needs 20 s for a suggestion at 1,000.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space, Values
from mnist_sweep.search import Result, Search, Suggestion, choose, compatibility

# Ten hyperparameters, two of which mean something in deeper networks only.
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
# So that what comes before is no matter of minutes.
RANDOM_FIRST = {"gp": ("search.startup_trials=90",), "bayesian": ("search.num_initial_points=90",)}
MEASURED = {"gp": 10, "bayesian": 10}


def main(algorithms: list[str]) -> None:
    """Measures and prints a line for each algorithm."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("algorithm   trials  median ms  95th percentile  of the processor  tell ms  restored in s")
    for algorithm in algorithms:
        try:
            finished = TRIALS[algorithm]
            asks, busy, tells, restored = measure(maker(algorithm), finished, MEASURED.get(algorithm, 50))
        except UserError as error:
            print(f"{algorithm:<10} {error}")
            continue
        high = sorted(asks)[math.ceil(0.95 * len(asks)) - 1]
        print(
            f"{algorithm:<11} {finished:>6} {statistics.median(asks):>10.1f} {high:>16.1f} "
            f"{statistics.median(busy):>17.1f} {statistics.median(tells):>8.1f} {restored:>14.1f}",
            flush=True,
        )


def maker(algorithm: str) -> Callable[[], Search]:
    """What builds a search."""
    config = compose.defaults(quote_sweeps([f"search={algorithm}", *RANDOM_FIRST.get(algorithm, ()), *SPACE]))
    settings = check_settings(config)
    space = Space(settings.trial)
    compatibility.check(settings, space)
    return lambda: choose.create_search(settings, space)


def measure(
    make: Callable[[], Search], finished: int, measured: int
) -> tuple[list[float], list[float], list[float], float]:
    """Runs a search with four slots.

    Args:
        make: Builds it.
        finished: Trials before the first that is measured.
        measured: Suggestions to measure.

    Returns:
        Milliseconds per suggestion, those of them that the processor worked, milliseconds per end of a trial, and the
        seconds that restoring all of it takes.
    """
    first = make()
    asks, busy, tells = [], [], []
    answers: list[Suggestion] = []
    for number in range(finished + measured):
        start, begun = time.perf_counter(), time.process_time()
        answer = first.ask(number)
        asks.append((time.perf_counter() - start) * 1e3)
        busy.append((time.process_time() - begun) * 1e3)
        assert isinstance(answer, Suggestion)
        answers.append(answer)
        if number >= 3:
            start = time.perf_counter()
            first.tell(number - 3, Result((score(answers[number - 3].values),), 12))
            tells.append((time.perf_counter() - start) * 1e3)
    second = make()
    start = time.perf_counter()
    for number, answer in enumerate(answers):
        second.restore(number, answer)
        if number >= 3:
            second.tell(number - 3, Result((score(answers[number - 3].values),), 12))
    return asks[-measured:], busy[-measured:], tells[-measured:], time.perf_counter() - start


def score(values: Values) -> float:
    """A made-up accuracy."""
    rate = math.log10(values["optimizer.learning_rate"])
    units = sum(abs(math.log2(value) - 7) for name, value in values.items() if "units" in name)
    return 0.95 - 0.03 * (rate + 2.7) ** 2 - 0.2 * (values["model.dropout"] - 0.2) ** 2 - 0.002 * units


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("algorithms", nargs="*", metavar="ALGORITHM", help=f"of {', '.join(TRIALS)}; all by default")
    chosen = parser.parse_args().algorithms or list(TRIALS)
    unknown = set(chosen) - set(TRIALS)
    if unknown:
        sys.exit(f"no such algorithm: {min(unknown)}; known: {', '.join(TRIALS)}")
    with tempfile.TemporaryDirectory() as folder:
        # A conf/ in the working directory is not to change what is measured.
        os.chdir(folder)
        main(chosen)
