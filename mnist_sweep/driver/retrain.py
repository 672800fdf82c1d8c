"""`python -m mnist_sweep retrain`: trains a trial's hyperparameter values once more, longer or on more images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import hide
from mnist_sweep.common.tables import line_printer
from mnist_sweep.common.text import counted, flat
from mnist_sweep.config import compose, shipped
from mnist_sweep.config.grammar import Choice, looks_like_sweep, parse_value
from mnist_sweep.config.key_names import nested_keys, unknown_key
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.shipped import TRIAL_GROUPS
from mnist_sweep.config.space import Space
from mnist_sweep.config.unused import refuse_unused
from mnist_sweep.driver import launch
from mnist_sweep.driver.plan import prepare
from mnist_sweep.journal.folders import SWEEPS, retraining
from mnist_sweep.journal.trial import Retrains
from mnist_sweep.results.models.model_run import ModelRun, find_trial
from mnist_sweep.results.runs.find import SweepRuns, find_sweep
from mnist_sweep.results.runs.local import local_folder
from mnist_sweep.tracking.tags import TAG_GOES_ON_FROM

_ALLOWED = (*TRIAL_GROUPS, "data", "seed", "objective", "limits", "workers", "description")
# What decides the result.
_COMPARED = (*TRIAL_GROUPS, "data", "seed", "objective", "validation", "repeats")
_EXAMPLES = {
    "model": "model.units=64",
    "optimizer": "optimizer.name=sgd",
    "training": "training.epochs=50",
    "limits": "limits.memory=2GB",
    "workers": "workers.devices=cpu",
}
# Keys that name the images, not only how they are split.
_DATA = ("data", "data.name", "data.path", "data.fallback")


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
    sweep, tags = find_sweep(found.sweep, found.client.tracking_uri), found.run.data.tags
    before = _config_of(found, sweep)
    config, notes = changed(before, overrides, found.run.data.metrics.get("best_epoch"))
    if TAG_GOES_ON_FROM in tags:
        notes.insert(
            0, f"The trial continued from the weights of {tags[TAG_GOES_ON_FROM]}; now it is trained from the start."
        )
    config["tracking"] |= {"uri": found.client.tracking_uri, "register": register or champion}
    differences = _differences(before, config, sweep)
    if config["description"] == before["description"]:
        what_changed = ", ".join(f"{key} = {text}" for key, text in differences.items()) or "nothing changed"
        config["description"] = f"Retrains trial {found.trial} of {found.sweep}: {what_changed}."
    check(config)
    hide(config["tracking"]["uri"])
    digest = "" if any(text.partition("=")[0] in _DATA for text in overrides) else tags.get("data.digest", "")
    retrains = Retrains(found.sweep, found.trial, found.run.info.run_id, digest, differences, test, champion)
    claim = retraining(local_folder(what, found.sweep) or SWEEPS / found.sweep, found.trial)
    for note in notes:
        say(note)
    try:
        found.fetch_code(config, claim.folder)
        return launch.run(config, claim.folder, console, retrains=retrains)
    finally:
        claim.give_up()


def _config_of(found: ModelRun, sweep: SweepRuns) -> dict[str, Any]:
    """Returns the config of a sweep with the values of one of its trials, and without a search."""
    with tempfile.TemporaryDirectory() as folder:
        shared = ModelRun(found.client, sweep.parent).config(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        trial = found.config(Path(folder), ("model", "training"))
    # A sweep of an early version lacks some keys, and a hypermodel has its own optimizer.
    config = compose.defaults(("search=none",))
    config |= {key: value for key, value in shared.items() if key != "search"}
    config |= {group: _fixed(trial[group]) for group in TRIAL_GROUPS if trial.get(group) is not None}
    # Only the first objective matters to a single training: it decides which epoch is the best.
    first = Objective.parse_all(config["objective"])[0]
    config["objective"] = f"{first.name} {first.direction}"
    # The trial's config has the values that follow from them.
    config["conditions"] = {}
    return {key: value for key, value in config.items() if key != "resume"}


def _fixed(node: Any) -> Any:
    """Returns a part of a trial's config as the config of a sweep has it: a text such as `a,b` is not a sweep."""
    if isinstance(node, dict):
        return {key: _fixed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_fixed(value) for value in node]
    return str(Choice((node,))) if isinstance(node, str) and looks_like_sweep(node) else node


def changed(
    config: Mapping[str, Any], overrides: Sequence[str], best_epoch: float | None
) -> tuple[dict[str, Any], list[str]]:
    """Changes a trial's config as the user says, and what follows from that.

    Args:
        config: The config of a sweep, with the values of one of its trials.
        overrides: What is different, as `KEY=VALUE`.
        best_epoch: The trial's best epoch, if it is known.

    Returns:
        The config of one training, and what the user must know about it, in lines.

    Raises:
        UserError: A key cannot be changed, or its value cannot be read.
    """
    new: dict[str, Any] = json.loads(json.dumps(config))
    new |= {"confirm": None, "repeats": 1, "validation": "holdout", "folds": shipped.values("config")["folds"]}
    given = [_apply(new, override) for override in overrides]
    try:
        refuse_unused(new)
    except UserError as error:
        # What the sweep did not use either is not the user's concern now.
        if str(error).partition("=")[0] in given:
            raise
    if "seed" in given and "training.seed" not in given:
        new["training"]["seed"] = new["seed"]
    validates = new["data"]["validation_split"] != 0 or not str(new["objective"]).startswith("val_")
    if validates or "objective" in given:
        return new, []
    new["objective"], training, notes = "loss min", new["training"], []
    if training["early_stopping"]["patience"] is not None and "training.early_stopping.patience" not in given:
        training["early_stopping"]["patience"] = None
        notes.append("There is no early stopping without validation data.")
    if "training.epochs" not in given and best_epoch is not None:
        training["epochs"] = int(best_epoch)
        epochs = counted(int(best_epoch), "epoch")
        notes.append(f"It trains for {epochs}, up to the trial's best epoch; training.epochs=N changes that.")
    return new, [
        *notes,
        "It keeps the model of the epoch with the lowest training loss, which is usually the last one.",
    ]


def _apply(config: dict[str, Any], override: str) -> str:
    """Sets the value of an override, and returns its key."""
    key, equals, text = override.lstrip("+").partition("=")
    top, *path = key.split(".")
    if not equals:
        raise UserError(f"retrain: {override}: write KEY=VALUE")
    if top not in config:
        raise UserError(unknown_key(key, nested_keys({group: config[group] for group in _ALLOWED})))
    if top not in _ALLOWED:
        raise UserError(f"retrain: {override}: cannot be changed; keys of {', '.join(_ALLOWED)} can")
    if key in ("data", "workers"):
        # The only groups whose options fit any trial.
        config[key] = compose.defaults((override,))[key]
        return key
    if not path and isinstance(config[top], dict):
        raise UserError(f"retrain: {override}: {key} is a group; name the keys that change, such as {_EXAMPLES[key]}")
    value, node = parse_value(text, key), config
    for part in [top, *path][:-1]:
        # A key that does not exist is reported by the check of the whole config.
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"retrain: {override}: {part} is a value, not a group")
    node[key.rpartition(".")[2]] = value
    return key


def check(config: Mapping[str, Any]) -> None:
    """Checks a config of one training before anything starts.

    Raises:
        UserError: A value is invalid, or is a sweep.
    """
    trial = check_settings(config).trial
    for hyperparameter in Space(trial).hyperparameters:
        if hyperparameter.domain.size != 1:
            raise UserError(f"retrain: {hyperparameter.name}={hyperparameter.domain}: must be a single value")
    if trial["model"].get("hypermodel") is None:
        prepare(dict(config))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], sweep: SweepRuns) -> dict[str, str]:
    """Returns the values that are not those of the trial, as `Retrains.changed` has them."""
    old, new = (flat({key: config[key] for key in _COMPARED}) for config in (before, now))
    return {
        key: f"{new.get(key)} (was {old.get(key)}{', which was searched' if key in sweep.space else ''})"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }
