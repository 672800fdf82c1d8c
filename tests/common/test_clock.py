"""The clock of budgets and timeouts."""

from __future__ import annotations

import time

import pytest

from mnist_sweep.common.clock import SteadyClock


def test_begins_with_the_time_that_it_is() -> None:
    assert abs(SteadyClock()() - time.time()) < 60


@pytest.mark.parametrize("jump", [-86400.0, 3600.0])
def test_a_change_of_the_systems_clock_moves_nothing(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    clock, true = SteadyClock(), time.time
    before = clock()
    monkeypatch.setattr(time, "time", lambda: true() + jump)
    assert 0 <= clock() - before < 60
