"""Signals, and what may not change when a sweep is resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from rich.console import Console

from mnist_sweep.common import termination
from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import launch, same_sweep, signals
from mnist_sweep.driver.loop import Sweep
from mnist_sweep.journal.events import Event, SweepResumed, SweepStarted
from mnist_sweep.journal.state import SweepState


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Restores the handler of SIGHUP."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_stops_a_sweep_unless_it_runs_under_nohup(hang_up, nohup: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    sweep = mock.Mock(spec=Sweep)
    with termination.ended_by_signals(), signals.stopping_on_signals(sweep, Console(file=StringIO())):
        os.kill(os.getpid(), signal.SIGHUP)
    assert sweep.stop.called is not nohup
    assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if nohup else signal.SIG_DFL)


def test_signals_outside_the_loop_end_the_driver_like_ctrl_c(hang_up) -> None:
    # These tests may themselves run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), termination.ended_by_signals():
            os.kill(os.getpid(), number)


THEN = {"python": "3.11.7", "tensorflow": "2.20.0", "keras": "3.15.0", "numpy": "2.0.0", "jax": "0.9.0"}
NOW = {**THEN, "tensorflow": "2.21.0", "python": "3.12.0", "jax": "0.10.0"}


class TestVersions:
    def check(
        self, *, backend: str = "tensorflow", allowed: bool = False, resumed: dict[str, str] | None = None
    ) -> list[str]:
        past: list[Event] = [SweepStarted(1.0, "a/b", {}, {}, {}, THEN)]
        if resumed is not None:
            past.append(SweepResumed(2.0, {}, resumed))
        said: list[str] = []
        with mock.patch.object(same_sweep, "versions", return_value=NOW):
            same_sweep.check_versions(SweepState.after(past), Path("experiments/a/b"), backend, allowed, said.append)
        return said

    def test_that_differ_are_refused_by_name(self) -> None:
        with pytest.raises(UserError) as caught:
            self.check()
        assert str(caught.value) == (
            "experiments/a/b: its trials were trained with tensorflow 2.20.0 (now 2.21.0), which may change the "
            "metrics; install those versions, or add --other-versions: python -m mnist_sweep resume experiments/a/b "
            "--other-versions"
        )

    def test_of_jax_matter_if_it_trains(self) -> None:
        with pytest.raises(UserError, match="tensorflow 2.20.0 .now 2.21.0., jax 0.9.0 .now 0.10.0."):
            self.check(backend="jax")

    def test_that_differ_are_printed_if_they_are_allowed(self) -> None:
        assert self.check(allowed=True) == [
            "Versions have changed, which may change the metrics: tensorflow 2.20.0 (now 2.21.0)."
        ]

    def test_are_those_of_the_last_session_that_recorded_them(self) -> None:
        assert self.check(resumed=NOW) == []
        with pytest.raises(UserError, match="tensorflow 2.20.0 .now 2.21.0."):
            # Version 0.1 did not write them down on resuming.
            self.check(resumed={})


def test_what_was_restored_in_mlflow_is_said_at_the_end() -> None:
    said: list[str] = []
    tracker = SimpleNamespace(
        behind=0,
        close=lambda: None,
        error=None,
        without_files="",
        mended="1 deleted run",
        refusals=SimpleNamespace(count=0),
    )
    launch._close(cast(Any, tracker), lambda line, style="": said.append(line), said.append, "x/1")
    assert said == ["MLflow: restored 1 deleted run."]


def test_files_that_their_store_did_not_take_are_said_at_the_end_with_the_command_that_brings_them() -> None:
    said: list[str] = []
    missing = "3 files could not be written to s3://bucket/x: refused"
    tracker = SimpleNamespace(
        behind=0,
        close=lambda: None,
        error=None,
        without_files=missing,
        mended="",
        refusals=SimpleNamespace(count=0),
    )
    launch._close(cast(Any, tracker), lambda line, style="": said.append(line), said.append, "x/1")
    assert said[0] == f"MLflow: {missing}."
    assert said[1].endswith("-m mnist_sweep sync x/1")
