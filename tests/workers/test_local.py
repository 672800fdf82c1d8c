"""Real worker processes, real training, real kills."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import psutil
import pytest
from tasks import small
from waiting import run, wait_for

from mnist_sweep.common.errors import UserError
from mnist_sweep.data.dataset import split
from mnist_sweep.data.sources import Request, load
from mnist_sweep.journal.trial import Status
from mnist_sweep.workers import local, orphans
from mnist_sweep.workers.base import (
    Died,
    Done,
    MachineFailed,
    Message,
    Ready,
    Reported,
    Train,
)
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.forkserver import ForkedProcess
from mnist_sweep.workers.handle import WorkerHandle
from mnist_sweep.workers.local import LocalWorkers
from mnist_sweep.workers.wire import DriverChannel


@pytest.fixture(scope="module")
def arrays(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    split(load(Request("npz", str(digits))), 0.2, seed=1).save(folder)
    return folder


@pytest.fixture(scope="module")
def pool(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorkers]:
    """One worker, used by one test after another: each start imports TensorFlow."""
    workers = LocalWorkers([Slot("cpu0", 1)], arrays, tmp_path_factory.mktemp("logs"), 1000, custom_code=False)
    wait_for(workers, Ready)
    yield workers
    workers.close()


@pytest.fixture
def task(compose_config, tmp_path: Path) -> Callable[..., Train]:
    def made(number: int = 0, epochs: int = 2, **more: Any) -> Train:
        return small(compose_config, number, tmp_path / f"{number}", epochs, **more)

    return made


def test_a_users_model_that_cannot_be_built_is_refused_and_the_process_replaced(pool: LocalWorkers, task) -> None:
    before = pool.pids()
    (done, ready) = run(pool, task(model={"builder": "nowhere:build"}))
    assert isinstance(done, Done)
    assert (done.outcome.status, done.lasting) == (Status.REFUSED, True)
    assert done.outcome.reason.startswith("model.builder=nowhere:build: there is no module nowhere; ")
    assert isinstance(ready, Ready)
    assert pool.pids() != before


def test_a_killed_process_is_reported_and_replaced(pool: LocalWorkers, task) -> None:
    pool.submit("cpu0", task(number=9, epochs=5000))
    wait_for(pool, Reported)
    before = pool.pids()["cpu0"]
    os.kill(before, signal.SIGKILL)
    died = next(m for m in wait_for(pool, Died, seconds=5) if isinstance(m, Died))
    assert died.reason == "was killed by SIGKILL (out of memory?)"
    wait_for(pool, Ready)
    assert pool.pids()["cpu0"] != before
    assert isinstance(run(pool, task(number=9))[-2], Done)


def test_the_same_trial_gives_the_same_metrics_in_any_process(pool: LocalWorkers, task) -> None:
    def metrics(messages: list[Message]) -> list[dict[str, float]]:
        reports = [m.metrics for m in messages if isinstance(m, Reported)]
        return [{k: v for k, v in m.items() if k != "epoch_seconds"} for m in reports]

    worker = pool.pids()["cpu0"]
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess):
            if process.pid != worker and "mnist_sweep.workers.forkserver" in process.cmdline():
                # The server, which is replaced when it is needed; its child stays alive.
                process.kill()
    first = metrics(run(pool, task(number=1, epochs=3)))
    assert pool.pids()["cpu0"] == worker
    os.kill(worker, signal.SIGKILL)
    wait_for(pool, Ready)
    assert metrics(run(pool, task(number=2, epochs=3))) == first


def test_processes_are_recycled_between_tasks_without_a_death(arrays: Path, task, tmp_path: Path) -> None:
    workers = LocalWorkers([], arrays, tmp_path / "logs", recycle_after=1)
    workers.open(Slot("cpu0", 1))
    try:
        wait_for(workers, Ready)
        before = workers.pids()
        messages = run(workers, task())
        assert [type(m) for m in messages] == [Reported, Reported, Done, Ready]
        assert workers.pids() != before
    finally:
        workers.close()


def test_a_retired_slot_ends_with_its_process_and_sends_no_more_messages(tmp_path: Path) -> None:
    workers = LocalWorkers([], tmp_path / "nothing", tmp_path / "logs", recycle_after=1)
    workers.open(Slot("gpu0.0", 1, "0"))
    workers.open(Slot("gpu0.1", 1, "0"))
    try:
        retired = psutil.Process(workers.pids()["gpu0.1"])
        workers.retire("gpu0.1")
        assert not retired.is_running()
        assert workers.slots() == list(workers.pids()) == ["gpu0.0"]
        workers.retire("gpu0.0")
        assert workers.poll(0.1) == []
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("after", "memory", "replaced_at"),
    [
        ("auto", [900, 950, 960, 1000, 1020, 1030, 1061], 6),  # by more than a tenth, of more than 240 MiB
        ("auto", [200, 220, 230, 243, 245], 4),
        ("auto", [900, 800, 700, 600], None),
        (2, [100, 100, 100], 2),
    ],
)
def test_a_process_is_replaced_when_it_has_grown_since_its_first_task(
    tmp_path: Path, after: int | Literal["auto"], memory: list[int], replaced_at: int | None
) -> None:
    process, channel = mock.Mock(spec=ForkedProcess), mock.Mock(spec=DriverChannel)
    worker = WorkerHandle(Slot("cpu0", 1), process, channel, tmp_path / "cpu0.log")
    replaced = []
    for tasks, mebibytes in enumerate(memory):
        worker.tasks = tasks
        replaced.append(worker.is_used_up(mebibytes * 2**20, after))
    assert (replaced.index(True) if True in replaced else None) == replaced_at


def test_a_process_that_hangs_at_its_start_is_replaced_once_and_then_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LONGEST_START", 0.2)
    workers = LocalWorkers([Slot("cpu0", 1)], tmp_path / "nothing", tmp_path / "logs", recycle_after=1)
    try:
        first, second = (next(m for m in wait_for(workers, Died) if isinstance(m, Died)) for _ in range(2))
    finally:
        workers.close()
    assert (first.reason, first.lost) == ("did not start within 0 s", False)
    assert second.lost


def test_a_slot_where_no_process_can_start_is_abandoned_with_their_log(tmp_path: Path) -> None:
    workers = LocalWorkers([Slot("cpu0", "many")], tmp_path / "nothing", tmp_path / "logs", recycle_after=1)
    try:
        first, second = (next(m for m in wait_for(workers, Died) if isinstance(m, Died)) for _ in range(2))
    finally:
        workers.close()
    assert not first.lost
    assert second.lost
    assert re.match(r"cannot start: it ended with exit code 1 \(TypeError: .*; see its log .*cpu0\.log", second.reason)
    assert "Traceback" in second.log


def test_missing_images_are_a_machine_fault(tmp_path: Path) -> None:
    workers = LocalWorkers([Slot("cpu0", 1)], tmp_path / "nothing", tmp_path / "logs", recycle_after=1)
    try:
        messages = [*wait_for(workers, MachineFailed), *wait_for(workers, Died)]
    finally:
        workers.close()
    fault = next(m for m in messages if isinstance(m, MachineFailed))
    assert fault.trial is None
    assert "schema.json" in fault.reason


@pytest.mark.parametrize("slot", [Slot("cpu0", 1), Slot("gpu0", 1, "0")])
def test_the_error_says_that_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: Slot
) -> None:
    too_many = mock.Mock(side_effect=BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    monkeypatch.setattr(subprocess, "Popen", too_many)
    monkeypatch.setattr(orphans, "GroupLeader", too_many)
    with pytest.raises(UserError, match=f"^workers: {slot.name}: no process can be started .Resource temporarily unav"):
        LocalWorkers([slot], None, tmp_path)


@pytest.mark.parametrize("which", ["worker", "server"])
def test_all_processes_exit_when_their_driver_is_killed(arrays: Path, tmp_path: Path, which: str) -> None:
    code = (
        "from pathlib import Path\n"
        "from mnist_sweep.workers.devices import Slot\n"
        "from mnist_sweep.workers.local import LocalWorkers\n"
        f"workers = LocalWorkers([Slot('cpu0', 1)], Path({str(arrays)!r}), Path({str(tmp_path)!r}), 9)\n"
        f"while {which == 'worker'} and not workers.pids(): workers.poll(0.1)\n"
        "print(flush=True)\n"
        "while True: workers.poll(1)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    driver.stdout.readline()
    # The server alone, while it imports TensorFlow, or with a worker.
    processes = psutil.Process(driver.pid).children()
    assert len(processes) == (2 if which == "worker" else 1)
    driver.kill()
    driver.wait()
    for process in processes:
        process.wait(timeout=10)
