"""What is read from an MLflow store, and the interface for reading it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.config.objective import TRIAL_METRICS, TRIAL_PREFIXES
from mnist_sweep.tracking import tags as keys
from mnist_sweep.tracking.names import SYSTEM, TAG_PARAM, originals, tagged

# The tags that are read of a trial's run, by the data frame's columns that hold them.
TAGS = {
    "sweep": keys.TAG_SWEEP,
    "trial": keys.TAG_TRIAL,
    "confirms": keys.TAG_CONFIRMS,
    "goes_on_from": keys.TAG_GOES_ON_FROM,
    "status": keys.TAG_STATUS,
    "reason": keys.TAG_REASON,
    "slot": keys.TAG_SLOT,
    "data.name": "data.name",
    "data.digest": "data.digest",
}
# The tags that are read of a sweep's own run.
PARENT_TAGS = (keys.TAG_SWEEP, keys.TAG_ID, keys.TAG_OBJECTIVE, keys.TAG_SPACE)
# The prefix of those parameters of a sweep's own run that describe its search space.
SPACE = "space."


@dataclass(frozen=True)
class RunFilter:
    """Which of a store's runs to read. Deleted runs are never read.

    Attributes:
        experiments: The ids of the experiments to look in.
        tags: The values that tags of the runs must have, by the tags' names.
        query: A further condition, in MLflow's search language.
    """

    experiments: Sequence[str]
    tags: Mapping[str, str]
    query: str | None = None

    @property
    def whole_query(self) -> str:
        """The tags and the query, in MLflow's search language."""
        conditions = [tagged(key, value) for key, value in self.tags.items()]
        return " and ".join([*conditions, self.query] if self.query else conditions)


@dataclass(frozen=True, slots=True)
class Parent:
    """A sweep's own run, with what is needed to find its trials.

    Attributes:
        run_id: Its id in MLflow.
        experiment: Its experiment's id.
        tags: The tags in `PARENT_TAGS` that it has.
        space: The domain of each searched hyperparameter, as text, in the order of the search space.
    """

    run_id: str
    experiment: str
    tags: Mapping[str, str]
    space: Mapping[str, str]


@dataclass(slots=True)
class Record:
    """A trial's run, with what a data frame needs.

    Attributes:
        run_id: Its id in MLflow.
        start: When it started, in milliseconds since 1970.
        end: When it ended; None while it runs.
        tags: The tags in `TAGS` that it has, and those that hold original names of parameters and metrics.
        params: Its parameters, by MLflow's keys.
        metrics: The last value of each metric, by MLflow's keys.
        epochs: The last epoch that it logged; None if it logged none.
    """

    run_id: str
    start: int | None
    end: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    epochs: int | None


@dataclass(slots=True)
class Points:
    """Points of some trials' learning curves.

    Attributes:
        trials: The sweep and the number of each trial.
        trial: Each point's index into `trials`.
        metrics: The names of the metrics, as Keras logged them.
        metric: Each point's index into `metrics`.
        epoch: Each point's epoch. Of several points for the same epoch, the last counts.
        value: Each point's value.
    """

    trials: Sequence[tuple[str, int]]
    metrics: Sequence[str]
    trial: NDArray[np.int32]
    metric: NDArray[np.int32]
    epoch: NDArray[np.int32]
    value: NDArray[np.float64]


# The types of the arrays in `Points`.
_TYPES = (np.int32, np.int32, np.int32, np.float64)


def of_epochs(key: str, step: int) -> bool:
    """Returns whether a metric with a value at this step has one value per epoch, and not one per trial.

    Args:
        key: The metric's key in MLflow. MLflow's metrics of the system have steps, too.
        step: The step of a value. Epochs count from 1.
    """
    # Metrics of a whole trial were not always logged at step 0.
    return step > 0 and key not in TRIAL_METRICS and not key.startswith((*TRIAL_PREFIXES, SYSTEM))


def arrays(*columns: Iterable[float]) -> tuple[NDArray[Any], ...]:
    """The arrays of `Points`, in this order."""
    return tuple(np.fromiter(column, kind) for column, kind in zip(columns, _TYPES, strict=True))


def space_of(params: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The search space of a `Parent`, from its run's parameters and tags."""
    named = originals(params, tags, TAG_PARAM)
    space = {key.removeprefix(SPACE): value for key, value in named.items() if key.startswith(SPACE)}
    with contextlib.suppress(ValueError):
        # Unless the tag was too long to be kept whole.
        grown = json.loads(tags.get(keys.TAG_SPACE, "{}"))
        # Those that are new come last.
        space |= {str(name): str(domain) for name, domain in grown.items()}
    return space


class Source(Protocol):
    """Reads a store. Each method may raise an MlflowException if a query is invalid."""

    def experiments(self) -> dict[str, str]:
        """The ids of the experiments, by name. Deleted ones are left out."""

    def parents(self, wanted: RunFilter, most: int | None = None) -> list[Parent]:
        """The sweeps' own runs, the last one first.

        Args:
            wanted: Which runs.
            most: How many at most; None for all.
        """

    def records(self, wanted: RunFilter) -> Iterator[list[Record]]:
        """Trials' runs, page by page."""

    def points(self, wanted: RunFilter) -> Iterator[Points]:
        """The points of the trials' learning curves, page by page."""
