"""Real worker processes, real training, real kills."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import psutil
import pytest
import yaml

from mnist_sweep.common.errors import UserError
from mnist_sweep.data import images
from mnist_sweep.journal.trial import Execution, Status, Trial
from mnist_sweep.workers import local, orphans
from mnist_sweep.workers.base import (
    Check,
    Died,
    Discovered,
    Done,
    Evaluate,
    Evaluated,
    Executed,
    MachineFailed,
    Message,
    Package,
    Packaged,
    Ready,
    Reported,
    Task,
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
    images.split(images.load("npz", str(digits)), 0.2, seed=1).save(folder)
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
    def made(
        number: int = 0,
        epochs: int = 2,
        executions: list[Execution] | None = None,
        fields: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Train:
        config = compose_config("model.units=8", "optimizer.learning_rate=0.01", f"training.epochs={epochs}")
        config["model"].pop("per_layer")
        groups = {group: {**config[group], **changes.pop(group, {})} for group in ("model", "optimizer", "training")}
        trial = Trial(number, {}, groups, epochs, executions=executions or [])
        return Train(trial, ("val_accuracy", "max"), str(tmp_path / f"{number}"), **(fields or {}))

    return made


def wait_for(workers: LocalWorkers, kind: type[Message], seconds: float = 60) -> list[Message]:
    """Everything up to the first message of a kind."""
    until = time.monotonic() + seconds
    seen: list[Message] = []
    while time.monotonic() < until:
        for message in workers.poll(0.5):
            seen.append(message)
        if any(isinstance(message, kind) for message in seen):
            return seen
    raise AssertionError(f"no {kind.__name__} in {seconds} s, only {seen}")


def run(workers: LocalWorkers, task: Task) -> list[Message]:
    workers.submit("cpu0", task)
    return wait_for(workers, Ready)


def test_a_trial_reports_each_epoch_and_its_end(pool: LocalWorkers, task) -> None:
    messages = run(pool, task(number=3))
    assert [type(m) for m in messages] == [Reported, Reported, Done, Ready]
    done = messages[2]
    assert isinstance(done, Done)
    assert (done.slot, done.trial, done.outcome.status) == ("cpu0", 3, Status.COMPLETED)
    assert done.outcome.score == max(m.metrics["val_accuracy"] for m in messages if isinstance(m, Reported))


def test_a_users_model_that_cannot_be_built_is_refused_and_the_process_replaced(pool: LocalWorkers, task) -> None:
    before = pool.pids()
    (done, ready) = run(pool, task(model={"builder": "nowhere:build"}))
    assert isinstance(done, Done)
    assert (done.outcome.status, done.lasting) == (Status.REFUSED, True)
    assert done.outcome.reason == (
        "model.builder=nowhere:build: cannot be imported (ModuleNotFoundError: No module named 'nowhere')"
    )
    assert isinstance(ready, Ready)
    assert pool.pids() != before


def test_a_users_function_that_cannot_be_imported_is_found_before_the_first_trial(pool: LocalWorkers, task) -> None:
    answer, _ = run(pool, Check((task(model={"builder": "nowhere:build"}).trial.config,)))
    assert isinstance(answer, Discovered)
    assert answer.error.startswith("model.builder=nowhere:build: cannot be imported")


def test_a_stop_ends_the_trial_that_it_names_and_no_other(pool: LocalWorkers, task) -> None:
    pool.submit("cpu0", task(number=7, epochs=5000))
    pool.stop("cpu0", 6, "too late for the one before")
    first = wait_for(pool, Reported)
    pool.stop("cpu0", 7, "enough")
    messages = [*first, *wait_for(pool, Ready)]
    done = next(m for m in messages if isinstance(m, Done))
    assert (done.outcome.status, done.outcome.reason) == (Status.STOPPED, "enough")
    assert 1 <= sum(isinstance(m, Reported) for m in messages) < 5000


def test_a_waiting_trial_trains_the_next_epoch_only_when_told_to_continue(pool: LocalWorkers, task) -> None:
    pool.submit("cpu0", task(number=5, epochs=3, fields={"waits": True}))
    # The first answer may come before the trial waits for it; the others are for another trial, execution or epoch.
    for trial, execution, epoch in ((5, 1, 1), (4, 1, 2), (5, 2, 2), (5, 1, 3)):
        pool.go_on("cpu0", trial, execution, epoch)
    messages = [*wait_for(pool, Reported), *wait_for(pool, Reported)]
    assert [m.epoch for m in messages if isinstance(m, Reported)] == [1, 2]
    assert pool.poll(0.5) == []
    pool.stop("cpu0", 5, "hopeless")
    (done, _) = wait_for(pool, Ready)
    assert isinstance(done, Done)
    assert (done.outcome.status, done.outcome.reason) == (Status.STOPPED, "hopeless")
    # As if the process had died before it ended the trial: the next attempt only ends it.
    (*again, ended, _) = run(pool, task(number=5, epochs=3, fields={"waits": True, "stop": "no time"}))
    assert again == messages
    assert isinstance(ended, Done)
    assert (ended.outcome.reason, ended.outcome.score) == ("no time", done.outcome.score)
    # Answers to one attempt do not count for the next; after the last epoch it does not wait.
    pool.submit("cpu0", task(number=5, epochs=3, fields={"waits": True}))
    messages = [*wait_for(pool, Reported), *pool.poll(0.5)]
    assert [m.epoch for m in messages if isinstance(m, Reported)] == [1, 2]
    pool.go_on("cpu0", 5, 1, 2)
    (last, done, _) = wait_for(pool, Ready)
    assert isinstance(last, Reported)
    assert isinstance(done, Done)
    assert (last.epoch, done.outcome.status) == (3, Status.COMPLETED)


def test_a_trial_of_several_executions_waits_between_them(pool: LocalWorkers, task) -> None:
    pool.submit(
        "cpu0", task(number=2, epochs=1, executions=[Execution(1, 1, 2), Execution(1, 2, 2)], fields={"waits": True})
    )
    (first, executed) = [*wait_for(pool, Executed), *pool.poll(0.5)]
    assert isinstance(first, Reported)
    assert isinstance(executed, Executed)
    assert (first.execution, first.epoch, executed.execution) == (1, 1, 1)
    pool.go_on("cpu0", 2, 1, 0)
    (second, executed, done, _) = wait_for(pool, Ready)
    assert isinstance(second, Reported)
    assert isinstance(executed, Executed)
    assert isinstance(done, Done)
    assert (second.execution, second.epoch, executed.execution) == (2, 1, 2)
    assert done.outcome.scores == [m.metrics["val_accuracy"] for m in (first, second)]
    assert done.outcome.score == sum(done.outcome.scores) / 2


def test_a_model_is_tested_on_the_test_images(pool: LocalWorkers, task) -> None:
    trained = task(number=1)
    run(pool, trained)
    pool.submit("cpu0", Evaluate(f"{trained.folder}/model.h5"))
    (tested, _) = wait_for(pool, Ready)
    assert isinstance(tested, Evaluated)
    assert sum(map(sum, tested.confusion)) == 200
    pool.submit("cpu0", Evaluate("/nowhere/model.h5"))
    (tested, _) = wait_for(pool, Ready)
    assert isinstance(tested, Evaluated)
    assert tested.error
    assert not tested.metrics
    # The user's module is imported first, as it registers layers.
    pool.submit("cpu0", Evaluate(f"{trained.folder}/model.h5", "no_such_module:build"))
    (tested, _) = wait_for(pool, Ready)
    assert isinstance(tested, Evaluated)
    assert "no_such_module" in tested.error


def test_a_model_becomes_an_mlflow_model_with_the_users_code(pool: LocalWorkers, task, tmp_path) -> None:
    trained, to = task(number=1), tmp_path / "package"
    run(pool, trained)
    # Any module that is not installed will do.
    pool.submit("cpu0", Package(trained.folder, str(to), "benchmarks:build"))
    assert wait_for(pool, Ready)[0] == Packaged("cpu0")
    assert yaml.safe_load((to / "MLmodel").read_text())["flavors"]["tensorflow"]["model_type"] == "keras"
    assert [file.name for file in (to / "code").iterdir()] == ["benchmarks"]
    pool.submit("cpu0", Package("/nowhere", str(to)))
    (packaged, _) = wait_for(pool, Ready)
    assert isinstance(packaged, Packaged)
    assert "/nowhere/model.h5" in packaged.error


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
    assert "x_train.npy" in fault.reason


@pytest.mark.parametrize("slot", [Slot("cpu0", 1), Slot("gpu0", 1, "0")])
def test_the_error_says_that_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: Slot
) -> None:
    too_many = mock.Mock(side_effect=BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    monkeypatch.setattr(subprocess, "Popen", too_many)
    monkeypatch.setattr(orphans, "GroupLeader", too_many)
    with pytest.raises(UserError, match=f"^workers: {slot.name}: no process can be started .Resource temporarily unav"):
        LocalWorkers([slot], None, tmp_path)


def test_a_process_is_killed_with_the_given_reason(pool: LocalWorkers, task) -> None:
    pool.submit("cpu0", task(number=11, epochs=5000))
    wait_for(pool, Reported)
    pool.kill("cpu0", "did not respond for 1h")
    died = next(m for m in wait_for(pool, Died) if isinstance(m, Died))
    assert died.reason == "did not respond for 1h"
    wait_for(pool, Ready)


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
