"""Forks of a server that has imported next to nothing; `test_local.py` trains in forks of one with TensorFlow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mnist_sweep.workers import forkserver
from mnist_sweep.workers.forkserver import Forked, ForkServer

pytestmark = pytest.mark.skipif(not forkserver.possible(), reason="this system has no fork server")

Fork = Callable[[], tuple[Forked, socket.socket]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(
        {**os.environ, "TOLD": "all children"}, tmp_path / "server.log", own_code=True, modules=["colorsys"]
    )
    yield made
    made.close()


@pytest.fixture
def fork(server: ForkServer, tmp_path: Path) -> Iterator[Fork]:
    with contextlib.ExitStack() as cleanup:

        def forked() -> tuple[Forked, socket.socket]:
            ours, theirs = socket.socketpair()
            cleanup.enter_context(ours)
            with theirs, open(tmp_path / "slot.log", "ab") as log:
                return server.fork(theirs, log), ours

        yield forked


def pid_of(child: Forked) -> int:
    until = time.monotonic() + 20
    while child.poll() is None and child.pid is None and time.monotonic() < until:
        time.sleep(0.01)
    assert child.pid is not None
    return child.pid


def test_a_forked_process_is_the_drivers_own_with_its_log_and_the_servers_environment(
    server: ForkServer, fork: Fork, tmp_path: Path
) -> None:
    child, connection = fork()
    process = psutil.Process(pid_of(child))
    assert process.ppid() == os.getpid()
    assert process.environ()["TOLD"] == "all children"
    until = time.monotonic() + 20
    while os.getsid(process.pid) != process.pid and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert os.getsid(process.pid) == process.pid
    assert [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (1, 2)] == [str(tmp_path / "slot.log")] * 2
    assert child.poll() is None
    connection.close()
    assert child.wait() == 0


def test_processes_that_end_at_once_are_all_waited_for(fork: Fork) -> None:
    children = [fork() for _ in range(20)]
    for child, connection in children:
        connection.close()
        assert child.wait() == 0
    assert len({child.pid for child, _ in children}) == 20


def test_how_a_process_ends_is_known_when_its_server_is_gone(server: ForkServer, fork: Fork) -> None:
    killed, _ = fork()
    ended, connection = fork()
    pid_of(ended)
    server.process.kill()
    server.process.wait()
    assert server.gone()
    assert (killed.poll(), ended.poll()) == (None, None)
    connection.close()
    assert ended.wait() == 0
    killed.kill()
    assert killed.wait() == -signal.SIGKILL


def test_a_process_that_was_never_made_ends_as_its_server_did(tmp_path: Path) -> None:
    server = ForkServer(os.environ, tmp_path / "server.log", own_code=True, modules=["no_such_module"])
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "slot.log", "ab") as log:
        before = server.fork(theirs, log)
        assert (before.wait(), before.pid) == (1, None)
        after = server.fork(theirs, log)
        assert (after.poll(), after.pid) == (1, None)
    assert "No module named 'no_such_module'" in (tmp_path / "server.log").read_text()
    assert server.gone()


def test_to_kill_a_process_that_is_still_to_be_made_ends_the_server(server: ForkServer, fork: Fork) -> None:
    server.process.send_signal(signal.SIGSTOP)
    child, _ = fork()
    child.kill()
    assert (child.wait(), server.process.returncode) == (-signal.SIGKILL, -signal.SIGKILL)
