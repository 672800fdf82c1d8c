"""Training a logged trial again, on workers that train nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock, FakeWorkers
from rich.console import Console

from mnist_sweep.common.errors import MachineError, UserError
from mnist_sweep.driver import rerun
from mnist_sweep.journal.trial import Execution, Outcome, Status, Trial
from mnist_sweep.results.runs.logged import Curve, Logged
from mnist_sweep.tracking.tags import TAG_ADDED_BY, TAG_STOPPED_BY, TAG_SWEEP
from mnist_sweep.workers.base import MachineFailed, Train
from mnist_sweep.workers.devices import Slot


def score(values: dict[str, Any], epoch: int) -> float:
    return epoch / 10


def curve(epochs: range, extra: float = 0.0) -> Curve:
    return {
        e: {"loss": 0.1, "val_accuracy": score({}, e) + extra, "epoch_seconds": 7.0, "seconds": 9.0} for e in epochs
    }


def logged(trial: Trial, *curves: Curve, slot: str = "cpu0") -> Logged:
    config = {"objective": "val_accuracy max"}
    return Logged(trial, dict(enumerate(curves, start=1)), slot, config, {}, {TAG_SWEEP: "made/up"})


def again(*chain: Logged, tmp_path: Path, **more: Any) -> tuple[rerun.Comparison, FakeWorkers, list[str]]:
    workers = FakeWorkers(1, score, FakeClock(), **more)
    lines: list[str] = []
    return rerun.train_again(workers, "cpu0", chain, tmp_path, lines.append), workers, lines


def test_every_metric_except_times_is_compared_at_each_epoch(tmp_path: Path) -> None:
    compared, _, lines = again(logged(Trial(4, {}, {}, 3), curve(range(1, 4))), tmp_path=tmp_path)
    assert compared.identical
    assert (compared.epochs, compared.metrics) == (3, {"loss", "val_accuracy"})
    assert lines == ["  epoch 1  identical", "  epoch 2  identical", "  epoch 3  identical"]


def test_a_trial_that_was_stopped_early_is_stopped_again_rather_than_shortened(tmp_path: Path) -> None:
    compared, workers, _ = again(logged(Trial(0, {}, {}, 27), curve(range(1, 4))), tmp_path=tmp_path)
    assert compared.identical
    assert sorted(workers.history[0, 1]) == [1, 2, 3]
    ((_, task),) = workers.tasks
    assert isinstance(task, Train)
    assert task.trial.epochs == 27


def test_the_smallest_difference_counts(tmp_path: Path) -> None:
    changed = curve(range(1, 4))
    changed[2]["val_accuracy"] += 1e-16
    compared, _, lines = again(logged(Trial(0, {}, {}, 3), changed), tmp_path=tmp_path)
    assert not compared.identical
    assert [(d.where, d.metric, d.now) for d in compared.differences] == [("epoch 2", "val_accuracy", 0.2)]
    assert lines[1] == "  epoch 2  val_accuracy 0.2, was 0.20000000000000012"


def test_a_metric_that_only_one_run_has_is_a_difference(tmp_path: Path) -> None:
    then = {1: {"loss": 0.1, "val_loss": 0.5, "best_epoch": 1.0}}
    compared, _, _ = again(logged(Trial(0, {}, {}, 1), then), tmp_path=tmp_path)
    assert list(map(str, compared.differences)) == [
        "val_accuracy 0.1, was nothing",
        "val_loss nothing, was 0.5",
    ]


def test_each_execution_is_compared_and_those_that_never_ran_are_left_out(tmp_path: Path) -> None:
    trial = Trial(0, {}, {}, 2, executions=[Execution(1), Execution(2), Execution(3)])
    run = logged(trial, curve(range(1, 3), 0.1), curve(range(1, 2), 0.2))
    compared, workers, lines = again(run, tmp_path=tmp_path, spread=lambda execution: execution.seed / 10)
    assert compared.identical
    assert lines[-1] == "  execution 2, epoch 1  identical"
    assert sorted(workers.history) == [(0, 1), (0, 2)]


def test_a_trial_that_continued_from_another_is_trained_after_it(tmp_path: Path) -> None:
    first = logged(Trial(2, {}, {}, 2), curve(range(1, 3)))
    second = logged(Trial(5, {}, {}, 4, initial_epoch=2, parent=2), curve(range(3, 5)))
    compared, workers, lines = again(first, second, tmp_path=tmp_path)
    assert compared.identical
    assert lines[2] == "  trial 5, epoch 3  identical"
    parent, child = (task for _, task in workers.tasks)
    assert isinstance(parent, Train)
    assert isinstance(child, Train)
    assert child.parent == parent.folder


def test_a_trial_that_ends_earlier_is_different(tmp_path: Path) -> None:
    # What was logged of a trial that early stopping has ended at another epoch than now.
    compared, _, _ = again(logged(Trial(0, {}, {}, 2), curve(range(1, 4))), tmp_path=tmp_path)
    assert not compared.identical
    assert compared.notes == ["2 of 3 epochs trained: "]


def test_a_model_that_cannot_be_built_is_a_user_error(tmp_path: Path) -> None:
    failed = {(0, 1): Outcome(Status.FAILED, "model.builder=own:build: cannot be imported")}
    with pytest.raises(UserError, match=r"rerun: trial 0 cannot be trained: model.builder=own:build"):
        again(logged(Trial(0, {}, {}, 2), curve(range(1, 3))), tmp_path=tmp_path, faults=failed)
    with pytest.raises(UserError, match=r"rerun: the worker was killed by SIGKILL"):
        again(logged(Trial(0, {}, {}, 2), curve(range(1, 3))), tmp_path=tmp_path, faults={(0, 1): 1})


class TestAFailedTrial:
    @staticmethod
    def run(*curves: Curve) -> Logged:
        return replace(logged(Trial(0, {}, {}, 3), *curves), failed="a bug")

    @pytest.mark.parametrize("curves", [(), (curve(range(1, 3)),)])
    def test_is_trained_to_its_end(self, curves: tuple[Curve, ...], tmp_path: Path) -> None:
        compared, workers, lines = again(self.run(*curves), tmp_path=tmp_path)
        assert sorted(workers.history[0, 1]) == [1, 2, 3]
        assert lines[-1] == "  epoch 3  val_accuracy 0.3"
        assert compared.outcome is not None
        said: list[str] = []
        assert rerun.tell_of_failed(said.append, self.run(), compared.outcome) == 0
        assert said == [
            "Trial 0 failed (a bug), and trains now: val_accuracy 0.3000",
            "To train it in its sweep, too: python -m mnist_sweep resume --retry-failed made/up",
        ]

    @pytest.mark.parametrize(("reason", "told"), [("a bug", "for the same reason"), ("b", "now because: b")])
    def test_may_fail_again(self, reason: str, told: str, tmp_path: Path) -> None:
        compared, _, _ = again(self.run(), tmp_path=tmp_path, faults={(0, 1): Outcome(Status.FAILED, reason)})
        assert compared.outcome is not None
        said: list[str] = []
        assert rerun.tell_of_failed(said.append, self.run(), compared.outcome) == 1
        assert said == [f"Trial 0 failed (a bug), and fails again, {told}"]


def test_a_failure_of_the_machine_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="^rerun: the disk is full$"):
        again(
            logged(Trial(0, {}, {}, 2), curve(range(1, 3))),
            tmp_path=tmp_path,
            faults={(0, 1): MachineFailed("", "the disk is full")},
        )


def test_other_versions_are_named_as_the_likely_reason(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(rerun, "versions", lambda: {"keras": "3.15.1", "numpy": "2.4", "commit": "bbb"})
    then = {"version.keras": "3.14.0", "version.numpy": "2.4", "mlflow.source.git.commit": "aaa"}
    run = logged(Trial(0, {}, {}, 1), curve(range(1, 2)), slot="gpu1")
    run = replace(run, tags={**run.tags, **then})
    compared = rerun.Comparison()
    compared.compare("epoch 1", {"loss": 0.5}, {"loss": 0.25})
    console = Console(width=200)
    rerun._explain(console, console.print, compared, run, Slot("cpu0", 1))
    output = capsys.readouterr().out
    assert "not identical: 1 value of 1 epoch, the first in epoch 1" in output
    assert "It was trained on gpu1, and now on cpu0" in output
    assert "keras was 3.14.0, now 3.15.1" in output
    assert "commit was aaa, now bbb" in output
    assert "numpy" not in output
    assert "-0.25" in output


def test_the_slot_has_as_many_threads_as_those_of_the_sweep(compose_config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_sweep.workers.devices.cores", lambda: 4)
    monkeypatch.setattr(rerun, "visible_gpus", lambda: [])

    def slot(then: str, *overrides: str) -> Slot:
        config = compose_config("name=made", *overrides)
        del config["tracking"]
        return rerun._slot(replace(logged(Trial(0, {}, {}, 1), slot=then), sweep_config=config))

    assert slot("cpu2", "model.units=4,8,16,32") == Slot("cpu2", 1)
    assert slot("cpu0", "search.max_trials=1") == Slot("cpu0", 4)
    assert slot("cpu1", "workers.threads=2", "model.units=4,8") == Slot("cpu1", 2)
    assert slot("gpu0", "workers.devices=gpu", "model.units=4,8") == Slot("cpu0", 1)


def test_who_added_or_stopped_a_trial_is_told() -> None:
    lines: list[str] = []
    steered = replace(
        logged(Trial(0, {}, {}, 3), curve(range(1, 4))), tags={TAG_ADDED_BY: "ada@box", TAG_STOPPED_BY: "bob@box"}
    )
    rerun.tell_who_steered(lines.append, steered)
    assert lines == ["ada@box added it to the running sweep.", "bob@box stopped it in the running sweep."]
    rerun.tell_who_steered(lines.append, logged(Trial(0, {}, {}, 3), curve(range(1, 4))))
    assert len(lines) == 2
