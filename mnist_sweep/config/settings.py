"""The typed config of a sweep: data, search, workers, tracking and the objective."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config import backend, shipped
from mnist_sweep.config.augment import NONE as NO_AUGMENTATION
from mnist_sweep.config.checks import Strict, as_written, check
from mnist_sweep.config.condition_text import Written, read_conditions
from mnist_sweep.config.data_config import Columns, DataConfig, check_data
from mnist_sweep.config.key_names import nested_keys, unknown_key
from mnist_sweep.config.objective import AUTO, METRICS, SUMMARIES, Objective, direction_of
from mnist_sweep.config.search_config import SEARCHES, CustomSearch, SearchConfig
from mnist_sweep.config.shipped import SEARCHED, TRIAL_GROUPS
from mnist_sweep.config.task import CLASSIFICATION, kind_of, logged_metrics, objective_of
from mnist_sweep.config.trial_config import Count
from mnist_sweep.config.units import Duration, Size

# Metrics that only a mistake would optimize in the other direction.
_LEARNED = ("accuracy", "loss", "val_accuracy", "val_loss")


def is_name(text: str) -> bool:
    """Returns whether a text can be the name of a sweep, which is also that of a folder."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) is not None


class WorkersConfig(Strict):
    """Where trials run."""

    devices: Literal["auto", "cpu", "gpu"]
    count: Count | None
    threads: Count | None
    trials_per_gpu: Literal["auto"] | Count
    retries: Annotated[int, Field(ge=0)]
    timeout: Duration | None
    checkpoint_every: Duration
    recycle_after: Literal["auto"] | Count
    # A default for old sweeps, which lack this key.
    engine: Literal["local", "ray"] = "local"
    # How long to wait for nodes when there is no slot; slots of this machine do not come back.
    wait: Duration | None = None


class RayConfig(WorkersConfig):
    """Where trials run if that is a Ray cluster."""

    address: Annotated[str, Field(pattern=r"^(auto|[^/:\s]+:\d+|\[[0-9a-fA-F:]+\]:\d+)$")] | None
    max_slots: Count | None
    inline: Size
    storage: str | None

    @model_validator(mode="after")
    def _shares_no_gpu_automatically(self) -> RayConfig:
        if self.trials_per_gpu == "auto":
            raise ValueError(".trials_per_gpu=auto: measures on this machine only; with workers=ray, write a number")
        return self


class TrackingConfig(Strict):
    """Where runs are logged."""

    uri: str
    artifacts: str
    keep_models: Literal["all", "best"] | Count
    # Defaults for old sweeps, which lack these keys; a field named `register` would hide a method of pydantic's.
    report: bool = True
    register_winner: Annotated[bool, Field(alias="register")] = True
    system_metrics: Duration | None = None


class ConfirmConfig(Strict):
    """How the best trials are retrained on new seeds to confirm the winner."""

    top: Count
    seeds: Annotated[int, Field(ge=2, le=100)]


class LimitsConfig(Strict):
    """The most that a trial's model may need."""

    parameters: Annotated[int, Field(ge=1)] | None
    memory: Size | None


@dataclass(frozen=True)
class Settings:
    """A sweep's config, with everything checked that cannot be searched.

    Attributes:
        name: The MLflow experiment and the folder under `experiments/`.
        description: A line on the purpose of the sweep.
        seed: The seed of the validation split.
        objectives: What the sweep optimizes; the first one decides a trial's best epoch.
        validation: Whether a trial is scored on held-out images or by cross-validation.
        folds: The number of folds in cross-validation.
        repeats: The number of seeds to train each trial on.
        confirm: How the best trials are retrained to confirm the winner; None to skip that.
        limits: The most that a trial's model may need.
        data: Which data to train on.
        search: The algorithm and its budget.
        workers: Where trials run.
        tracking: Where runs are logged.
        trial: The groups of `TRIAL_GROUPS`, possibly with sweeps.
        conditions: When hyperparameters are searched, by key; None in sweeps of versions without conditions.
        notify: The services that get messages, with their secrets hidden; see `config/services.py`.
    """

    name: str
    description: str | None
    seed: int
    objectives: tuple[Objective, ...]
    validation: Literal["holdout", "kfold"]
    folds: int
    repeats: int
    confirm: ConfirmConfig | None
    limits: LimitsConfig
    data: DataConfig
    search: SearchConfig
    workers: WorkersConfig
    tracking: TrackingConfig
    trial: dict[str, Any]
    conditions: dict[str, Written] | None
    notify: tuple[str, ...] = ()

    @property
    def objective(self) -> Objective:
        """The first objective, which is known at every epoch."""
        return self.objectives[0]


class _Top(Strict):
    name: str
    description: str | None
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    objective: str | list[str]
    validation: Literal["holdout", "kfold"]
    folds: Annotated[int, Field(ge=2, le=100)]
    repeats: Annotated[int, Field(ge=1, le=100)]
    confirm: dict[str, Any] | None
    limits: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    training: dict[str, Any]
    # Defaults for old sweeps, which lack these keys.
    task: dict[str, Any] = CLASSIFICATION.model_dump()
    augment: dict[str, Any] = NO_AUGMENTATION.model_dump()
    search: dict[str, Any]
    workers: dict[str, Any]
    tracking: dict[str, Any]
    # A default for old sweeps, which lack this key.
    conditions: dict[str, Any] | None = None
    # A default for old sweeps, which lack this key.
    notify: list[str] | str | None = None
    # Not stored with a sweep.
    resume: Literal["auto"] | None = None


def check_settings(raw: Mapping[str, Any]) -> Settings:
    """Checks a config, except for the groups that may be searched.

    Args:
        raw: The config as Hydra composed it, resolved.

    Raises:
        UserError: A key is unknown or missing, a value has the wrong type or is out of range, or a value that cannot
            be searched is a sweep.
    """
    # Groups last: `search.seed` has the value of `seed`, which the user wrote.
    for key in sorted(set(_Top.model_fields) & set(raw), key=lambda key: isinstance(raw[key], Mapping)):
        if key not in (*TRIAL_GROUPS, "conditions", "resume"):
            _refuse_sweeps(raw[key], key)
    for key in raw:
        if key == "experiment":
            raise UserError("experiment: its file in conf/experiment/ must start with the line # @package _global_")
        if key not in _Top.model_fields:
            others = {name: value for name, value in raw.items() if name != key}
            raise UserError(unknown_key(key, ["+experiment", *nested_keys(others)]))
    for group in (*TRIAL_GROUPS, "data", "search", "workers", "tracking"):
        if isinstance(option := raw.get(group), str):
            raise UserError(
                f"{group}={option}: must be a group of keys; to choose {option} in an experiment file, write "
                f"'- override /{group}: {option}' under defaults"
            )
    top = check(_Top, raw)
    if not is_name(top.name):
        raise UserError(f"name={top.name}: use only letters, digits, _, - and ., because it names a folder")
    settings = Settings(
        name=top.name,
        description=top.description,
        seed=top.seed,
        objectives=_objectives(top.objective, top.model, top.task),
        validation=top.validation,
        folds=top.folds,
        repeats=top.repeats,
        confirm=None if top.confirm is None else check(ConfirmConfig, top.confirm, "confirm."),
        limits=check(LimitsConfig, top.limits, "limits."),
        data=check_data(top.data),
        search=check(_algorithm(top.search), _with_budget(top.search, top.seed), "search."),
        workers=check(RayConfig if top.workers.get("engine") == "ray" else WorkersConfig, top.workers, "workers."),
        tracking=check(TrackingConfig, top.tracking, "tracking."),
        trial={group: json.loads(json.dumps(getattr(top, group))) for group in TRIAL_GROUPS},
        conditions=None if top.conditions is None else read_conditions(top.conditions),
        notify=(top.notify,) if isinstance(top.notify, str) else tuple(top.notify or ()),
    )
    if settings.validation == "kfold" and isinstance(settings.data, Columns) and settings.data.time is not None:
        raise UserError(
            f"validation=kfold: would train on rows that are later than those to validate on, as data.time="
            f"{settings.data.time} orders them; write validation=holdout"
        )
    _check_backend(settings.trial["training"])
    holdout = settings.validation == "holdout"
    if holdout and settings.objective.name.startswith("val_") and settings.data.validation_split == 0:
        raise UserError(
            f"objective={settings.objective.name}: there are no validation data; set data.validation_split above 0"
        )
    return settings


def _check_backend(training: Mapping[str, Any]) -> None:
    name = training.get("backend", backend.DEFAULT)
    if isinstance(name, str) and _is_sweep(name, "training.backend"):
        raise UserError(
            f"training.backend={name}: all trials of a sweep use the same backend; "
            "run one sweep per backend with -m training.backend=tensorflow,jax"
        )
    if name not in (*backend.ALL, backend.AUTO):
        raise UserError(f"training.backend={as_written(name)}: must be 'auto', 'tensorflow' or 'jax'")


def _with_budget(search: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """Adds the defaults of the budget, which a custom search may leave out."""
    if "_target_" not in search:
        return search
    # A custom search suggests its first trial itself, unless `enqueue` is set.
    return {**shipped.values("search/base/budget"), "seed": seed, "enqueue": [], **search}


def _algorithm(search: Mapping[str, Any]) -> type[SearchConfig]:
    if "_target_" in search:
        return CustomSearch
    if "algorithm" not in search:
        raise UserError("search.algorithm: this key is missing")
    algorithm = search["algorithm"]
    if not isinstance(algorithm, str) or algorithm not in SEARCHES:
        raise UserError(
            f"search.algorithm={as_written(algorithm)}: no such algorithm{did_you_mean(str(algorithm), SEARCHES)}"
        )
    fields = SEARCHES[algorithm].model_fields
    missing = [name for name, field in fields.items() if field.is_required() and name not in search]
    if missing and set(search) <= fields.keys():
        raise UserError(
            f"search.{missing[0]}: this key is missing; search={algorithm} brings it, or in an experiment file "
            f"'- override /search: {algorithm}' under defaults"
        )
    return SEARCHES[algorithm]


def _objectives(written: str | list[str], model: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[Objective, ...]:
    written = objective_of(written, task)
    metrics = logged_metrics(task)
    # What a user's model logs may be known only when it is built.
    waits = model.get("hypermodel") is not None or (model.get("builder") is not None and kind_of(task) == AUTO)
    if not waits and metrics is not None:
        of_task = [f"{prefix}{name}" for name in metrics for prefix in ("", "val_")]
        known = [*of_task, *METRICS, *SUMMARIES]
        for text in [written] if isinstance(written, str) else written:
            if "," in text:
                # Refused below.
                continue
            name = re.sub(r" +(max|min)?$", "", text.strip())
            if name not in known and name.partition(" ")[0] not in known:
                raise UserError(f"objective={name}: no such metric is logged{did_you_mean(name, known)}")
    objectives = Objective.parse_all(written)
    if not objectives:
        raise UserError("objective=[]: give at least one metric, such as 'val_accuracy max'")
    for objective in objectives:
        better = direction_of(objective.name)
        if objective.name in _LEARNED and better != objective.direction:
            raise UserError(
                f"objective={objective.name} {objective.direction}: a good model has a "
                f"{'high' if better == 'max' else 'low'} {objective.name}; write {objective.name} {better}"
            )
    names = [objective.name for objective in objectives]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"objective={name}: is listed twice")
    if names[0] in SUMMARIES:
        raise UserError(
            f"objective={names[0]}: is known only at the end of a trial; put a metric of every epoch first, "
            f"'objective=[val_accuracy max, {names[0]} min]'"
        )
    return objectives


# Free text, which may contain commas.
FREE_TEXTS = {
    "name",
    "description",
    "objective",
    "notify",
    "data.path",
    "data.loader",
    "data.target",
    "data.features",
    "data.drop",
    "data.categories",
    "data.text",
    "data.group",
    "data.time",
    "data.test_path",
    "tracking.uri",
    "tracking.artifacts",
    "workers.address",
    "workers.storage",
}


def _is_sweep(value: str, key: str) -> bool:
    if key in FREE_TEXTS and not re.match(r"(choice|range|interval|tag)\(.*\)$", value.strip()):
        return False
    # Imported late because it loads Hydra, which workers and tables of runs do not need.
    from mnist_sweep.config.grammar import looks_like_sweep

    return looks_like_sweep(value)


def _refuse_sweeps(value: object, key: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_sweeps(inner, f"{key}.{name}")
    elif isinstance(value, str) and _is_sweep(value, key):
        raise UserError(
            f"{key}={value}: only values of {SEARCHED} can be searched; run one sweep for each value with -m {key}=…"
        )
