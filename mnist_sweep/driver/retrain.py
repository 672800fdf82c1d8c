"""`python -m mnist_sweep retrain`: trains a trial's hyperparameter values once more, longer or on more images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.secrets import hide
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import flat
from mnist_sweep.config import compose
from mnist_sweep.config.grammar import parse_value
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import TRIAL_GROUPS, check_settings
from mnist_sweep.driver import launch
from mnist_sweep.driver.plan import prepare
from mnist_sweep.driver.summary import Say
from mnist_sweep.journal.folders import SWEEPS, retraining
from mnist_sweep.journal.trial import Retrains
from mnist_sweep.results.models.model_run import ModelRun, find_trial
from mnist_sweep.results.runs.find import find_sweep, local_folder

# What decides the result besides the trial's groups.
_SHARED = ("data", "seed", "objective", "limits")
_ALLOWED = (*TRIAL_GROUPS, *_SHARED, "workers", "description")
_PATIENCE = ("training", "early_stopping", "patience")


def retrain(
    what: str | None,
    trial: int | None,
    overrides: Sequence[str],
    tracking_uri: str | None,
    console: Console,
    *,
    test: bool = False,
    register: bool = False,
    champion: bool = False,
) -> int:
    """Trains a trial's hyperparameter values from the start, as a run of its own in a folder of its own.

    Args:
        what: The trial, as for `find_trial`.
        trial: As for `find_trial`.
        overrides: What is different from the trial, as `KEY=VALUE`.
        tracking_uri: The store, as for `load_runs`. The run is logged there.
        console: Where to print.
        test: Whether to test the model on the test images.
        register: Whether to register the model.
        champion: Whether to register it and to make it the champion.

    Returns:
        The exit code, as that of `launch.run`.

    Raises:
        UserError: The trial does not exist, or a value cannot be changed or is invalid.
    """
    found, say = find_trial(what, trial, tracking_uri), line_printer(console)
    before = _config_of(found)
    config = changed(before, overrides, found.run.data.metrics.get("best_epoch"), say)
    config["tracking"] |= {"uri": found.client.tracking_uri, "register": register or champion}
    differences = _differences(before, config, found)
    if config["description"] == before["description"]:
        what_changed = ", ".join(f"{key}={value}" for key, value in differences.items()) or "nothing changed"
        config["description"] = f"Retrains trial {found.trial} of {found.sweep}: {what_changed}."
    check(config)
    hide(config["tracking"]["uri"])
    retrains = Retrains(found.sweep, found.trial, found.run.info.run_id, differences, test, champion)
    claim = retraining(local_folder(what, found.sweep) or SWEEPS / found.sweep, found.trial)
    try:
        return launch.run(config, claim.folder, console, retrains=retrains)
    finally:
        claim.give_up()


def _config_of(found: ModelRun) -> dict[str, Any]:
    """Returns the config of a run of one trial, as its sweep trained it."""
    parent = find_sweep(found.sweep, found.client.tracking_uri).parent
    with tempfile.TemporaryDirectory() as folder:
        sweep = ModelRun(found.client, parent).config(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        trial = found.config(Path(folder), ("model", "training"))
    # A sweep of an early version lacks some keys.
    config = {**compose.defaults(("search=none",)), **{key: sweep[key] for key in sweep if key != "search"}}
    # A hypermodel has its own optimizer.
    config |= {group: trial[group] for group in TRIAL_GROUPS if trial.get(group) is not None}
    # One model is trained, on one seed, and validated on images that are held out.
    config |= {"confirm": None, "repeats": 1, "validation": "holdout"}
    return {key: value for key, value in config.items() if key != "resume"}


def changed(config: Mapping[str, Any], overrides: Sequence[str], best_epoch: float | None, say: Say) -> dict[str, Any]:
    """Returns a trial's config with what the user changes, and with what follows from that.

    Args:
        config: The config of a run of one trial.
        overrides: What is different, as `KEY=VALUE`.
        best_epoch: The trial's best epoch, if it is known.
        say: Prints what follows.

    Raises:
        UserError: A key cannot be changed, or its value cannot be read.
    """
    new: dict[str, Any] = json.loads(json.dumps(config))
    given = [_apply(new, override) for override in overrides]
    if "seed" in given and "training.seed" not in given:
        new["training"]["seed"] = new["seed"]
    objectives = Objective.parse_all(new["objective"])
    validated = [o for o in objectives if o.name.startswith("val_")]
    if new["data"]["validation_split"] == 0 and validated and "objective" not in given:
        others = [f"{o.name} {o.direction}" for o in objectives if o not in validated]
        new["objective"] = ["loss min", *(text for text in others if not text.startswith("loss "))]
        new["objective"] = new["objective"] if len(new["objective"]) > 1 else "loss min"
        _without_validation(new, given, best_epoch, say)
    return new


def _without_validation(config: dict[str, Any], given: Sequence[str], best_epoch: float | None, say: Say) -> None:
    """Sets how long to train where no validation image shows when to stop."""
    training = config["training"]
    if training["early_stopping"]["patience"] is not None and ".".join(_PATIENCE) not in given:
        training["early_stopping"]["patience"] = None
        say("Without validation images there is no early stopping.")
    if "training.epochs" not in given and best_epoch is not None:
        training["epochs"] = int(best_epoch)
        say(f"Without validation images nothing shows when to stop: it trains for {int(best_epoch)}, the trial's best.")
    say("The model of the epoch with the lowest training loss is kept, usually the last one.")


def _apply(config: dict[str, Any], override: str) -> str:
    """Sets the value of an override, and returns its key."""
    key, equals, text = override.lstrip("+").partition("=")
    top, *path = key.split(".")
    if not equals or top not in _ALLOWED:
        known = did_you_mean(top, _ALLOWED)
        raise UserError(f"retrain: {override}: only keys of {', '.join(_ALLOWED)} can be changed{known}")
    if key == "data":
        # The only group whose options fit any trial.
        config["data"] = compose.defaults((override,))["data"]
        return key
    if not path and isinstance(config[top], dict):
        raise UserError(f"retrain: {override}: write the keys of {key} that are different, such as {_example(key)}")
    value, node = parse_value(text, key), config
    for part in [top, *path][:-1]:
        # What is unknown is reported by the check of the whole config.
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"retrain: {override}: {part} is a value, not a group")
    node[key.rpartition(".")[2]] = value
    return key


def _example(group: str) -> str:
    return {"training": "training.epochs=50", "optimizer": "optimizer.name=sgd"}.get(group, f"{group}.KEY=VALUE")


def check(config: Mapping[str, Any]) -> None:
    """Checks a config of one trial before anything starts.

    Raises:
        UserError: A value is invalid, or is a sweep.
    """
    settings = check_settings(config)
    if settings.trial["model"].get("hypermodel") is None:
        _, space, _ = prepare(dict(config))
        for name, domain in space.describe().items():
            raise UserError(f"retrain: {name}={domain}: must be a single value")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], found: ModelRun) -> dict[str, str]:
    """Returns the values that are not those of the trial, as `Retrains.changed` has them."""
    searched = find_sweep(found.sweep, found.client.tracking_uri).space
    keys = (*TRIAL_GROUPS, *_SHARED)
    old, new = (flat({key: config[key] for key in keys}) for config in (before, now))
    return {
        key: f"{new.get(key)} (was {old.get(key)}{', which was searched' if key in searched else ''})"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }
