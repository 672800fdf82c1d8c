"""The servers of `ui` and `serve` end with all processes that they started."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from processes import gone
from programs import command, environment

from mnist_sweep.common import ports


@contextmanager
def running(folder: Path, *arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts a command; yields its process, and the first line that it printed."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder, env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert found
    return found


def test_ui_hides_the_store_ignores_proxies_and_leaves_no_process(swept: tuple[Path, str]) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    with ports.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with running(swept[0], "ui", "four", "--port", str(port), **proxy) as (process, line):
        assert line.startswith("Opening MLflow's pages"), process.communicate()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"MLflow shows the runs at http://127.0.0.1:{port}/"), process.communicate()
        started = children(process)
        # The store's address may contain a password.
        assert not any("mlflow.db" in word for one in started for word in one.cmdline())
        process.send_signal(signal.SIGKILL)
        assert gone(started)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_serve_ends_while_it_is_loading_models_and_leaves_no_process(swept: tuple[Path, str], number: int) -> None:
    with running(swept[0], "serve", "four", "--port", "0", "--token", "auto") as (process, line):
        assert re.fullmatch(r"Draw at http://127\.0\.0\.1:\d+/\?token=[\w-]{32} \(Ctrl-C stops it\)\n", line), line
        started = children(process)
        assert not any("token" in word for one in started for word in one.cmdline())
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == (0 if number == signal.SIGTERM else -number)
        assert time.monotonic() - start < 5
        assert gone(started)
