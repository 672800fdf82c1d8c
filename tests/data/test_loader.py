"""A user's function is found, called in a process of its own, and its errors are lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import shipped
from mnist_sweep.data import loader_function, npz, sources

MODULE = """
import os
import sys
import numpy as np

def arrays(rows=90):
    assert "tensorflow" not in sys.modules
    x = np.random.randint(0, 255, (rows, 4, 4)).astype("uint8")
    return x, np.arange(rows) % 3

def fails(*_, path="cats"):
    print("working")
    raise ValueError(f"{path} is empty")

def ends():
    os._exit(3)

def needs(path, *, size):
    return path

rows = 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


def load(name: str, arguments: Any = None, code: Path | None = None) -> Any:
    options = {**shipped.values("data/loader"), "loader": name, "arguments": arguments or {}}
    return sources.load(sources.Request.of(options, None, code))


def test_arrays_come_from_a_process_that_returns_the_same_ones_each_time(here: Path) -> None:
    data, again = load("mine:arrays", {"rows": 60}), load("mine:arrays", {"rows": 60})
    assert (data.name, data.source, data.schema.image) == ("loader", "mine:arrays", (4, 4, 1))
    assert data.digest() == again.digest()
    np.random.seed(0)
    expected = np.random.randint(0, 255, (60, 4, 4)).astype("uint8")
    np.savez(here / "mine.npz", x_train=expected, y_train=np.arange(60) % 3)
    assert sources.with_test(npz.load("mine.npz", None), 0.2).digest() == data.digest()
    assert "mine" not in sys.modules


def test_an_error_in_the_function_is_a_line_with_its_place(here: Path) -> None:
    with pytest.raises(UserError) as error:
        load("mine:fails")
    assert str(error.value) == "data.loader=mine:fails: raised (ValueError at mine.py:13: cats is empty)"
    # For --debug.
    assert "working" in str(error.value.__cause__)


def test_a_process_that_dies_and_a_module_that_the_sweep_carries(here: Path) -> None:
    (here / "code").mkdir()
    (here / "mine.py").rename(here / "code" / "carried.py")
    with pytest.raises(UserError, match="data.loader=carried:ends: its process ended with code 3"):
        load("carried:ends", code=here / "code")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:array", "mine has no function array; did you mean 'arrays'?"),
        ("mine:rows", "is of type int; name a function that returns the data"),
        ("mines:arrays", "there is no module mines; did you mean 'mine'?"),
        ("absent.parts:arrays", "there is no module absent"),
    ],
)
def test_a_function_that_is_not_found_is_told_with_similar_names(here: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        loader_function.find(name, loader_function.plain_import)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("needs", {}, "data.loader=mine:needs: needs the argument path; write +data.arguments.path=…"),
        ("needs", {"path": "a"}, "data.loader=mine:needs: needs the argument size; write +data.arguments.size=…"),
        (
            "arrays",
            {"row": 3},
            "data.arguments.row: data.loader=mine:arrays has no parameter row; did you mean",
        ),
    ],
)
def test_arguments_are_checked_before_the_call(here: Path, name: str, arguments: Any, message: str) -> None:
    function = loader_function.find(f"mine:{name}", loader_function.plain_import)
    with pytest.raises(UserError) as error:
        loader_function.call(function, f"mine:{name}", arguments, 32)
    assert str(error.value).startswith(message)


def test_a_parameter_for_the_batch_size_gets_that_of_the_trial() -> None:
    def sized(batch_size: int, rows: int = 1) -> tuple[int, int]:
        return batch_size, rows

    assert loader_function.takes_batch_size(sized, {})
    assert not loader_function.takes_batch_size(sized, {"batch_size": 8})
    assert loader_function.call(sized, "mine:sized", {"rows": 5}, 64) == (64, 5)
