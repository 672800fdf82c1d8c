"""The config of a search: its budget, and the keys of each algorithm."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mnist_sweep.config.checks import Strict
from mnist_sweep.config.trial_config import Count
from mnist_sweep.config.units import Duration


class Budget(Strict):
    """When a search ends."""

    max_trials: Count | None
    time_budget: Duration | None
    target: Annotated[float, Field(allow_inf_nan=False)] | None
    max_failures: Count | None
    enqueue: list[Literal["default"] | dict[str, Any]]
    warm_start: list[str]
    seed: Annotated[int, Field(ge=0)]


class RandomSearch(Budget):
    """`search=random`."""

    algorithm: Literal["random"]


class GridSearch(Budget):
    """`search=grid`."""

    algorithm: Literal["grid"]


class NoSearch(Budget):
    """`search=none`."""

    algorithm: Literal["none"]


class BayesianSearch(Budget):
    """`search=bayesian`."""

    algorithm: Literal["bayesian"]
    num_initial_points: Count | None
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HyperbandSearch(Budget):
    """`search=hyperband`."""

    algorithm: Literal["hyperband"]
    factor: Annotated[int, Field(ge=2)]
    iterations: Count


class TPESearch(Budget):
    """`search=tpe`."""

    algorithm: Literal["tpe"]
    startup_trials: Count


class GPSearch(Budget):
    """`search=gp`."""

    algorithm: Literal["gp"]
    startup_trials: Count


class CMAESSearch(Budget):
    """`search=cmaes`."""

    algorithm: Literal["cmaes"]
    startup_trials: Count


class NSGA2Search(Budget):
    """`search=nsga2`."""

    algorithm: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)]


Sampler = Literal["random", "tpe", "gp", "cmaes", "bayesian"]


class ASHASearch(Budget):
    """`search=asha`."""

    algorithm: Literal["asha"]
    sampler: Sampler
    factor: Annotated[int, Field(ge=2)]
    min_epochs: Count


class MedianSearch(Budget):
    """`search=median`."""

    algorithm: Literal["median"]
    sampler: Sampler
    min_trials: Count
    min_epochs: Count


class PBTSearch(Budget):
    """`search=pbt`."""

    algorithm: Literal["pbt"]
    population: Annotated[int, Field(ge=2)]
    interval: Count
    quantile: Annotated[float, Field(gt=0, le=0.5)]
    resample: Annotated[float, Field(ge=0, le=1)]


class CustomSearch(Budget):
    """A custom algorithm: a subclass of `mnist_sweep.search.Search` or of `keras_tuner.Oracle`."""

    model_config = ConfigDict(extra="allow")

    # Only for messages: `_target_` takes the key's place.
    algorithm: Literal["own"] = "own"
    class_path: Annotated[str, Field(alias="_target_")]


SearchConfig = (
    RandomSearch
    | GridSearch
    | NoSearch
    | BayesianSearch
    | HyperbandSearch
    | TPESearch
    | GPSearch
    | CMAESSearch
    | NSGA2Search
    | ASHASearch
    | MedianSearch
    | PBTSearch
    | CustomSearch
)
SEARCHES: dict[str, type[SearchConfig]] = {
    "random": RandomSearch,
    "grid": GridSearch,
    "bayesian": BayesianSearch,
    "hyperband": HyperbandSearch,
    "none": NoSearch,
    "tpe": TPESearch,
    "gp": GPSearch,
    "cmaes": CMAESSearch,
    "nsga2": NSGA2Search,
    "asha": ASHASearch,
    "median": MedianSearch,
    "pbt": PBTSearch,
}
