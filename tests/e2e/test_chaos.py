"""A short version of `make chaos`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos import Chaos

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), seed=2)


@pytest.mark.parametrize(
    ("fault", "arguments"),
    [
        ("kill_drivers", {"algorithm": "random", "kills": 1}),
        ("kill_drivers", {"algorithm": "hyperband", "kills": 1}),
        ("kill_workers", {"algorithm": "random", "kills": 1}),
        ("disturb", {"algorithm": "random", "times": 7}),
        ("fill_disks", {"algorithm": "random", "times": 2}),
        ("change_clocks", {"algorithm": "random", "times": 3}),
        ("poison", {"times": 7}),
        ("steer", {"times": 6}),
        ("stop_server", {"algorithm": "random", "times": 1}),
    ],
)
def test_faults_lose_and_repeat_no_trial_and_leave_nothing_behind(
    chaos: Chaos, fault: str, arguments: dict[str, Any]
) -> None:
    getattr(chaos, fault)(**arguments)
    assert not any(chaos.tally.wrong.values()), str(chaos.tally)
