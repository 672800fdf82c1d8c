"""Continues an interrupted sweep."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mnist_sweep.common import invocation
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import masked
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import flat
from mnist_sweep.config import backend, compose
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.dotted import replaced
from mnist_sweep.config.grammar import looks_like_sweep, parse_value, read_sweep
from mnist_sweep.config.key_names import unknown_key
from mnist_sweep.config.later_keys import with_later_keys
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import FREE_TEXTS, check_settings
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.units import seconds, size
from mnist_sweep.driver import larger_space, launch, same_sweep, task_choice
from mnist_sweep.driver.stored_config import from_store
from mnist_sweep.driver.summary import Say, as_argument
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.folders import SWEEPS, find, is_running, sweeps
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Status

_STORE = "tracking.uri="
_BUDGET = ("search.max_trials", "search.time_budget", "search.target")
# Addresses, and what changes neither the values that are tried nor their scores. The digest of the data is compared
# instead of where it is read from.
_FREE = (
    "workers.",
    "tracking.",
    "data.path",
    "data.name",
    "data.fallback",
    "description",
    "search.max_failures",
    "notify",
)
_NAME = "name"
_TEXTS = FREE_TEXTS - {"name", "objective", "notify"}
_SHOWN = 10


def resume(
    sweep: str | None,
    overrides: Sequence[str],
    console: Console,
    *,
    other_versions: bool = False,
    retry_failed: bool = False,
    tracking_uri: str | None = None,
) -> int:
    """Continues a sweep.

    Args:
        sweep: `NAME/TIME`, its folder, or NAME for its last one; None for the last one that is unfinished, or, with
            `retry_failed`, has failed trials.
        overrides: A longer budget, more values of what it searches, another store, and what does not change the
            results, such as `workers.count=1`.
        console: Where to print.
        other_versions: Whether to continue with another TensorFlow, Keras or NumPy than the sweep had so far.
        retry_failed: Whether to train the failed trials again.
        tracking_uri: The store to log to; None for MLFLOW_TRACKING_URI, or else the one that the sweep used.

    Returns:
        The exit code, as that of `launch.run`.

    Raises:
        UserError: The sweep does not exist, another process runs it, or a value would change the results.
    """
    say = line_printer(console)
    folder = find(sweep, "resume") if sweep else last_unfinished(say, retry_failed=retry_failed)
    if folder is None:
        what = "sweep that is unfinished or has failed trials" if retry_failed else "unfinished sweep"
        raise UserError(f"resume: {SWEEPS}/ contains no {what}")
    state = SweepState.after(journal.read(folder))
    stores = [text.removeprefix(_STORE) for text in overrides if text.startswith(_STORE)]
    old = from_store(last_config(state, folder), folder, tracking_uri or next(reversed(stores), None))
    given = [text for text in overrides if not text.startswith(_STORE)]
    more = [text for text in given if larger_space.is_searched(old, text.partition("=")[0])]
    new, larger = _overridden(old, given), _overridden(old, more)
    try:
        check_unchanged(larger, new)
    except UserError as error:
        raise UserError(f"{error}; start a new sweep, or use retrain to train one trial with other values") from None
    if larger_space.changed(old, larger):
        larger_space.check(old, new, state)
    if retry_failed and not state.failed:
        say(f"{folder}: no trial has failed.")
    if state.completed and new == old and not (retry_failed and state.failed):
        say(f"{folder} is finished; there is nothing to continue.")
        if state.failed:
            assert state.started is not None
            again = invocation.command(f"resume --retry-failed {as_argument(state.started.sweep, folder)}")
            say(f"To train its failed trials again: {again}")
        return 0
    return launch.run(new, folder, console, resume=True, other_versions=other_versions, retry_failed=retry_failed)


def last_unfinished(say: Say, *, retry_failed: bool = False) -> Path | None:
    """Returns the last sweep that has not finished and that no process runs.

    Args:
        say: Prints which sweeps cannot be read.
        retry_failed: Whether finished sweeps with failed trials count too.
    """
    found = readable(sweeps(SWEEPS), say)
    return next((f for f, state in found if not state.completed or (retry_failed and state.failed)), None)


@dataclass(frozen=True)
class Continued:
    """How a command continues a sweep.

    Attributes:
        folder: The folder of the sweep.
        config: The config to continue it with.
        complete: Whether there is nothing left to do.
        retry_failed: Whether its failed trials must be trained again, because the whole sweep has failed.
        said: What is different now, in lines for the user.
    """

    folder: Path
    config: dict[str, Any]
    complete: bool
    retry_failed: bool
    said: tuple[str, ...]

    def run(self, console: Console) -> int:
        """Continues the sweep, and returns the exit code."""
        say = line_printer(console)
        for line in self.said:
            say(line)
        return launch.run(self.config, self.folder, console, resume=True, retry_failed=self.retry_failed)


def to_continue(config: Mapping[str, Any], wished: Path, say: Say, code: Path | None = None) -> Continued | None:
    """Finds the last unfinished sweep of a config's name that a config can continue.

    Args:
        config: The config of the sweep to run.
        wished: The folder that Hydra uses for it, which need not be in `experiments/`.
        say: Prints why an unfinished sweep is not continued.
        code: A folder with the modules that the sweep to run carries; None if it carries none.

    Returns:
        How to continue it; None if there is no such sweep.

    Raises:
        UserError: The data cannot be loaded.
    """
    folders = [*sweeps(wished), *sweeps(SWEEPS / str(config["name"]))]
    digest = functools.cache(lambda: _digest(config, code))
    for folder, state in readable(folders, say):
        if state.completed:
            continue
        try:
            return continued(config, folder, state, digest)
        except NotContinuedError as error:
            say(str(error))
    return None


class NotContinuedError(Exception):
    """A command is for another sweep. The message names the sweep and says why."""


def continued(config: Mapping[str, Any], folder: Path, state: SweepState, digest: Callable[[], str]) -> Continued:
    """Returns how a command continues a sweep.

    Args:
        config: The config of the command.
        folder: The folder of the sweep.
        state: The state of the sweep.
        digest: Loads the data of the command and returns its digest.

    Raises:
        NotContinuedError: The command is for another sweep.
        UserError: The data cannot be loaded.
    """
    try:
        old = from_store(last_config(state, folder), folder)
        assert state.started is not None
        new = _with_longer_budget(config, old, state.started.config)
        check_unchanged(old, new)
    except UserError as error:
        why = f"{folder} is not continued: {str(error).removeprefix('resume: ')}"
        raise NotContinuedError(why + _with_more_values(state, folder, config)) from None
    then = state.started.data.get("digest", "")
    if then and then != (now := digest()):
        raise NotContinuedError(f"{folder} is not continued: its data is different now ({then} → {now})")
    # However it is written, the search space is the same.
    new = larger_space.with_space_of(new, old) | {_NAME: old[_NAME]}
    said = []
    if changed := _changed(old, new, free=True):
        said.append(f"{folder} is continued, now with {changed}; its trials, search space and seeds stay")
    kept = [f"{key}={as_written(flat(new)[key])}" for key in (_NAME, *_BUDGET) if flat(new)[key] != flat(config)[key]]
    if kept:
        said.append(f"{folder} keeps {', '.join(kept)}")
    complete = state.completed and all(flat(new)[key] == flat(old).get(key) for key in _BUDGET)
    failed = state.ended is not None and state.ended.status is Status.FAILED and bool(state.failed)
    return Continued(folder, new, complete, failed, tuple(said))


def _with_more_values(state: SweepState, folder: Path, config: Mapping[str, Any]) -> str:
    """Returns how to continue a sweep with the values that a config adds; "" if it cannot be, or differs otherwise."""
    with contextlib.suppress(UserError):
        old = from_store(last_config(state, folder), folder)
        assert state.started is not None
        new, before = _with_longer_budget(config, old, state.started.config), flat(old)
        more = {
            key: value
            for key, value in flat(new).items()
            if larger_space.is_searched(old, key) and not _same(key, before.get(key), value)
        }
        check_unchanged(old, larger_space.with_space_of(new, old))
        searched = larger_space.with_space_of(old, new)
        if set(more) == set(larger_space.differing(old, new)):
            larger_space.check(old, searched, state)
            arguments = shlex.join(f"{key}={as_written(value)}" for key, value in more.items())
            again = invocation.command(f"resume {as_argument(state.started.sweep, folder)} {arguments}")
            return f"; to train only the values that are new: {again}"
    return ""


def _digest(config: Mapping[str, Any], code: Path | None) -> str:
    return task_choice.load(config, code).digest()


def readable(folders: Sequence[Path], say: Say) -> Iterator[tuple[Path, SweepState]]:
    """Yields the sweeps that no process runs, the last one first, without those whose journal is damaged."""
    for folder in reversed(folders):
        if is_running(folder):
            continue
        try:
            state = SweepState.after(journal.read(folder))
        except UserError as error:
            say(f"{folder} is skipped: {error}")
            continue
        # A sweep that was killed before its first event has nothing to continue.
        if state.last is not None:
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
    return with_later_keys(state.config)


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses a config with which other trials would be trained, or fewer.

    Args:
        old: What the sweep was run with.
        new: What it is to continue with.

    Raises:
        UserError: It names the keys that differ.
    """
    if changed := _changed(old, new, free=False):
        raise UserError(
            f"resume: the config has changed: {changed}; what determines the results must stay the same, and a budget "
            "may only grow"
        )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], *, free: bool) -> str:
    """Names the keys that differ, of those that may be different, or of the others."""
    before, after = ({"training.backend": backend.DEFAULT, "conditions": {}, **flat(config)} for config in (old, new))
    objective = Objective.parse_all(new["objective"])[0]
    changed = [
        key
        for key in sorted(before.keys() | after.keys())
        if key.startswith(_FREE) == free
        and key not in ("resume", _NAME)
        and not _same(key, before.get(key), after.get(key))
        and not _longer(key, before.get(key), after.get(key), objective)
    ]
    shown = [f"{key} ({as_written(before.get(key))} → {as_written(after.get(key))})" for key in changed[:_SHOWN]]
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return masked(", ".join(shown)) + more


def _same(key: str, old: Any, new: Any) -> bool:
    """Whether two values mean the same, however they are written."""
    # Keys that an earlier version did not have are empty by default.
    nothing: tuple[Any, ...] = (None, [], {})
    if old == new or (old in nothing and new in nothing):
        return True
    if key == "objective":
        return Objective.parse_all(old) == Objective.parse_all(new)
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    if key == "limits.memory":
        return size(old) == size(new)
    if key.startswith(TRIAL_GROUPS):
        domain = read_sweep(old, key)
        return domain is not None and domain == read_sweep(new, key)
    return False


def _longer(key: str, old: Any, new: Any, objective: Objective) -> bool:
    if key not in _BUDGET or old is None:
        return False
    if new is None:
        return True
    if key == "search.time_budget":
        return seconds(new) >= seconds(old)
    return bool(objective.reached(new, old) if key == "search.target" else new >= old)


def _with_longer_budget(config: Mapping[str, Any], last: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config with the budget of the last session where it has that of the first one, which was too short."""
    new: dict[str, Any] = json.loads(json.dumps(config))
    for key in (key.partition(".")[2] for key in _BUDGET):
        if new["search"].get(key) == first["search"].get(key):
            new["search"][key] = last["search"].get(key)
    return new


def _overridden(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed = config
    known = flat(config)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"resume: {override}: write KEY=VALUE, such as search.max_trials=40")
        if larger_space.is_searched(config, key):
            changed = replaced(changed, key, text)
            continue
        if key == _NAME:
            raise UserError(f"resume: {override}: a sweep keeps its name")
        if key == "workers":
            # The only group whose options fit any sweep: where it runs changes no result.
            options = compose.defaults((override,))["workers"]
            changed = {**changed, "workers": {k: changed["workers"].get(k, v) for k, v in options.items()}}
            changed["workers"]["engine"] = options["engine"]
            known = flat(changed)
            continue
        if isinstance(config.get(key), Mapping):
            raise UserError(
                f"resume: {override}: a group cannot be changed; start a new sweep, or change single values"
            )
        if key not in known:
            raise UserError(f"resume: {unknown_key(key, known)}")
        changed = replaced(changed, key, _value(key, text))
    check_settings(changed)
    return changed


def _value(key: str, text: str) -> Any:
    if key in _TEXTS:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return None if text == "null" else text[1:-1] if quoted else text
    # What is searched cannot be replaced by one value, or by others.
    return text if key.startswith(TRIAL_GROUPS) and looks_like_sweep(text) else parse_value(text, key)
