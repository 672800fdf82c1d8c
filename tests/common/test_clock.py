"""The clock of budgets and timeouts."""

from __future__ import annotations

import time

import pytest

from mnist_sweep.common.clock import SteadyClock


def test_starts_with_the_current_time() -> None:
    assert abs(SteadyClock()() - time.time()) < 60


@pytest.mark.parametrize("jump", [-86400.0, 3600.0])
def test_changes_of_the_systems_clock_have_no_effect(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    clock, true = SteadyClock(), time.time
    before = clock()
    monkeypatch.setattr(time, "time", lambda: true() + jump)
    assert 0 <= clock() - before < 60
