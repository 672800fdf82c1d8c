"""The notebook in examples/ on a finished sweep."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from programs import ROOT, environment


@pytest.mark.slow
def test_every_cell_of_the_notebook_on_a_finished_sweep_runs(
    swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy: other tests check what is in the folder of the sweep.
    folder = shutil.copytree(swept[0], tmp_path / "copy")
    for name, value in environment(MPLBACKEND="agg").items():
        monkeypatch.setenv(name, value)
    # `!python` in a cell runs this Python.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    cells = nbformat.read(ROOT / "examples" / "explore_a_sweep.ipynb", as_version=4)
    done = NotebookClient(cells, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.get("text", "") for output in outputs)
    assert "model.keras" in printed
    assert "mnist_sweep: " not in printed, printed
    frames = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert "params.model.units" in frames[0]
