"""What each slot does and uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from watching import Story

from mnist_sweep.cli.watch.slots import slots
from mnist_sweep.journal.events import Event
from mnist_sweep.journal.state import SweepState


class _Fold:
    def __init__(self, state: SweepState) -> None:
        self.state = state

    def handle(self, *events: Event) -> None:
        for event in events:
            self.state.handle(event)


@pytest.fixture
def state() -> SweepState:
    state = SweepState()
    story = Story(_Fold(state))
    for number, slot in enumerate(("gpu10", "gpu2", "gpu1")):
        story.starts(number, slot)
    story.epoch(1, 3, 0.5)
    story.ends(2)
    return state


def write(folder: Path, time: float, *rows: dict[str, Any]) -> None:
    (folder / "slots.json").write_text(json.dumps({"time": time, "slots": rows}))


def test_slots_are_known_from_the_journal(state: SweepState, tmp_path: Path) -> None:
    assert slots(tmp_path, state, set(), 1000.0) == [
        {"name": "gpu1", "device": ""},
        {"name": "gpu2", "device": "", "trial": 1, "epoch": 3, "epochs": 4},
        {"name": "gpu10", "device": "", "trial": 0, "epoch": 0, "epochs": 4},
    ]
    # One that is closed ends its trial first.
    assert [one["name"] for one in slots(tmp_path, state, {"gpu1", "gpu2"}, 1000.0)] == ["gpu2", "gpu10"]


def test_figures_that_were_measured_are_added(state: SweepState, tmp_path: Path) -> None:
    write(
        tmp_path, 1000.0,
        {"slot": 0, "name": "gpu2", "node": "b", "device": "GPU 2", "trial": 1, "gpu_percent": 97.5, "watts": None},
        {"slot": 1, "name": "gpu3", "node": "", "device": "GPU 3", "trial": None, "cpu_percent": 2},
    )  # fmt: skip
    found = {one["name"]: one for one in slots(tmp_path, state, set(), 1010.0)}
    assert found["gpu2"] == {
        "name": "gpu2", "device": "GPU 2 on b", "trial": 1, "epoch": 3, "epochs": 4, "gpu_percent": 97.5,
    }  # fmt: skip
    assert found["gpu3"] == {"name": "gpu3", "device": "GPU 3", "cpu_percent": 2}
    assert list(found) == ["gpu1", "gpu2", "gpu3", "gpu10"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"time": 1000}', '{"time": "x", "slots": []}', '{"time": 1000, "slots": [1]}']
)
def test_a_file_that_is_something_else_is_left_alone(content: str, state: SweepState, tmp_path: Path) -> None:
    (tmp_path / "slots.json").write_text(content)
    assert len(slots(tmp_path, state, set(), 1000.0)) == 3


def test_old_figures_are_not_shown(state: SweepState, tmp_path: Path) -> None:
    write(tmp_path, 1000.0, {"slot": 0, "name": "gpu2", "device": "GPU 2", "watts": 300})
    assert not any("watts" in one for one in slots(tmp_path, state, set(), 1020.0))
