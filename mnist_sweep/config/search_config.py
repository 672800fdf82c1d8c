"""The config of a search: its budget, and the keys of each algorithm."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mnist_sweep.config.checks import Strict
from mnist_sweep.config.trial_config import Count
from mnist_sweep.config.units import Duration


class SearchConfig(Strict):
    """Which algorithm searches, and when it ends: all keys of `search=random`, `grid` and `none`.

    The other algorithms' classes add their own keys.
    """

    algorithm: str
    max_trials: Count | None
    time_budget: Duration | None
    target: Annotated[float, Field(allow_inf_nan=False)] | None
    max_failures: Count | None
    enqueue: list[Literal["default"] | dict[str, Any]]
    warm_start: list[str]
    seed: Annotated[int, Field(ge=0)]


class BayesianSearch(SearchConfig):
    """`search=bayesian`."""

    num_initial_points: Count | None
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HyperbandSearch(SearchConfig):
    """`search=hyperband`."""

    factor: Annotated[int, Field(ge=2)]
    iterations: Count


class ModelSearch(SearchConfig):
    """`search=tpe`, `gp` and `cmaes`, which fit a model to the trials after some random ones."""

    startup_trials: Count


class NSGA2Search(SearchConfig):
    """`search=nsga2`."""

    population: Annotated[int, Field(ge=2)]


Sampler = Literal["random", "tpe", "gp", "cmaes", "bayesian"]


class ASHASearch(SearchConfig):
    """`search=asha`."""

    sampler: Sampler
    factor: Annotated[int, Field(ge=2)]
    min_epochs: Count


class MedianSearch(SearchConfig):
    """`search=median`."""

    sampler: Sampler
    min_trials: Count
    min_epochs: Count


class PBTSearch(SearchConfig):
    """`search=pbt`."""

    population: Annotated[int, Field(ge=2)]
    interval: Count
    quantile: Annotated[float, Field(gt=0, le=0.5)]
    resample: Annotated[float, Field(ge=0, le=1)]


class CustomSearch(SearchConfig):
    """A custom algorithm: a subclass of `mnist_sweep.search.Search` or of `keras_tuner.Oracle`."""

    model_config = ConfigDict(extra="allow")

    # Only for messages and tables: `_target_` takes the key's place.
    algorithm: Literal["own"] = "own"
    class_path: Annotated[str, Field(alias="_target_")]


SEARCHES: dict[str, type[SearchConfig]] = {
    "random": SearchConfig,
    "grid": SearchConfig,
    "bayesian": BayesianSearch,
    "hyperband": HyperbandSearch,
    "none": SearchConfig,
    "tpe": ModelSearch,
    "gp": ModelSearch,
    "cmaes": ModelSearch,
    "nsga2": NSGA2Search,
    "asha": ASHASearch,
    "median": MedianSearch,
    "pbt": PBTSearch,
}
