"""Discovers the search space of a user's hypermodel by building it, with more than its default values.

keras-tuner builds once per conditional scope and finds other hyperparameters only when a trial requests them: in
`for i in range(hp.Int("layers", 1, 3)): hp.Int(f"units_{i}", …)` it first finds one `units`. Our algorithms need the
whole space before they start. So each hyperparameter is set to its other values, in the configuration in which it was
first requested, until nothing new turns up. A hyperparameter that is requested only for some values of another one
becomes conditional on it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.hypermodel_space import steps
from mnist_sweep.data.dataset import Dataset
from mnist_sweep.data.images import to_float
from mnist_sweep.data.schema import ONLY
from mnist_sweep.training import custom_fit, custom_model, encoding, user_code
from mnist_sweep.training.custom_model import BuiltModel, ChosenHyperParameters
from mnist_sweep.training.encoding import Encoding
from mnist_sweep.training.splits import Batch

# A hyperparameter with at most this many values is built with each of them, others with the ends of their range.
_MOST_VALUES = 32
_MOST_BUILDS = 400
# Random configurations if the default one is impossible, and as many at the end, which may refute conditions that
# follow from changing one value at a time.
_RANDOM_BUILDS = 16
_ROWS = 32
_BUILDS_PER_COLLECTION = 16

_Values = dict[str, Any]


@dataclass(frozen=True)
class _Build:
    """One build of the hypermodel.

    Attributes:
        values: The values of the hyperparameters that it requested.
        error: Why it failed; "" if it finished.
        weights: The shapes of the model's weights and of its optimizer's variables; None if unknown.
    """

    values: _Values
    error: str = ""
    weights: tuple[Any, ...] | None = None

    @property
    def complete(self) -> bool:
        """Whether it finished."""
        return not self.error


def discover(name: str, dataset: Dataset, objectives: Sequence[str] = ()) -> dict[str, Any]:
    """Discovers the search space of a hypermodel.

    Args:
        name: `package.module:name`.
        dataset: The data that it will be trained on; its custom fit gets a few of them, if it has one.
        objectives: The names of the metrics that its training must log.

    Returns:
        Plain data as from `keras_tuner.HyperParameters.get_config()`: `space` with declared and inferred conditions,
        the default `values`, `keeping`, the names of hyperparameters that do not change the weights' shapes, and
        `notes`, lines for the user on what is most likely a mistake, and on values with which no model can be built.

    Raises:
        UserError: The user's code is wrong, its model does not match the data, or it does not log an objective.
    """
    custom_model.load(name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    explorer = _Explorer(name, dataset, objectives)
    explorer.explore()
    return explorer.config()


class _Explorer:
    """Builds a hypermodel with more and more configurations and infers conditions from what it requests."""

    def __init__(self, name: str, dataset: Dataset, objectives: Sequence[str]) -> None:
        self._name, self._schema, self._objectives = name, dataset.schema, objectives
        some = dataset.train.take(np.arange(min(_ROWS, len(dataset.train))))
        inputs = {name: to_float(x) if x.dtype == np.uint8 else np.asarray(x) for name, x in some.inputs.items()}
        if dataset.schema.columns:
            rows = np.arange(len(dataset.train))
            fitted = Encoding.fit(dataset.schema, dataset.train.inputs, rows, *encoding.options(None))
            self._schema, inputs = fitted.schema, fitted.encode(inputs)
        self._sample = inputs.get(ONLY, inputs), np.asarray(some.targets)
        # By name, in order of discovery: the hyperparameters of that name, one per condition.
        self._space: dict[str, list[Any]] = {}
        self._builds: list[_Build] = []
        self._queue: deque[tuple[_Values, str | None, _Build]] = deque()
        self._queued: set[str] = set()
        self._varied: set[str] = set()
        self._kept: set[str] = set()
        self._changed: set[str] = set()
        self._shape: tuple[int, ...] = ()
        self._adapted: Batch = self._sample
        self._tunes_fit = False
        self._doubts: list[str] = []

    def explore(self) -> None:
        """Builds until nothing new turns up."""
        self._build_defaults()
        self._build_queued()
        rng = random.Random(0)
        for _ in range(_RANDOM_BUILDS if len(self._space) > 1 else 0):
            self._vary(self._build(lambda hp: hp.random_sample(seed=rng.random())))
            self._build_queued()

    def config(self) -> dict[str, Any]:
        """Returns the space as plain data."""
        space = []
        for name, entries in self._space.items():
            inferred = self._inferred(name, entries[0].conditions) if len(entries) == 1 else None
            for hyperparameter in entries:
                config = {**hyperparameter.get_config()}
                if "value" not in config:
                    config["default"] = hyperparameter.default
                if inferred is not None:
                    config["conditions"] = [*config["conditions"], inferred]
                space.append({"class_name": type(hyperparameter).__name__, "config": config})
        found = {"space": space, "values": self._builds[0].values, "keeping": sorted(self._kept - self._changed)}
        found["notes"] = [*self._doubts, *self._impossible()]
        plain: dict[str, Any] = json.loads(json.dumps(found, default=lambda value: value.item()))
        return plain

    def _impossible(self) -> Iterator[str]:
        """Yields a line on each value, and on each hyperparameter, with which no model could be built."""
        values: dict[tuple[str, str], list[_Build]] = {}
        for build in self._builds:
            for name, value in build.values.items():
                values.setdefault((name, json.dumps(value, default=str)), []).append(build)
        working = {name for build in self._builds if build.complete for name in build.values}
        explained: list[_Build] = []
        for (name, value), builds in values.items():
            if name in working and not any(build.complete for build in builds):
                explained += builds
                yield f"{name}={value}: no model can be built with this value ({self._bare(builds[0])})"
        for name in self._space:
            failed = [build for build in self._builds if name in build.values]
            if failed and name not in working and not all(build in explained for build in failed):
                yield f"{name}: no model can be built that has this hyperparameter ({self._bare(failed[0])})"

    def _bare(self, build: _Build) -> str:
        return build.error.removeprefix(f"{custom_model.setting(self._name)}: ")

    def _build_defaults(self) -> None:
        """Builds a model that can be trained: with the default values, or if these are impossible, with others."""
        built = self._first_model()
        self._shape, self._adapted = built.input_shape, built.arrays(*self._sample)
        if built.has_custom_fit:
            before = set(built.hp.values)
            self._tunes_fit = custom_fit.dry_run(built.hypermodel, built.hp, built.model, self._adapted)
            if not self._tunes_fit:
                # A custom training loop takes too long to run again, so its hyperparameters are not varied.
                self._varied = set(built.hp.values) - before
        self._vary(self._record(built.hp, weights=_weights(built.model, built.input_shape)))
        built.check_logs(self._objectives, *self._adapted)
        self._doubts = list(built.doubts())
        user_code.check_loadable(built.whole(), custom_model.setting(self._name))

    def _first_model(self) -> BuiltModel:
        rng = random.Random(0)
        defaults: list[ChosenHyperParameters] = []

        def with_defaults() -> ChosenHyperParameters:
            defaults.append(ChosenHyperParameters(lambda hp: hp.default))
            return defaults[-1]

        def with_others() -> ChosenHyperParameters:
            return ChosenHyperParameters(lambda hp: hp.random_sample(seed=rng.random()))

        try:
            return custom_model.build_and_check(self._name, with_defaults, self._schema)
        except UserError:
            for _ in range(_RANDOM_BUILDS if defaults and defaults[-1].space else 0):
                with contextlib.suppress(UserError):
                    return custom_model.build_and_check(self._name, with_others, self._schema)
            # No trial can be expected to succeed.
            raise

    def _build(self, choose: Callable[[Any], Any]) -> _Build:
        # Garbage collection takes several times as long as a build.
        keras.utils.clear_session(free_memory=len(self._builds) % _BUILDS_PER_COLLECTION == 0)
        hp, failure, weights = ChosenHyperParameters(choose), "", None
        hypermodel = custom_model.load(self._name)
        try:
            model = custom_model.call_build(self._name, hypermodel, hp)
        except UserError as error:
            # What it requested before is recorded; trials will report configurations that cannot be built.
            failure = str(error)
        else:
            weights = _weights(model, self._shape)
            if self._tunes_fit:
                custom_fit.dry_run(hypermodel, hp, model, self._adapted)
        return self._record(hp, failure, weights=weights)

    def _record(self, hp: ChosenHyperParameters, error: str = "", *, weights: tuple[Any, ...] | None) -> _Build:
        for hyperparameter in hp.space:
            entries = self._space.setdefault(hyperparameter.name, [])
            if all(entry.conditions != hyperparameter.conditions for entry in entries):
                entries.append(hyperparameter)
        build = _Build(dict(hp.values), error, weights)
        self._builds.append(build)
        for scope in hp.inactive_scopes:
            self._enqueue({**build.values, **{c.name: c.values[0] for c in scope}}, None, build)
        return build

    def _enqueue(self, values: _Values, changed: str | None, context: _Build) -> None:
        text = json.dumps(values, sort_keys=True, default=str)
        if text not in self._queued:
            self._queued.add(text)
            self._queue.append((values, changed, context))

    def _build_queued(self) -> None:
        while self._queue and len(self._builds) < _MOST_BUILDS:
            values, changed, context = self._queue.popleft()
            build = self._build(lambda hp, values=values: values.get(hp.name, hp.default))  # type: ignore[misc]
            self._vary(build)
            if changed is not None:
                same = build.weights is not None and build.weights == context.weights
                (self._kept if same else self._changed).add(changed)
            if changed is not None and build.complete and build.values.keys() != context.values.keys():
                # It decides what else is requested, so each of its values may.
                for value in self._values(changed):
                    self._enqueue({**context.values, changed: value}, changed, context)

    def _vary(self, build: _Build) -> None:
        """Enqueues each new hyperparameter's other values, or the ends of its range."""
        for name, current in build.values.items():
            if name not in self._varied:
                self._varied.add(name)
                config = self._space[name][0].get_config()
                ends = [config[end] for end in ("min_value", "max_value") if end in config]
                for value in ends or self._values(name):
                    if value != current:
                        self._enqueue({**build.values, name: value}, name, build)

    def _values(self, name: str) -> list[Any]:
        """Returns a hyperparameter's values; none if there are too many to build with each."""
        hyperparameter = self._space[name][0]
        step = getattr(hyperparameter, "step", 1)
        if step is None:
            return []
        if hasattr(hyperparameter, "min_value"):
            values = steps(hyperparameter.get_config(), integer=type(hyperparameter).__name__ == "Int")
        else:
            values = iter(hyperparameter.values)
        first = list(itertools.islice(values, _MOST_VALUES + 1))
        return first if len(first) <= _MOST_VALUES else []

    def _inferred(self, name: str, declared: Sequence[Any]) -> dict[str, Any] | None:
        """Returns a condition that explains which builds requested a hyperparameter; None if there is none.

        If the condition is wrong, the harm is small. A hyperparameter that counts as active but is not requested wastes
        some search. One that counts as inactive but is requested gets the value in the trial's config: it is searched
        less, but what is logged is true.
        """
        builds = [b for b in self._builds if b.complete and all(c.is_active(b.values) for c in declared)]
        requested = [b for b in builds if name in b.values]
        for parent in itertools.takewhile(lambda earlier: earlier != name, self._space):
            used = {b.values[parent] for b in requested if parent in b.values}
            unused = {b.values[parent] for b in builds if parent in b.values and name not in b.values}
            values = self._values(parent)
            if unused and values and not used & unused and all(parent in b.values for b in requested):
                allowed = [v for v in values if v not in unused]
                if allowed:
                    return {"class_name": "Parent", "config": {"name": parent, "values": allowed}}
        return None


def _weights(model: keras.Model, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    try:
        if not model.built:
            model.build((None, *shape))
        model.optimizer.build(model.trainable_variables)
    except Exception:
        # Trials will report what is wrong with it.
        return None
    shapes = [tuple(v.shape) for v in (*model.weights, *model.optimizer.variables)]
    return (type(model.optimizer).__name__, *shapes)
