"""Saves a view with which MLflow's UI opens a sweep: its trials, hyperparameters, scores and charts.

The format is that of "Save view" in MLflow 3.17, which is not documented. A later version that does not understand the
view ignores it and shows its usual page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from mnist_sweep.config.objective import Objective
from mnist_sweep.tracking.names import TAG_PARAM, key_of, originals, tagged
from mnist_sweep.tracking.tags import NESTED, SWEEP, TAG_CONFIRMS, TAG_KIND, TAG_OBJECTIVE, TAG_SWEEP, TAG_WINNER, TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

TAG = "mlflow.sharedViewState."
# MLflow allows 40 saved views per experiment; leave some to its users.
MOST = 20
# Where the command ui serves MLflow by default.
HOST, PORT = "127.0.0.1", 5000
_OURS = f"{TAG}sweep-"
# MLflow's limit for the value of an experiment's tag.
_LONGEST = 20_000
# The sections of charts, by uuid: name, charts per row, and their height in pixels.
_SECTIONS = {
    "search": ("1 Hyperparameters and score", 1, 400),
    "learning": ("2 Learning curves", 3, 340),
    "size": ("3 What a better score costs", 2, 340),
    # MLflow adds the charts of all other metrics here.
    "rest": ("Model metrics", 3, 360),
}
# Without this parameter, MLflow opens the pages for language models.
_WORKFLOW = "workflowType=machine_learning"
_RUN_NAME = "attributes.`Run Name`"
# How `Space.describe` writes the condition of a hyperparameter.
_CONDITION = re.compile(r" if (\S+ in \[|\S+ [<>])")


def key(sweep: str) -> str:
    """Returns the name of a sweep's view in links.

    Args:
        sweep: `name/time`.
    """
    return f"sweep-{sweep.partition('/')[2].replace('/', '-')}"


def home(base_url: str) -> str:
    """Returns the URL of MLflow's list of experiments.

    Args:
        base_url: The URL of MLflow's server. No link contains its user name or password.
    """
    return f"{_base(base_url)}/#/experiments?{_WORKFLOW}"


def link(base_url: str, experiment_id: str, view: str) -> str:
    """Returns the URL of a view.

    Args:
        base_url: The URL of MLflow's server.
        experiment_id: The experiment's id.
        view: The view's `key`.
    """
    share = f"viewStateShareKey={quote(view, safe='')}"
    return f"{_base(base_url)}/#/experiments/{experiment_id}/runs?{share}&compareRunsMode=CHART&{_WORKFLOW}"


def link_to(base_url: str, client: MlflowClient, parent: Run) -> str:
    """Returns the URL of a sweep's view, which is saved if it is missing; if that fails, the URL of its parent run.

    Args:
        base_url: The URL of MLflow's server.
        client: The store.
        parent: The sweep's parent run.
    """
    from mlflow.exceptions import MlflowException

    experiment = parent.info.experiment_id
    with contextlib.suppress(MlflowException):
        saved = client.get_experiment(experiment).tags
        for tag, value in tags_of_run(parent).items():
            if tag not in saved:
                client.set_experiment_tag(experiment, tag, value)
            return link(base_url, experiment, tag.removeprefix(TAG))
    return f"{_base(base_url)}/#/experiments/{experiment}/runs/{parent.info.run_id}?{_WORKFLOW}"


def _base(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def tags(
    sweep: str,
    space: Mapping[str, str],
    objectives: Sequence[Objective],
    time: float,
    *,
    confirmed: bool,
    kind: str = TRIAL,
) -> dict[str, str]:
    """Returns the experiment's tag that stores the view.

    Args:
        sweep: `name/time`.
        space: The domain of each hyperparameter, as text.
        objectives: The objectives, the first one being the main one.
        time: When the sweep started, in seconds since 1970.
        confirmed: Whether the best trials are retrained on new seeds.
        kind: The kind of its trials' runs.

    Returns:
        One tag; none if the view is too large for MLflow.
    """
    stamp = int(time * 1000)
    state = json.dumps(_state(sweep, space, objectives, kind, confirmed=confirmed), separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    view = {"name": sweep, "createdAt": stamp, "updatedAt": stamp, "state": packed}
    value = json.dumps(view)
    return {TAG + key(sweep): value} if len(value) <= _LONGEST else {}


def tags_of_run(parent: Run) -> dict[str, str]:
    """Returns the same `tags` for a sweep's parent run in MLflow."""
    about = parent.data.tags
    named = originals(parent.data.params, about, TAG_PARAM)
    params = {k.removeprefix("space."): v for k, v in named.items() if k.startswith("space.")}
    objectives = tuple(map(Objective.parse, about[TAG_OBJECTIVE].split(",")))
    confirmed = any(k.startswith("confirm.") for k in parent.data.params)
    kind = NESTED.get(about.get(TAG_KIND, SWEEP), TRIAL)
    return tags(about[TAG_SWEEP], params, objectives, parent.info.start_time / 1000, confirmed=confirmed, kind=kind)


def outdated(experiment: Experiment) -> list[str]:
    """Returns the tags of the oldest sweeps' views if there are more than `MOST`."""
    return sorted(tag for tag in experiment.tags if tag.startswith(_OURS))[:-MOST]


def _state(
    sweep: str, space: Mapping[str, str], objectives: Sequence[Objective], kind: str, *, confirmed: bool
) -> dict[str, Any]:
    first = objectives[0]
    best = [key_of(f"best_{objective.name}") for objective in objectives]
    scores = [*best, *([key_of(f"confirmed_{first.name}")] if confirmed else []), "test_accuracy", "seconds"]
    columns = {_RUN_NAME: 350, f"tags.`{TAG_WINNER}`": 80, **{f"metrics.`{name}`": 120 for name in scores}}
    columns |= {f"params.`{key_of(name)}`": 100 for name in space}
    return {
        # Without a filter or an order, trials would be collapsed below the sweep's run, and not drawn. Those that
        # retrain others would compete with them.
        "searchFilter": f"{tagged(TAG_SWEEP, sweep)} and {tagged(TAG_KIND, kind)} and tags.`{TAG_CONFIRMS}` IS NULL",
        # The winner comes first: the one with the best mean on new seeds, if there are any.
        "orderByKey": f"metrics.`{key_of(f'confirmed_{first.name}') if confirmed else best[0]}`",
        "orderByAsc": not first.maximize,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns)[1:],
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(space, objectives),
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "display": uuid != "rest",
                "isReordered": True,
                "columns": per_row,
                "cardHeight": height,
            }
            for uuid, (name, per_row, height) in _SECTIONS.items()
        ],
        # Else MLflow changes the order of the sections.
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
    }


def _charts(space: Mapping[str, str], objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    first = objectives[0]
    best = key_of(f"best_{first.name}")
    charts: list[dict[str, Any]] = []
    # MLflow draws only trials that have a value for each parameter. A second chart has all of them, and fewer trials.
    always = [key_of(name) for name, domain in space.items() if not _CONDITION.search(domain)]
    for uuid, names in (("parallel", always), ("parallel-all", [key_of(name) for name in space])):
        if names and (uuid == "parallel" or len(names) > len(always)):
            charts.append(
                _chart(uuid, "search", "PARALLEL", selectedParams=names, selectedMetrics=[best], showAllRuns=False)
            )
    for cost in [key_of(f"best_{objective.name}") for objective in objectives[1:]] or ["parameters", "seconds"]:
        axes = {"xaxis": _axis(cost), "yaxis": _axis(best)}
        charts.append(_chart(f"scatter-{cost}", "size", "SCATTER", **axes))
    for metric in dict.fromkeys((key_of(first.name), "val_loss", "loss")):
        charts.append(
            _chart(
                f"line-{metric}", "learning", "LINE", metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step",
                xAxisScaleType="linear", scaleType="log" if metric.endswith("loss") else "linear", lineSmoothness=0,
                useGlobalXaxisKey=True, useGlobalLineSmoothing=True, ignoreOutliers=False, displayName=metric,
            )
        )  # fmt: skip
    return charts


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _chart(uuid: str, section: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "metricSectionId": section,
        "type": kind,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **more,
    }
