"""Continues an interrupted sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import flat
from mnist_sweep.config import backend
from mnist_sweep.config.grammar import parse_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.units import seconds
from mnist_sweep.driver import larger_space, launch, same_sweep
from mnist_sweep.driver.stored_config import from_store
from mnist_sweep.driver.summary import Say
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.folders import SWEEPS, find, is_running, sweeps
from mnist_sweep.journal.state import SweepState

_STORE = "tracking.uri="
_BUDGET = ("search.max_trials", "search.time_budget", "search.target")


def resume(
    sweep: str | None,
    overrides: Sequence[str],
    console: Console,
    *,
    other_versions: bool = False,
    tracking_uri: str | None = None,
) -> int:
    """Continues a sweep.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one; None for the last one that is unfinished.
        overrides: Its new, longer budget, more values of what it searches, or another store, as `KEY=VALUE`.
        console: Where to print.
        other_versions: Whether to continue with another TensorFlow, Keras or NumPy than the sweep had so far.
        tracking_uri: The store to log to; None for MLFLOW_TRACKING_URI, or else the one that the sweep used.

    Returns:
        The exit code, as that of `launch.run`.

    Raises:
        UserError: The sweep does not exist, another process runs it, or a value changes more than the budget.
    """
    say = line_printer(console)
    folder = find(sweep, "resume") if sweep else last_unfinished(say)
    if folder is None:
        raise UserError(f"resume: {SWEEPS}/ contains no unfinished sweep")
    state = SweepState.after(journal.read(folder))
    old = last_config(state, folder)
    stores = [text.removeprefix(_STORE) for text in overrides if text.startswith(_STORE)]
    new = _overridden(old, [text for text in overrides if not text.startswith(_STORE)])
    if larger_space.changed(old, new):
        larger_space.check(old, new, state)
    check_unchanged(larger_space.with_space_of(old, new), new)
    if state.completed and new == old:
        console.print(f"{folder} is finished; there is nothing to continue.", markup=False, highlight=False)
        return 0
    config = from_store(new, folder, tracking_uri or next(reversed(stores), None))
    return launch.run(config, folder, console, resume=True, other_versions=other_versions)


def last_unfinished(say: Say) -> Path | None:
    """Returns the last sweep that has not finished and that no process runs.

    Args:
        say: Prints which sweeps cannot be read.
    """
    return next((folder for folder, _ in _unfinished(sweeps(SWEEPS), say)), None)


def to_continue(config: Mapping[str, Any], wished: Path, say: Say) -> Path | None:
    """Returns the last unfinished sweep of a config's name whose config differs by no more than a longer budget.

    Args:
        config: The config of the sweep to run.
        wished: The folder that Hydra uses for it, which need not be in `experiments/`.
        say: Prints why an unfinished sweep is not continued.
    """
    folders = [*sweeps(wished), *sweeps(SWEEPS / str(config["name"]))]
    for folder, state in _unfinished(folders, say):
        try:
            check_unchanged(last_config(state, folder), config)
        except UserError as error:
            say(f"{folder} is not continued: {str(error).removeprefix('resume: ')}")
        else:
            return folder
    return None


def _unfinished(folders: Sequence[Path], say: Say) -> Iterator[tuple[Path, SweepState]]:
    """Yields the sweeps that can be continued, the last one first, without those whose journal is damaged."""
    for folder in reversed(folders):
        if is_running(folder):
            continue
        try:
            state = SweepState.after(journal.read(folder))
        except UserError as error:
            say(f"{folder} is skipped: {error}")
            continue
        # A sweep that was killed before its first event has nothing to continue.
        if state.last is not None and not state.completed:
            yield folder, state


def last_config(state: SweepState, folder: Path) -> dict[str, Any]:
    """Returns the config that a sweep was last run with.

    Raises:
        UserError: The journal lacks the start of the sweep, or the config in it is damaged.
    """
    same_sweep.first_event(state, folder)
    try:
        check_settings(state.config)
    except UserError as error:
        raise UserError(f"{folder / files.FILE}: the sweep's config cannot be used ({error})") from None
    return state.config


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses a config that differs by more than a longer budget.

    Args:
        old: What the sweep was run with.
        new: What it is to continue with.

    Raises:
        UserError: It names the keys that differ.
    """
    before, after = ({"training.backend": backend.DEFAULT, "conditions": {}, **flat(config)} for config in (old, new))
    for key in ("resume", "tracking.uri", "tracking.artifacts", "tracking.report", "tracking.register"):
        before.pop(key, None)
        after.pop(key, None)
    objective = Objective.parse_all(new["objective"])[0]
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _longer(key, before.get(key), after.get(key), objective)
    ]
    if changed:
        shown = ", ".join(f"{key} ({before.get(key)} → {after.get(key)})" for key in changed[:5])
        raise UserError(f"resume: the config has changed: {shown}; only a budget may change, and it may only grow")


def _longer(key: str, old: Any, new: Any, objective: Objective) -> bool:
    if key not in _BUDGET or old is None:
        return False
    if new is None:
        return True
    if key == "search.time_budget":
        return seconds(new) >= seconds(old)
    return bool(objective.reached(new, old) if key == "search.target" else new >= old)


def _overridden(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and larger_space.is_searched(config, key):
            changed = larger_space.replaced(changed, key, text)
            continue
        if not equals or key not in _BUDGET:
            raise UserError(
                f"resume: {override}: only {', '.join(_BUDGET)} and tracking.uri can be changed, and values can be "
                "added to what is searched"
            )
        changed["search"][key.partition(".")[2]] = parse_value(text, key)
    check_settings(changed)
    return changed
