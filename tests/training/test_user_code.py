"""Importing a user's module in a worker."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import keras
import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.training import user_code

SETTING = "model.builder=users_module:build"
TRAINS = """
import keras, numpy
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(numpy.zeros((4, 2)), numpy.zeros(4), verbose=0)
"""

CATCHES = f"try:\n{textwrap.indent(TRAINS, '  ')}\nexcept Exception:\n  pass"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Returns a function that writes a module and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "users_module", raising=False)

    def written(text: str) -> object:
        (tmp_path / "users_module.py").write_text(text)
        return user_code.load(SETTING, "users_module")

    yield written  # type: ignore[misc]
    sys.modules.pop("users_module", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRAINS, 'users_module.py:5 trains a model when it is imported; move that below `if __name__ == "__main__":`'),
        (CATCHES, "users_module.py:6 trains a model when it is imported"),
        (TRAINS.replace("fit(", "train_on_batch("), "users_module.py:5 trains a model when it is imported"),
        ("import no_such_module", "cannot be imported (ModuleNotFoundError at users_module.py:1: No module named "),
        ("x = 1 / 0", "cannot be imported (ZeroDivisionError at users_module.py:1: division by zero)"),
        (
            "raise SystemExit(3)",
            "ends the process when it is imported (SystemExit at users_module.py:1: 3); move what reads ",
        ),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_line(
    load: Callable[[str], object], text: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        load(text)
    assert str(error.value).startswith(f"{SETTING}: {message}")
    assert "users_module" not in sys.modules
    assert "fit" not in vars(keras.Model)


@pytest.mark.parametrize(
    "line",
    [
        'raise RuntimeError("Intra op parallelism cannot be modified after initialization.")',
        'raise ValueError("tf.enable_eager_execution must be called at program startup.")',
    ],
)
def test_a_setting_that_comes_too_late_says_what_to_do(load: Callable[[str], object], line: str) -> None:
    with pytest.raises(UserError, match="; remove that line: each worker sets its own threads"):
        load(line)


def test_a_slow_import_is_announced(load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(user_code, "SECONDS", 0.01)
    monkeypatch.setattr(user_code, "announce", said.append)
    load("import time\nwhile not time.sleep(0.01) and time.monotonic() < %r: pass" % (time.monotonic() + 0.5))
    assert said == [f"{SETTING}: importing users_module takes long"]


def test_a_fast_import_is_not_announced(load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "announce", pytest.fail)
    load("")
