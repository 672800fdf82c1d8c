"""Runs read through MLflow's API, from whatever store it knows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mnist_sweep.config.objective import METRICS
from mnist_sweep.results.runs.source import Parent, Points, Record, Wanted, arrays, space_of
from mnist_sweep.tracking import store, tags
from mnist_sweep.tracking.names import TAG_METRIC, TAG_PARAM, originals

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PAGE = 1000
# Of requests that are under way at once: most of each is waiting for a server.
_THREADS = 8


class Client:
    """A store as MLflow's API reads it: a `Source`."""

    def __init__(self, client: MlflowClient) -> None:
        """Takes the store."""
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

    def parents(self, wanted: Wanted, most: int | None = None) -> list[Parent]:
        """As for `Source`."""
        runs = store.search_runs(self._client, list(wanted.experiments), wanted.whole_query, min(most or 100, 100))
        # MLflow gives the last one first.
        return [
            Parent(run.info.run_id, run.info.experiment_id, run.data.tags, space_of(run.data.params, run.data.tags))
            for run in islice(runs, most)
        ]

    def runs(self, wanted: Wanted) -> Iterator[Run]:
        """The runs as MLflow has them.

        Raises:
            MlflowException: The query cannot be understood, or the store cannot be read.
        """
        return store.search_runs(self._client, list(wanted.experiments), wanted.whole_query, PAGE)

    def records(self, wanted: Wanted) -> Iterator[list[Record]]:
        """As for `Source`."""
        return ([record(run)] for run in self.runs(wanted))

    def points(self, wanted: Wanted) -> Iterator[Points]:
        """As for `Source`."""
        with ThreadPoolExecutor(_THREADS) as threads:
            curves = (
                (run.info.run_id, _trial(run), [name for name in METRICS if name in run.data.metrics])
                for run in self.runs(wanted)
            )
            # Not all at once, for what is fetched waits in memory.
            while some := list(islice(curves, 4 * _THREADS)):
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
        originals(data.params, data.tags, TAG_PARAM),
        originals(data.metrics, data.tags, TAG_METRIC),
        max(steps, default=None),
    )


def _trial(run: Run) -> tuple[str, int]:
    return run.data.tags[tags.TAG_SWEEP], int(run.data.tags[tags.TAG_TRIAL])


def _order(point: Metric) -> tuple[int, int, bool, float]:
    """Of points for the same epoch, the last written comes last."""
    is_nan = math.isnan(point.value)
    return point.step, point.timestamp, is_nan, 0.0 if is_nan else point.value
