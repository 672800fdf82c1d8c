"""Trains and tests one model at a time inside a worker.

The randomness of an epoch (its shuffling and its dropout) depends only on the seed and the number of the epoch, not on
what was trained before. So a trial gives the same metrics, to the last bit, in whichever worker it runs, and also if it
was interrupted and continues from a checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mnist_sweep.common.errors import (
    ImpossibleError,
    MachineError,
    UserError,
    did_you_mean,
    machine_fault,
    writing_to,
)
from mnist_sweep.common.files import make_folder, write_whole
from mnist_sweep.common.reading import check_digest, digest_of
from mnist_sweep.common.text import counted, kind_and_line
from mnist_sweep.config.objective import METRICS, SUMMARIES, Objective
from mnist_sweep.config.task import CLASSIFICATION, TaskConfig
from mnist_sweep.config.trial_config import CustomModel, HyperModelConfig, TrialConfig, check_trial
from mnist_sweep.data.dataset import Array, Dataset
from mnist_sweep.data.schema import ONLY, Schema, Target
from mnist_sweep.data.stream import Stream
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, STATE_FILE
from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.training import (
    backends,
    checkpoint,
    costs,
    diagnostics,
    encoding,
    outputs,
    saved,
    streams,
    tasks,
    user_code,
)
from mnist_sweep.training import model as models
from mnist_sweep.training.augment import Augmentation
from mnist_sweep.training.backends import configure as configure
from mnist_sweep.training.backends.epochs import scalars
from mnist_sweep.training.callbacks import Callbacks
from mnist_sweep.training.model_cache import CompiledModel, ModelCache
from mnist_sweep.training.splits import Split, Splits
from mnist_sweep.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from mnist_sweep.training.custom_model import BuiltModel

_SAMPLE = 64
# Rows on which a user's model is tried before the first trial.
_FEW = 4

# Trains the epoch of a number, counted from 0; and validates.
_Epochs = tuple[Callable[[int], dict[str, float]], Callable[[], dict[str, float]]]
Report = Callable[[int, dict[str, float]], None]
Stop = Callable[[int], str]


@dataclass(frozen=True)
class Job:
    """What to train, and where to save it.

    Attributes:
        config: The trial's config.
        objective: Decides which epoch is the best; its weights are kept.
        epochs: The last epoch to train.
        folder: The folder for the model; created if needed. If it contains the trial's checkpoint from an interrupted
            attempt, training resumes from that.
        parent: The folder of another trial to continue from; None to start from new weights.
        stop: Why to end the trial after `known` epochs, without training more; "" to train.
        known: How many epochs an earlier attempt has reported.
        limits: The most `parameters` that the model may have, and the most bytes of `memory` that training may need.
        latency: Whether to measure how long the prediction of one image takes.
        fold: The fold to validate on, from 1, and the number of folds; None for the data set's own validation images.
        checkpoint_every: Seconds between two checkpoints. If the trial is killed, later epochs are trained again, with
            the same result.
        keep: Whether to save a checkpoint at the end of the trial, for others to continue from.
    """

    config: TrialConfig
    objective: Objective
    epochs: int
    folder: Path
    parent: Path | None = None
    stop: str = ""
    known: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    latency: bool = False
    fold: tuple[int, int] | None = None
    checkpoint_every: float = 0.0
    keep: bool = True


class Trainer:
    """Holds a data set in memory and trains one model after another on it."""

    def __init__(self, dataset: Dataset) -> None:
        """Loads the training and validation rows; `test` loads the test rows."""
        self._dataset, self._schema, self._stream = dataset, dataset.schema, dataset.stream
        self._splits, self._models = Splits(dataset), ModelCache()

    def train(self, job: Job, report: Report, stop: Stop) -> Outcome:
        """Trains a model and saves it with the weights of its best epoch.

        Args:
            job: What to train.
            report: Called after each epoch with its number, from 1, and its metrics (`settings.METRICS`). The epochs
                of an interrupted attempt are reported again.
            stop: Called with the number of each epoch but the last, and of the latest one that an interrupted attempt
                has trained. It returns a reason to end the trial there, or "" to continue.

        Returns:
            The outcome. If it has a score, `job.folder` contains the model and a sample of its predictions. The metrics
            are those of the best epoch, except that `epoch_seconds` is the mean over all epochs, and `parameters` and,
            if requested, `latency` in seconds are added.

        Raises:
            ImpossibleError: The model or the optimizer cannot be built, compiled or saved with these values.
            UserError: The user's own training fails.
            MachineError: The folder is gone, or its disk is full or broken.
        """
        started, clock = time.monotonic(), Stopwatch()
        training = job.config.training
        if isinstance(job.config.model, HyperModelConfig):
            # Imported here, as keras-tuner takes a second. Whatever the user's module changes in Keras on import is
            # reset below, so that a process's first trial is like the others.
            from mnist_sweep.training import custom_model

            custom_model.load(job.config.model.hypermodel)
        with clock("build"):
            _reset_keras(job.config)
            keras.config.set_dtype_policy(training.precision)
            split = self._splits.fold(*job.fold) if job.fold else self._splits.holdout()
            split = self._splits.for_model(split, job.config.model)
            # Of a stream, the split has only the first rows.
            split = split.for_task(job.config.task) if self._stream is None else split
            with _impossible_if_it_fails():
                built, compiled = self._build(job, split)
        model = compiled.model
        parameters = model.count_params()

        def outcome(status: Status, reason: str, **found: Any) -> Outcome:
            metrics = {**found.pop("metrics", {}), "parameters": float(parameters)}
            seconds = time.monotonic() - started
            return Outcome(
                status, reason, metrics=metrics, parameters=parameters, seconds=seconds, phases=clock.seconds, **found
            )

        batch_size = self._batch_size(job.config, split)
        rows = "rows" if self._schema.image is None else "images"
        refusal = costs.exceeded_limit(model, job.limits, batch_size, rows)
        if refusal:
            return outcome(Status.REFUSED, refusal)
        if not job.folder.parent.parent.is_dir():
            # Do not create it: it would be in the way of a sweep folder that was moved.
            raise MachineError(f"{job.folder}: cannot be written (the sweep's folder is gone)")
        try:
            for folder in (job.folder.parent, job.folder):
                make_folder(folder)
        except OSError as error:
            raise MachineError(f"{job.folder}: cannot be written ({error.strerror})") from error
        weights_owner = model if compiled.standard is None else compiled.standard
        with clock("build"), _impossible_if_it_fails():
            to_save = built.whole() if built else compiled.functional or models.without_subclass(weights_owner)
            if split.encoding is not None:
                to_save = split.encoding.in_front_of(to_save)
            if isinstance(job.config.model, CustomModel | HyperModelConfig):
                # Checked before hours of training.
                user_code.check_loadable(to_save, _setting(job.config.model))
        callback = _TrialCallback(job, report, stop, built, clock, Callbacks(training.callbacks))
        callback.restore(model)
        if not callback.ended:
            if built and built.has_custom_fit:
                self._custom_fit(built, job, split, callback)
            else:
                self._fit(compiled, job, split, callback, built)
        progress = callback.progress
        if callback.divergence and not progress.history:
            # Of a trial that continues another one, the result is that of the other.
            return outcome(Status.FAILED, callback.divergence)
        if callback.stopped and not progress.history:
            return outcome(Status.STOPPED, callback.stopped)
        if job.keep and not callback.divergence:
            callback.save()
        if not progress.best and progress.history:
            last = progress.history[-1][job.objective.name]
            failure = callback.divergence or f"{job.objective.name} was {last} in every epoch"
            return outcome(Status.STOPPED, callback.stopped) if callback.stopped else outcome(Status.FAILED, failure)
        with clock("save"), writing_to(job.folder):
            weights_owner.set_weights(model.get_weights() if callback.best_weights is None else callback.best_weights)
            write_whole(job.folder / MODEL_FILE, lambda path: to_save.save(path, include_optimizer=False))
            digest = digest_of(job.folder / MODEL_FILE)
            _save_sample(to_save, split.sample(_SAMPLE), self._schema, job.folder / SAMPLE_FILE)
        metrics = dict(progress.best)
        if progress.history:
            metrics["epoch_seconds"] = fmean(epoch["epoch_seconds"] for epoch in progress.history)
        if job.latency:
            metrics["latency"] = costs.latency(to_save, split.given_example)
        status = Status.STOPPED if callback.stopped else Status.COMPLETED
        return outcome(
            Status.DIVERGED if callback.divergence else status,
            callback.divergence or callback.stopped or callback.early,
            score=progress.best.get(job.objective.name),
            best_epoch=progress.best_epoch,
            metrics=metrics,
            digest=digest,
        )

    def test(
        self, path: Path, digest: str = "", task: TaskConfig = CLASSIFICATION, config: TrialConfig | None = None
    ) -> tuple[dict[str, float], list[list[int]]]:
        """Tests a saved model on the test rows, and writes details for the report next to it (`diagnostics.write`).

        Args:
            path: The `.h5` file.
            digest: The SHA-256 of the file when it was written; empty if unknown.
            task: What it was trained for.
            config: The trial's config, for a model that computes its loss and metrics itself; None for others.

        Returns:
            The loss and the task's metrics, as `test_loss` and so on; and the confusion matrix, with one row per true
            class, empty if the task has no classes.

        Raises:
            UserError: The file was changed since it was written, or cannot be loaded.
            MachineError: The folder is gone, or its disk is full or broken.
        """
        check_digest(path, digest, str(path))
        test, target = self._dataset.test, self._schema.target
        model = saved.load(path)
        confusion = np.zeros((0, 0), dtype=np.int64)
        metrics = None if config is None else self._test_users_own(model, config)
        plain = target.kind == "classes" and model.output_shape in ((None, target.size), (None, 1))
        if metrics is not None and not plain:
            return metrics, confusion.tolist()
        if self._stream is None:
            truth, predicted, wrong = np.asarray(test.targets), saved.predict(model, test.inputs), None
        else:
            tested = streams.test(model, self._stream, self._schema, task)
            truth, predicted, wrong = tested.truth, tested.predicted, tested.wrong
        if metrics is None:
            metrics = tasks.metrics_of(task, target, truth, predicted)
        if target.kind == "classes":
            confusion = np.zeros((target.size, target.size), dtype=np.int64)
            np.add.at(confusion, (truth, tasks.classes_of(predicted)), 1)
        try:
            with writing_to(path.parent):
                diagnostics.write(path.parent, model, self._dataset, truth, predicted, wrong)
        except MachineError:
            # Resuming the sweep repeats the test and writes the details.
            raise
        except Exception:
            # Without the details, only the report has fewer plots.
            traceback.print_exc()
        return metrics, confusion.tolist()

    def _test_users_own(self, model: keras.Model, config: TrialConfig) -> dict[str, float]:
        """Returns the metrics of a user's model on the test rows, as it logs them for the validation rows."""
        test, task = self._dataset.test, config.task
        keras.config.set_dtype_policy(config.training.precision)
        inputs: Mapping[str, Array] = test.inputs
        split = self._splits.for_model(self._splits.holdout(), config.model)
        job = Job(config, Objective("val_loss", "min"), 1, Path())
        if self._stream is not None:
            built, compiled = self._build(job, split)
            (built.whole() if built else compiled.functional or compiled.model).set_weights(model.get_weights())
            found = self._stream_epochs(self._stream, compiled, built, config).validate("test")
            return {f"test_{name}": value for name, value in (built.metrics(found) if built else found).items()}
        if split.encoding is not None:
            # As its own training rows, which may be those of a fold, are encoded.
            inputs, model = encoding.taken_apart(model, inputs)
        rows = np.arange(len(test))
        on_device = {name: backends.to_device([np.asarray(x)]) for name, x in inputs.items()}
        weights = None if test.weights is None else backends.to_device([np.asarray(test.weights)])
        targets = backends.to_device([np.asarray(test.targets)])
        tested = replace(split, inputs=on_device, targets=targets, weights=weights, training=rows[:1], validation=rows)
        tested = tested.for_task(task.model_copy(update={"class_weight": None}))
        built, compiled = self._build(job, tested)
        (built.whole() if built else compiled.functional or compiled.model).set_weights(model.get_weights())
        size = min(config.training.validation_batch_size, len(rows))
        compiled.program.prepare(tested, 1, size)
        found = compiled.program.validate(tested, size)
        found = built.metrics(found) if built else found
        return {f"test_{name.removeprefix('val_')}": value for name, value in found.items()}

    def check(self, raws: Sequence[Mapping[str, Any]], objectives: Sequence[str] = ()) -> dict[str, Any]:
        """Imports a user's model function, builds models with it, and checks that the first can be loaded again.

        Args:
            raws: Configs of trials. If no model can be built with their values, others may work.
            objectives: The metrics that training must log, if only a model tells which it logs.

        Returns:
            `unread`, the keys of `model` that it reads with none of them; and `notes`, lines for the user on what is
            most likely a mistake.

        Raises:
            UserError: The function cannot be imported, or its model could not be loaded.
        """
        configs = list(map(check_trial, raws))
        first = configs[0]
        assert isinstance(first.model, CustomModel)
        models.load_builder(first.model)
        _reset_keras(first)
        keras.config.set_dtype_policy(first.training.precision)
        split = self._splits.for_model(self._splits.holdout(), first.model)
        schema, of_model = split.schema, [config.model for config in configs if isinstance(config.model, CustomModel)]
        if first.task.kind == "custom":
            notes = self._check_users_own(first, split, objectives)
            return {"unread": models.unread(of_model, schema), "notes": notes}
        try:
            model = models.build(first, schema)
        except Exception:
            traceback.print_exc()
            return {}
        user_code.check_loadable(models.without_subclass(model), _setting(first.model))
        notes = list(models.doubts(model))
        if model.compiled:
            notes.append(
                f"compiles its model, but task={first.task.kind} uses a loss and metrics of its own; to use those that "
                "the model is compiled with, write task=custom"
            )
        return {"unread": models.unread(of_model, schema), "notes": notes}

    def _check_users_own(self, config: TrialConfig, split: Split, objectives: Sequence[str]) -> list[str]:
        """Checks a user's model of its own loss, and that it logs the objectives; returns notes."""
        assert isinstance(config.model, CustomModel)
        setting, module = _setting(config.model), config.model.builder.partition(":")[0]
        # Mistakes in it are those of all trials.
        compiled = _users_own(config, split, 1)
        model, whole, adapt = compiled.model, compiled.functional or compiled.model, compiled.adapt
        assert adapt is not None
        user_code.check_loadable(whole, setting)
        x, y, *weights = adapt(*split.arrays(split.training[:_FEW], train=False))
        weight = weights[0] if weights else None
        try:
            logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
        except Exception as error:
            raise user_code.code_error(setting, module, "its loss or a metric fails", error) from error
        known = [*METRICS, *SUMMARIES, *(f"{prefix}{name}" for name in scalars(logs) for prefix in ("val_", ""))]
        for name in objectives:
            if name not in known:
                raise UserError(f"objective={name}: the model does not log it{did_you_mean(name, known)}")
        return list(models.doubts(whole))

    def discover(self, name: str, objectives: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the search space of a user's hypermodel, from `discovery.discover`."""
        from mnist_sweep.training import discovery

        return discovery.discover(name, self._dataset, objectives)

    def _fit(
        self, compiled: CompiledModel, job: Job, split: Split, callback: _TrialCallback, built: BuiltModel | None
    ) -> None:
        clock = callback.clock
        with clock("trace"):
            if self._stream is None:
                train, validate = _of_arrays(compiled, job, split, callback)
            else:
                epochs = self._stream_epochs(self._stream, compiled, built, job.config)
                epochs.skip(callback.progress.epoch)
                train, validate = partial(epochs.train, on_loss=callback.on_loss), epochs.validated
        callback.set_model(compiled.model)
        callback.on_train_begin()
        while not callback.ended:
            epoch = callback.progress.epoch
            callback.on_epoch_begin(epoch)
            with clock("train"):
                logs = train(epoch)
            if callback.divergence:
                break
            with clock("validate"):
                logs |= validate()
            callback.on_epoch_end(epoch, logs)
        callback.on_train_end()

    def _stream_epochs(
        self, stream: Stream, compiled: CompiledModel, built: BuiltModel | None, config: TrialConfig
    ) -> streams.StreamEpochs:
        """Returns what trains and validates a model on a stream."""
        adapts = None
        if built is not None:
            adapts = built.adapt, built.arrays
        elif (adapt := compiled.adapt) is not None:
            adapts = adapt, lambda *batch: keras.tree.map_structure(np.asarray, adapt(*batch))
        size, seed = config.training.batch_size, config.training.seed
        return streams.StreamEpochs(compiled.model, stream, self._schema, config.task, seed, size, adapts)

    def _batch_size(self, config: TrialConfig, split: Split) -> int:
        """Returns the rows of a batch."""
        if self._stream is None:
            return min(config.training.batch_size, len(split.training))
        return self._stream.batch_size if self._stream.chooses_batches else config.training.batch_size

    def _steps(self, config: TrialConfig, split: Split) -> int:
        """Returns the batches of an epoch; of a stream whose rows were not counted, 1."""
        if self._stream is None:
            return models.batches(len(split.training), config.training.batch_size)
        return self._stream.steps_with(config.training.batch_size) or 1

    def _custom_fit(self, built: BuiltModel, job: Job, split: Split, callback: _TrialCallback) -> None:
        from mnist_sweep.training import custom_fit

        data = built.arrays(*split.arrays(split.training, train=True))
        validation = built.arrays(*split.arrays(split.validation, train=False))
        given = validation if len(split.validation) else None
        with callback.clock("train"):
            custom_fit.train(built, data, given, job.config.training, job.epochs, callback)

    def _build(self, job: Job, split: Split) -> tuple[BuiltModel | None, CompiledModel]:
        """Builds the model to train; also returns a hypermodel's model with what is known about it."""
        config, target = job.config, self._schema.target
        steps = self._steps(config, split)
        if isinstance(config.model, HyperModelConfig):
            from mnist_sweep.training import custom_model

            built = custom_model.build(config.model, split.schema)
            built.set_execution(models.steps_per_execution(config, built.model, steps), config.training.jit_compile)
            _check_hypermodel(config, built, stream=self._stream is not None)
            return built, CompiledModel(built.model, split, built.adapt, augmentation=Augmentation.of(config.augment))
        steps *= config.training.epochs
        if isinstance(config.model, CustomModel):
            # Its layers may hold any state, so it is never reused.
            if config.task.kind == "custom":
                return None, _users_own(config, split, steps)
            model = models.build(config, split.schema)
            _compile(model, config, steps, target, None)
            return None, CompiledModel(model, split, augmentation=Augmentation.of(config.augment))
        scale = self._target_scale(split) if tasks.scales(config.task) else None
        compile_ = partial(_compile, config=config, steps=steps, target=target, scale=scale)
        return None, self._models.get(config, steps, split, scale, compile_)

    def _target_scale(self, split: Split) -> tasks.Scale:
        """Returns the mean and the standard deviation of the training rows' targets."""
        if self._stream is None:
            return split.target_scale
        deviation = np.array(self._stream.deviation, np.float32)
        return np.array(self._stream.mean, np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)


def _of_arrays(compiled: CompiledModel, job: Job, split: Split, callback: _TrialCallback) -> _Epochs:
    """Returns what trains and validates an epoch on rows in memory."""
    training, program = job.config.training, compiled.program
    most = None if training.steps_per_execution == "auto" else training.steps_per_execution
    program.prepare(split, training.batch_size, training.validation_batch_size)

    def train(epoch: int) -> dict[str, float]:
        return program.train(split, training.seed, epoch, training.batch_size, most, callback.on_loss)

    return train, lambda: program.validate(split, training.validation_batch_size)


def _users_own(config: TrialConfig, split: Split, steps: int) -> CompiledModel:
    """Builds and compiles a user's model with its own loss and metrics, or with those that fit its outputs."""
    assert isinstance(config.model, CustomModel)
    assert config.optimizer is not None
    setting = _setting(config.model)
    own = models.users_own(config, split.schema)
    model, found = own.trained, outputs.Outputs.of(setting, own.functional, split.schema.target)
    optimizer = models.optimizer(config.optimizer, steps)
    backends.speed_up(optimizer)
    if config.task.loss is None and (model.compiled or models.overridden(model)):
        if not model.compiled:
            # Its own step computes the loss.
            model.compile(optimizer=optimizer)
        model.optimizer = optimizer
        if config.training.precision == "mixed_float16":
            model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        found = found.with_one_hot(model.loss)
    else:
        model.compile(optimizer=optimizer, **found.compiled_with(config.task))
    model.jit_compile = backends.jit_compile(config.training.jit_compile)
    augmentation = Augmentation.of(config.augment)
    return CompiledModel(model, split, found.adapt, augmentation=augmentation, functional=own.functional)


def _check_hypermodel(config: TrialConfig, built: BuiltModel, *, stream: bool) -> None:
    """Refuses what a user's compiled model cannot be trained with."""
    setting, steps = f"model.hypermodel={built.name}", config.augment.steps
    if built.has_custom_fit and stream:
        raise UserError(f"{setting}: has its own fit, which takes arrays, but data.loader returns a stream")
    if mixing := [name for name in ("mixup", "cutmix") if name in steps]:
        raise UserError(
            f"augment.{mixing[0]}={steps[mixing[0]]}: {setting} compiles its own loss, which does not take the targets "
            "of two images; set it to 0"
        )
    for key, used in (("augment." + next(iter(steps), ""), steps), ("training.callbacks", config.training.callbacks)):
        if built.has_custom_fit and used:
            raise UserError(f"{key}: {setting} has a fit of its own, which would ignore it; do it there")


def _setting(model: CustomModel | HyperModelConfig) -> str:
    return (
        f"model.builder={model.builder}" if isinstance(model, CustomModel) else f"model.hypermodel={model.hypermodel}"
    )


def _reset_keras(config: TrialConfig) -> None:
    """Seeds random numbers, and names layers as in a fresh process."""
    if isinstance(config.model, CustomModel | HyperModelConfig):
        keras.utils.clear_session()
        keras.utils.set_random_seed(config.training.seed)
    else:
        # `clear_session` would also drop what TensorFlow has compiled. Keras draws the seeds of a model's weights from
        # Python's generator; the seeds of dropout are set before each epoch.
        keras.src.utils.naming.reset_uids()
        random.seed(config.training.seed)


def _compile(model: keras.Model, config: TrialConfig, steps: int, target: Target, scale: tasks.Scale | None) -> None:
    assert config.optimizer is not None
    jit = backends.jit_compile(config.training.jit_compile)
    optimizer = models.optimizer(config.optimizer, steps)
    backends.speed_up(optimizer)
    loss, metrics = tasks.loss(config.task, target, scale), tasks.metrics(config.task, target)
    if config.augment.mixes:
        loss, metrics = tasks.of_mixed(config.task, target, loss, metrics)
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit)


class _TrialCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Seeds and reports each epoch, saves checkpoints, keeps the best weights and decides when to stop.

    Attributes:
        clock: Measures the phases of the trial.
        progress: How far the trial has come.
        best_weights: The weights of the best epoch.
        early: Why early stopping has ended the trial, else "".
        stopped: Why someone else has stopped the trial, else "".
        divergence: What became NaN or infinite and when, else "".
    """

    def __init__(
        self, job: Job, report: Report, stop: Stop, built: BuiltModel | None, clock: Stopwatch, others: Callbacks
    ) -> None:
        super().__init__()
        self._others = others
        self._job, self._report, self._stop, self._built, self.clock = job, report, stop, built, clock
        self._started = self._saved = time.monotonic()
        self._saved_epoch = 0
        self.progress = checkpoint.Progress()
        self.best_weights: list[Array] | None = None
        self.early = self.stopped = self.divergence = ""

    def restore(self, model: keras.Model) -> None:
        """Continues from the trial's own checkpoint or from its parent's, if there is one."""
        # A custom fit cannot resume and starts again; its checkpoint is only used to end a stopped trial.
        restart = self._built is not None and self._built.has_custom_fit and not self._job.stop
        with self.clock("checkpoint"):
            found = None if restart else checkpoint.restore(self._job.folder / STATE_FILE, model)
        if found is not None:
            self.progress, self.best_weights = found
            self._saved_epoch = self.progress.epoch
            for epoch, metrics in enumerate(self.progress.history, start=self.progress.first):
                self._report(epoch, metrics)
            self._check_stop()
            return
        if self._job.parent is not None:
            with self.clock("checkpoint"):
                trained = checkpoint.inherit(self._job.parent / STATE_FILE, model)
            self.progress = checkpoint.Progress(epoch=trained, first=trained + 1)
        if self._job.stop and self.progress.epoch >= self._job.known:
            self.stopped = self._job.stop

    @property
    def completed(self) -> bool:
        """Whether the trial has trained its last epoch or has stopped early."""
        return bool(self.early) or self.progress.epoch >= self._job.epochs

    @property
    def ended(self) -> bool:
        """Whether the trial must not train any longer, for whatever reason."""
        return self.completed or bool(self.stopped or self.divergence)

    def on_train_begin(self, logs: Any = None) -> None:
        self._others.begin(self.model, self._job.epochs, self.progress.callbacks)

    def on_train_end(self, logs: Any = None) -> None:
        self._others.end()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()
        self._others.epoch_begin(epoch)
        generators = [g for layer in self.model._flatten_layers() for g in getattr(layer, "_seed_generators", [])]
        for i, generator in enumerate(generators):
            seed = np.random.SeedSequence([self._job.config.training.seed, epoch, i]).generate_state(1)[0]
            generator.state.assign(np.array([seed, 0], dtype=generator.state.dtype))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.on_loss(float((logs or {}).get("loss", 0)))

    def on_loss(self, loss: float) -> bool:
        """Checks the loss within an epoch; returns whether to continue."""
        if not math.isfinite(loss):
            self._diverge("loss", loss)
        return not self.divergence

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.divergence:
            return
        if self.ended:
            # Only a user's own training loop ignores `stop_training`.
            from mnist_sweep.training.custom_fit import TrainingOver

            raise TrainingOver
        # Not the argument: a custom fit may start at the first epoch several times.
        epoch = self.progress.epoch
        metrics = self._built.metrics(logs) if self._built else {name: float(value) for name, value in logs.items()}
        metrics["learning_rate"] = float(self.model.optimizer.learning_rate)
        now = time.monotonic()
        metrics["epoch_seconds"], self._started = now - self._started, now
        if name := self._not_finite(metrics):
            self._diverge(name, metrics[name])
            return
        self._advance(epoch + 1, metrics)
        self._others.epoch_end(epoch, metrics)
        self.progress.callbacks, self.progress.ended = self._others.states(), self._others.stopped
        if time.monotonic() - self._saved >= self._job.checkpoint_every:
            self.save()
        with self.clock("wait"):
            self._report(epoch + 1, metrics)
            self._check_stop()
        if self.early or self.stopped:
            self.model.stop_training = True

    def save(self) -> None:
        """Saves a checkpoint, unless there is one of this epoch."""
        if self._saved_epoch == self.progress.epoch:
            return
        with self.clock("checkpoint"), writing_to(self._job.folder):
            checkpoint.save(self._job.folder / STATE_FILE, self.model, self.progress, self.best_weights)
        self._saved, self._saved_epoch = time.monotonic(), self.progress.epoch

    def _not_finite(self, metrics: Mapping[str, float]) -> str:
        """Returns the metric from which it follows that the training has diverged; "" if there is none."""
        objective = self._job.objective.name
        for name in ("loss", objective):
            if name not in metrics:
                # Only a custom fit or training step can leave one out.
                raise UserError(f"objective={objective}: the model's fit does not log {name}")
        # Another metric may have no value in an epoch, such as an F1 score before anything is recognized.
        needed = ("loss", "val_loss") if objective == "val_loss" else ("loss",)
        found = next((name for name in needed if not math.isfinite(metrics[name])), "")
        validation = metrics.get("val_loss", 0.0)
        if not found and not math.isfinite(validation):
            # The last batches have broken the weights, after the training loss was computed. An infinite loss alone may
            # come from a single image.
            broken = math.isnan(validation) or not all(np.isfinite(w).all() for w in self.model.get_weights())
            found = "val_loss" if broken else ""
        return found

    def _advance(self, epoch: int, metrics: dict[str, float]) -> None:
        progress, objective = self.progress, self._job.objective
        score = metrics[objective.name]
        progress.epoch = epoch
        progress.history.append(metrics)
        if objective.better(score, progress.best.get(objective.name)):
            progress.best, progress.best_epoch = metrics, epoch
            self.best_weights = self.model.get_weights()
        if objective.better(score, progress.bar, self._job.config.training.early_stopping.min_delta):
            progress.bar, progress.waited = score, 0
        elif progress.bar is not None:
            progress.waited += 1

    def _check_stop(self) -> None:
        """Stops early, or asks whether to stop, after an epoch."""
        patience = self._job.config.training.early_stopping.patience
        if patience is not None and self.progress.waited >= patience and self.progress.epoch < self._job.epochs:
            self.early = f"no better {self._job.objective.name} for {counted(patience, 'epoch')}"
        if self.progress.ended and self.progress.epoch < self._job.epochs:
            self.early = self.progress.ended
        if self.completed:
            return
        if not self._job.stop:
            self.stopped = self._stop(self.progress.epoch)
        elif self.progress.epoch >= self._job.known:
            self.stopped = self._job.stop

    def _diverge(self, metric: str, value: float) -> None:
        progress, rate = self.progress, "learning rate" if self._built else "optimizer.learning_rate"
        what = f"the {metric} became {value} in epoch {progress.epoch + 1}"
        if progress.best:
            self.divergence = f"diverged after epoch {progress.epoch}: {what}; best epoch {progress.best_epoch} kept"
        else:
            self.divergence = f"{what}; a smaller {rate} may help"
        self.model.stop_training = True


@contextlib.contextmanager
def _impossible_if_it_fails() -> Iterator[None]:
    """Raises an `ImpossibleError` where a trial's model cannot be made; its cause tells whether that may pass."""
    try:
        yield
    except Exception as error:
        if machine_fault(error) is not None:
            raise
        raise ImpossibleError(str(error) if isinstance(error, UserError) else kind_and_line(error)) from error


def _save_sample(model: keras.Model, inputs: Mapping[str, Array], schema: Schema, path: Path) -> None:
    """Saves some inputs with the model's predictions: `images` or `x`, or `x_NAME` of several inputs.

    Also the `schema` as bytes of JSON, which says what inputs and predictions are, and how to make inputs from columns.
    """
    described = np.frombuffer(schema.to_json().encode(), np.uint8)
    arrays: dict[str, Any] = {**saved.predict_each(model, inputs), "schema": described}
    for name, x in inputs.items():
        arrays[f"x_{name}" if name != ONLY else ONLY if schema.image is None else "images"] = x
    write_whole(path, lambda target: np.savez_compressed(target, **arrays))
