"""The texts of the report: what the sweep was, how it went, and what to do next."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.reading import read_yaml
from mnist_sweep.common.text import counted, format_duration, grouped
from mnist_sweep.config.units import seconds
from mnist_sweep.data.schema import how_to_try, in_words
from mnist_sweep.journal import folders
from mnist_sweep.results.leaderboard import of_search
from mnist_sweep.results.models.model_run import ModelRun
from mnist_sweep.results.report.texts import ALGORITHMS, MEASURES, STATUSES
from mnist_sweep.results.report.winner import Fact, Winner, fetched
from mnist_sweep.results.runs.find import SweepRuns
from mnist_sweep.results.runs.local import local_folder
from mnist_sweep.tracking.tags import NODE, TAG_REASON, TAG_STATUS, TAG_STEERED

_BUDGET = ("max_trials", "time_budget", "target")


def gather(found: SweepRuns, frame: pd.DataFrame, best: Winner | None) -> dict[str, Any]:
    """Collects the texts of the report.

    Args:
        found: The sweep.
        frame: Its trials, as `load_runs` gives them.
        best: Its best trial; None if no trial has a score.

    Returns:
        What the template shows:
        `name`: The experiment's name.
        `sweep`: `name/time`.
        `status`: The sweep's status.
        `reason`: Why it ended.
        `description`: The user's description.
        `warning`: A warning if other data than the requested ones were used, else empty.
        `single`: Whether it is a single run, which searched nothing.
        `facts`: What the sweep was.
        `space`: The domain of each hyperparameter, as text.
        `steered`: What users changed while it ran: `time`, `by` and `what` of each change.
        `versions`: The versions of the packages, the git commit and the seed.
        `statuses`: The meaning of the statuses that occur.
        `failures`: How many trials have no result, by the reason, the most frequent first.
        `commands`: Commands to run next, and their purposes.
    """
    params, tags = found.parent.data.params, found.parent.data.tags
    # A resumed sweep still has the tag of its interruption.
    status = "running" if found.parent.info.status == "RUNNING" else tags.get(TAG_STATUS, "running")
    reason = tags.get(TAG_REASON, "") if status != "running" else ""
    here = local_folder(None, found.sweep) if status == "running" else None
    if here is not None and not folders.is_running(here):
        status, reason = "stopped", "the process that ran it is gone"
    return {
        "name": found.sweep.partition("/")[0],
        "sweep": found.sweep,
        "status": status,
        "reason": reason,
        "description": _given(params, "description"),
        "warning": _warning(tags),
        "single": not found.space,
        "facts": _facts(found, frame),
        "space": found.space,
        "steered": _steered(tags),
        "versions": _versions(found),
        "statuses": {s: STATUSES[s] for s in STATUSES if s in set(frame["status"])},
        "failures": _failures(frame),
        "commands": _commands(found.sweep, status, best, tags, single=not found.space),
    }


def _given(params: dict[str, str], key: str) -> str:
    value = params.get(key, "None")
    return "" if value in ("None", "[]", "{}") else value


def _warning(tags: dict[str, str]) -> str:
    wanted = tags.get("data.fallback_for")
    if not wanted:
        return ""
    return f"data={wanted} could not be downloaded: this sweep used the digits of {tags.get('data.name')} instead."


def _facts(found: SweepRuns, frame: pd.DataFrame) -> list[Fact]:
    params, tags = found.parent.data.params, found.parent.data.tags
    trials = of_search(frame)
    counts = trials["status"].value_counts()
    each = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if status in counts)
    retraining = len(frame) - len(trials)
    more = f"; {retraining} more to retrain the best" if retraining else ""
    objectives = {o.name: "; ".join(filter(None, [MEASURES.get(o.name), o.hint])) for o in found.objectives}
    if len(objectives) > 1:
        objectives = {name: f"{name}: {text}" for name, text in objectives.items()}
    facts = [
        Fact("Data", *_data(tags)),
        Fact(f"Objective{'s' if len(objectives) > 1 else ''}", ", ".join(objectives), "; ".join(objectives.values())),
        *([Fact("Search", *_search(params)), Fact("Budget", *_budget(found))] if found.space else []),
        Fact("Ran", counted(len(trials), "trial") if found.space else "a single run", each + more),
        Fact("Took", *_time(found, frame)),
    ]
    return [fact for fact in facts if fact.text]


def _data(tags: dict[str, str]) -> tuple[str, str]:
    given = {key.removeprefix("data."): value for key, value in tags.items() if key.startswith("data.")}
    about = []
    if any(key.startswith("training_") for key in given):
        image = {"image": given["image"].replace("x", "×")} if "image" in given else {}
        about.append(in_words({**given, **image}))
    # Only runs with the same digest are comparable.
    about.append(f"digest {tags.get('data.digest', 'unknown')}")
    return tags.get("data.name", "unknown"), "; ".join(about)


def _search(params: dict[str, str]) -> tuple[str, str]:
    algorithm = _given(params, "search.algorithm") or _given(params, "search._target_")
    sampler = _given(params, "search.sampler")
    about = ALGORITHMS.get(algorithm, "")
    if sampler:
        proposes = ALGORITHMS.get(sampler, "")
        about = f"{sampler} proposes the hyperparameter values: {proposes}; {algorithm} {about}"
    return f"{algorithm} on {sampler}" if sampler else algorithm, about


def _budget(found: SweepRuns) -> tuple[str, str]:
    params = _with_last_budget(found)
    trials, time, target = (_given(params, f"search.{key}") for key in _BUDGET)
    limits = (
        counted(int(trials), "trial") if trials.isdigit() else "",
        format_duration(seconds(time)).removesuffix(" 00 s") if time else "",
        f"{found.objective.name} of {target}" if target else "",
    )
    given = list(filter(None, limits))
    how = []
    if _given(params, "validation") == "kfold":
        how.append(f"each trial is the mean of {params.get('folds')} folds of the training images")
    if int(params.get("repeats", "1")) > 1:
        how.append(f"each trial is the mean of {params['repeats']} seeds")
    epochs = _given(params, "training.epochs")
    if epochs.isdigit():
        how.append(f"at most {epochs} epochs a trial")
    if len(given) > 1:
        how.insert(0, "whichever comes first")
    return " or ".join(given) or "until every combination is tried", "; ".join(how)


def _with_last_budget(found: SweepRuns) -> dict[str, str]:
    """The sweep's parameters with the budget of its last session: MLflow's parameters keep that of the first one."""
    config: Any = None
    # A sweep that has lost its config still has its parameters.
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):
        file = fetched(ModelRun(found.client, found.parent), "config.yaml", Path(folder))
        config = read_yaml(file, file.name) if file is not None else None
    search = config.get("search") if isinstance(config, dict) else None
    last = search if isinstance(search, dict) else {}
    return found.parent.data.params | {f"search.{key}": str(last[key]) for key in _BUDGET if key in last}


def _time(found: SweepRuns, frame: pd.DataFrame) -> tuple[str, str]:
    start, end = found.parent.info.start_time, found.parent.info.end_time
    started = pd.Timestamp(start, unit="ms", tz="UTC")
    note = f"started {started:%Y-%m-%d %H:%M} UTC"
    trained = frame["seconds"].sum()
    if trained and len(frame) > 1:
        note += f"; all trials add up to {format_duration(float(trained))}"
    return (format_duration((end - start) / 1000) if end else "still running"), note


def _versions(found: SweepRuns) -> dict[str, str]:
    tags, params = found.parent.data.tags, found.parent.data.params
    listed = {key.removeprefix("version."): value for key, value in tags.items() if key.startswith("version.")}
    nodes = {f"node {key.removeprefix(NODE)}": value for key, value in tags.items() if key.startswith(NODE)}
    more = {
        "commit": tags.get("mlflow.source.git.commit", ""),
        "seed": _given(params, "seed"),
        "MLflow run": found.parent.info.run_id,
    }
    return listed | nodes | {key: value for key, value in more.items() if value}


def _steered(tags: dict[str, str]) -> list[dict[str, str]]:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return [{key: str(change[key]) for key in ("time", "by", "what")} for change in json.loads(tags[TAG_STEERED])]
    return []


def _failures(frame: pd.DataFrame) -> dict[str, int]:
    reasons = frame.loc[frame["status"].isin(["failed", "refused"]), "reason"].dropna()
    groups = grouped(map(str, reasons[reasons != ""]))
    return {group[0]: len(group) for group in sorted(groups, key=len, reverse=True)}


def _commands(
    sweep: str, status: str, best: Winner | None, tags: dict[str, str], *, single: bool
) -> list[tuple[str, str]]:
    found, sweep = [], shlex.quote(sweep)
    if status == "running":
        found.append((f"report {sweep}", "update this page"))
    if status in ("stopped", "failed"):
        found.append((f"resume {sweep}", f"resume the {'run' if single else 'sweep'}"))
    if best is not None:
        which = f"{sweep} {best.trial}" if best.named else sweep
        found.append((f"export {which} --to exported", "write its model to a folder"))
        about = {key.removeprefix("data."): value for key, value in tags.items()}
        rows = "images" if "image" in about else "rows"
        if (attempt := how_to_try(about)) is not None:
            found.append((f"serve {which}", f"{attempt} and see what it predicts"))
        if about.get(f"validation_{rows}") != "0":
            found.append((f"retrain {which} data.validation_split=0", f"train it once more, on all training {rows}"))
    found.append((f"ui {sweep}", f"see {'the run' if single else 'every run'} in MLflow"))
    return [(invocation.command(text), purpose) for text, purpose in found]
