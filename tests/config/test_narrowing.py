"""Narrowing what a sweep searches."""

from __future__ import annotations

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import Choice, Interval
from mnist_sweep.config.narrowing import narrow, narrowed
from mnist_sweep.config.space import Space

RATE = Interval(1e-4, 1e-1, integer=False, log=True)
UNITS = Interval(16, 512, integer=True, log=False)
LAYERS = Choice((1, 2, 3))
NAMES = Choice(("adam", "sgd", None, [1, 2]))


@pytest.mark.parametrize(
    ("domain", "text", "part"),
    [
        (RATE, "tag(log,interval(1e-4,1e-2))", "tag(log, interval(0.0001, 0.01))"),
        # Only the bounds count.
        (RATE, "interval(1e-3,1e-2)", "tag(log, interval(0.001, 0.01))"),
        (RATE, "0.01", "choice(0.01)"),
        (RATE, "choice(0.01,0.02)", "choice(0.01, 0.02)"),
        (UNITS, "interval(16,64)", "int(interval(16, 64))"),
        (UNITS, "interval(16.0,64)", "int(interval(16, 64))"),
        (UNITS, "32", "choice(32)"),
        (LAYERS, "3,1", "choice(1, 3)"),
        (LAYERS, "interval(2,3)", "choice(2, 3)"),
        (LAYERS, "2.0", "choice(2)"),
        (NAMES, "sgd", "choice(sgd)"),
        (NAMES, "null,adam", "choice(adam, null)"),
        (NAMES, "[1,2]", "choice([1, 2])"),
    ],
)
def test_a_part_of_a_domain_has_its_values_in_its_order(domain: Choice | Interval, text: str, part: str) -> None:
    found = narrow(domain, text, "key")
    assert str(found) == part
    # As a journal has it.
    assert narrow(domain, part, "key") == found


@pytest.mark.parametrize(
    ("domain", "text", "error"),
    [
        (RATE, "interval(1e-5,1e-2)", "1e-05 is not in tag(log, interval(0.0001, 0.1)); values can only be narrowed"),
        (RATE, "interval(1e-3,1)", "1 is not in tag(log, interval(0.0001, 0.1)); values can only be narrowed"),
        (RATE, "1", "1 is not in tag(log, interval(0.0001, 0.1)); values can only be narrowed"),
        (RATE, "small", "small is not in tag(log, interval(0.0001, 0.1)); values can only be narrowed"),
        (UNITS, "interval(16.5,64)", "must be between whole numbers, as int(interval(16, 512)) is"),
        (LAYERS, "4", "4 is not in choice(1, 2, 3); values can only be narrowed"),
        (LAYERS, "interval(1.2,1.8)", "none of choice(1, 2, 3) is between these bounds"),
        (NAMES, "interval(1,2)", "must be some of choice(adam, sgd, null, [1, 2])"),
        (NAMES, "choice(", "cannot be read as a sweep"),
    ],
)
def test_other_values_are_refused(domain: Choice | Interval, text: str, error: str) -> None:
    with pytest.raises(UserError) as raised:
        narrow(domain, text, "key")
    assert str(raised.value).startswith(f"key={text}: {error}")


def test_a_narrowed_space_makes_the_same_configs_and_knows_what_is_in_it(compose_config) -> None:
    config = compose_config("model.layers=range(1,4)", "model.units=choice(16,32)", "model.per_layer=[units]")
    space = Space(config)
    part = narrowed(space, {"model.layers": "choice(1, 2)", "model.units.1": "choice(32)"})
    assert [len(list(each.grid())) for each in (space, part)] == [2 + 4 + 8, 1 + 2]
    assert part.size == 3
    for values in part.grid():
        assert part.includes(values)
        assert part.config(values) == space.config(values)
    assert sum(part.includes(values) for values in space.grid()) == 3
    assert space.size == 14
