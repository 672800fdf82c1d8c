"""Training one model, and testing one: the code that runs inside a worker.

An epoch's randomness (its shuffling and its dropout) is a function of the seed and the epoch's number alone, not of
what was trained before. So a trial gives the same metrics, to the last bit, in whichever worker it runs, and one that
goes on from a saved state does what it would have done without the break.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_sweep.config import CustomModel, TrialConfig
from mnist_sweep.errors import UserError
from mnist_sweep.files import write_whole
from mnist_sweep.settings import Objective
from mnist_sweep.training import model as models
from mnist_sweep.training import saved, state
from mnist_sweep.training.data import Array, Dataset
from mnist_sweep.trial import MODEL_FILE, SAMPLE_FILE, STATE_FILE, Outcome, Status

_SAMPLE = 64

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """What to train, and where to put it.

    Attributes:
        config: The trial's config.
        objective: What tells the best epoch, whose weights are kept.
        epochs: The last epoch to train.
        folder: Where the model goes; created if need be. Where it holds the trial's own state, left by an attempt that
            was interrupted, training goes on from that.
        parent_state: The state of another trial to go on from; None to start anew.
    """

    config: TrialConfig
    objective: Objective
    epochs: int
    folder: Path
    parent_state: Path | None = None


def configure(threads: int, *, gpu: bool) -> None:
    """Sets TensorFlow up; once per process, before anything else of it is used.

    Args:
        threads: CPU threads that operations may use.
        gpu: Whether this process trains on a GPU; its memory is then taken as needed, not all at once.

    Raises:
        RuntimeError: The GPU is not there, and TensorFlow would train on the CPU without a word.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    if gpu:
        devices = tf.config.list_physical_devices("GPU")
        if not devices:
            raise RuntimeError("the GPU is gone, or TensorFlow cannot use it; pip install 'mnist_sweep[gpu]'")
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)


class Trainer:
    """Holds a data set in memory and trains one model after another on it."""

    def __init__(self, dataset: Dataset) -> None:
        """Loads the training and validation images; the test images only when `test` is called."""
        self._dataset = dataset
        self._classes = dataset.classes
        # Pixels stay bytes until a batch is drawn: a quarter of the memory to read.
        self._x, self._y = tf.constant(dataset.x_train), tf.constant(dataset.y_train)
        self._x_val, self._y_val = np.asarray(dataset.x_val), np.asarray(dataset.y_val)

    def train(self, job: Job, report: Report, stop: Callable[[], str]) -> Outcome:
        """Trains a model and saves it with the weights of its best epoch.

        Args:
            job: What to train.
            report: Called after each epoch with its number, from 1, and its metrics (`settings.METRICS`).
            stop: Asked after each epoch; a reason ends the trial there, "" lets it go on.

        Returns:
            The outcome; `job.folder` then holds the model and a sample of its predictions, unless it failed.

        Raises:
            UserError: The model or the optimizer cannot be built.
        """
        started = time.monotonic()
        training = job.config.training
        keras.utils.clear_session()
        keras.utils.set_random_seed(training.seed)
        keras.config.set_dtype_policy(training.precision)
        steps = models.batches(len(self._x), training.batch_size)
        model = self._compiled(job, steps)
        job.folder.mkdir(parents=True, exist_ok=True)
        epoch = tf.Variable(0, dtype=tf.int64)
        guide = _Guide(job, epoch, report, stop)
        guide.restore(model)
        if not guide.over:
            model.fit(
                self._batches(training.batch_size, steps, training.seed, epoch),
                validation_data=self._validation(training.validation_batch_size),
                epochs=job.epochs,
                initial_epoch=guide.progress.epoch,
                callbacks=[guide],
                shuffle=False,  # `_batches` has done it
                verbose=0,
            )
        if guide.failure:
            return Outcome(
                Status.FAILED, guide.failure, parameters=model.count_params(), seconds=time.monotonic() - started
            )
        if guide.best_weights is not None:
            model.set_weights(guide.best_weights)
        write_whole(job.folder / MODEL_FILE, lambda path: model.save(path, include_optimizer=False))
        if isinstance(job.config.model, CustomModel):
            _check_loadable(job.folder / MODEL_FILE, job.config.model)
        self._save_sample(model, job.folder / SAMPLE_FILE)
        return Outcome(
            Status.STOPPED if guide.stopped else Status.COMPLETED,
            guide.stopped or guide.early,
            score=guide.progress.best.get(job.objective.name),
            best_epoch=guide.progress.best_epoch,
            metrics=guide.progress.best,
            parameters=model.count_params(),
            seconds=time.monotonic() - started,
        )

    def test(self, path: Path) -> tuple[dict[str, float], list[list[int]]]:
        """Tests a saved model on the test images.

        Args:
            path: The `.h5` file.

        Returns:
            `test_loss` and `test_accuracy`; and the confusion matrix, a row per true class.
        """
        truth = np.asarray(self._dataset.y_test)
        probabilities = saved.predict(saved.load(path), self._dataset.x_test)
        predicted = probabilities.argmax(axis=1)
        losses = keras.losses.sparse_categorical_crossentropy(truth, probabilities)
        confusion = np.zeros((self._classes, self._classes), dtype=np.int64)
        np.add.at(confusion, (truth, predicted), 1)
        metrics = {"test_loss": float(np.mean(losses)), "test_accuracy": float((predicted == truth).mean())}
        return metrics, confusion.tolist()

    def _compiled(self, job: Job, steps: int) -> keras.Model:
        training = job.config.training
        height, width, channels = self._x.shape[1:]
        model = models.build(job.config, (height, width, channels), self._classes)
        jit = training.jit_compile
        if jit == "auto":
            # XLA makes convolutions four to five times slower on CPU.
            jit = "auto" if tf.config.list_logical_devices("GPU") else False
        model.compile(
            optimizer=models.optimizer(job.config.optimizer, steps * job.config.training.epochs),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=models.steps_per_execution(job.config, model, steps),
            jit_compile=jit,
        )
        return model

    def _batches(self, batch_size: int, steps: int, seed: int, epoch: tf.Variable) -> tf.data.Dataset:
        x, y, size = self._x, self._y, len(self._x)

        def shuffled(_: Any) -> tf.data.Dataset:  # noqa: ANN401
            order = tf.random.experimental.stateless_shuffle(tf.range(size), seed=tf.stack([seed, epoch]))

            def batch(i: Any) -> tuple[Any, Any]:  # noqa: ANN401
                chosen = order[i * batch_size : (i + 1) * batch_size]
                return _as_float(tf.gather(x, chosen)), tf.gather(y, chosen)

            return tf.data.Dataset.range(steps).map(batch)

        drawn = tf.data.Dataset.from_tensors(0).flat_map(shuffled)
        return drawn.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)

    def _validation(self, batch_size: int) -> tf.data.Dataset | None:
        if not len(self._x_val):
            return None
        images = tf.data.Dataset.from_tensor_slices((self._x_val, self._y_val)).batch(batch_size)
        return images.map(lambda x, y: (_as_float(x), y)).prefetch(2)

    def _save_sample(self, model: keras.Model, path: Path) -> None:
        source: Array = self._x_val if len(self._x_val) else self._x.numpy()
        images = source[:_SAMPLE]
        predictions = saved.predict(model, images)
        write_whole(path, lambda target: np.savez_compressed(target, images=images, predictions=predictions))


class _Guide(keras.callbacks.Callback):  # type: ignore[misc]
    """Seeds each epoch, reports it, saves the trial's state, keeps the best weights and says when to stop."""

    def __init__(self, job: Job, epoch: tf.Variable, report: Report, stop: Callable[[], str]) -> None:
        super().__init__()
        self._job, self._epoch, self._report, self._stop = job, epoch, report, stop
        self._started = 0.0
        self.progress = state.Progress()
        self.best_weights: list[Array] | None = None
        self.early = self.stopped = self.failure = ""

    def restore(self, model: keras.Model) -> None:
        """Goes on from the trial's own state, or from its parent's, where there is one."""
        own = state.restore(self._job.folder / STATE_FILE, model)
        if own is not None:
            self.progress, self.best_weights = own
            for epoch, metrics in enumerate(self.progress.history, start=self.progress.first):
                self._report(epoch, metrics)
            self._check_patience()
        elif self._job.parent_state is not None:
            parent = state.restore(self._job.parent_state, model)
            if parent is None:
                raise UserError(f"{self._job.parent_state}: the state to go on from cannot be read")
            trained = parent[0].epoch
            self.progress = state.Progress(epoch=trained, first=trained + 1)

    @property
    def over(self) -> bool:
        """Whether there is no epoch left to train."""
        return bool(self.early) or self.progress.epoch >= self._job.epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ANN401
        self._started = time.monotonic()
        self._epoch.assign(epoch)
        generators = [g for layer in self.model._flatten_layers() for g in getattr(layer, "_seed_generators", [])]
        for i, generator in enumerate(generators):
            seed = np.random.SeedSequence([self._job.config.training.seed, epoch, i]).generate_state(1)[0]
            generator.state.assign(np.array([seed, 0], dtype=generator.state.dtype))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ANN401
        if not math.isfinite(float(logs["loss"])):
            self._fail(int(self._epoch.numpy()) + 1, float(logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ANN401
        if self.failure:
            return
        metrics = {name: float(value) for name, value in logs.items()}
        metrics["learning_rate"] = float(self.model.optimizer.learning_rate)
        metrics["epoch_seconds"] = time.monotonic() - self._started
        score = metrics[self._job.objective.name]
        if not math.isfinite(metrics["loss"]) or not math.isfinite(score):
            self._fail(epoch + 1, next(v for v in (metrics["loss"], score) if not math.isfinite(v)))
            return
        self._advance(epoch + 1, metrics)
        # The state first: what is reported must not be lost by an interruption.
        state.save(self._job.folder / STATE_FILE, self.model, self.progress, self.best_weights)
        self._report(epoch + 1, metrics)
        self._check_patience()
        if not self.over:
            self.stopped = self._stop()
        if self.early or self.stopped:
            self.model.stop_training = True

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
        self.failure = f"the loss became {loss} in epoch {epoch}; a smaller optimizer.learning_rate may help"
        self.model.stop_training = True


def _check_loadable(path: Path, config: CustomModel) -> None:
    try:
        saved.load(path)
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.builder={config.builder}: the saved model cannot be loaded again ({line}); "
            "decorate own layers with @keras.saving.register_keras_serializable(), and avoid Lambda layers"
        ) from error


def _as_float(images: Any) -> Any:  # noqa: ANN401 - tensors, as `to_float` does for arrays
    return tf.cast(images, tf.float32) / 255.0 if images.dtype == tf.uint8 else images
