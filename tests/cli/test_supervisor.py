"""A supervised command does not outlive the process that started it."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest
from processes import gone

from mnist_sweep.cli import supervisor

# Prints its own process id and that of a child which would outlive it.
COMMAND = "trap '{trap}' TERM; sleep 100 & echo $$ $! >&2; {then}"


def started(then: str = "wait", trap: str = "exit", starter: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*starter, sys.executable, "-I", supervisor.__file__, "sh", "-c", COMMAND.format(trap=trap, then=then)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    assert process.stderr is not None
    return [psutil.Process(int(number)) for number in process.stderr.readline().split()]


@pytest.mark.parametrize("trap", ["exit", ""])
def test_closing_the_pipe_ends_all_processes_even_if_they_ignore_sigterm(trap: str) -> None:
    process = started(trap=trap, then="while true; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdin is not None
    running = family(process)
    assert int(process.stdout.readline()) == running[0].pid
    process.stdin.close()
    process.wait(10)
    assert gone(running)


def test_killing_the_starting_process_ends_all_processes() -> None:
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    process = started(starter=(sys.executable, "-c", code))
    running = family(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(running)


def test_the_commands_exit_code_is_passed_on_and_its_children_end_with_it() -> None:
    process = started(then="sleep 0.7; exit 7")
    running = family(process)
    assert process.wait(10) == 7
    assert gone(running)


def test_a_signal_ends_all_processes() -> None:
    process = started()
    running = family(process)
    process.terminate()
    process.wait(10)
    assert gone(running)
