"""Which keys of its config a user's model function reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mnist_sweep.training.read_keys import unread

CONFIG = {"units": 64, "layers": 2, "dense": {"units": 8}}


def in_one_branch(config: dict[str, Any]) -> None:
    if config["layers"] > 1:
        config["units"]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda config: config["units"], ["layers", "dense"]),
        (lambda config: config.get("widht", config.pop("layers", 2)), ["units", "dense"]),
        (lambda config: "dense" in config, ["units", "layers"]),
        (lambda config: None, ["units", "layers", "dense"]),
    ],
)
def test_keys_that_are_not_read_are_found(build: Callable[[dict[str, Any]], object], expected: list[str]) -> None:
    assert unread(build, [CONFIG]) == expected


@pytest.mark.parametrize(
    "build",
    [
        lambda config: SimpleNamespace(**config),
        dict,
        list,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        lambda config: config | {"more": 1},
        lambda config: {"more": 1} | config,
        lambda config: {**config},
        lambda config: config.copy(),
        lambda config: sorted(config.values(), key=str),
        lambda config: [key for key, _ in config.items()],
        lambda config: 1 / 0,
    ],
)
def test_what_goes_over_all_keys_reads_all_and_so_may_what_fails(build: Callable[[dict[str, Any]], object]) -> None:
    assert unread(build, [CONFIG]) == []


def test_a_key_that_is_read_in_one_branch_only_is_read() -> None:
    assert unread(in_one_branch, [CONFIG | {"layers": 1}, CONFIG]) == ["dense"]
