"""Training one model, and testing one: the code that runs inside a worker.

An epoch's randomness (its shuffling and its dropout) is a function of the seed and the epoch's number alone, not of
what was trained before. So a trial gives the same metrics, to the last bit, in whichever worker it runs, and one that
goes on from a saved state does what it would have done without the break.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from mnist_sweep.common.errors import MachineError, UserError, machine_fault, writing_to
from mnist_sweep.common.files import make_folder, write_whole
from mnist_sweep.common.reading import check_digest, digest_of
from mnist_sweep.common.text import first_line
from mnist_sweep.config.objective import Objective
from mnist_sweep.config.trial_config import CustomModel, HyperModelConfig, TrialConfig
from mnist_sweep.data.images import Array, Dataset
from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, STATE_FILE
from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.training import backends, costs, details, saved, state
from mnist_sweep.training import model as models
from mnist_sweep.training.backends import configure as configure
from mnist_sweep.training.engines import Engine, Engines
from mnist_sweep.training.feed import Feed, Feeds
from mnist_sweep.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from mnist_sweep.training.custom_model import Built

_SAMPLE = 64

Report = Callable[[int, dict[str, float]], None]
Stop = Callable[[int], str]


@dataclass(frozen=True)
class Job:
    """What to train, and where to put it.

    Attributes:
        config: The trial's config.
        objective: What tells the best epoch, whose weights are kept.
        epochs: The last epoch to train.
        folder: Where the model goes; created if need be. Where it holds the trial's own state, left by an attempt that
            was interrupted, training goes on from that.
        parent: The folder of another trial to go on from; None to start anew.
        stop: Why to end where the trial is, after `known` epochs; "" to train.
        known: The epochs that an earlier attempt has reported.
        limits: The most `parameters` that the model may have, and the most bytes of `memory` that training may need.
        latency: Whether to measure how long the prediction of one image takes.
        fold: The fold to validate on, from 1, and how many there are; None for the data set's own validation images.
        checkpoint_every: Seconds between two savings of the trial's state; what is lost of a killed trial is trained
            again, with the same result.
        keep: Whether the state at the trial's end is to be saved, for others to go on from.
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
        """Loads the training and validation images; the test images only when `test` is called."""
        self._dataset = dataset
        self._classes = dataset.classes
        self._feeds, self._engines = Feeds(dataset), Engines()

    def train(self, job: Job, report: Report, stop: Stop) -> Outcome:
        """Trains a model and saves it with the weights of its best epoch.

        Args:
            job: What to train.
            report: Called after each epoch with its number, from 1, and its metrics (`settings.METRICS`). Those that an
                interrupted attempt has trained come again.
            stop: Asked with its number after each epoch but the last, and after the latest that an interrupted attempt
                has trained; a reason ends the trial there, "" lets it go on.

        Returns:
            The outcome; where it has a score, `job.folder` then holds the model and a sample of its predictions. Its
            metrics are those of the best epoch, but for `epoch_seconds`, the mean of all epochs; with `parameters`, and
            with `latency` in seconds where that is asked for.

        Raises:
            UserError: The model or the optimizer cannot be built.
            MachineError: The folder is gone, or its disk is full or broken.
        """
        started, clock = time.monotonic(), Stopwatch()
        training = job.config.training
        if isinstance(job.config.model, HyperModelConfig):
            # Not above, as keras-tuner takes a second. What a user's module does to Keras as it is imported, the next
            # lines undo, so that a process's first trial is like the others.
            from mnist_sweep.training import custom_model

            custom_model.load(job.config.model.hypermodel)
        with clock("build"):
            _begin_anew(job.config)
            keras.config.set_dtype_policy(training.precision)
            feed = self._feeds.fold(*job.fold) if job.fold else self._feeds.held_out()
            own, engine = self._built(job, feed)
        model = engine.model
        parameters = model.count_params()

        def outcome(status: Status, reason: str, **found: Any) -> Outcome:
            metrics = {**found.pop("metrics", {}), "parameters": float(parameters)}
            seconds = time.monotonic() - started
            return Outcome(
                status, reason, metrics=metrics, parameters=parameters, seconds=seconds, phases=clock.seconds, **found
            )

        refusal = costs.why_refuse(model, job.limits, feed.image, min(training.batch_size, len(feed.training)))
        if refusal:
            return outcome(Status.REFUSED, refusal)
        if not job.folder.parent.parent.is_dir():
            # Created again, it would stand in the way of the sweep that was moved.
            raise MachineError(f"{job.folder}: cannot be written (the sweep's folder is gone)")
        try:
            for folder in (job.folder.parent, job.folder):
                make_folder(folder)
        except OSError as error:
            raise MachineError(f"{job.folder}: cannot be written ({error.strerror})") from error
        to_save = model if engine.plain is None else engine.plain
        with clock("build"):
            whole = own.whole() if own else models.plain(to_save)
            if isinstance(job.config.model, CustomModel | HyperModelConfig):
                # Before hours of training.
                _check_loadable(whole, job.config.model)
        guide = _Guide(job, report, stop, own, clock)
        guide.restore(model)
        if not guide.ended:
            (self._fit_by_user if own and own.own_fit else self._fit)(engine, job, feed, guide, own)
        if guide.failure:
            return outcome(Status.FAILED, guide.failure)
        progress = guide.progress
        if guide.stopped and not progress.history:
            return outcome(Status.STOPPED, guide.stopped)
        if job.keep:
            guide.save()
        with clock("save"), writing_to(job.folder):
            to_save.set_weights(model.get_weights() if guide.best_weights is None else guide.best_weights)
            write_whole(job.folder / MODEL_FILE, lambda path: whole.save(path, include_optimizer=False))
            digest = digest_of(job.folder / MODEL_FILE)
            _save_sample(whole, feed.sample(_SAMPLE), job.folder / SAMPLE_FILE)
        metrics = dict(progress.best)
        if progress.history:
            metrics["epoch_seconds"] = fmean(epoch["epoch_seconds"] for epoch in progress.history)
        if job.latency:
            metrics["latency"] = costs.latency(whole, feed.image)
        return outcome(
            Status.STOPPED if guide.stopped else Status.COMPLETED,
            guide.stopped or guide.early,
            score=progress.best.get(job.objective.name),
            best_epoch=progress.best_epoch,
            metrics=metrics,
            digest=digest,
        )

    def test(self, path: Path, digest: str = "") -> tuple[dict[str, float], list[list[int]]]:
        """Tests a saved model on the test images, and writes what is worth a look beside it (`details.write`).

        Args:
            path: The `.h5` file.
            digest: Its SHA-256 as it was written; empty where that is not known.

        Returns:
            `test_loss` and `test_accuracy`; and the confusion matrix, a row per true class.

        Raises:
            UserError: It was changed since it was written, or cannot be loaded.
            MachineError: The folder is gone, or its disk is full or broken.
        """
        check_digest(path, digest, str(path))
        truth = np.asarray(self._dataset.y_test)
        model = saved.load(path)
        probabilities = saved.predict(model, self._dataset.x_test)
        predicted = probabilities.argmax(axis=1)
        losses = keras.losses.sparse_categorical_crossentropy(truth, probabilities)
        confusion = np.zeros((self._classes, self._classes), dtype=np.int64)
        np.add.at(confusion, (truth, predicted), 1)
        metrics = {"test_loss": float(np.mean(losses)), "test_accuracy": float((predicted == truth).mean())}
        try:
            with writing_to(path.parent):
                details.write(path.parent, model, self._dataset, probabilities)
        except MachineError:
            # When the sweep is resumed, the test is done again, with all that it leaves.
            raise
        except Exception:
            # Pictures that a report then lacks are no reason to lose the test.
            traceback.print_exc()
        return metrics, confusion.tolist()

    def _fit(self, engine: Engine, job: Job, feed: Feed, guide: _Guide, own: Built | None) -> None:
        training, clock = job.config.training, guide.clock
        most = None if training.steps_per_execution == "auto" else training.steps_per_execution
        with clock("trace"):
            program = engine.program
            program.prepare(feed, training.batch_size, training.validation_batch_size)
        guide.set_model(engine.model)
        while not guide.ended:
            epoch = guide.progress.epoch
            guide.on_epoch_begin(epoch)
            with clock("train"):
                logs = program.train(feed, training.seed, epoch, training.batch_size, most, guide.seen)
            if guide.failure:
                return
            with clock("validate"):
                logs |= program.validate(feed, training.validation_batch_size)
            guide.on_epoch_end(epoch, logs)

    def _fit_by_user(self, engine: Engine, job: Job, feed: Feed, guide: _Guide, own: Built | None) -> None:
        from mnist_sweep.training import custom_fit

        assert own is not None
        data, validation = (own.arrays(*feed.arrays(which)) for which in (feed.training, feed.validation))
        with guide.clock("train"):
            custom_fit.train(
                own, data, validation if len(feed.validation) else None, job.config.training, job.epochs, guide
            )

    def discover(self, name: str) -> dict[str, Any]:
        """The space of a user's hypermodel, as `discovery.discover` finds it."""
        from mnist_sweep.training import discovery

        return discovery.discover(name, self._dataset)

    def _built(self, job: Job, feed: Feed) -> tuple[Built | None, Engine]:
        """A user's model, if it is one; and what to train."""
        config, images = job.config, len(feed.training)
        steps = models.batches(images, config.training.batch_size)
        if isinstance(config.model, HyperModelConfig):
            from mnist_sweep.training import custom_model

            own = custom_model.build(config.model, feed.image, self._classes)
            own.execute(models.steps_per_execution(config, own.model, steps), config.training.jit_compile)
            return own, Engine(own.model, feed, own.adapt)
        steps *= config.training.epochs
        if isinstance(config.model, CustomModel):
            # Its layers may hold anything, so that nothing of it is used again.
            model = models.build(config, feed.image, self._classes)
            _compile(model, config, steps)
            return None, Engine(model, feed)
        return None, self._engines.find(
            config, steps, feed, self._classes, lambda model: _compile(model, config, steps)
        )


def _begin_anew(config: TrialConfig) -> None:
    """Seeds what is random, and lets layers be named as in a fresh process."""
    if isinstance(config.model, CustomModel | HyperModelConfig):
        keras.utils.clear_session()
        keras.utils.set_random_seed(config.training.seed)
    else:
        # Not as above, which also drops what TensorFlow has made ready to run. The seeds of a model's weights are drawn
        # from Python's generator; those of its dropout are set with each epoch.
        keras.src.utils.naming.reset_uids()
        random.seed(config.training.seed)


def _compile(model: keras.Model, config: TrialConfig, steps: int) -> None:
    assert config.optimizer is not None
    jit = backends.jit_compile(config.training.jit_compile)
    optimizer = models.optimizer(config.optimizer, steps)
    backends.quicken(optimizer)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=jit)


class _Guide(keras.callbacks.Callback):  # type: ignore[misc]
    """Seeds each epoch, reports it, saves the trial's state, keeps the best weights and says when to stop."""

    def __init__(self, job: Job, report: Report, stop: Stop, own: Built | None, clock: Stopwatch) -> None:
        super().__init__()
        self._job, self._report, self._stop, self._own, self.clock = job, report, stop, own, clock
        self._started = self._saved = time.monotonic()
        self._saved_epoch = 0
        self.progress = state.Progress()
        self.best_weights: list[Array] | None = None
        self.early = self.stopped = self.failure = ""

    def restore(self, model: keras.Model) -> None:
        """Goes on from the trial's own state, or from its parent's, where there is one."""
        # A user's own fit cannot go on from the middle, and starts anew.
        anew = self._own is not None and self._own.own_fit and not self._job.stop
        with self.clock("checkpoint"):
            found = None if anew else state.restore(self._job.folder / STATE_FILE, model)
        if found is not None:
            self.progress, self.best_weights = found
            self._saved_epoch = self.progress.epoch
            for epoch, metrics in enumerate(self.progress.history, start=self.progress.first):
                self._report(epoch, metrics)
            self._check_patience()
            if not self.over:
                self.stopped = self._why_stop()
            return
        if self._job.parent is not None:
            with self.clock("checkpoint"):
                trained = state.inherit(self._job.parent / STATE_FILE, model)
            self.progress = state.Progress(epoch=trained, first=trained + 1)
        if self._job.stop and self.progress.epoch >= self._job.known:
            self.stopped = self._job.stop

    @property
    def over(self) -> bool:
        """Whether there is no epoch left to train."""
        return bool(self.early) or self.progress.epoch >= self._job.epochs

    @property
    def ended(self) -> bool:
        """Whether the trial trains no longer, for whatever reason."""
        return self.over or bool(self.stopped or self.failure)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()
        generators = [g for layer in self.model._flatten_layers() for g in getattr(layer, "_seed_generators", [])]
        for i, generator in enumerate(generators):
            seed = np.random.SeedSequence([self._job.config.training.seed, epoch, i]).generate_state(1)[0]
            generator.state.assign(np.array([seed, 0], dtype=generator.state.dtype))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen(float((logs or {}).get("loss", 0)))

    def seen(self, loss: float) -> bool:
        """Takes the loss within an epoch; whether the trial goes on."""
        if not math.isfinite(loss):
            self._fail(self.progress.epoch + 1, loss)
        return not self.failure

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.failure:
            return
        if self.ended:
            # Only a training loop of the user's own goes on all the same.
            from mnist_sweep.training.custom_fit import Ended

            raise Ended
        # Of its own count: a user's fit may begin at the first epoch several times.
        epoch = self.progress.epoch
        metrics = self._own.metrics(logs) if self._own else {name: float(value) for name, value in logs.items()}
        metrics["learning_rate"] = float(self.model.optimizer.learning_rate)
        now = time.monotonic()
        metrics["epoch_seconds"], self._started = now - self._started, now
        score = self._score(metrics)
        if not math.isfinite(metrics["loss"]) or not math.isfinite(score):
            self._fail(epoch + 1, next(v for v in (metrics["loss"], score) if not math.isfinite(v)))
            return
        self._advance(epoch + 1, metrics)
        if time.monotonic() - self._saved >= self._job.checkpoint_every:
            self.save()
        with self.clock("wait"):
            self._report(epoch + 1, metrics)
            self._check_patience()
            if not self.over:
                self.stopped = self._why_stop()
        if self.early or self.stopped:
            self.model.stop_training = True

    def save(self) -> None:
        """Saves the trial's state, unless that is done."""
        if self._saved_epoch == self.progress.epoch:
            return
        with self.clock("checkpoint"), writing_to(self._job.folder):
            state.save(self._job.folder / STATE_FILE, self.model, self.progress, self.best_weights)
        self._saved, self._saved_epoch = time.monotonic(), self.progress.epoch

    def _why_stop(self) -> str:
        if self._job.stop:
            return self._job.stop if self.progress.epoch >= self._job.known else ""
        return self._stop(self.progress.epoch)

    def _score(self, metrics: Mapping[str, float]) -> float:
        for name in ("loss", self._job.objective.name):
            if name not in metrics:
                # Only a user's own fit or training step can leave one out.
                raise UserError(f"objective={self._job.objective.name}: the model's fit logs no {name}")
        return metrics[self._job.objective.name]

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
        else:
            progress.waited += 1

    def _check_patience(self) -> None:
        patience = self._job.config.training.early_stopping.patience
        if patience is not None and self.progress.waited >= patience and self.progress.epoch < self._job.epochs:
            self.early = f"no better {self._job.objective.name} for {patience} epochs"

    def _fail(self, epoch: int, loss: float) -> None:
        rate = "learning rate" if self._own else "optimizer.learning_rate"
        self.failure = f"the loss became {loss} in epoch {epoch}; a smaller {rate} may help"
        self.model.stop_training = True


def _save_sample(model: keras.Model, images: Array, path: Path) -> None:
    predictions = saved.predict(model, images)
    write_whole(path, lambda target: np.savez_compressed(target, images=images, predictions=predictions))


def _check_loadable(model: keras.Model, config: CustomModel | HyperModelConfig) -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MODEL_FILE
            model.save(path, include_optimizer=False)
            saved.load(path)
    except Exception as error:
        if machine_fault(error):
            raise
        line = first_line(error.__cause__ or error)
        which = (
            f"model.builder={config.builder}"
            if isinstance(config, CustomModel)
            else f"model.hypermodel={config.hypermodel}"
        )
        if isinstance(error, OSError):
            raise UserError(f"{which}: its model cannot be saved ({line})") from error
        raise UserError(
            f"{which}: the saved model cannot be loaded again ({line}); "
            "decorate own layers with @keras.saving.register_keras_serializable(), and avoid Lambda layers"
        ) from error
