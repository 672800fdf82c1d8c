"""What a search is given to begin with: settings to try first, and the trials of earlier sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.text import first_line
from mnist_sweep.config import keras_names
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.settings import Objective, Settings
from mnist_sweep.config.space import Hyperparameter, Space, Values, identity
from mnist_sweep.config.trial_config import LAYERED, check_trial
from mnist_sweep.journal import journal
from mnist_sweep.journal.trial import Outcome, Status, SweepStarted, Trial, TrialEnded, TrialStarted

_RATE, _OPTIMIZER = "optimizer.learning_rate", "optimizer.name"
# What may differ between trials whose scores are compared: luck, how long they train, and how fast.
_SPEED = ("steps_per_execution", "validation_batch_size", "jit_compile", "backend")
_MAY_DIFFER = ("seed", "epochs", "early_stopping", *_SPEED)
_MISSING = object()


# ---- settings to try first --------------------------------------------------------------------------------------


def enqueued(settings: Settings, space: Space, baseline: Mapping[str, Any] | None) -> list[Values]:
    """The settings of `search.enqueue`.

    Args:
        settings: The sweep's config.
        space: Its search space.
        baseline: The values that stand in `conf/`: the groups model, optimizer and training, all plain.

    Returns:
        A value for every active hyperparameter of each setting, none twice. `default` is the baseline's setting; it is
        left out where any of its values lies outside the space. What another item does not give is the baseline's, or
        else, where that lies outside, the middle of an interval, the first of a choice.

    Raises:
        UserError: An item names what is not searched, or gives it a value that is not in its domain.
    """
    found: dict[str, Values] = {}
    for item in settings.search.enqueue:
        values = _default(settings, space, baseline) if item == "default" else _given(item, settings, space, baseline)
        if values is not None:
            found.setdefault(identity(values), values)
    return list(found.values())


def _default(settings: Settings, space: Space, baseline: Mapping[str, Any] | None) -> Values | None:
    def pick(hyperparameter: Hyperparameter, values: Values) -> Any:  # noqa: ANN401
        return _inside(hyperparameter.domain, _plain(baseline or {}, hyperparameter.name, values, settings))

    values = _filled(space, pick)
    return None if _MISSING in values.values() else values


def _given(item: Mapping[str, Any], settings: Settings, space: Space, baseline: Mapping[str, Any] | None) -> Values:
    given = dict(_flat(item, "", [h.name for h in space.hyperparameters]))

    def pick(hyperparameter: Hyperparameter, values: Values) -> Any:  # noqa: ANN401
        name, domain = hyperparameter.name, hyperparameter.domain
        if name in given:
            value = _inside(domain, _plain(given, name, values, settings))
            if value is _MISSING:
                raise UserError(f"search.enqueue: {name}={given[name]}: lies outside {domain}; give a value inside")
            return value
        value = _inside(domain, _plain(baseline or {}, name, values, settings))
        return _middle(domain) if value is _MISSING else value

    return _filled(space, pick)


def _filled(space: Space, pick: Callable[[Hyperparameter, Values], Any]) -> Values:
    """A value for every active hyperparameter, in the space's order."""
    values: Values = {}
    # Keras's own learning rate depends on the optimizer.
    for hyperparameter in sorted(space.hyperparameters, key=lambda h: h.name == _RATE):
        if hyperparameter.active(values):
            values[hyperparameter.name] = pick(hyperparameter, values)
    return {h.name: values[h.name] for h in space.hyperparameters if h.name in values}


def _flat(item: Mapping[str, Any], prefix: str, known: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The hyperparameters that an item names, dotted or in groups, all layers at once or each apart."""
    for key, value in item.items():
        name = f"{prefix}{key}"
        layers = [hp for hp in known if hp.startswith(f"{name}.") and hp.removeprefix(f"{name}.").isdigit()]
        if name in known:
            yield name, value
        elif layers:
            each = [(layer, _at(value, layer.removeprefix(f"{name}."))) for layer in layers]
            yield from ((layer, at) for layer, at in each if at is not _MISSING)
        elif isinstance(value, Mapping) and any(hp.startswith(f"{name}.") for hp in known):
            yield from _flat(value, f"{name}.", known)
        else:
            raise UserError(f"search.enqueue: {name}={value}: {name} is not searched{did_you_mean(name, known)}")


def _plain(config: Mapping[str, Any], name: str, values: Values, settings: Settings) -> Any:  # noqa: ANN401
    """The value at a key, where `learning_rate: null` is Keras's own for the optimizer."""
    value = _at(config, name)
    if name == _RATE and value is None:
        optimizer = values.get(_OPTIMIZER, settings.trial["optimizer"]["name"])
        return keras_names.default_learning_rate(str(optimizer).lower())
    return value


def _middle(domain: Choice | Interval) -> Any:  # noqa: ANN401
    if isinstance(domain, Choice):
        return domain.options[0]
    return domain.clamp(math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2)


def _at(node: Any, name: str) -> Any:  # noqa: ANN401
    """The value at a dotted key; one value for all layers is each layer's."""
    if isinstance(node, Mapping):
        path = _path(node, name)
        return _MISSING if path is None else _at(node[path[0]], path[1]) if path[1] else node[path[0]]
    if not name.isdigit():
        return _MISSING
    if isinstance(node, list):
        return node[int(name) - 1] if 0 < int(name) <= len(node) else _MISSING
    return node


def _path(node: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """A dotted key's first part and the rest: a key may have dots itself, as those of hypermodels do."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        if ".".join(parts[:i]) in node:
            return ".".join(parts[:i]), ".".join(parts[i:])
    return None


def _inside(domain: Choice | Interval, value: Any) -> Any:  # noqa: ANN401
    """The domain's own value that is meant, such as 0.0 for 0; `_MISSING` where there is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(domain, Interval):
        fits = number and domain.low <= value <= domain.high and not (domain.integer and value != round(value))
        return domain.clamp(value) if fits else _MISSING
    if value is _MISSING:
        return _MISSING
    same = [o for o in domain.options if identity({"": o}) == identity({"": value})]
    if number:
        same += [o for o in domain.options if type(o) in (int, float) and o == value]
    return next(iter(same), _MISSING)


# ---- earlier sweeps ---------------------------------------------------------------------------------------------


def earlier(settings: Settings, space: Space, digest: str, find: Callable[[str], Path]) -> list[dict[str, Any]]:
    """The trials of `search.warm_start` that a search can learn from.

    Args:
        settings: The sweep's config.
        space: Its search space.
        digest: Of its data.
        find: Finds a sweep's folder by its name; raises `UserError` where there is none.

    Returns:
        `sweep`, `trial`, `values` (a value for every active hyperparameter of this space) and `scores` (one for each
        objective) of every trial that has all scores and whose config lies in this space. Seeds, epochs and what only
        changes the speed may differ; of trials that went on from one another, the last is taken.

    Raises:
        UserError: There is no such sweep, or it was run on other data.
    """
    found: list[dict[str, Any]] = []
    for sweep in settings.search.warm_start:
        try:
            folder = find(sweep)
        except UserError:
            raise UserError(f"search.warm_start={sweep}: there is no such sweep; write NAME/TIME") from None
        started, trials, outcomes = _read(folder)
        try:
            there = None if started is None else (started.data["name"], started.data["digest"])
            objectives = () if started is None else _objectives(started)
        except (KeyError, TypeError, IndexError, AttributeError, UserError) as error:
            raise UserError(f"search.warm_start={sweep}: its first event is damaged ({first_line(error)})") from None
        if started is None or there is None or there[1] != digest:
            other = "nothing" if there is None else f"{there[0]} ({there[1]})"
            raise UserError(
                f"search.warm_start={sweep}: was run on {other}, this sweep's data is another ({digest}); "
                "scores on different data cannot be compared"
            )
        went_on = {trials[number].parent for number in outcomes if outcomes[number].score is not None}
        for number, outcome in outcomes.items():
            trial = trials[number]
            scores = _scores(outcome, objectives, settings.objectives)
            if scores is None or trial.confirms is not None or number in went_on:
                continue
            values = _projected(trial.config, space)
            if values is not None:
                found.append({"sweep": started.sweep, "trial": number, "values": values, "scores": list(scores)})
    return found


def _read(folder: Path) -> tuple[SweepStarted | None, dict[int, Trial], dict[int, Outcome]]:
    """The start, the trials, and the outcomes of those that ended."""
    started: SweepStarted | None = None
    trials: dict[int, Trial] = {}
    outcomes: dict[int, Outcome] = {}
    for event in journal.read(folder):
        if isinstance(event, SweepStarted):
            started = event
        elif isinstance(event, TrialStarted):
            trials[event.trial.number] = event.trial
        elif isinstance(event, TrialEnded) and event.trial in trials:
            outcomes[event.trial] = event.outcome
    return started, trials, outcomes


def _objectives(started: SweepStarted) -> tuple[Objective, ...]:
    written = started.config["objective"]
    return tuple(Objective.parse(text) for text in ([written] if isinstance(written, str) else written))


def _scores(outcome: Outcome, theirs: tuple[Objective, ...], ours: tuple[Objective, ...]) -> tuple[float, ...] | None:
    if outcome.status in (Status.FAILED, Status.REFUSED) or outcome.score is None:
        return None
    metrics = {"parameters": outcome.parameters, **outcome.metrics, theirs[0].name: outcome.score}
    scores = [metrics.get(objective.name) for objective in ours]
    known = [float(score) for score in scores if score is not None and math.isfinite(score)]
    return tuple(known) if len(known) == len(ours) else None


def _projected(config: Mapping[str, Any], space: Space) -> Values | None:
    """The setting of a space that is a trial's config; None where there is none."""
    values: Values = {}
    for hyperparameter in space.hyperparameters:
        if hyperparameter.active(values):
            raw = _at(config, hyperparameter.name)
            value = _inside(hyperparameter.domain, raw)
            if value is _MISSING and isinstance(raw, list) and raw and all(r == raw[0] for r in raw):
                value = _inside(hyperparameter.domain, raw[0])
            if value is _MISSING:
                return None
            values[hyperparameter.name] = value
    try:
        here = check_trial(space.config(values)).model_dump(mode="json")
        there = check_trial(config).model_dump(mode="json")
    except UserError:
        return None
    for name in space.inactive(values):
        _forget(here, name)
        _forget(there, name)
    return values if _compared(here) == _compared(there) else None


def _compared(config: Mapping[str, Any]) -> str:
    """What decides on a trial's score, in one form: fields of layers as lists of as many values as there are layers."""
    training = {key: value for key, value in config["training"].items() if key not in _MAY_DIFFER}
    return identity({**config, "model": _expanded(config["model"]), "training": training})


def _expanded(node: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.items():
        count = node.get(LAYERED[key]) if key in LAYERED else None
        if isinstance(value, Mapping):
            result[key] = _expanded(value)
        elif type(count) is int:
            result[key] = (list(value) if isinstance(value, list) else [value] * count)[:count]
        else:
            result[key] = value
    return result


def _forget(node: Any, name: str) -> None:  # noqa: ANN401
    """Takes the value at a dotted key away, where there is one."""
    path = _path(node, name) if isinstance(node, dict) else None
    if path is not None and path[1]:
        _forget(node[path[0]], path[1])
    elif path is not None:
        del node[path[0]]
