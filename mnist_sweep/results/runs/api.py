"""Reads runs through MLflow's API, from any store that MLflow supports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mnist_sweep.config.objective import METRICS
from mnist_sweep.results.runs.source import Parent, Points, Record, RunFilter, arrays, of_epochs, space_of
from mnist_sweep.tracking import store, tags
from mnist_sweep.tracking.names import TAG_METRIC, originals

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PAGE = 1000
# How many requests are made at once. Most of their time is spent waiting for the server.
_THREADS = 8


class Client:
    """Reads a store through MLflow's API: a `Source`."""

    def __init__(self, client: MlflowClient) -> None:
        """Takes MLflow's client for the store."""
        self._client = client

    def experiments(self) -> dict[str, str]:
        """As for `Source`."""
        found, token = dict[str, str](), None
        while True:
            page = self._client.search_experiments(page_token=token)
            found |= {experiment.name: experiment.experiment_id for experiment in page}
            token = page.token
            if not token:
                return found

    def parents(self, wanted: RunFilter, most: int | None = None) -> list[Parent]:
        """As for `Source`."""
        runs = store.search_runs(self._client, list(wanted.experiments), wanted.whole_query, min(most or 100, 100))
        # MLflow returns the last one first.
        return [
            Parent(run.info.run_id, run.info.experiment_id, run.data.tags, space_of(run.data.params, run.data.tags))
            for run in islice(runs, most)
        ]

    def runs(self, wanted: RunFilter) -> Iterator[Run]:
        """The runs as MLflow's entities.

        Raises:
            MlflowException: The query cannot be understood, or the store cannot be read.
        """
        return store.search_runs(self._client, list(wanted.experiments), wanted.whole_query, PAGE)

    def records(self, wanted: RunFilter) -> Iterator[list[Record]]:
        """As for `Source`."""
        return ([record(run)] for run in self.runs(wanted))

    def points(self, wanted: RunFilter) -> Iterator[Points]:
        """As for `Source`."""
        runs = self.runs(wanted)
        with ThreadPoolExecutor(_THREADS) as threads:
            # Not all at once, because what is fetched is kept in memory.
            while some := list(islice(runs, 4 * _THREADS)):
                yield from threads.map(self._points, some)

    def _points(self, run: Run) -> Points:
        trial = run.data.tags[tags.TAG_SWEEP], int(run.data.tags[tags.TAG_TRIAL])
        keys = [metric.key for metric in _latest(run) if of_epochs(metric.key, metric.step)]
        rows = [
            (number, point.step, point.value)
            for number, key in enumerate(keys)
            for point in sorted(self._client.get_metric_history(run.info.run_id, key), key=_order)
        ]
        metric, epoch, value = zip(*rows, strict=True) if rows else ((), (), ())
        names = list(originals(dict.fromkeys(keys, 0), run.data.tags, TAG_METRIC))
        return Points([trial], names, *arrays(np.zeros(len(rows)), metric, epoch, value))


def record(run: Run) -> Record:
    """What a data frame needs of a run."""
    steps = [metric.step for metric in _latest(run) if metric.key in METRICS]
    info, data = run.info, run.data
    # A server returns 0 for a run that has not ended.
    end, epochs = info.end_time or None, max(steps, default=None)
    return Record(info.run_id, info.start_time, end, data.tags, data.params, data.metrics, epochs)


def _latest(run: Run) -> list[Metric]:
    """The last value of each metric; unlike `run.data.metrics` with their steps."""
    return list(run.data._metric_objs)


def _order(point: Metric) -> tuple[int, int, bool, float]:
    """Sorts points by epoch; of several points for one epoch, the last one written comes last."""
    is_nan = math.isnan(point.value)
    return point.step, point.timestamp, is_nan, 0.0 if is_nan else point.value
