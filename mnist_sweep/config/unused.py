"""Refuses values that a sweep would ignore, as the data, the model or another key make no use of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.text import flat
from mnist_sweep.config import shipped
from mnist_sweep.config.augment import GEOMETRY
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.task import kind_of, objective_of

Config = Mapping[str, Any]
# The keys, whose values differ from their defaults; whether the config ignores them; and the reason, or what to do.
_Rule = tuple[tuple[str, ...], Callable[[Config], bool], str]

_LAYER_KEYS = ("activation", "dropout", "batch_normalization", "l2")
_HYPERMODEL = ("model.hypermodel", "model.values", "model.builder")
_RULES: tuple[_Rule, ...] = (
    (
        ("data.path",),
        lambda c: c["data"]["name"] == "mnist_5k",
        "data=mnist_5k reads no file; to use this one, write data=npz",
    ),
    (("data.fallback",), lambda c: c["data"]["name"] == "mnist_5k", "these data are not downloaded"),
    (
        ("data.resize",),
        lambda c: c["data"]["name"] == "folder" and c["data"]["image_size"] is None,
        "set data.image_size, to which pictures are resized",
    ),
    (("folds",), lambda c: c["validation"] == "holdout", "write validation=kfold to use folds"),
    (
        ("data.validation_split",),
        lambda c: c["validation"] == "kfold" and c["data"]["validation_split"] != 0,
        "validation=kfold holds out one fold after another; set folds instead",
    ),
    (
        ("training.early_stopping.min_delta",),
        lambda c: c["training"]["early_stopping"]["patience"] is None,
        "set training.early_stopping.patience, which switches early stopping on",
    ),
    (
        ("training.jit_compile",),
        lambda c: c["training"].get("backend") == "jax",
        "training.backend=jax compiles every model",
    ),
    (
        ("task.standardize",),
        lambda c: kind_of(c.get("task")) not in ("auto", "regression"),
        "only a regression has targets that can be scaled",
    ),
    (
        ("task.class_weight",),
        lambda c: kind_of(c.get("task")) in ("multilabel", "regression"),
        "there are no classes; weight the rows instead",
    ),
    (
        ("task.loss", "task.metrics", "task.loss_weights", "task.standardize"),
        lambda c: c["model"].get("hypermodel") is not None,
        "the hypermodel compiles its own loss and metrics; set them there",
    ),
    (
        ("workers.trials_per_gpu",),
        lambda c: c["workers"]["devices"] == "cpu",
        "workers.devices=cpu uses no GPU; set workers.count",
    ),
    (
        ("workers.count",),
        lambda c: c["workers"]["devices"] == "gpu",
        "it counts workers on CPU; choose the GPUs with CUDA_VISIBLE_DEVICES, and set workers.trials_per_gpu",
    ),
    (
        ("optimizer.*",),
        lambda c: c["model"].get("hypermodel") is not None,
        "the hypermodel compiles its own optimizer; set it there",
    ),
    (
        ("model.*",),
        lambda c: c["model"].get("hypermodel") is not None,
        "the hypermodel builds its own layers; set its hyperparameters as model.values.NAME",
    ),
    (
        ("model.text.*",),
        lambda c: c["data"]["name"] == "table" and not c["data"]["text"],
        "no column is read word by word; name it in data.text",
    ),
    (
        ("model.units", *(f"model.{key}" for key in _LAYER_KEYS)),
        lambda c: _is_shipped(c, "mlp") and c["model"].get("layers") == 0,
        "model.layers=0 leaves no hidden layer",
    ),
    (
        ("model.dense.units", *(f"model.dense.{key}" for key in _LAYER_KEYS)),
        lambda c: _is_shipped(c, "cnn") and _dense_layers(c) == 0,
        "model.dense.layers=0 leaves no hidden dense layer",
    ),
    (
        ("model.pooling.size", "model.pooling.after"),
        lambda c: _is_shipped(c, "cnn") and _pooling(c).get("kind", "max") is None,
        "model.pooling.kind=null switches pooling off",
    ),
    (
        ("augment.fill",),
        lambda c: not any(c.get("augment", {}).get(step) for step in GEOMETRY),
        "set augment.shift, augment.rotation or augment.zoom, which move the edge",
    ),
    (
        ("model.residual",),
        lambda c: _is_shipped(c, "cnn") and c["model"]["layers"] == 1,
        "model.layers=1 leaves no layer to add another one to",
    ),
)


def refuse_unused(config: Config) -> None:
    """Refuses values that differ from their defaults and that the rest of the config makes useless.

    Args:
        config: The config of a new sweep, checked. Configs of earlier sweeps need not pass.

    Raises:
        UserError: A value would be ignored, or the target can't be reached.
    """
    defaults = _defaults(config)
    for group in ("model", "training"):
        _check_groups(config[group], defaults[group], group)
    _check_target(config)
    values, shipped_values = flat(config), flat(defaults)
    for keys, ignored, why in _RULES:
        if not ignored(config):
            continue
        for key in _matching(keys, values):
            if key not in shipped_values or values[key] != shipped_values[key]:
                raise UserError(f"{key}={as_written(values[key])}: is not used; {why}")


def _check_groups(values: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> None:
    for key, default in defaults.items():
        if not isinstance(default, Mapping) or not default or key not in values:
            continue
        if not isinstance(values[key], Mapping):
            raise UserError(
                f"{name}.{key}={as_written(values[key])}: is a group; set its keys, such as {name}.{key}."
                f"{next(iter(default))}"
            )
        _check_groups(values[key], default, f"{name}.{key}")


def _check_target(config: Config) -> None:
    target, objective = config["search"].get("target"), Objective.parse_all(_objective(config))[0]
    if target is not None and objective.name in ("accuracy", "val_accuracy") and target > 1:
        raise UserError(f"search.target={target:g}: an accuracy is at most 1; 97 percent are 0.97")


def _objective(config: Config) -> str | list[str]:
    return objective_of(config["objective"], config.get("task"))


def _defaults(config: Config) -> dict[str, Any]:
    """Returns the shipped defaults of the groups that the rules are about."""
    data = {name: value for name, value in shipped.values(f"data/{config['data']['name']}").items() if value != "???"}
    return {
        **shipped.values("config"),
        "data": data,
        **shipped.trial_defaults(config["model"].get("kind", "mlp")),
        "workers": {**shipped.values("workers/local"), **shipped.values("workers/ray")},
    }


def _matching(keys: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[str]:
    for key in keys:
        if key.endswith(".*"):
            yield from (name for name in values if name.startswith(key[:-1]) and not name.startswith(_HYPERMODEL))
        elif key in values:
            yield key


def _is_shipped(config: Config, kind: str) -> bool:
    model = config["model"]
    return model.get("kind") == kind and model.get("builder") is None and model.get("hypermodel") is None


def _dense_layers(config: Config) -> Any:
    return config["model"]["dense"]["layers"]


def _pooling(config: Config) -> Config:
    pooling: Config = config["model"]["pooling"]
    return pooling
