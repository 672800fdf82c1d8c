"""Ending soon after a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# SIGHUP is ignored if the tests themselves run under `nohup`.
BEGINNING = (
    "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    "from mnist_sweep.common import termination\ntermination.SECONDS = 0.5\nended = termination.raise_on_signals()\n"
)


def ends(code: str, number: signal.Signals) -> int:
    process = subprocess.Popen([sys.executable, "-c", BEGINNING + code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.1)
    process.send_signal(number)
    return process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_an_exception(number: signal.Signals) -> None:
    code = (
        "import time\ntry:\n print('here', flush=True); time.sleep(30)\nexcept KeyboardInterrupt: raise SystemExit(3)"
    )
    assert ends(code, number) == 3


def test_the_program_chooses_its_exit_code_even_if_a_signal_interrupts_an_exec() -> None:
    code = "try: exec(\"import time; print('here', flush=True); time.sleep(30)\")\nexcept KeyboardInterrupt: pass\n"
    assert ends(code, signal.SIGTERM) == 0


def test_code_that_ignores_the_signal_is_ended() -> None:
    # A lock that is never released, in code that swallows the exception.
    code = (
        "import threading\nlock = threading.Lock(); lock.acquire(); print('here', flush=True)\n"
        "while True:\n try: lock.acquire()\n except KeyboardInterrupt: pass\n"
    )
    assert ends(code, signal.SIGTERM) == -signal.SIGALRM
