"""The figures of slots: the file for the live page, and what is logged of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes import FakeClock

from mnist_sweep.driver.figures import SlotFigures
from mnist_sweep.journal.events import TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.workers.figures import Figures


class Slots:
    """Two slots whose figures a test makes up."""

    def __init__(self, folder: Path) -> None:
        self.file, self.clock = folder / "slots.json", FakeClock()
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.figures = SlotFigures(folder, 10.0, lambda trial, found: self.logged.append((trial, found)), self.clock)

    def starts(self, trial: int, slot: str = "cpu0") -> None:
        self.figures.handle(TrialStarted(self.clock(), Trial(trial, {}, {}, 1), 1, slot))

    def ends(self, trial: int) -> None:
        self.figures.handle(TrialEnded(self.clock(), trial, Outcome(Status.COMPLETED)))

    def use(self, trial: int | None, cpu: float, slot: str = "cpu0") -> None:
        self.clock.now += 2
        self.figures.take([Figures(slot, "1 CPU core", trial, cpu, 250_000_000, 10**9)])

    @property
    def cpu(self) -> list[tuple[int, float]]:
        return [(trial, found["cpu_utilization_percentage"]) for trial, found in self.logged]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def test_a_trial_is_logged_at_once_and_then_every_few_seconds_with_the_mean_since(slots: Slots) -> None:
    slots.starts(0)
    for cpu in (50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 10.0):
        slots.use(0, cpu)
    assert slots.cpu == [(0, 50.0), (0, 80.0)]
    assert slots.logged[0][1] == {
        "cpu_utilization_percentage": 50.0,
        "system_memory_usage_megabytes": 250.0,
        "system_memory_usage_percentage": 25.0,
    }


def test_a_trial_shorter_than_a_measurement_gets_the_next_one_of_its_slot(slots: Slots) -> None:
    for trial in (0, 1):
        slots.starts(trial)
        slots.ends(trial)
    slots.starts(2, "cpu1")
    slots.starts(3)
    slots.use(3, 40.0)
    slots.use(3, 45.0)
    assert slots.cpu == [(0, 40.0), (1, 40.0), (3, 40.0)]


def test_a_short_trial_at_the_end_of_the_sweep_gets_the_last_figures_of_its_slot(slots: Slots) -> None:
    slots.use(None, 30.0)
    for trial, slot in ((0, "cpu0"), (1, "cpu1")):
        slots.starts(trial, slot)
        slots.ends(trial)
    slots.figures.close()
    # Nothing was measured of the other slot.
    assert slots.cpu == [(0, 30.0)]


def test_a_slot_without_a_trial_is_in_the_file_but_not_logged(slots: Slots) -> None:
    slots.use(None, 1.0)
    # What was measured before the end of its trial, and came after it.
    slots.use(7, 2.0)
    assert slots.logged == []
    assert json.loads(slots.file.read_text())["slots"][0]["trial"] == 7


def test_the_file_has_the_last_figures_of_each_slot_without_unknown_ones(slots: Slots) -> None:
    slots.figures.take([Figures("gpu0.1@b", "GPU 0", 5, 33.3333, 10, 20, 75.0, 1, 2, 120.25)])
    slots.use(None, 12.0)
    assert json.loads(slots.file.read_text()) == {
        "time": slots.clock.now,
        "slots": [
            {
                "slot": 0,
                "name": "cpu0",
                "node": "",
                "device": "1 CPU core",
                "trial": None,
                "cpu_percent": 12.0,
                "memory_bytes": 250_000_000,
                "memory_total_bytes": 1_000_000_000,
            },
            {
                "slot": 1,
                "name": "gpu0.1@b",
                "node": "b",
                "device": "GPU 0",
                "trial": 5,
                "cpu_percent": 33.3,
                "memory_bytes": 10,
                "memory_total_bytes": 20,
                "gpu_percent": 75.0,
                "gpu_memory_bytes": 1,
                "gpu_memory_total_bytes": 2,
                "watts": 120.2,
            },
        ],
    }


def test_a_slot_that_sends_nothing_any_more_leaves_the_file_and_the_end_removes_it(slots: Slots) -> None:
    slots.use(None, 1.0, "cpu0@lost")
    for _ in range(6):
        slots.use(None, 1.0)
    assert [row["name"] for row in json.loads(slots.file.read_text())["slots"]] == ["cpu0"]
    slots.figures.close()
    slots.figures.close()
    assert not slots.file.exists()


def test_a_gpu_has_mlflows_names_with_its_number(slots: Slots) -> None:
    slots.starts(0, "gpu1")
    slots.figures.take(
        [Figures("gpu1", "GPU 3", 0, gpu=98.0, gpu_memory=2 * 10**9, gpu_memory_total=8 * 10**9, watts=300.0)]
    )
    assert slots.logged == [
        (
            0,
            {
                "gpu_3_utilization_percentage": 98.0,
                "gpu_3_memory_usage_megabytes": 2000.0,
                "gpu_3_memory_usage_percentage": 25.0,
                "gpu_3_power_usage_watts": 300.0,
            },
        )
    ]


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "gone")
    slots.starts(0)
    slots.use(0, 50.0)
    assert slots.cpu == [(0, 50.0)]
