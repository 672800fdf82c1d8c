"""A sweep in a running Jupyter server, in a real browser: its view grows in the cell, and a button interrupts it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser import browser as browser
from browser import page_of, until
from programs import environment

from mnist_sweep import Sweep

pytestmark = pytest.mark.slow

TOKEN = "only-for-this-test"
CELL = """from mnist_sweep import sweep

s = sweep("quick", "training.epochs=400", "workers.count=1", max_trials=20, name="in_jupyter")
print("after:", s.progress.phase)"""


@pytest.fixture
def notebook(work: Path) -> Iterator[str]:
    """The address of a notebook with one cell, in Jupyter Notebook."""
    pytest.importorskip("notebook", reason="Jupyter is not installed: pip install notebook")
    file = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    file.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(file, work / "tune.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as asked:
        port = asked.getsockname()[1]
    options = (
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={TOKEN}",
    )
    place = {name: str(work / "jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    with open(work / "jupyter.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "notebook", "--allow-root", *options, f"--ServerApp.root_dir={work}"],
            cwd=work, env=environment(**place), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}")
        yield f"http://127.0.0.1:{port}/notebooks/tune.ipynb?token={TOKEN}"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < end, "Jupyter does not start"
            time.sleep(0.2)
        else:
            return


def test_a_cell_shows_the_sweep_while_it_runs_and_the_interrupt_button_ends_it(
    browser, notebook: str, work: Path
) -> None:
    with page_of(browser) as watched:
        page = watched.page
        page.goto(notebook, timeout=60_000)
        page.locator(".jp-Cell .cm-content").first.click(timeout=60_000)
        page.keyboard.press("Shift+Enter")
        view = page.locator(".jp-OutputArea-output .mnist-sweep")
        view.wait_for(timeout=60_000)
        until(page, lambda: "● running" in view.inner_text(), 60)
        # The curve grows in the same output.
        until(page, lambda: view.locator("svg").count() > 0, 60)
        first = view.inner_html()
        until(page, lambda: view.inner_html() != first, 60)
        assert view.count() == 1
        page.locator('[data-command="notebook:interrupt-kernel"], [data-command="kernelmenu:interrupt"]').first.click()
        until(page, lambda: "● stopped" in view.inner_text(), 60)
        page.locator(".jp-OutputArea-output", has_text="after: stopped").wait_for(timeout=20_000)
        assert watched.hosts == {"127.0.0.1"}
    s = Sweep(work / "experiments" / "in_jupyter")
    assert s.progress.phase == "stopped"
    # The kernel was not killed: the trial that ran can go on.
    assert s.progress.running
