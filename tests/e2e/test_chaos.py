"""The short form of `make chaos`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos import Chaos


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), seed=2)


@pytest.mark.parametrize("algorithm", ["random", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_killed_drivers_lose_and_repeat_nothing(chaos: Chaos, algorithm: str) -> None:
    chaos.kill_drivers(algorithm, kills=1)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


def test_killed_workers_lose_and_repeat_nothing(chaos: Chaos) -> None:
    chaos.kill_workers("random", kills=1)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
def test_faults_of_other_kinds_lose_and_repeat_and_leave_nothing(chaos: Chaos) -> None:
    chaos.disturb("random", times=7)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
def test_a_disk_that_fills_up_fails_no_trial(chaos: Chaos) -> None:
    chaos.fill_disks("random", times=2)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
def test_a_clock_that_is_changed_ends_nothing(chaos: Chaos) -> None:
    chaos.change_clocks("random", times=3)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


@pytest.mark.slow
def test_a_trial_that_poisons_its_process_touches_no_other(chaos: Chaos) -> None:
    chaos.poison(times=7)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)


def test_a_tracking_server_that_was_down_catches_up(chaos: Chaos) -> None:
    chaos.stop_server("random", times=1)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)
