"""Runs read through MLflow's API, from whatever store it knows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mnist_sweep import mlflow_store as store
from mnist_sweep.results.frames import Points, Record, arrays
from mnist_sweep.settings import METRICS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PAGE = 1000
# Of requests that are under way at once: most of each is waiting for a server.
_THREADS = 8


class Client:
    """Those of a store's runs that match a query."""

    def __init__(self, client: MlflowClient, experiments: Sequence[str], query: str) -> None:
        """Takes what to read.

        Args:
            client: The store.
            experiments: The ids of the experiments to look in.
            query: In MLflow's search language.
        """
        self._client, self._experiments, self._query = client, list(experiments), query

    def runs(self) -> Iterator[Run]:
        """The runs as MLflow has them.

        Raises:
            MlflowException: The query cannot be understood, or the store cannot be read.
        """
        return store.search_runs(self._client, self._experiments, self._query, PAGE)

    def records(self) -> Iterator[list[Record]]:
        """The runs, some at a time.

        Raises:
            MlflowException: As for `runs`.
        """
        return ([record(run)] for run in self.runs())

    def points(self) -> Iterator[Points]:
        """The points of their learning curves, some at a time.

        Raises:
            MlflowException: As for `runs`.
        """
        with ThreadPoolExecutor(_THREADS) as threads:
            wanted = (
                (run.info.run_id, _trial(run), [name for name in METRICS if name in run.data.metrics])
                for run in self.runs()
            )
            # Not all at once, for what is fetched waits in memory.
            while some := list(islice(wanted, 4 * _THREADS)):
                yield from threads.map(self._points, *zip(*some, strict=True))

    def _points(self, run: str, trial: tuple[str, int], metrics: Sequence[str]) -> Points:
        rows = [
            (number, point.step, point.value)
            for number, name in enumerate(METRICS)
            if name in metrics
            for point in sorted(self._client.get_metric_history(run, name), key=_order)
        ]
        metric, epoch, value = zip(*rows, strict=True) if rows else ((), (), ())
        return Points([trial], *arrays(np.zeros(len(rows)), metric, epoch, value))


def record(run: Run) -> Record:
    """What a frame needs of a run."""
    steps = [metric.step for metric in getattr(run.data, "_metric_objs", ()) if metric.key in METRICS]
    info, data = run.info, run.data
    return Record(
        # A server tells no end as 0.
        info.run_id,
        info.start_time,
        info.end_time or None,
        data.tags,
        data.params,
        data.metrics,
        max(steps, default=None),
    )


def _trial(run: Run) -> tuple[str, int]:
    return run.data.tags[store.TAG_SWEEP], int(run.data.tags[store.TAG_TRIAL])


def _order(point: Metric) -> tuple[int, int, bool, float]:
    """Of points for the same epoch, the last written comes last."""
    is_nan = math.isnan(point.value)
    return point.step, point.timestamp, is_nan, 0.0 if is_nan else point.value
