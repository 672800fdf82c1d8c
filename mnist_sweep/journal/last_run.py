"""What differs between a single run and the last one before it, and what that did."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import flat, format_duration, format_setting, one_line
from mnist_sweep.config.objective import Objective
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.folders import SWEEPS, sweeps
from mnist_sweep.journal.leaderboard import score_text
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Outcome

# These do not change the result of a run: what it is called, where it runs and where it is logged.
_IGNORED = ("name", "description", "resume", "tracking", "workers", "search", "limits")
_VERSIONS = ("mnist_sweep", "tensorflow", "jax", "keras", "numpy", "commit")
_LONGEST_VALUE, _COMMIT = 60, 10


@dataclass(frozen=True)
class Change:
    """A key of the config, or a metric, whose value is another one than in the last run.

    Attributes:
        name: The key or the metric.
        before: Its value in the last run, as text.
        now: Its value.
    """

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class LastRun:
    """The last single run before one, compared with it.

    Attributes:
        run: Its name, `name/time`.
        settings: The keys of the config that differ.
        results: The objectives, the other validation metrics, and the time of both runs.
        other_data: Whether the images differ, so that the results cannot be compared.
    """

    run: str
    settings: list[Change]
    results: list[Change]
    other_data: bool


def last_run(folder: Path, state: SweepState, objectives: tuple[Objective, ...]) -> LastRun | None:
    """Compares a single run with the last one before it that has a result.

    Args:
        folder: The run's folder.
        state: Its state at its end.
        objectives: What it optimizes.

    Returns:
        The comparison; None if the run searched something or retrains a trial, has no result, or is the first one.
    """
    started = state.started
    if started is None or started.space or started.retrains is not None or _result(state) is None:
        return None
    for other in _earlier(folder, started):
        with contextlib.suppress(UserError):
            before = SweepState.after(journal.read(other), objectives)
            if _result(before) is not None:
                return _compared(before, state, objectives)
    return None


def _earlier(folder: Path, started: SweepStarted) -> Iterator[Path]:
    """Yields the folders of the single runs of the same name that started before, the last one first."""
    above = folder.absolute().parents
    below = next((path for path in above if path.parent.name == str(SWEEPS)), SWEEPS / started.sweep.partition("/")[0])
    found: list[tuple[float, Path]] = []
    for other in sweeps(below):
        with contextlib.suppress(UserError):
            first = journal.started(other)
            if not first.space and first.retrains is None and first.time < started.time:
                found.append((first.time, other))
    for _, other in sorted(found, reverse=True):
        yield other


def _result(state: SweepState) -> Outcome | None:
    outcomes = [state.results.outcomes[n] for n in sorted(state.searched) if n in state.results.outcomes]
    return outcomes[0] if outcomes and outcomes[0].score is not None else None


def _compared(before: SweepState, now: SweepState, objectives: tuple[Objective, ...]) -> LastRun:
    assert before.started is not None
    assert now.started is not None
    then, data = before.started.data, now.started.data
    other_data = then.get("digest") != data.get("digest")
    settings = _changes(_config(before), _config(now))
    if other_data and not any(change.name.startswith("data.") for change in settings):
        settings.append(Change("images", str(then.get("digest")), str(data.get("digest"))))
    settings += [
        Change(name, _version(before, name), _version(now, name))
        for name in _VERSIONS
        if before.versions.get(name) != now.versions.get(name)
    ]
    return LastRun(before.started.sweep, settings, _results(before, now, objectives), other_data)


def _version(state: SweepState, name: str) -> str:
    version = state.versions.get(name)
    # As git shortens it.
    return _text(version[:_COMMIT] if version is not None and name == "commit" else version)


def _config(state: SweepState) -> dict[str, Any]:
    """What was trained: the config, with the groups of the trial, which a hypermodel may have filled."""
    trial = state.results.trials[min(state.searched)]
    config = {key: value for key, value in state.config.items() if key not in _IGNORED}
    # The config in a journal has passed through JSON, which knows no tuples.
    plain: dict[str, Any] = json.loads(json.dumps({**config, **trial.config}))
    return flat(plain)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*now, *before])
    if all(config.get("seed") == config.get("training.seed") for config in (before, now)):
        # It follows from the seed.
        keys.pop("training.seed", None)
    return [Change(k, _text(before.get(k)), _text(now.get(k))) for k in keys if before.get(k) != now.get(k)]


def _results(before: SweepState, now: SweepState, objectives: tuple[Objective, ...]) -> list[Change]:
    old, new = _result(before), _result(now)
    assert old is not None
    assert new is not None
    then, metrics = ({**o.metrics, objectives[0].name: o.score or 0.0} for o in (old, new))
    first = [objective.name for objective in objectives]
    names = dict.fromkeys([*first, *(name for name in metrics if name.startswith("val_"))])
    found = []
    for name in names:
        if name in then and name in metrics:
            measure = next((o for o in objectives if o.name == name), Objective(name, "min"))
            found.append(Change(name, score_text(measure, then[name]), score_text(measure, metrics[name])))
    if old.parameters is not None and new.parameters is not None and old.parameters != new.parameters:
        found.append(Change("parameters", f"{old.parameters:,}", f"{new.parameters:,}"))
    return [*found, Change("time", format_duration(old.seconds), format_duration(new.seconds))]


def _text(value: object) -> str:
    return one_line(format_setting(value), _LONGEST_VALUE)
