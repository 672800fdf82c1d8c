"""Search spaces as other tools write them, shown as they are written here."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.config.foreign_sweeps import from_call, meant_as_sweep
from mnist_sweep.config.grammar import read_sweep


@pytest.mark.parametrize(
    ("typed", "sweep"),
    [
        ("tune.loguniform(1e-4, 1e-1)", "tag(log,interval(1e-4,1e-1))"),
        ("tune.choice([16, 32])", "16,32"),
        ("tune.grid_search([1,2])", "1,2"),
        ("tune.lograndint(8, 512)", "tag(log,int(interval(8,512)))"),
        ('hp.Int("units", 16, 64, step=16)', "range(16,65,16)"),
        ("hp.Int('units', min_value=16, max_value=64)", "int(interval(16,64))"),
        ('hp.Float("lr", 1e-4, 1e-2, sampling="log")', "tag(log,interval(1e-4,1e-2))"),
        ('hp.Choice("act", ["relu", "tanh"])', '"relu","tanh"'),
        ('hp.Choice("units", values=[16, 32])', "16,32"),
        ("trial.suggest_float('lr', 1e-5, 1e-1, log=True)", "tag(log,interval(1e-5,1e-1))"),
        ("suggest_int('n', 1, 5)", "int(interval(1,5))"),
        ("suggest_categorical('a', [1, 2])", "1,2"),
        ("np.arange(16, 64, 16)", "range(16,64,16)"),
        ("q_uniform(0, 0.5, 0.1)", "interval(0,0.5)"),
        ("loguniform[1e-4,1e-2]", "tag(log,interval(1e-4,1e-2))"),
        ("my_own(1, 2)", None),
        ("choice()", None),
        ("uniform(a, b)", None),
    ],
)
def test_a_call_of_another_tools_function_is_read(typed: str, sweep: str | None) -> None:
    assert from_call(typed) == sweep
    assert sweep is None or read_sweep(sweep, "key") is not None


@pytest.mark.parametrize(
    ("value", "sweep"),
    [
        ([16, 32], "16,32"),
        ([0.001, 0.01], "0.001,0.01"),
        ({"values": [16, 32]}, "16,32"),
        ({"grid_search": [True, False]}, "true,false"),
        ({"min": 16, "max": 64}, "int(interval(16,64))"),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}, "tag(log,interval(0.0001,0.1))"),
        ("16:64:16", "range(16,64,16)"),
        ("16..64", "int(interval(16,64))"),
        ("1e-4..1e-2", "interval(1e-4,1e-2)"),
        ("16 32", "16,32"),
        ("16|32", "16,32"),
        ("[16;32]", "16,32"),
        ("hp.Int(16,64,16)", "range(16,65,16)"),
        ("relu", None),
        ("16", None),
        ([], None),
        ([[1], [2]], None),
        ({"name": "relu"}, None),
        (None, None),
    ],
)
def test_a_value_that_would_be_a_search_space_elsewhere_is_read(value: Any, sweep: str | None) -> None:
    assert meant_as_sweep(value) == sweep
    assert sweep is None or read_sweep(sweep, "key") is not None
