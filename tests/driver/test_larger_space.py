"""Sweeps that continue in a larger search space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.dotted import replaced
from mnist_sweep.driver import larger_space
from mnist_sweep.journal.events import SweepResumed, SweepStarted
from mnist_sweep.journal.state import SweepState

Check = Callable[..., str]
GRID = ("search=grid", "model.units=8,16", "model.layers=range(1,3)")


@pytest.fixture
def refusal(compose_config: Callable[..., dict[str, Any]]) -> Check:
    """Returns why a sweep cannot continue with other values; "" if it can."""

    def checked(before: tuple[str, ...], *overrides: str, started: int = 3) -> str:
        old = new = compose_config(*before)
        for override in overrides:
            key, _, sweep = override.partition("=")
            assert larger_space.is_searched(old, key)
            new = replaced(new, key, sweep)
        state = SweepState.after([SweepStarted(1.0, "x/1", old, {}, {}, {})])
        state.searched = set(range(started))
        try:
            larger_space.check(old, new, state)
        except UserError as error:
            return str(error)
        return ""

    return checked


@pytest.mark.parametrize(
    ("before", "overrides"),
    [
        (GRID, ("model.units=32,16,8",)),
        (GRID, ("model.layers=range(1,5)", "model.units=8,16,32")),
        ((*GRID, "model.per_layer=[units]"), ("model.layers=range(0,4)",)),
        (("search=random", "model.dropout=interval(0,0.2)"), ("model.dropout=interval(0,0.5)",)),
        (("search=random", "model.units=8,16"), ("model.units=int(interval(8,64))",)),
        (
            ("search=grid", "optimizer.name=sgd,rmsprop", "+optimizer.arguments.momentum=0.0,0.9"),
            ("optimizer.name=sgd,rmsprop,adam",),
        ),
    ],
)
def test_values_can_be_added(refusal: Check, before: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    assert refusal(before, *overrides) == ""


@pytest.mark.parametrize(
    ("before", "override", "problem"),
    [
        (
            GRID,
            "model.units=16,32",
            "8 of model.units = choice(8, 16) is missing; values can only be added. For another s",
        ),
        (GRID, "model.units=8", "model.units is no longer searched; values can only be added"),
        (
            ("search=random", "model.dropout=interval(0,0.2)"),
            "model.dropout=interval(0.1,0.5)",
            "0 of model.dropout = ",
        ),
        (
            ("search=random", "model.dropout=interval(0,0.2)"),
            "model.dropout=0.1,0.2",
            "a part of model.dropout = interv",
        ),
        (
            (*GRID, "model.l2=0.1,0.2", "conditions.model.l2=model.units > 8"),
            "model.layers=2,3",
            "1 of model.layers = choice(1, 2) is missing",
        ),
        (
            ("search=tpe", "model.units=8,16"),
            "model.units=8,16,32",
            "only search=grid and random can continue in a larg",
        ),
        (
            ("search=asha", "model.units=8,16"),
            "model.units=8,16,32",
            "not asha; start a new sweep that learns from this",
        ),
    ],
)
def test_what_cannot_be_continued_is_said_with_what_to_do_instead(
    refusal: Check, before: tuple[str, ...], override: str, problem: str
) -> None:
    message = refusal(before, override)
    assert message.startswith(f"resume: {override}: ")
    assert problem in message
    assert message.endswith("start a new sweep that learns from this one: search=tpe 'search.warm_start=[x/1]'")


def test_a_budget_that_is_used_up_must_be_raised_too(refusal: Check) -> None:
    random = ("search=random", "search.max_trials=4", "model.units=8,16")
    assert refusal(random, "model.units=8,16,32", started=4) == (
        "resume: model.units=8,16,32: all search.max_trials=4 have started, so nothing new would be trained; raise it, "
        "too: search.max_trials=8"
    )


def test_the_state_of_a_sweep_knows_its_last_space() -> None:
    state = SweepState.after([SweepStarted(1.0, "x/1", {}, {"model.units": "choice(8, 16)"}, {}, {})])
    state.handle(SweepResumed(2.0, {}, {}, {"model.units": "choice(8, 16, 32)"}))
    state.handle(SweepResumed(3.0, {}))
    assert state.space == {"model.units": "choice(8, 16, 32)"}
