"""The entry point."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mnist_sweep.cli import main


@pytest.mark.parametrize("given", [["compare"], ["--cfg", "job"]])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, module in (("pandas", "mnist_sweep.results.compare"), ("hydra", "mnist_sweep.cli.hydra_folder")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:
        main.main(given)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("mnist_sweep: the package ")
    assert "is not installed for " in message


def test_the_environment_of_the_checkout_is_named_if_another_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    monkeypatch.setattr(main, "__file__", str(tmp_path / "mnist_sweep" / "cli" / "main.py"))
    monkeypatch.chdir(tmp_path)
    message = main.missing_package(ModuleNotFoundError("No module named 'yaml.x'", name="yaml.x"))
    assert message.startswith("the package yaml is not installed for ")
    assert message.endswith("; run this command with .venv/bin/python, which has it")


def test_without_an_environment_the_install_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(main, "__file__", str(tmp_path / "mnist_sweep" / "cli" / "main.py"))
    monkeypatch.chdir(tmp_path)
    assert main.missing_package(ModuleNotFoundError("", name="yaml")).endswith("-m pip install -e .")


@pytest.mark.parametrize(("given", "used"), [("", None), (" http://box:5000\n", "http://box:5000")])
def test_the_blanks_around_the_address_of_a_store_are_ignored(
    monkeypatch: pytest.MonkeyPatch, given: str, used: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(SystemExit):
        main.main(["no-such-command"])
    assert os.environ.get("MLFLOW_TRACKING_URI") == used


def test_version_names_this_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["--version"])
    assert end.value.code == 0
    assert "mnist_sweep 0." in capsys.readouterr().out
