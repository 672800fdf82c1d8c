"""What a user's hypermodel searches: found out by building it, as keras-tuner does, but at more than its defaults.

keras-tuner builds once for each conditional scope, and meets other hyperparameters only when a trial asks for them:
`for i in range(hp.Int("layers", 1, 3)): hp.Int(f"units_{i}", …)` has one `units` for it at first. Our algorithms want
the whole space before they begin. So each hyperparameter is tried at its other values, in the setting where it was
first asked for, until nothing new turns up. What is asked for at some values of another one only, becomes conditional
on it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner as kt
import numpy as np

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.hypermodel_space import steps
from mnist_sweep.data.images import Dataset, to_float
from mnist_sweep.training import custom_fit, custom_model

# Values of one hyperparameter to build at; of one with more, the ends alone.
_MOST_VALUES = 32
_MOST_BUILDS = 400
# Settings drawn at random at the end, which may contradict what was concluded from changes of one value at a time.
_RANDOM_BUILDS = 16
_IMAGES = 32
_BUILDS_PER_COLLECTION = 16

_Values = dict[str, Any]


class _Asked(kt.HyperParameters):  # type: ignore[misc]
    """Hyperparameters that note what they are asked for, and give chosen values."""

    def __init__(self, choose: Callable[[Any], Any]) -> None:
        super().__init__()
        self._choose = choose

    def _register(self, hyperparameter: Any, overwrite: bool = False) -> Any:  # noqa: FBT
        if hyperparameter.name not in self.values and self.is_active(hyperparameter):
            self.values[hyperparameter.name] = self._choose(hyperparameter)
        return super()._register(hyperparameter, overwrite)


@dataclass(frozen=True)
class _Record:
    """One build.

    Attributes:
        values: Those of the hyperparameters that it asked for.
        complete: Whether it came to its end.
        weights: The shapes of its weights, and of its optimizer's variables; None where they are not known.
    """

    values: _Values
    complete: bool
    weights: tuple[Any, ...] | None = None


def discover(name: str, dataset: Dataset) -> dict[str, Any]:
    """Finds the space of a hypermodel.

    Args:
        name: `package.module:name`.
        dataset: The images that it will be trained on; a few are given to its own fit, if it has one.

    Returns:
        As `keras_tuner.HyperParameters.get_config()`, plain data: `space`, conditions that were inferred among the
        declared ones, and the default `values`; and `keeping`, the names of those that change no weights' shapes.

    Raises:
        UserError: The user's code is at fault, or its model does not fit the images.
    """
    custom_model.load(name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    explorer = _Explorer(name, dataset)
    explorer.explore()
    return explorer.config()


class _Explorer:
    """Builds a hypermodel at ever more settings, and concludes from what it asks for."""

    def __init__(self, name: str, dataset: Dataset) -> None:
        self._name, self._classes = name, dataset.classes
        self._image: tuple[int, int, int] = dataset.x_train.shape[1:]
        self._sample = to_float(np.asarray(dataset.x_train[:_IMAGES])), np.asarray(dataset.y_train[:_IMAGES])
        # Each name's hyperparameters, one for each of its conditions, in the order in which they were met.
        self._space: dict[str, list[Any]] = {}
        self._records: list[_Record] = []
        self._queue: deque[tuple[_Values, str | None, _Record]] = deque()
        self._queued: set[str] = set()
        self._varied: set[str] = set()
        self._kept: set[str] = set()
        self._changed: set[str] = set()
        self._shape: tuple[int, ...] = ()
        self._asks_fit = False

    def explore(self) -> None:
        """Builds until nothing new turns up."""
        self._first()
        self._follow()
        rng = random.Random(0)
        for _ in range(_RANDOM_BUILDS if len(self._space) > 1 else 0):
            self._vary(self._build(lambda hp: hp.random_sample(seed=rng.random())))
            self._follow()

    def config(self) -> dict[str, Any]:
        """The space as plain data."""
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
        found = {
            "space": space,
            "values": self._records[0].values,
            "keeping": sorted(self._kept - self._changed),
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, default=lambda value: value.item()))
        return plain

    def _first(self) -> None:
        """The default build, which must be one that can be trained."""
        asked: list[_Asked] = []

        def values() -> _Asked:
            asked.append(_Asked(lambda hp: hp.default))
            return asked[-1]

        built = custom_model.assemble(self._name, values, self._image, self._classes)
        self._shape = built.shape
        if built.own_fit:
            before = set(built.hp.values)
            self._asks_fit = custom_fit.ask(built.hypermodel, built.hp, built.model, built.arrays(*self._sample))
            if not self._asks_fit:
                # A training loop of the user's own takes too long to be asked again: its part is known as it is now.
                self._varied = set(built.hp.values) - before
        self._vary(self._note(built.hp, complete=True, weights=_weights(built.model, built.shape)))

    def _build(self, choose: Callable[[Any], Any]) -> _Record:
        # Collecting garbage takes several times as long as building.
        keras.utils.clear_session(free_memory=len(self._records) % _BUILDS_PER_COLLECTION == 0)
        hp, complete, weights = _Asked(choose), True, None
        hypermodel = custom_model.load(self._name)
        try:
            model = custom_model.call(self._name, hypermodel, hp)
        except UserError:
            # What it asked for until then is known; of settings that cannot be built, trials will tell.
            complete = False
        else:
            weights = _weights(model, self._shape)
            if self._asks_fit:
                custom_fit.ask(hypermodel, hp, model, self._sample)
        return self._note(hp, complete=complete, weights=weights)

    def _note(self, hp: _Asked, *, complete: bool, weights: tuple[Any, ...] | None) -> _Record:
        for hyperparameter in hp.space:
            entries = self._space.setdefault(hyperparameter.name, [])
            if all(entry.conditions != hyperparameter.conditions for entry in entries):
                entries.append(hyperparameter)
        record = _Record(dict(hp.values), complete, weights)
        self._records.append(record)
        for scope in hp.inactive_scopes:
            self._enqueue({**record.values, **{c.name: c.values[0] for c in scope}}, None, record)
        return record

    def _enqueue(self, values: _Values, changed: str | None, context: _Record) -> None:
        text = json.dumps(values, sort_keys=True, default=str)
        if text not in self._queued:
            self._queued.add(text)
            self._queue.append((values, changed, context))

    def _follow(self) -> None:
        while self._queue and len(self._records) < _MOST_BUILDS:
            values, changed, context = self._queue.popleft()
            record = self._build(lambda hp, values=values: values.get(hp.name, hp.default))  # type: ignore[misc]
            self._vary(record)
            if changed is not None:
                same = record.weights is not None and record.weights == context.weights
                (self._kept if same else self._changed).add(changed)
            if changed is not None and record.complete and record.values.keys() != context.values.keys():
                # It matters to what else there is, so each of its values may.
                for value in self._values(changed):
                    self._enqueue({**context.values, changed: value}, changed, context)

    def _vary(self, record: _Record) -> None:
        """Has each hyperparameter that was not met before tried at its other values, or at its ends."""
        for name, current in record.values.items():
            if name not in self._varied:
                self._varied.add(name)
                config = self._space[name][0].get_config()
                ends = [config[end] for end in ("min_value", "max_value") if end in config]
                for value in ends or self._values(name):
                    if value != current:
                        self._enqueue({**record.values, name: value}, name, record)

    def _values(self, name: str) -> list[Any]:
        """A hyperparameter's values; none where they are too many to build at each."""
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
        """The condition that explains where a hyperparameter was asked for and where not; None where none does.

        A hyperparameter that is thought active, but is not asked for, wastes some search. One that is thought inactive,
        but is asked for, gets the value that stands in the trial's config: it is searched less, and the record is true.
        """
        records = [r for r in self._records if r.complete and all(c.is_active(r.values) for c in declared)]
        asked = [r for r in records if name in r.values]
        for parent in itertools.takewhile(lambda earlier: earlier != name, self._space):
            used = {r.values[parent] for r in asked if parent in r.values}
            unused = {r.values[parent] for r in records if parent in r.values and name not in r.values}
            values = self._values(parent)
            if unused and values and not used & unused and all(parent in r.values for r in asked):
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
        # Trials will tell what is wrong with it.
        return None
    shapes = [tuple(v.shape) for v in (*model.weights, *model.optimizer.variables)]
    return (type(model.optimizer).__name__, *shapes)
