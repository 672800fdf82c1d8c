"""Forks from a server that has imported almost nothing; `test_local.py` trains in forks from one with TensorFlow."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mnist_sweep.workers import forkserver
from mnist_sweep.workers.forkserver import ForkedProcess, ForkServer

pytestmark = pytest.mark.skipif(not forkserver.is_supported(), reason="this system has no fork server")

Fork = Callable[[], tuple[ForkedProcess, socket.socket]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(
        {**os.environ, "TOLD": "all children"}, tmp_path / "server.log", custom_code=True, modules=["colorsys"]
    )
    yield made
    made.close()


@pytest.fixture
def fork(server: ForkServer, tmp_path: Path) -> Iterator[Fork]:
    with contextlib.ExitStack() as cleanup:

        def forked() -> tuple[ForkedProcess, socket.socket]:
            ours, theirs = socket.socketpair()
            cleanup.enter_context(ours)
            with theirs, open(tmp_path / "slot.log", "ab") as log:
                return server.fork(theirs, log), ours

        yield forked


def pid_of(child: ForkedProcess) -> int:
    until = time.monotonic() + 20
    while child.poll() is None and child.pid is None and time.monotonic() < until:
        time.sleep(0.01)
    assert child.pid is not None
    return child.pid


def test_a_forked_process_is_a_child_of_the_driver_with_its_log_and_the_servers_environment(
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


def test_processes_that_end_at_once_can_all_be_waited_for(fork: Fork) -> None:
    children = [fork() for _ in range(20)]
    for child, connection in children:
        connection.close()
        assert child.wait() == 0
    assert len({child.pid for child, _ in children}) == 20


def test_exit_codes_are_known_without_the_server(server: ForkServer, fork: Fork) -> None:
    killed, _ = fork()
    ended, connection = fork()
    pid_of(ended)
    server.process.kill()
    server.process.wait()
    assert server.has_ended()
    assert (killed.poll(), ended.poll()) == (None, None)
    connection.close()
    assert ended.wait() == 0
    killed.kill()
    assert killed.wait() == -signal.SIGKILL


def test_a_process_that_was_never_forked_has_its_servers_exit_code(tmp_path: Path) -> None:
    server = ForkServer(os.environ, tmp_path / "server.log", custom_code=True, modules=["no_such_module"])
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "slot.log", "ab") as log:
        before = server.fork(theirs, log)
        assert (before.wait(), before.pid) == (1, None)
        after = server.fork(theirs, log)
        assert (after.poll(), after.pid) == (1, None)
    assert "No module named 'no_such_module'" in (tmp_path / "server.log").read_text()
    assert server.has_ended()


def test_killing_a_process_that_was_not_forked_yet_kills_the_server(server: ForkServer, fork: Fork) -> None:
    server.process.send_signal(signal.SIGSTOP)
    child, _ = fork()
    child.kill()
    assert (child.wait(), server.process.returncode) == (-signal.SIGKILL, -signal.SIGKILL)


def server_with(folder: Path, module: str, code: str) -> ForkServer:
    """A server that has imported a module with some code."""
    (folder / f"{module}.py").write_text(code)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Users have buffered output.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return ForkServer({**environment, "PYTHONPATH": path}, folder / "server.log", custom_code=True, modules=[module])


def test_forks_are_known_although_their_server_died_with_unread_requests(server: ForkServer, fork: Fork) -> None:
    first, _ = fork()
    until = time.monotonic() + 20
    # Sent, but not read yet.
    while not select.select([server._socket], [], [], 0)[0] and time.monotonic() < until:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGSTOP)
    while psutil.Process(server.process.pid).status() != psutil.STATUS_STOPPED and time.monotonic() < until:
        time.sleep(0.01)
    second, _ = fork()
    server.process.kill()
    os.waitid(os.P_PID, server.process.pid, os.WEXITED | os.WNOWAIT)
    assert (second.wait(), second.pid) == (-signal.SIGKILL, None)
    assert first.pid is not None
    assert first.poll() is None
    first.kill()
    assert first.wait() == -signal.SIGKILL


def test_processes_are_forked_with_sigchld_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        server = ForkServer(os.environ, tmp_path / "other.log", custom_code=True, modules=["colorsys"])
        try:
            ours, theirs = socket.socketpair()
            with theirs, open(tmp_path / "slot.log", "ab") as log:
                child = server.fork(theirs, log)
            pid_of(child)
            assert not server.has_ended()
            ours.close()
            assert child.wait() == 0
        finally:
            server.process.kill()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_abandoned_child_processes_do_not_stay_zombies(tmp_path: Path) -> None:
    code = (
        "import os, subprocess\n"
        "from mnist_sweep.workers import process\n"
        "def run(connection):\n"
        "    os.system('sleep 0.01 & echo $!')\n"
        "    os.read(connection.fileno(), 1)\n"
        "    subprocess.Popen(['sleep', '0.1'])\n"
        "    os._exit(7)\n"
        "process.run = run\n"
    )
    server = server_with(tmp_path, "leaves_things", code)
    log_file = tmp_path / "slot.log"
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs, open(log_file, "ab") as log:
            child = server.fork(theirs, log)
            pid = pid_of(child)
            until = time.monotonic() + 20
            while not log_file.read_text().strip() and time.monotonic() < until:
                time.sleep(0.01)
            (left,) = map(int, log_file.read_text().split())
            while psutil.pid_exists(left) and time.monotonic() < until:
                forkserver.reap()
                time.sleep(0.01)
            # While the worker runs, and then when it has ended but its exit code was not taken.
            assert not psutil.pid_exists(left)
            ours.send(b"!")
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            forkserver.reap()
            assert child.wait() == 7
            while pid in forkserver._groups and time.monotonic() < until:
                forkserver.reap()
                time.sleep(0.01)
            # A zombie would still be in its group.
            assert pid not in forkserver._groups
    finally:
        server.close()


def test_output_of_imports_is_printed_once(tmp_path: Path) -> None:
    server = server_with(tmp_path, "talks", "print('once')\n")
    server_log = tmp_path / "server.log"
    try:
        for _ in range(2):
            ours, theirs = socket.socketpair()
            with ours, theirs, open(tmp_path / "slot.log", "ab") as log:
                child = server.fork(theirs, log)
                pid_of(child)
            assert child.wait() == 0
    finally:
        server.close()
    assert server_log.read_text() == "once\n"
    assert (tmp_path / "slot.log").read_text() == ""


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("os._exit(3)", 3, "printed"),
        ("sys.exit('bye')", 1, "SystemExit: bye"),
        ("sys.stderr.close(), 1 / 0", 1, "printed"),
    ],
)
def test_a_worker_exits_with_its_output_written_although_user_code_left_a_thread(
    tmp_path: Path, end: str, code: int, last: str
) -> None:
    work = (
        "import os, sys, threading, time\n"
        "from mnist_sweep.workers import process\n"
        "def work(driver):\n"
        "    threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "    print('printed')\n"
        f"    {end}\n"
        "process._work = work\n"
    )
    server = server_with(tmp_path, "leaves_a_thread", work)
    try:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, open(tmp_path / "slot.log", "ab") as log:
                child = server.fork(theirs, log)
            pid_of(child)
            until = time.monotonic() + 10
            while child.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            assert child.poll() == code
    finally:
        server.close()
    assert (tmp_path / "slot.log").read_text().splitlines()[-1] == last
