"""What is read from an MLflow store, from whichever side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mnist_sweep.tracking.names import TAG_PARAM, originals, tagged
from mnist_sweep.tracking.tags import (
    TAG_CONFIRMS,
    TAG_GOES_ON_FROM,
    TAG_OBJECTIVE,
    TAG_REASON,
    TAG_SLOT,
    TAG_STATUS,
    TAG_SWEEP,
    TAG_TRIAL,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What is told of a trial's run by its tags.
TAGS = (
    TAG_SWEEP,
    TAG_TRIAL,
    TAG_CONFIRMS,
    TAG_GOES_ON_FROM,
    TAG_STATUS,
    TAG_REASON,
    TAG_SLOT,
    "data.name",
    "data.digest",
)
# What is told of a sweep's own run by its tags.
PARENT_TAGS = (TAG_SWEEP, TAG_OBJECTIVE)
# Begins the parameters of a sweep's own run that tell what it searched.
SPACE = "space."


@dataclass(frozen=True)
class Wanted:
    """Which of a store's runs are meant; deleted ones never are.

    Attributes:
        experiments: The ids of the experiments that they may be in.
        tags: What they are tagged with, by the tags' names.
        query: What must hold besides, in MLflow's search language.
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
    """The run of a sweep as a whole, as far as it takes to find its trials.

    Attributes:
        run_id: Its id in MLflow.
        experiment: That of its experiment.
        tags: Those of `PARENT_TAGS` that it has.
        space: The domain of each hyperparameter that was searched, as text, in the order of the space.
    """

    run_id: str
    experiment: str
    tags: Mapping[str, str]
    space: Mapping[str, str]


@dataclass(slots=True)
class Record:
    """A trial's run, as far as a frame needs it.

    Attributes:
        run_id: Its id in MLflow.
        start: When it began, in milliseconds since 1970.
        end: When it ended; None while it runs.
        tags: Those of `TAGS` that it has.
        params: Its parameters.
        metrics: The last value of each metric.
        epochs: The last epoch that it logged; None where it logged none.
    """

    run_id: str
    start: int | None
    end: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(slots=True)
class Points:
    """Points of some trials' learning curves.

    Attributes:
        trials: The sweep and the number of each of the trials.
        trial: Of each point, the place of its trial in `trials`.
        metric: Of each point, the place of its metric in `METRICS`.
        epoch: Of each point, the epoch. Of several for the same epoch, the last counts.
        value: Of each point, the value.
    """

    trials: Sequence[tuple[str, int]]
    trial: NDArray[np.int32]
    metric: NDArray[np.int8]
    epoch: NDArray[np.int32]
    value: NDArray[np.float64]


# Of the points' arrays.
_TYPES = (np.int32, np.int8, np.int32, np.float64)


def arrays(*columns: Iterable[float]) -> tuple[NDArray[Any], ...]:
    """The arrays of `Points`, in their order."""
    return tuple(np.fromiter(column, kind) for column, kind in zip(columns, _TYPES, strict=True))


def space_of(params: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """The space of a `Parent`, from its run's parameters and tags."""
    own = originals(params, tags, TAG_PARAM)
    return {key.removeprefix(SPACE): value for key, value in own.items() if key.startswith(SPACE)}


class Source(Protocol):
    """What a store is read through. Each method may raise an MlflowException where a query cannot be understood."""

    def experiments(self) -> dict[str, str]:
        """The ids of the experiments that were not deleted, by their names."""

    def parents(self, wanted: Wanted, most: int | None = None) -> list[Parent]:
        """The runs of sweeps as wholes, the last one first.

        Args:
            wanted: Which.
            most: How many at most; None for all.
        """

    def records(self, wanted: Wanted) -> Iterator[list[Record]]:
        """Trials' runs, some at a time."""

    def points(self, wanted: Wanted) -> Iterator[Points]:
        """The points of their learning curves, some at a time."""
