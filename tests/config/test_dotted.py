"""The values of a config by their dotted keys."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.config.dotted import MISSING, replaced, value_at

# The hyperparameters of a hypermodel may have dots in their names.
CONFIG: dict[str, Any] = {
    "seed": 1,
    "model": {"units": [64, 32], "dropout": 0.2, "values": {"conv.units": 8, "conv": {"kernel": 3}}},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("model.units", [64, 32]),
        ("model.units.2", 32),
        ("model.units.3", MISSING),
        ("model.dropout.3", 0.2),
        ("model.values.conv.units", 8),
        ("model.values.conv.kernel", 3),
        ("model.layers", MISSING),
        ("seed.low", MISSING),
    ],
)
def test_finds_a_value(name: str, value: object) -> None:
    assert value_at(CONFIG, name) == value


@pytest.mark.parametrize("name", ["seed", "model.units", "model.values.conv.units", "model.values.conv.kernel"])
def test_replaces_a_value_in_a_copy(name: str) -> None:
    before = value_at(CONFIG, name)
    assert value_at(replaced(CONFIG, name, 7), name) == 7
    assert value_at(CONFIG, name) == before
