"""The simulated pool counts correctly, and the shipped curves are complete."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.harness.sweeps import Trained
from benchmarks.search_quality import curves, record, report
from benchmarks.search_quality.curves import KERAS, OURS, TRAINERS, Curves
from benchmarks.search_quality.players import DEFAULT, FIELD, at_our_speed
from benchmarks.search_quality.pool import Answer, Job, Player, Pool
from benchmarks.search_quality.simulate import Run
from mnist_sweep.journal.trial import Outcome, Status

# Two settings of three epochs; the second is the better one, and the slower.
CURVES = Curves(
    space=["model.units=1,2"],
    values=[{"model.units": 1, "optimizer.learning_rate": 0.1}, {"model.units": 2, "optimizer.learning_rate": 0.1}],
    accuracy=np.array([[0.1, 0.2, 0.3], [0.2, 0.5, 0.9]]),
    epoch_seconds=np.array([100.0, 200.0]),
    startup_seconds=np.array([1000.0, 2000.0]),
    again_seconds=np.array([10.0, 20.0]),
)


class InOrder(Player):
    def __init__(self, jobs: list[Job], cut_at: int = 99, pauses: bool = False) -> None:
        self.jobs, self.cut_at, self.pauses = jobs, cut_at, pauses
        self.running, self.ended = 0, []

    def ask(self, number, slot):
        if self.pauses and self.running:
            return Answer.PAUSE
        if number >= len(self.jobs):
            return Answer.FINISHED
        self.running += 1
        return self.jobs[number]

    def report(self, number, epoch, accuracy):
        return epoch >= self.cut_at

    def end(self, number, accuracy, epoch, *, cut):
        self.running -= 1
        self.ended.append((number, accuracy, epoch, cut))


def simulate(player: Player, workers: int, target: float = 0.9):
    return Pool(CURVES, player, workers=workers, targets=[target, 2.0], max_trials=10).run()


@pytest.mark.parametrize(
    ("workers", "pauses", "seconds"),
    [(1, False, 1000 + 3 * 100 + 2000 + 3 * 200), (2, False, 2000 + 3 * 200), (2, True, 1300 + 2600)],
)
def test_the_clock_counts_start_up_epochs_and_waiting(workers: int, pauses: bool, seconds: float) -> None:
    outcome = simulate(InOrder([Job(0, 3), Job(1, 3)], pauses=pauses), workers)
    assert outcome.reached[0].seconds == pytest.approx(seconds, abs=1)
    assert (outcome.reached[0].epochs, outcome.reached[0].trials) == (6, 2)
    assert outcome.reached[1] is None


def test_a_trial_that_is_stopped_or_continues_another_costs_only_its_own_epochs() -> None:
    player = InOrder([Job(0, 3), Job(1, 3, first=1)], cut_at=2)
    outcome = simulate(player, 1, target=0.5)
    assert player.ended == [(0, 0.2, 2, True), (1, 0.5, 2, True)]
    assert outcome.reached[0].seconds == pytest.approx(1000 + 2 * 100 + 2000 + 200, abs=1)
    assert outcome.reached[0].epochs == 3


@pytest.mark.parametrize(("workers", "seconds"), [(1, 1000 + 3 * 100 + 10 + 3 * 100 + 2600), (3, 2600)])
def test_a_worker_traces_an_architecture_once(workers: int, seconds: float) -> None:
    outcome = simulate(InOrder([Job(0, 3), Job(0, 3), Job(1, 3)]), workers)
    assert outcome.reached[0].seconds == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(("dataset", "settings", "epochs"), [("mlp", 432, 27), ("cnn", 192, 15)])
def test_the_shipped_curves_cover_the_whole_grid(dataset: str, settings: int, epochs: int, trainer: str) -> None:
    table = curves.load(dataset, trainer=trainer)
    assert math.prod(len(options) for options in table.options().values()) == settings == len(table.rows)
    assert table.accuracy.shape == (settings, epochs)
    assert (table.epoch_seconds > 0).all()
    assert (table.startup_seconds > 0).all()
    assert (table.again_seconds > 0).all()
    assert (table.again_seconds <= table.startup_seconds).all()
    for percentile in (95, 99):
        share = (table.best >= table.target(percentile)).mean()
        # Some settings have the very same best accuracy.
        assert 0 < share <= 2 * (1 - percentile / 100)


def test_start_up_time_is_separate_for_trials_with_and_without_tracing() -> None:
    def recorded(trace: float, seconds: float) -> Trained:
        outcome = Outcome(Status.COMPLETED, phases={"trace": trace, "train": 1.5, "validate": 0.5})
        return Trained({}, epochs=4, started=100.0, outcome=outcome, ended=100.0 + seconds)

    traced, again = [recorded(0.4, 3.0), recorded(0.5, 3.2), recorded(0.6, 3.4)], [recorded(0.001, 2.1)] * 5
    seconds = record.our_seconds({("both",): [*traced, *again], ("traced",): traced[:1]})
    assert seconds[("both",)] == (0.5, pytest.approx(1.2), pytest.approx(0.1))
    assert seconds[("traced",)] == (0.5, pytest.approx(1.0), pytest.approx(0.1))


def test_each_peer_is_compared_with_its_own_training_and_with_ours() -> None:
    peers = {(e.family, e.name) for e in FIELD if e.trainer == KERAS}
    assert {family for family, _ in peers} == set(report.THEIRS)
    assert {(at_our_speed(family), name) for family, name in peers} <= {(e.family, e.name) for e in FIELD}
    assert {e.trainer for e in FIELD if (e.family, e.name) not in peers} == {OURS}


def test_ratios_are_reported_for_both_kinds_of_training() -> None:
    seconds = {
        ("mnist_sweep", DEFAULT): 10.0,
        ("mnist_sweep", "random"): 8.0,
        ("keras-tuner", "Hyperband"): 40.0,
        ("keras-tuner", "RandomSearch"): 50.0,
        (at_our_speed("keras-tuner"), "Hyperband"): 20.0,
    }
    runs = [
        Run("mlp", name, family, 4, 1, [s, None], [1, None], [1, None], s, 0) for (family, name), s in seconds.items()
    ]
    table = report.ratios(report.Results(runs), DEFAULT)
    told = [dict(zip(table.headings, row, strict=True)) for row in table.rows if "95th" in row[0]]
    assert [(row["the others train with"], row[f"{DEFAULT} / keras-tuner's best"]) for row in told] == [
        ("Keras's fit", "0.25"),
        ("our workers", "0.50"),
    ]
    assert told[0]["our best / keras-tuner's best"] == "0.20 (random / Hyperband)"
    assert {row[f"{DEFAULT} / Optuna's best"] for row in told} == {""}
