"""The servers of `ui` and `serve` in real processes: they end with all that they have started."""

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
    """A command, and the first line that it printed."""
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


def test_ui_keeps_the_store_to_itself_asks_no_proxy_and_leaves_no_server(swept: tuple[Path, str]) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    with ports.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with running(swept[0], "ui", "four", "--port", str(port), **proxy) as (process, told):
        assert told.startswith(f"MLflow shows the runs at http://127.0.0.1:{port}/"), process.communicate()
        there = children(process)
        # The address of the store, which may hold a password.
        assert not any("mlflow.db" in word for one in there for word in one.cmdline())
        process.send_signal(signal.SIGKILL)
        assert gone(there)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_serve_ends_while_it_loads_its_models_and_leaves_no_process(swept: tuple[Path, str], number: int) -> None:
    with running(swept[0], "serve", "four", "--port", "0", "--token", "auto") as (process, told):
        assert re.fullmatch(r"Draw at http://127\.0\.0\.1:\d+/\?token=[\w-]{32} \(Ctrl-C ends it\)\n", told), told
        there = children(process)
        assert not any("token" in word for one in there for word in one.cmdline())
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == (0 if number == signal.SIGTERM else -number)
        assert time.monotonic() - begun < 5
        assert gone(there)
