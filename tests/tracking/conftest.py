"""An empty store, and made-up sweeps that are logged to copies of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stories import Logged, Story

from mnist_sweep.config import compose
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.journal.events import AttemptFailed, TrialAsked, WinnerTested
from mnist_sweep.journal.trial import Status
from mnist_sweep.tracking import store


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, created once."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    store.connect(f"sqlite:///{path}", create=True)
    return path


@pytest.fixture(scope="session")
def plain_config() -> dict[str, Any]:
    return compose.defaults(quote_sweeps(("name=story", "model.units=choice(16,64)")))


@pytest.fixture
def make_story(tmp_path: Path, template: Path, plain_config: dict[str, Any]) -> Iterator[Any]:
    made: list[Story] = []

    def make(config: dict[str, Any] | None = None, **changes: Any) -> Story:
        folder = tmp_path / f"project{len(made)}"
        folder.mkdir()
        made.append(Story(folder, template, {**plain_config, **(config or {})}, **changes))
        return made[-1]

    yield make
    for story in made:
        story.tracker.close()


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory, template: Path, plain_config: dict[str, Any]) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("whole"), template, plain_config)
    story.starts()
    # 0: its first worker dies after two epochs; the second resumes.
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.epoch(0, 2, val_accuracy=0.625, loss=0.5)
    story.tell(AttemptFailed, 0, 1, "its worker was killed by SIGKILL", "Killed\n")
    # 1: one value per layer, one of them inactive; stopped.
    story.trial(
        1,
        values={"model.layers": 1, "model.units.1": 16, "optimizer.name": "sgd"},
        config={
            "model": {"kind": "mlp", "layers": 1, "units": [16], "dropout": 0.0, "builder": None},
            "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "learning_rate": 0.1},
            "training": {"epochs": 3, "seed": 1, "early_stopping": {"patience": None, "min_delta": 0.0}},
        },
        inactive=["model.units.2", "optimizer.momentum"],
    )
    story.trial(0)
    story.epoch(0, 3, val_accuracy=0.75, loss=0.25)
    story.ends(0, 0.75, best_epoch=3, metrics={"val_accuracy": 0.75}, parameters=1234)
    story.epoch(1, 1, val_accuracy=0.25, loss=2.0)
    story.ends(1, 0.25, status=Status.STOPPED, reason="the time budget of 1m is used up", parameters=99)
    # 2: fails at once. 3: its worker dies for good. 4: continues from 0. 5: never starts.
    story.trial(2)
    story.ends(2, status=Status.FAILED, reason="the loss became nan in epoch 1", seconds=0.5)
    story.trial(3)
    story.epoch(3, 1, val_accuracy=0.875, loss=0.5)
    story.ends(3, status=Status.FAILED, reason="its worker was killed by SIGSEGV", log="Segmentation fault\n")
    story.trial(4, parent=0, initial_epoch=3, epochs=5)
    story.epoch(4, 4, val_accuracy=0.5, loss=0.25)
    story.ends(4, 0.5, best_epoch=4)
    story.tell(TrialAsked, 5)
    story.ends(5, status=Status.STOPPED, reason="the time budget of 1m is used up")
    story.tell(WinnerTested, 0, {"test_loss": 0.5, "test_accuracy": 0.6875}, [[5, 1], [0, 4]])
    story.ended(reason="the time budget of 1m is used up")
    yield story
    story.tracker.close()


@pytest.fixture(scope="session")
def logged(told: Story) -> Logged:
    logged = told.logged()
    assert told.tracker.error is None
    return logged


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory, template: Path, plain_config: dict[str, Any]) -> Story:
    """One trial of one epoch, from its start to its test."""
    story = Story(tmp_path_factory.mktemp("short"), template, plain_config)
    story.starts()
    story.trial(0)
    story.epoch(0, 1, val_accuracy=0.5, loss=1.0)
    story.ends(0, 0.5, log="said\n")
    story.tell(WinnerTested, 0, {"test_loss": 0.5, "test_accuracy": 0.5}, [[1, 0], [0, 1]])
    story.ended()
    story.events = [event for event in story.events if not isinstance(event, TrialAsked)]
    # End its thread, so that it does not call what tests patch.
    story.tracker.close()
    return story
