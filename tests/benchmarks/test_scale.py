"""Simulated slots report as real ones do, and the time in which nothing happens is skipped."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks.scale.__main__ import main
from benchmarks.scale.pool import Clock, Simulated
from mnist_sweep.journal.trial import Status, Trial
from mnist_sweep.workers.base import Done, Message, Ready, Reported, Train


def until(pool: Simulated, kind: type[Message]) -> list[Message]:
    found: list[Message] = []
    while not any(isinstance(message, kind) for message in found):
        found += pool.poll(0.2)
    return found


@pytest.mark.parametrize("waits", [False, True])
def test_a_simulated_trial_takes_its_time_on_a_clock_that_skips_it(waits: bool) -> None:
    clock = Clock()
    pool = Simulated(2, 100.0, clock, real=False)
    begin, real = clock(), time.monotonic()
    until(pool, Ready)
    pool.submit("cpu0", Train(Trial(7, {}, {}, 3), ("val_accuracy", "max"), "folder", waits=waits))
    for epoch in (1, 2, 3):
        (reported,) = [m for m in until(pool, Reported) if isinstance(m, Reported)]
        assert (reported.slot, reported.trial, reported.epoch) == ("cpu0", 7, epoch)
        if epoch < 3:
            pool.go_on("cpu0", 7, 1, epoch)
    (done,) = [m for m in until(pool, Done) if isinstance(m, Done)]
    assert (done.outcome.status, done.outcome.seconds, done.outcome.best_epoch) == (Status.COMPLETED, 300.0, 3)
    assert 300 <= clock() - begin < 310
    assert time.monotonic() - real < 100


def test_a_simulated_trial_can_be_stopped_after_its_current_epoch() -> None:
    pool = Simulated(1, 1.0, Clock(), real=False)
    pool.submit("cpu0", Train(Trial(0, {}, {}, 9), ("val_accuracy", "max"), "folder"))
    until(pool, Reported)
    pool.stop("cpu0", 0, "enough")
    (done,) = [m for m in until(pool, Done) if isinstance(m, Done)]
    assert (done.outcome.status, done.outcome.reason, done.outcome.seconds) == (Status.STOPPED, "enough", 2.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_simulated_sweeps_are_measured(tmp_path, capsys):
    main(["--quick", "--parts", "driver,mlflow,search", "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    for expected in ("driver, round 1, 8 slots", "s to resume", "report MiB", "ms of work per trial"):
        assert expected in printed
