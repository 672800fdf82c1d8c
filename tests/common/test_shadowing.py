"""Files of the user's that hide a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mnist_sweep.common.shadowing import hiding_file


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("keras.py", "keras.py"),
        ("numpy.py", "numpy.py"),
        ("mlflow/__init__.py", "mlflow/"),
        ("hydra.py", "hydra.py"),
        ("mlflow/runs.txt", None),
        ("random.py", None),
        ("own.py", None),
    ],
)
def test_a_file_with_the_name_of_a_library_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, named: str | None
) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert hiding_file() == named


def test_files_in_a_folder_that_is_not_imported_from_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keras.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/lib"])
    assert hiding_file() is None


@pytest.mark.parametrize("name", ["numpy.py", "argparse.py"])
def test_the_command_line_names_the_file_as_the_cause(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise ValueError('imported')\n" if name == "numpy.py" else "x = 1\n")
    command = [sys.executable, "-m", "mnist_sweep", "compare"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mnist_sweep: {name} in this folder hides the library {name[:-3]}, "), done.stderr
    assert done.stderr.count("\n") == 1
