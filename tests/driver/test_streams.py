"""What a sweep on a stream may not want."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.settings import check_settings
from mnist_sweep.data.dataset import LoadedData, Rows
from mnist_sweep.data.schema import ONLY, of_images
from mnist_sweep.data.stream import Form, Stream
from mnist_sweep.driver import streams, task_choice

ROWS = Rows({ONLY: np.zeros((2, 6, 6, 1), np.uint8)}, np.zeros(2, np.int64))
STREAM = Stream(
    "mine:load", {}, ("train", "val"), False, True, 32, None, 7, {"train": 200, "val": 50}, {ONLY: Form(255)},
    counts=(90, 60, 50),
)  # fmt: skip


@pytest.fixture
def used(compose_config, monkeypatch: pytest.MonkeyPatch) -> Any:
    def used_by(*overrides: str, stream: Stream | None = STREAM) -> str | None:
        data = LoadedData("loader", "mine:load", of_images(6, 6, 1, 3), ROWS, None, ROWS, stream=stream)
        monkeypatch.setattr(task_choice, "load", lambda *_: data)
        config = compose_config("data=loader", "data.loader=mine:load", "task=classification", *overrides)
        return streams.used_by(config, check_settings(config), None)

    return used_by


def test_workers_read_a_stream_but_not_arrays(used) -> None:
    assert used() == "mine:load"
    assert used(stream=None) is None
    assert used("validation=kfold", "training.batch_size=16,32", stream=None) is None


def test_the_batch_size_can_be_searched_if_the_function_takes_it(used) -> None:
    assert used("training.batch_size=16,32", stream=replace(STREAM, takes_batch_size=True))
    assert used("training.batch_size=16,32", stream=replace(STREAM, batched=False))


def test_class_weights_and_schedules_need_the_number_of_rows(used) -> None:
    uncounted = replace(STREAM, steps=None, rows={}, counts=())
    assert used("task.class_weight=balanced", "optimizer.schedule.name=CosineDecay")
    assert used("optimizer.schedule.name=CosineDecay", "+optimizer.schedule.arguments.decay_steps=9", stream=uncounted)
    for given in ("task.class_weight=balanced", "optimizer.schedule.name=CosineDecay"):
        with pytest.raises(UserError, match=f"{given}: .* not counted; write data.count=true"):
            used(given, stream=uncounted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("validation=kfold", "validation=kfold: data.loader=mine:load returns a stream, which cannot be split into"),
        ("training.batch_size=16,32", "is not used; data.loader=mine:load returns a stream of batches"),
        ("augment=light", "augment.shift=0.08: data.loader=mine:load returns a stream; change its images"),
        ("data.validation_split=0.2", "data.validation_split=0.2: is not used; data.loader=mine:load returns a stream"),
        ("data.target=price", "data.target=price: is not used; data.loader=mine:load returns a stream, which has no"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(used, given: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        used(given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.loader=mine.py:load"], "data.loader=mine.py:load: must be package.module:function"),
        (["data.loader=null"], "data.loader=null: data=loader needs data.loader=package.module:function"),
        (["data.path=cats"], "data.path=cats: is not used; give it to the function as +data.arguments.path=…"),
        (["data.classes=1"], "data.classes=1: must be at least 2"),
        (["data.classes=[cat]"], "must be two or more different names"),
        (["data.steps_per_epoch=0"], "data.steps_per_epoch=0: must be at least 1"),
        (["data.loder=a:b"], "data.loder: "),
    ],
)
def test_the_keys_are_checked(compose_config, tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_settings(compose_config("data=loader", "data.loader=mine:load", "task=classification", *given))
    assert message in str(error.value)
