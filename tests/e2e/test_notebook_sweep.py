"""A sweep that is started in a notebook: examples/tune_in_a_notebook.ipynb, in a real kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from programs import ROOT, environment


@pytest.mark.slow
def test_the_notebook_that_starts_where_the_tutorials_end(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(MPLBACKEND="agg").items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "examples" / "tune_in_a_notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(work)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pages = [
        output["data"]["text/html"]
        for cell in code
        for output in cell.outputs
        if "mnist-sweep" in output.get("data", {}).get("text/html", "")
    ]
    # The last view of each sweep stays in the saved notebook.
    assert len(pages) == 2
    assert "● complete" in pages[0]
    assert "4 of 4 trials done" in pages[0]
    assert "6 of 6 trials done" in pages[1]
    assert pages[0].count("<svg") == 2
    assert "5 of" not in pages[0]
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "mnist_sweep: " not in printed, printed
    winner = "".join(output.get("data", {}).get("text/plain", "") for cell in code for output in cell.outputs)
    assert "'model.values.units': " in winner


CELLS = [
    "def build_model(hp):\n    import keras\n"
    "    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten()])\n"
    "    model.add(keras.layers.Dense(10, activation='softmax'))\n"
    "    raise KeyError('oops')",
    "from mnist_sweep import sweep\n"
    "try:\n    sweep(build_model, data='mnist_5k', name='wrong')\n"
    "except Exception as error:\n    print(type(error).__name__, error)",
]


def test_an_error_in_a_cell_is_named_with_its_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(work)}}).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "UserError model.hypermodel=notebook_" in printed, notebook.cells[1].outputs
    assert ":build_model: raised (KeyError at In[1]:5: 'oops')" in printed
    assert not (work / "experiments").exists()


@pytest.mark.slow
def test_the_script_of_the_examples(work: Path) -> None:
    script = ROOT / "examples" / "tune_in_a_script.py"
    done = subprocess.run(
        [sys.executable, str(script)], cwd=work, env=environment(), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Winner(trial=" in done.stdout
    assert (work / "exported" / "model.keras").exists()
    assert os.listdir(work / "experiments" / "script")
