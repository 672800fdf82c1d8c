"""Runs searches with made-up learning curves instead of training.

Every algorithm of `SEARCHES` is put through the contract in `search/test_contract.py`, so a new one needs no entry here
unless a default of its config is too slow for a test, or it is one of `OTHERS`.
"""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mnist_sweep.config.search_config import SEARCHES
from mnist_sweep.config.space import Space, Values, identity
from mnist_sweep.search.base import Answer, Result, Search, Suggestion

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="search=gp needs PyTorch")


def algorithms(*names: str) -> list[Any]:
    return [pytest.param(name, marks=needs_torch) if name == "gp" else name for name in names]


# The overrides for each algorithm whose defaults need many trials before its model is used.
OVERRIDES = {
    "bayesian": ("search=bayesian", "search.num_initial_points=6"),
    "tpe": ("search=tpe", "search.startup_trials=5"),
    "gp": ("search=gp", "search.startup_trials=5"),
    "cmaes": ("search=cmaes", "search.startup_trials=5"),
    "nsga2": ("search=nsga2", "search.population=5"),
    "median": ("search=median", "search.sampler=random"),
}
# Algorithms with a schedule of their own; the others suggest one trial at a time, and never the same values twice.
OTHERS = ("grid", "hyperband", "pbt")
SAMPLERS = tuple(name for name in SEARCHES if name not in (*OTHERS, "none"))
ALL = algorithms(*SAMPLERS, *OTHERS)
# The most trials of slow algorithms: keras-tuner's takes most of a second per suggestion.
MOST = {"bayesian": 12, "gp": 12}

# With a batch size, which PBT can change while a model trains.
DISCRETE = (
    "model.layers=range(1,4)",
    "model.units=choice(16,32,64)",
    "model.per_layer=[units]",
    "optimizer.name=adam,sgd",
    "training.batch_size=32,64",
)
MIXED = (
    "model.layers=range(1,4)",
    "model.units=tag(log,int(interval(2,1000)))",
    "model.per_layer=[units]",
    "model.dropout=interval(0,0.5)",
    "model.l2=choice(0,[0.1,0.2,0.3],0.5)",
    "model.batch_normalization=choice(true,false)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
)
# With conditions on choices and on numbers, two of them in a row.
CONDITIONAL = (
    "optimizer.name=adam,sgd,rmsprop",
    "+optimizer.arguments.momentum=0.0,0.5,0.9",
    "model.units=int(interval(2,1000))",
    "model.dropout=interval(0,0.5)",
    "training.batch_size=32,64,128",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "conditions.training.batch_size=model.dropout > 0.2",
    "conditions.model.dropout=model.units >= 100 and model.units < 900",
)
SMALL_CONDITIONAL = (
    "optimizer.name=adam,sgd",
    "+optimizer.arguments.momentum=0.0,0.9",
    "model.units=choice(16,32,64)",
    "conditions.model.units=optimizer.arguments.momentum == 0.9",
)
SMALL = ("model.units=choice(16,32,64)", "optimizer.name=adam,sgd")


@dataclass
class Made:
    """A search and its space; `build` makes the same search again."""

    build: Callable[[], Search]
    space: Space
    config: dict[str, Any]
    search: Search = field(init=False)

    def __post_init__(self) -> None:
        self.search = self.build()


Make = Callable[..., Made]


def curve(values: Values, epoch: int) -> float:
    """A made-up accuracy: it depends on the values, and rises with the epochs."""
    quality = random.Random(identity(values)).random()
    return quality * (1 - math.exp(-epoch / 3))


Event = tuple[str, int, Any]


def play(
    search: Search,
    slots: int,
    most: int,
    order: int = 0,
    fails: float = 0.0,
    cuts: float = 0.0,
    score: Callable[[Values], tuple[float, ...]] | None = None,
    story: list[Event] | None = None,
) -> list[Suggestion]:
    """Runs a search; its trials end in an order drawn with the seed `order`. Appends what happens to `story`."""
    rng = random.Random(order)
    running: dict[int, Suggestion] = {}
    suggestions: list[Suggestion] = []
    story = [] if story is None else story
    while True:
        paused = False
        while len(running) < slots and len(suggestions) < most:
            answer = search.ask(len(suggestions))
            if not isinstance(answer, Suggestion):
                assert answer is Answer.FINISHED or running, "paused with nothing to wait for"
                paused = True
                break
            story.append(("ask", len(suggestions), answer))
            running[len(suggestions)] = answer
            suggestions.append(answer)
        if not running:
            assert paused or len(suggestions) == most
            return suggestions
        number = rng.choice(sorted(running))
        suggestion = running.pop(number)
        last = suggestion.epochs or 9
        result = Result((curve(suggestion.values, last),), last)
        if score is not None:
            result = Result(score(suggestion.values), last)
        if rng.random() < fails:
            result = Result(None)
        elif rng.random() < cuts:
            last = rng.randint(1, last)
            result = Result((curve(suggestion.values, last),), last, cut=True)
        search.tell(number, result)
        story.append(("tell", number, result))


def tried(suggestions: Sequence[Suggestion]) -> list[str]:
    return [identity(s.values) for s in suggestions]
