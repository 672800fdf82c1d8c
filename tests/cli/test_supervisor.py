"""A command that does not outlive whoever wanted it."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest
from processes import gone

from mnist_sweep.cli import supervisor

# Prints the numbers of itself and of a child that would go on without it.
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
def test_when_the_pipe_is_closed_all_end_also_those_that_do_not_want_to(trap: str) -> None:
    process = started(trap=trap, then="while true; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdin is not None
    there = family(process)
    assert int(process.stdout.readline()) == there[0].pid
    process.stdin.close()
    process.wait(10)
    assert gone(there)


def test_a_kill_of_whoever_started_it_ends_all() -> None:
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    process = started(starter=(sys.executable, "-c", code))
    there = family(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(there)


def test_when_the_command_ends_its_children_do_and_its_exit_code_is_told() -> None:
    process = started(then="sleep 0.7; exit 7")
    there = family(process)
    assert process.wait(10) == 7
    assert gone(there)


def test_a_signal_ends_all() -> None:
    process = started()
    there = family(process)
    process.terminate()
    process.wait(10)
    assert gone(there)
