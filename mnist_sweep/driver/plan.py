"""What a config makes a sweep do: its search space, its slots, and its first event."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.common.files import make_folder
from mnist_sweep.common.text import one_line, os_reason
from mnist_sweep.common.versions import versions
from mnist_sweep.config import backend, hypermodel
from mnist_sweep.config.augment import MIXES, SAME_PLACE
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.narrowing import narrowed
from mnist_sweep.config.settings import RayConfig, Settings, check_settings
from mnist_sweep.config.space import Space, identity
from mnist_sweep.config.task import check_target
from mnist_sweep.config.trial_config import CNN, MLP, TrialConfig, check_shape, made_by
from mnist_sweep.config.units import seconds, size
from mnist_sweep.data import schema as schemas
from mnist_sweep.data.dataset import Dataset, LoadedData, split
from mnist_sweep.driver import discovery, enqueue, streams, task_choice, warm_start
from mnist_sweep.driver.backend_choice import with_backend
from mnist_sweep.journal.events import SweepStarted
from mnist_sweep.journal.files import ARRAYS, WORKERS, code_folder
from mnist_sweep.journal.folders import SWEEPS, find
from mnist_sweep.journal.state import SweepState
from mnist_sweep.journal.trial import Retrains
from mnist_sweep.search import compatibility
from mnist_sweep.tracking.uri import absolute, check_artifacts
from mnist_sweep.workers import on_ray
from mnist_sweep.workers.agent import Job, carried_code
from mnist_sweep.workers.base import Pool, Workers
from mnist_sweep.workers.carrying import Carrier
from mnist_sweep.workers.devices import Slot, slots
from mnist_sweep.workers.local import LocalWorkers
from mnist_sweep.workers.remote import RemoteWorkers

# As many builds of a user's hypermodel as it takes to know its space.
_DISCOVERY_SECONDS = 1800
# How many models a user's function builds to see which keys it reads.
_BUILDS = 4
# Lines on values with which no model can be built.
_MOST_NOTES = 5


def prepare(
    config: dict[str, Any], found: hypermodel.Expanded | None = None
) -> tuple[Settings, Space, list[TrialConfig]]:
    """Checks a config as far as possible without the data.

    Args:
        config: The config as Hydra composed it, resolved.
        found: What the hypermodel searches, if the config names one.

    Returns:
        The settings, the space, and the trial configs at those of the space's corners that are possible.

    Raises:
        UserError: Something is wrong with the config.
    """
    settings = check_settings(config)
    if found is not None:
        settings = replace(settings, trial=found.trial)
    space = Space(settings.trial, written=settings.conditions) if found is None else found.space(settings.conditions)
    corners = list(space.check())
    compatibility.check(settings, space)
    absolute(settings.tracking.uri)
    check_artifacts(settings.tracking.artifacts)
    return settings, space, corners


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        config: The config.
        settings: The config, checked.
        hypermodel: The user's hypermodel, `package.module:name`; None if the config defines the models.
        most: The most trials that may run at once; None if there is no limit.
        slots: Where trials run; none until they are known, with a cluster.
        corners: The trial configs at those of the space's corners that are possible; none with a hypermodel.
        baseline: The groups model, optimizer and training without sweeps, for `search.enqueue: [default]`.
        known_space: The search space; None until a worker has built the hypermodel.
        stream: The user's function, `package.module:name`, whose stream the workers read; None if the data fit into
            memory.
        code: A folder with the modules that the sweep carries; None if it carries none.
    """

    config: dict[str, Any]
    settings: Settings
    hypermodel: str | None
    most: int | None
    slots: list[Slot]
    corners: list[TrialConfig]
    baseline: Mapping[str, Any] | None
    known_space: Space | None
    stream: str | None = None
    code: Path | None = None

    @classmethod
    def of(cls, config: dict[str, Any], baseline: Mapping[str, Any] | None, code: Path | None = None) -> Plan:
        """Makes the plan of a config; `code` is a folder with the modules that the sweep carries.

        Raises:
            UserError: Something is wrong with the config.
        """
        config = task_choice.with_task(with_backend(config), code)
        settings = check_settings(config)
        most, named = settings.search.max_trials, hypermodel.named(settings.trial)
        space, corners = None, list[TrialConfig]()
        if named is None:
            settings, space, corners = prepare(config)
            most = min((n for n in (most, space.size) if n is not None), default=None)
        backend.check_installed(backend.of(settings.trial))
        stream = streams.used_by(config, settings, code)
        places = list[Slot]()
        if isinstance(settings.workers, RayConfig):
            on_ray.check_installed()
        else:
            places = slots(settings.workers, most)
        return cls(config, settings, named, most, places, corners, baseline, space, stream, code)

    @property
    def space(self) -> Space:
        """The search space."""
        assert self.known_space is not None
        return self.known_space

    @property
    def backend(self) -> str:
        """The Keras backend that trains."""
        return backend.of(self.settings.trial)

    def start_workers(self, folder: Path, say: Callable[[str], None]) -> Pool:
        """Starts the workers, which wait for the data; `say` prints what they have to say.

        Raises:
            UserError: A cluster cannot be joined.
        """
        config, function = self.settings.workers, made_by(self.settings.trial["model"]) or self.stream
        custom_code, measures = function is not None, self.settings.tracking.system_metrics is not None
        if isinstance(config, RayConfig):
            carrier = Carrier(size(config.inline), config.storage)
            carrier.check()
            transport = on_ray.RayTransport(config, self.most, custom_code=custom_code)
            wait = None if config.wait is None else seconds(config.wait)
            # On this machine, the check of the function says more.
            module = (function or "").partition(":")[0] if config.address is not None else ""
            job = Job(config, self.most, custom_code, self.backend, carrier, module, carried_code(folder), measures)
            return RemoteWorkers(transport, job, folder, say, wait)
        return LocalWorkers(
            self.slots,
            None,
            folder / WORKERS,
            config.recycle_after,
            custom_code=custom_code,
            backend=self.backend,
            say=say,
            code=code_folder(folder),
            measures=measures,
        )

    def check(self, schema: schemas.Schema, digest: str) -> None:
        """Checks everything that needs no worker.

        Args:
            schema: The inputs and the target of the data.
            digest: The digest of the data.

        Raises:
            UserError: None of the models fits the data, or `search.enqueue` or `search.warm_start` is wrong.
        """
        _check_fits(self.corners, schema)
        if self.known_space is not None:
            enqueue.enqueued(self.settings, self.space, self.baseline)
            self._earlier(digest)

    def load_data(self) -> tuple[LoadedData, Dataset]:
        """Loads the data and splits it.

        Raises:
            UserError: It cannot be loaded, or fits none of the models.
        """
        data = task_choice.load(self.config, self.code)
        _check_fits(self.corners, data.schema)
        return data, split(data, self.settings.data.validation_split, self.settings.seed)

    def check_builder(self, workers: Workers, say: Callable[[str], None]) -> None:
        """Lets a worker check the user's function that builds the models, if there is one.

        Args:
            workers: The workers.
            say: Prints what is most likely a mistake.

        Raises:
            UserError: It cannot be imported, or its models could not be loaded after training.
        """
        builder = self.settings.trial["model"].get("builder")
        if builder is None:
            return
        some = [self.corners[i * (len(self.corners) - 1) // (_BUILDS - 1)] for i in range(_BUILDS)]
        configs = list({config.model_dump_json(): config.model_dump(mode="json") for config in some}.values())
        objectives = [objective.name for objective in self.settings.objectives]
        found = discovery.check(workers, configs, _DISCOVERY_SECONDS, objectives)
        for note in found.get("notes", ()):
            say(f"model.builder={builder}: {one_line(str(note))}")
        searched = [h.name.split(".") for h in self.space.hyperparameters if h.name.startswith("model.")]
        for key in found.get("unread", ()):
            if any(path[1] == key for path in searched):
                say(f"model.{key}: is searched, but {builder} does not read it, so it changes nothing")

    def discovered(self, workers: Workers, say: Callable[[str], None]) -> Plan:
        """Returns the plan with the space of the hypermodel, which a worker builds.

        Args:
            workers: The workers.
            say: Prints what no trial can train.

        Raises:
            UserError: The hypermodel cannot be built, or its space cannot be searched.
        """
        assert self.hypermodel is not None
        names = [objective.name for objective in self.settings.objectives]
        space = discovery.discover(workers, self.hypermodel, _DISCOVERY_SECONDS, names)
        for note in list(space.get("notes", []))[:_MOST_NOTES]:
            say(f"model.hypermodel={self.hypermodel}: {one_line(str(note))}")
        found = hypermodel.expand(self.settings.trial, space)
        settings, known, _ = prepare(self.config, found)
        return replace(self, settings=settings, known_space=known, baseline=found.baseline(self.baseline))

    def count_trials(self, state: SweepState, earlier: Sequence[Mapping[str, Any]]) -> int | None:
        """Returns how many trials it takes to try every combination of values; None if they cannot be counted.

        Args:
            state: The state of the sweep, which may have tried others before its space was narrowed.
            earlier: The trials of earlier sweeps, which a grid leaves out.
        """
        space = narrowed(self.space, state.narrowed)
        if space.size is None:
            return None
        tried = [t.values for n, t in state.results.trials.items() if n in state.searched | state.refused]
        others = sum(not space.includes(values) for values in tried) if state.narrowed else 0
        known = {identity(trial["values"]) for trial in earlier if space.includes(trial["values"])}
        return space.size + others - (len(known) if self.settings.search.algorithm == "grid" else 0)

    def first_event(
        self,
        folder: Path,
        stored: dict[str, Any],
        data: LoadedData,
        dataset: Dataset,
        time: float,
        retrains: Retrains | None = None,
    ) -> SweepStarted:
        """Returns the first event of the sweep, with the config as its folder stores it.

        Raises:
            UserError: `search.enqueue` or `search.warm_start` does not fit, or the data of the trial to retrain have
                changed.
        """
        if retrains is not None:
            if retrains.digest not in ("", data.digest()):
                raise UserError(
                    f"retrain: trial {retrains.trial} of {retrains.sweep} was trained on data with the digest "
                    f"{retrains.digest}, but data={data.name} from {data.source} is different now "
                    f"({data.digest()}); to train on other data, name them, such as data.path=FILE"
                )
            name = f"{retrains.sweep}/{folder.name}"
            space = self.space.describe()
            return SweepStarted(time, name, stored, space, _describe(data, dataset), versions(), retrains=retrains)
        return SweepStarted(
            time,
            _name(self.settings.name, folder),
            stored,
            self.space.describe(),
            _describe(data, dataset),
            versions(),
            enqueued=enqueue.enqueued(self.settings, self.space, self.baseline),
            earlier=self._earlier(data.digest()),
            id=uuid.uuid4().hex,
            baseline=dict(self.baseline or {}),
        )

    def _earlier(self, digest: str) -> list[dict[str, Any]]:
        find_earlier = functools.partial(find, wanted_by="search.warm_start")
        known = warm_start.earlier(self.settings, self.space, digest, find_earlier)
        if self.settings.search.algorithm == "grid" and len({identity(t["values"]) for t in known}) == self.space.size:
            raise UserError("search.warm_start: the earlier sweeps have trained every combination of the grid")
        return known


def _check_fits(corners: Sequence[TrialConfig], schema: schemas.Schema) -> None:
    """Refuses a task that does not fit the targets, and inputs that fit none of the models."""
    first: ImpossibleError | None = None
    for corner in corners:
        check_target(corner.task, schema.target.kind, schema.target.size)
        _check_own(corner, schema.target)
        try:
            check_shape(corner, schema.grid)
            return
        except ImpossibleError as error:
            first = first or error
    if first is not None:
        raise first


def _check_own(corner: TrialConfig, target: schemas.Target) -> None:
    """Refuses settings that don't work with targets of any shape.

    Raises:
        UserError: It is in the config.
    """
    if corner.task.kind == "custom" and isinstance(corner.model, MLP | CNN):
        raise UserError(
            f"task=custom: the targets are {target.about}, which model={corner.model.kind} cannot predict; write "
            "your own model, model.builder=package.module:function"
            if target.kind in ("array", "several")
            else f"task=custom: model={corner.model.kind} has no loss of its own; write task=auto, or model.builder=…"
        )
    if corner.task.class_weight is not None and corner.task.kind == "custom" and target.kind != "classes":
        raise UserError(
            f"task.class_weight={as_written(corner.task.class_weight)}: the targets are {target.about}; weight the "
            "rows instead, with w_train"
        )
    steps = corner.augment.steps
    places = any(part.kind == "array" for part in (target, *target.parts.values()))
    refused = (*MIXES, *(name for name in steps if places and name not in SAME_PLACE))
    found = [name for name in refused if name in steps]
    if found and corner.task.kind == "custom":
        raise UserError(
            f"augment.{found[0]}={as_written(steps[found[0]])}: would change the images but not the targets "
            f"({target.about}); set it to 0"
        )


def save_for_workers(dataset: Dataset, folder: Path) -> Path:
    """Writes the data into the sweep's folder, from where the workers map it into memory; returns its folder.

    Raises:
        UserError: It cannot be written.
    """
    arrays = folder / ARRAYS
    try:
        make_folder(arrays)
        dataset.save(arrays)
    except OSError as error:
        raise UserError(f"{arrays}: cannot be written ({os_reason(error)})") from error
    return arrays


def _name(name: str, folder: Path) -> str:
    """Returns `NAME/TIME`, or `NAME/TIME/NUMBER` with `-m`."""
    usual = (SWEEPS / name).absolute()
    if folder.absolute().is_relative_to(usual):
        return "/".join([name, *folder.absolute().relative_to(usual).parts])
    return "/".join([name, *(folder.parts[-2:] if folder.name.isdigit() else folder.parts[-1:])])


_PARTS = {"train": "training", "val": "validation", "test": "test"}


def _describe(data: LoadedData, dataset: Dataset) -> dict[str, Any]:
    rows = "rows" if data.schema.image is None else "images"
    return {
        "name": data.name,
        "digest": data.digest(),
        "source": data.source,
        "fallback_for": data.fallback,
        **{f"{_PARTS[part]}_{rows}": size for part, size in dataset.sizes.items()},
        **schemas.described(data.schema),
    }
