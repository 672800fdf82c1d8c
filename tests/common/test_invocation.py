"""The commands in messages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mnist_sweep.common import invocation

# As it is before tests/conftest.py replaces it for all tests.
INTERPRETER = invocation.interpreter


@pytest.fixture(autouse=True)
def _real_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "interpreter", INTERPRETER)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's interpreter, which runs."""
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "python3"):
        (bin_folder / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return bin_folder / "python"


def test_the_interpreter_is_named_by_its_path_if_no_environment_is_active(python: Path) -> None:
    assert invocation.command("resume a") == ".venv/bin/python -m mnist_sweep resume a"


def test_the_interpreter_is_named_absolutely_from_another_folder(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert invocation.command() == f"{python} -m mnist_sweep"


def test_python_suffices_in_an_active_environment(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{python.parent}:/usr/bin")
    assert invocation.pip_install("mnist_sweep[gp]") == "python -m pip install 'mnist_sweep[gp]'"


def test_python_does_not_suffice_if_it_is_another_environments(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "python").symlink_to(python)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin")
    assert invocation.interpreter() == ".venv/bin/python"
