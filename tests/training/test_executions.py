"""Trials with several executions: with a fake trainer, and one test on real digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import mutations
from fitting import ACCURACY
from hypothesis import HealthCheck, given, settings

from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.journal.files import forget
from mnist_sweep.journal.trial import Execution, Outcome, Status
from mnist_sweep.training import executions

SEEDS = [Execution(11), Execution(12), Execution(13)]
# By seed, the score of each epoch; the second execution is the best, in its first epoch.
SCORES = {11: [0.1, 0.3], 12: [0.8, 0.5], 13: [0.2, 0.4]}


@dataclass
class FakeTrainer:
    """Reports, stops and writes files as `Trainer` does; `state.npz` contains the last epoch as text."""

    jobs: list[Any] = field(default_factory=list)
    ends: dict[int, Outcome] = field(default_factory=dict)

    def train(self, job: Any, report: Callable[..., None], stop: Callable[[int], str]) -> Outcome:
        self.jobs.append(job)
        seed, state = job.config.training.seed, job.folder / "state.npz"
        job.folder.mkdir(parents=True, exist_ok=True)
        if seed in self.ends:
            return self.ends[seed]
        scores, reason = SCORES[seed], job.stop
        trained = int(state.read_text()) if state.exists() else 0
        for epoch in range(1, trained + 1):
            report(epoch, {"val_accuracy": scores[epoch - 1]})
        while trained < job.epochs and not reason:
            trained += 1
            state.write_text(str(trained))
            report(trained, {"val_accuracy": scores[trained - 1]})
            reason = stop(trained) if trained < job.epochs else ""
        if trained == 0:
            return Outcome(Status.STOPPED, reason)
        for name in ("model.h5", "sample_predictions.npz"):
            (job.folder / name).write_text(f"{name} of {seed}")
        best = max(range(trained), key=lambda i: scores[i])
        metrics = {"val_accuracy": scores[best], "parameters": 7.0}
        status, reason = (Status.STOPPED, reason) if trained < job.epochs else (Status.COMPLETED, "")
        return Outcome(status, reason, scores[best], best + 1, metrics, 7, 2.0)


@dataclass
class Story:
    """Runs a trial, and records what it reports and asks."""

    config: Any
    folder: Path
    trainer: FakeTrainer = field(default_factory=FakeTrainer)
    reported: list[tuple[int, int]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def run(self, *, stop_at: tuple[int, int] | None = None, **job: Any) -> Outcome:
        from mnist_sweep.training.fit import Job

        self.reported, self.asked = [], []

        def stop(execution: int, epoch: int) -> str:
            self.asked.append((execution, epoch))
            return "hopeless" if (execution, epoch) == stop_at else ""

        return executions.train(
            self.trainer,  # type: ignore[arg-type]
            Job(self.config, ACCURACY, 2, self.folder, **job),
            SEEDS,
            [0] * len(SEEDS),
            report=lambda execution, epoch, metrics: self.reported.append((execution, epoch)),
            ended=lambda execution, outcome: self.reported.append((execution, 0)),
            stop=stop,
        )

    @property
    def model(self) -> str:
        return (self.folder / "model.h5").read_text()


@pytest.fixture
def story(trial_config, tmp_path: Path) -> Story:
    return Story(trial_config(), tmp_path / "trial")


def test_the_trial_has_the_mean_score_and_the_model_of_the_best_execution(story: Story) -> None:
    outcome = story.run()
    assert outcome.scores == [0.3, 0.8, 0.4]
    assert outcome == Outcome(
        Status.COMPLETED,
        "",
        pytest.approx(0.5),
        1,
        {"val_accuracy": pytest.approx(0.5), "parameters": 7.0},
        7,
        6.0,
        [0.3, 0.8, 0.4],
    )
    assert story.reported == [(1, 1), (1, 2), (1, 0), (2, 1), (2, 2), (2, 0), (3, 1), (3, 2), (3, 0)]
    assert story.asked == [(1, 1), (1, 0), (2, 1), (2, 0), (3, 1)]
    assert story.model == "model.h5 of 12"
    assert (story.folder / "sample_predictions.npz").read_text() == "sample_predictions.npz of 12"


def test_each_execution_continues_from_the_same_execution_of_the_parent(story: Story, tmp_path: Path) -> None:
    story.run(parent=tmp_path / "parent")
    parents = [job.parent.relative_to(tmp_path) for job in story.trainer.jobs]
    assert [str(parent) for parent in parents] == ["parent", "parent/execution_2", "parent/execution_3"]


@pytest.mark.parametrize(
    ("stop_at", "scores", "best_epoch", "model"),
    [((1, 0), [0.3], 2, 11), ((2, 1), [0.3], 2, 11), ((2, 0), [0.3, 0.8], 1, 12), ((3, 1), [0.3, 0.8], 1, 12)],
)
def test_a_stopped_trial_has_the_mean_of_the_executions_that_ended(
    story: Story, stop_at: tuple[int, int], scores: list[float], best_epoch: int, model: int
) -> None:
    outcome = story.run(stop_at=stop_at)
    assert (outcome.status, outcome.reason, outcome.scores) == (Status.STOPPED, "hopeless", scores)
    assert (outcome.score, outcome.best_epoch) == (pytest.approx(sum(scores) / len(scores)), best_epoch)
    assert story.model == f"model.h5 of {model}"
    assert story.asked[-1] == stop_at


def test_a_trial_stopped_in_its_first_execution_has_that_ones_score(story: Story) -> None:
    outcome = story.run(stop_at=(1, 1))
    assert (outcome.status, outcome.score, outcome.scores) == (Status.STOPPED, 0.1, [])
    assert story.reported == [(1, 1)]


def test_a_resumed_trial_trains_only_the_rest_and_gives_the_same(story: Story, tmp_path: Path) -> None:
    story.run(stop_at=(3, 1))
    # As after Ctrl-C: the driver has not ended the trial.
    story.trainer.jobs.clear()
    outcome = story.run()
    assert [job.config.training.seed for job in story.trainer.jobs] == [13]
    assert story.reported == [(1, 1), (1, 2), (1, 0), (2, 1), (2, 2), (2, 0), (3, 1), (3, 2), (3, 0)]
    assert story.asked == [(2, 0)]
    assert outcome == Story(story.config, tmp_path / "undisturbed").run()
    # If its end was lost, nothing is trained and nothing is asked.
    assert story.run(stop=None) == outcome
    assert story.asked == []


@pytest.mark.parametrize(("stopped_at", "scores"), [((2, 1), [0.3]), ((2, 0), [0.3, 0.8]), ((1, 1), [])])
def test_ending_an_interrupted_trial_trains_nothing(
    story: Story, stopped_at: tuple[int, int], scores: list[float]
) -> None:
    before = story.run(stop_at=stopped_at)
    states = {path: path.read_text() for path in story.folder.rglob("state.npz")}
    outcome = story.run(stop="hopeless")
    assert outcome == before
    assert outcome.scores == scores
    assert {path: path.read_text() for path in story.folder.rglob("state.npz")} == states
    assert story.asked == []


def test_an_execution_that_ended_counts_even_if_its_file_is_damaged(story: Story) -> None:
    story.run()
    (story.folder / "execution_3" / "execution.json").write_text("{")
    outcome = story.run(stop="hopeless")
    assert (outcome.status, outcome.scores) == (Status.COMPLETED, [0.3, 0.8, 0.4])


def test_a_failed_execution_fails_the_trial_and_is_retried(story: Story) -> None:
    story.trainer.ends[12] = Outcome(Status.FAILED, "the loss became nan in epoch 1")
    outcome = story.run()
    assert (outcome.status, outcome.score) == (Status.FAILED, None)
    assert outcome.reason == "execution 2 of 3: the loss became nan in epoch 1"
    assert story.reported == [(1, 1), (1, 2), (1, 0)]
    story.trainer.ends.clear()
    assert story.run().scores == [0.3, 0.8, 0.4]
    assert [job.config.training.seed for job in story.trainer.jobs] == [11, 12, 12, 13]


def diverged(story: Story, seed: int, score: float) -> str:
    """Makes an execution diverge after its first epoch; returns its reason."""
    reason = "diverged after epoch 1: the loss became nan in epoch 2; best epoch 1 kept"
    story.trainer.ends[seed] = Outcome(Status.DIVERGED, reason, score, 1, {"val_accuracy": score}, 7, 1.0)
    folder = story.folder / f"execution_{seed - 10}"
    folder.mkdir(parents=True)
    for name in ("model.h5", "sample_predictions.npz"):
        (folder / name).write_text("")
    return reason


def test_an_execution_that_diverges_late_counts_with_its_best_epoch_and_is_not_trained_again(story: Story) -> None:
    reason = diverged(story, 12, 0.6)
    outcome = story.run()
    assert (outcome.status, outcome.scores) == (Status.DIVERGED, [0.3, 0.6, 0.4])
    assert outcome.reason == f"{reason} (1 of 3 executions)"
    assert story.run() == replace(outcome, phases={})
    assert [job.config.training.seed for job in story.trainer.jobs] == [11, 12, 13]


def test_a_trial_that_is_stopped_after_an_execution_has_diverged_can_continue(story: Story) -> None:
    diverged(story, 12, 0.6)
    outcome = story.run(stop_at=(2, 0))
    assert (outcome.status, outcome.reason, outcome.scores) == (Status.STOPPED, "hopeless", [0.3, 0.6])


def test_a_model_that_cannot_be_built_after_others_have_been_trained_is_no_refusal(story: Story) -> None:
    train = story.trainer.train

    def failing(job: Any, *rest: Any) -> Outcome:
        if job.config.training.seed == 12:
            raise ImpossibleError("model.builder=a:b: raised ValueError")
        return train(job, *rest)

    story.trainer.train = failing  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"^execution 2 of 3: model.builder=a:b: raised ValueError$") as caught:
        story.run()
    assert not isinstance(caught.value, ImpossibleError)


def test_a_refused_model_is_refused_once(story: Story) -> None:
    story.trainer.ends[11] = Outcome(Status.REFUSED, "limits.parameters=1: the model has 7 parameters", parameters=7)
    assert story.run() == story.trainer.ends[11]
    assert len(story.trainer.jobs) == 1


def test_early_stopping_is_reported(story: Story) -> None:
    reason = "no better val_accuracy for 1 epochs"
    story.trainer.ends[12] = Outcome(Status.COMPLETED, reason, 0.5, 1, {"val_accuracy": 0.5}, 7, 1.0)
    (story.folder / "execution_2").mkdir(parents=True)
    for name in ("model.h5", "sample_predictions.npz"):
        (story.folder / "execution_2" / name).write_text("")
    outcome = story.run()
    assert (outcome.status, outcome.reason) == (Status.COMPLETED, f"{reason} (1 of 3 executions)")
    assert set(outcome.metrics) == {"val_accuracy"}


def test_forget_keeps_only_the_model_and_the_sample(story: Story) -> None:
    story.run()
    forget(story.folder)
    assert {path.name for path in story.folder.iterdir()} == {"model.h5", "sample_predictions.npz"}
    forget(story.folder.parent / "nowhere")


def test_folds_are_scored_on_the_images_that_they_hold_out(trainer, trial_config, dataset, tmp_path: Path) -> None:
    from mnist_sweep.data.dataset import folds
    from mnist_sweep.training import saved
    from mnist_sweep.training.fit import Job

    config = trial_config("model.units=16", "training.batch_size=16", "training.epochs=1", "training.seed=6")
    reports: list[tuple[int, int, float]] = []
    outcome = executions.train(
        trainer,
        Job(config, ACCURACY, 1, tmp_path),
        [Execution(6, 1, 2), Execution(6, 2, 2)],
        [0, 0],
        report=lambda execution, epoch, metrics: reports.append((execution, epoch, metrics["val_accuracy"])),
        ended=lambda execution, outcome: None,
        stop=lambda execution, epoch: "",
    )
    assert [report[:2] for report in reports] == [(1, 1), (2, 1)]
    images = np.concatenate([dataset.train.x, dataset.validation.x])
    labels = np.concatenate([dataset.train.targets, dataset.validation.targets])
    fold = folds(labels, len(labels), 2, dataset.seed)
    best = 1 + int(np.argmax(outcome.scores))
    right = saved.predict(saved.load(tmp_path / "model.h5"), images).argmax(axis=1) == labels
    assert right[fold == best].mean() == pytest.approx(max(outcome.scores))
    with np.load(tmp_path / "sample_predictions.npz") as sample:
        np.testing.assert_array_equal(sample["images"], images[fold == best][:64])
    assert outcome.scores[0] != outcome.scores[1]


_FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@given(mutation=mutations())
@_FUZZ
def test_a_damaged_result_of_an_execution_is_ignored(tmp_path: Path, mutation) -> None:
    outcome = Outcome(Status.COMPLETED, "", 0.5, 1, {"loss": 0.5}, 10, 1.5, digest="0" * 64)
    executions._write_result(tmp_path, outcome, [(1, {"loss": 0.5})])
    path = tmp_path / "execution.json"
    assert executions._read_result(tmp_path) == (outcome, [(1, {"loss": 0.5})])
    path.write_bytes(mutation(path.read_bytes()))
    found = executions._read_result(tmp_path)
    if found is not None:
        assert isinstance(found[0].seconds, float)
        assert all(isinstance(epoch, int) for epoch, _ in found[1])


def test_a_result_of_an_earlier_version_has_no_digest(tmp_path: Path) -> None:
    outcome = asdict(Outcome(Status.COMPLETED, "", 0.5, 1, {"loss": 0.5}))
    del outcome["digest"]
    (tmp_path / "execution.json").write_text(json.dumps({"outcome": outcome, "history": []}))
    found = executions._read_result(tmp_path)
    assert found is not None
    assert found[0].digest == ""
