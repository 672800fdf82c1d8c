"""What the driver does with signals, and what it leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from io import StringIO
from unittest import mock

import pytest
from rich.console import Console

from mnist_sweep import launch
from mnist_sweep.sweep import Sweep


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Puts back what SIGHUP did."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_stops_a_sweep_but_under_nohup(hang_up, nohup: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    sweep = mock.Mock(spec=Sweep)
    with launch.ended_by_signals(), launch._signals(sweep, Console(file=StringIO())):
        os.kill(os.getpid(), signal.SIGHUP)
    assert sweep.stop.called is not nohup
    assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if nohup else signal.SIG_DFL)


def test_signals_outside_of_the_loop_end_the_driver_as_ctrl_c_does(hang_up) -> None:
    # These tests may themselves run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), launch.ended_by_signals():
            os.kill(os.getpid(), number)
