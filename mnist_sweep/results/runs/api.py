"""Reads runs through MLflow's API, from any store that MLflow supports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist_sweep.common.secrets import masked
from mnist_sweep.common.text import first_line
from mnist_sweep.config.objective import METRICS
from mnist_sweep.results.runs.source import Parent, Points, Record, RunFilter, arrays, of_epochs, space_of
from mnist_sweep.tracking import store, tags
from mnist_sweep.tracking.names import TAG_METRIC
from mnist_sweep.tracking.uri import is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
# Runs that are requested at a time. While one page is read, the next one is on its way.
PAGE = 500
# Sweeps' own runs that are requested at a time: mostly, the first one is enough.
_PARENTS = 100
# How many requests are made at once. Most of their time is spent waiting for the server.
_THREADS = 8
# Runs whose points are requested at a time. A server takes a hundred, but some servers take no address with more than
# 4,094 bytes, and a run's ID takes 41.
_AT_ONCE = 90
# The most points that a server returns at a time, and how many are requested, as some epochs may be there twice.
_MOST_POINTS, _EXPECTED_POINTS = 25_000, 20_000


@dataclass(slots=True)
class _Found:
    """A run, as MLflow's API returns it.

    Attributes:
        run_id: Its id.
        experiment: Its experiment's id.
        start: When it started, in milliseconds since 1970.
        end: When it ended; None while it runs.
        tags: Its tags.
        params: Its parameters.
        metrics: The last value of each metric.
        steps: The step of that value.
    """

    run_id: str
    experiment: str
    start: int | None
    end: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    steps: Mapping[str, int]

    @property
    def record(self) -> Record:
        """What a data frame needs of it."""
        epochs = max((step for key, step in self.steps.items() if key in METRICS), default=None)
        return Record(self.run_id, self.start, self.end, self.tags, self.params, self.metrics, epochs)


# Points of one metric: the run, the time, the epoch and the value of each.
_Histories = Iterable[tuple[str, int, int, float]]


class _Reader(Protocol):
    """Asks a store."""

    def pages(self, wanted: RunFilter, size: int) -> Iterator[list[_Found]]:
        """The wanted runs, the last one first."""

    def histories(self, runs: Sequence[str], key: str) -> _Histories:
        """All points of a metric of some runs."""


class Client:
    """Reads a store through MLflow's API: a `Source`."""

    def __init__(self, client: MlflowClient) -> None:
        """Takes MLflow's client for the store."""
        self._client = client
        self._reader: _Reader = _Server(client) if is_server(client.tracking_uri) else _Store(client)

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
        # MLflow returns the last one first.
        found = chain.from_iterable(self._reader.pages(wanted, min(most or _PARENTS, _PARENTS)))
        return [
            Parent(run.run_id, run.experiment, run.tags, space_of(run.params, run.tags)) for run in islice(found, most)
        ]

    def records(self, wanted: RunFilter) -> Iterator[list[Record]]:
        """As for `Source`."""
        with ThreadPoolExecutor(1) as thread:
            for page in _ahead(self._reader.pages(wanted, PAGE), thread):
                yield [run.record for run in page]

    def points(self, wanted: RunFilter) -> Iterator[Points]:
        """As for `Source`."""
        with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(_THREADS) as threads:
            for page in _ahead(self._reader.pages(wanted, PAGE), thread):
                yield self._points(page, threads)

    def _points(self, page: Sequence[_Found], threads: ThreadPoolExecutor) -> Points:
        place = {run.run_id: number for number, run in enumerate(page)}
        trials = [(run.tags[tags.TAG_SWEEP], int(run.tags[tags.TAG_TRIAL])) for run in page]
        numbers = dict[str, int]()
        names = np.zeros(len(page), np.int32)

        def part(request: tuple[str, Sequence[_Found]]) -> tuple[NDArray[Any], ...]:
            key, some = request
            found = self._reader.histories([run.run_id for run in some], key)
            run, time, epoch, value = zip(*found, strict=True) if found else ((), (), (), ())
            # Of several points for one epoch, the last one written comes last.
            order = np.lexsort((value, time))
            return tuple(column[order] for column in arrays([place[r] for r in run], np.zeros(len(run)), epoch, value))

        requests = list(_requests(page))
        parts = [arrays((), (), (), ())]
        for (key, some), (trial, _, epoch, value) in zip(requests, threads.map(part, requests), strict=True):
            for run in some:
                # The same key may stand for another name in another run.
                names[place[run.run_id]] = numbers.setdefault(run.tags.get(f"{TAG_METRIC}{key}", key), len(numbers))
            parts.append((trial, names[trial], epoch, value))
        return Points(trials, list(numbers), *(np.concatenate(part) for part in zip(*parts, strict=True)))


def _ahead(pages: Iterator[_T], thread: ThreadPoolExecutor) -> Iterator[_T]:
    """Yields pages, and gets the next one meanwhile."""
    following = thread.submit(next, pages, None)
    while (page := following.result()) is not None:
        following = thread.submit(next, pages, None)
        yield page


def _requests(page: Sequence[_Found]) -> Iterator[tuple[str, Sequence[_Found]]]:
    """The metrics that have learning curves, each with as many runs as can be requested at a time."""
    by_key: dict[str, list[_Found]] = {}
    for run in page:
        for key, step in run.steps.items():
            if of_epochs(key, step):
                by_key.setdefault(key, []).append(run)
    for key, runs in by_key.items():
        some, expected = list[_Found](), 0
        for run in runs:
            if some and (len(some) == _AT_ONCE or expected + run.steps[key] > _EXPECTED_POINTS):
                yield key, some
                some, expected = [], 0
            some.append(run)
            expected += run.steps[key]
        yield key, some


class _Store:
    """Asks through MLflow's client."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        # A database can be asked for many runs at a time, by a method that MLflow's client does not have.
        self._bulk: Callable[..., Any] | None = getattr(
            getattr(getattr(client, "_tracking_client", None), "store", None), "get_metric_history_bulk", None
        )

    def pages(self, wanted: RunFilter, size: int) -> Iterator[list[_Found]]:
        runs = store.search_runs(self._client, list(wanted.experiments), wanted.whole_query, size)
        while some := list(islice(runs, size)):
            yield [_of_entity(run) for run in some]

    def histories(self, runs: Sequence[str], key: str) -> _Histories:
        if self._bulk is not None:
            return [(p.run_id, p.timestamp, p.step, p.value) for p in self._bulk(list(runs), key, None)]
        return self.one_by_one(runs, key)

    def one_by_one(self, runs: Sequence[str], key: str) -> _Histories:
        """The same with a request for each run."""
        return [
            (run, point.timestamp, point.step, point.value)
            for run in runs
            for point in self._client.get_metric_history(run, key)
        ]


class _Server(_Store):
    """Asks a tracking server. Its answers are not made into MLflow's entities, which takes as long as the server."""

    def __init__(self, client: MlflowClient) -> None:
        super().__init__(client)
        self._uri, self._has_bulk = client.tracking_uri, True

    def pages(self, wanted: RunFilter, size: int) -> Iterator[list[_Found]]:
        search: dict[str, Any] = {
            "experiment_ids": list(wanted.experiments),
            "filter": wanted.whole_query,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": size,
        }
        while True:
            answer = self._ask("POST", "/api/2.0/mlflow/runs/search", json=search)
            yield list(map(_of_json, answer.get("runs", ())))
            token = answer.get("next_page_token")
            if not token:
                return
            search["page_token"] = token

    def histories(self, runs: Sequence[str], key: str) -> _Histories:
        from mlflow.exceptions import MlflowException

        if self._has_bulk:
            try:
                return self._in_bulk(runs, key)
            except (MlflowException, LookupError, TypeError, ValueError) as error:
                # Old servers lack this endpoint, as may what is in front of one. Other faults concern the API, too.
                _LOG.info("metrics are requested run by run: %s", masked(first_line(error)))
                self._has_bulk = False
        return self.one_by_one(runs, key)

    def _in_bulk(self, runs: Sequence[str], key: str) -> _Histories:
        """The same as MLflow's own pages do it."""
        asked = {"run_id": list(runs), "metric_key": key, "max_results": _MOST_POINTS}
        answer = self._ask("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk", params=asked)
        points = answer["metrics"]
        if len(points) < _MOST_POINTS:
            return [(p["run_id"], int(p["timestamp"]), int(p["step"]), float(p["value"])) for p in points]
        # There may be more.
        half = len(runs) // 2
        if not half:
            return self.one_by_one(runs, key)
        return [*self._in_bulk(runs[:half], key), *self._in_bulk(runs[half:], key)]

    def _ask(self, method: str, endpoint: str, **what: Any) -> dict[str, Any]:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        rest: tuple[Any, ...] = (get_default_host_creds, http_request, verify_rest_response)
        login, request, verify = rest
        answer: dict[str, Any] = verify(request(login(self._uri), endpoint, method, **what), endpoint).json()
        return answer


def record(run: Run) -> Record:
    """What a data frame needs of a run."""
    return _of_entity(run).record


def _of_entity(run: Run) -> _Found:
    """A run from MLflow's entity."""
    info, data = run.info, run.data
    latest = list(data._metric_objs)
    # A server returns 0 for a run that has not ended.
    end, steps = info.end_time or None, {metric.key: metric.step for metric in latest}
    return _Found(info.run_id, info.experiment_id, info.start_time, end, data.tags, data.params, data.metrics, steps)


def _of_json(run: Mapping[str, Any]) -> _Found:
    """A run from a server's JSON, in which numbers may be texts."""
    info, data = run["info"], run.get("data", {})
    latest = data.get("metrics", ())
    return _Found(
        info["run_id"],
        info["experiment_id"],
        int(info["start_time"]) if "start_time" in info else None,
        int(info.get("end_time") or 0) or None,
        {tag["key"]: tag.get("value", "") for tag in data.get("tags", ())},
        {param["key"]: param.get("value", "") for param in data.get("params", ())},
        {metric["key"]: float(metric.get("value", 0)) for metric in latest},
        {metric["key"]: int(metric.get("step", 0)) for metric in latest},
    )
