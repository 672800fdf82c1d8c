"""User code that harms its worker, in a real pool of forked processes without TensorFlow.

A trial runs the code in its value `code` instead of training a model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mnist_sweep.common.errors import MachineError
from mnist_sweep.journal.trial import Outcome, Status, Trial
from mnist_sweep.workers import forkserver, local, orphans, process
from mnist_sweep.workers.base import Died, Done, Evaluate, Evaluated, MachineFailed, Message, Ready, Reported, Train
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.local import LocalWorkers

pytestmark = pytest.mark.skipif(not forkserver.is_supported(), reason="this system has no fork server")

TINY = """
import errno, os, random, resource, signal, socket, subprocess, sys, time
from functools import partial
from pathlib import Path
from mnist_sweep.common.errors import ImpossibleError, UserError
from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.workers import process
from mnist_sweep.workers.base import *

def train(_, task, driver):
    number = task["trial"]["number"]
    found = {}
    exec(task["trial"]["values"]["code"], {**globals(), "driver": driver, "number": number, "found": found})
    return Done("", number, found.get("outcome", Outcome(Status.COMPLETED, score=1.0)))

def evaluate(_, task, driver):
    return Evaluated("", {"test_loss": 0.1}, [[1]], task["model"])

def work(driver):
    driver.tasks.get()
    data = Path(driver.tasks.get()["data"])
    while True:
        driver.send(Ready("", 0))
        lasts = partial(process._lasts, gpu=False, fresh=True)
        driver.send(process._do(None, driver.tasks.get(), driver, data, lasts))

def raw(driver, text):
    os.write(driver._channel._socket.fileno(), text)

process._TASKS.update(train=train, evaluate=evaluate)
process._work = work
"""


@pytest.fixture
def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalWorkers]]:
    (tmp_path / "tiny_worker.py").write_text(TINY)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(local, "ForkServer", partial(forkserver.ForkServer, modules=["tiny_worker"]))
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x_train.npy", np.zeros(10))
    with contextlib.ExitStack() as cleanup:

        def created(*, custom_code: bool = False, slots: int = 1) -> LocalWorkers:
            places = [Slot(f"cpu{i}", 1) for i in range(slots)]
            workers = LocalWorkers(places, tmp_path / "arrays", tmp_path / "logs", custom_code=custom_code)
            cleanup.callback(workers.close)
            ready: list[Message] = []
            while len(ready) < slots:
                ready += wait_for(workers, Ready)
            return workers

        yield created


@pytest.fixture
def workers(create: Callable[..., LocalWorkers]) -> LocalWorkers:
    return create()


def wait_for(workers: LocalWorkers, kind: type[Message], seconds: float = 30) -> list[Message]:
    """Everything up to the first message of a kind."""
    until, seen = time.monotonic() + seconds, list[Message]()
    while time.monotonic() < until:
        seen += workers.poll(0.5)
        if any(isinstance(message, kind) for message in seen):
            return seen
    raise AssertionError(f"no {kind.__name__} in {seconds} s, only {seen}")


def pid(workers: LocalWorkers) -> int:
    """The process id of the slot, which the server may report a moment after the process has started to work."""
    until = time.monotonic() + 10
    while "cpu0" not in workers.pids() and time.monotonic() < until:
        time.sleep(0.001)
    return workers.pids()["cpu0"]


def task(code: str, number: int = 0, epochs: int = 3) -> Train:
    return Train(Trial(number, {"code": code}, {}, epochs), ("val_accuracy", "max"), "nowhere")


def run(workers: LocalWorkers, code: str, number: int = 0) -> list[Message]:
    """The messages about a trial, until its slot is ready again."""
    workers.submit("cpu0", task(code, number))
    return wait_for(workers, Ready)


def printed(tmp_path: Path) -> list[str]:
    return (tmp_path / "logs" / "cpu0.log").read_text().split()


# ---- isolation of trials ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "raise RuntimeError('broken')",
        "raise UserError('fix it')",
        "found['outcome'] = Outcome(Status.FAILED, 'nan')",
        "raise ImpossibleError('cannot be built')",
        "raise OSError(errno.ENOSPC, 'full')",
    ],
)
def test_a_process_is_replaced_after_a_failed_trial(workers: LocalWorkers, code: str) -> None:
    first = pid(workers)
    run(workers, "pass")
    assert pid(workers) == first
    messages = run(workers, code, 1)
    assert [type(m) for m in messages[1:]] == [Ready]
    assert pid(workers) != first
    assert isinstance(run(workers, "pass", 2)[0], Done)


@pytest.mark.parametrize(
    ("code", "status", "lasting"),
    [
        ("raise ImpossibleError('cannot be built')", Status.REFUSED, True),
        ("raise UserError('fix it')", Status.FAILED, True),
        ("found['outcome'] = Outcome(Status.FAILED, 'nan')", Status.FAILED, True),
        ("raise MemoryError", Status.FAILED, False),
        (
            "try: raise ConnectionResetError\nexcept OSError as e: raise ImpossibleError('x') from e",
            Status.FAILED,
            False,
        ),
        ("pass", Status.COMPLETED, False),
    ],
)
def test_a_failed_trial_says_whether_it_would_fail_again(workers: LocalWorkers, code: str, status, lasting) -> None:
    done = run(workers, code)[0]
    assert isinstance(done, Done)
    assert (done.outcome.status, done.lasting) == (status, lasting)


def test_no_failure_is_known_to_come_again_on_a_gpu_or_after_user_code() -> None:
    nan = Outcome(Status.FAILED, "the loss became nan in epoch 1")
    for failure in (nan, ValueError("shapes")):
        assert process._lasts(failure, gpu=False, fresh=True)
        assert not process._lasts(failure, gpu=False, fresh=False)
    assert not process._lasts(nan, gpu=True, fresh=True)
    assert process._lasts(ValueError("shapes"), gpu=True, fresh=True)


def test_a_process_is_replaced_after_a_failed_test(workers: LocalWorkers) -> None:
    before = pid(workers)
    workers.submit("cpu0", Evaluate(""))
    wait_for(workers, Ready)
    assert pid(workers) == before
    workers.submit("cpu0", Evaluate("no such model"))
    assert wait_for(workers, Ready)[0] == Evaluated("cpu0", {"test_loss": 0.1}, [[1]], "no such model")
    assert pid(workers) != before


def test_a_trial_with_user_code_has_a_process_to_itself(create: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    workers = create(custom_code=True)
    run(workers, "print(hasattr(random, 'poison')); random.seed = None; random.poison = 1")
    run(workers, "print(hasattr(random, 'poison')); random.seed(1)", 1)
    assert printed(tmp_path) == ["False", "False"]


def test_output_of_a_failed_trial_is_reported_although_its_process_is_killed(workers: LocalWorkers) -> None:
    done, *rest = run(workers, "print('half a line', end=''); raise UserError('fix it')")
    assert [type(m) for m in rest] == [Ready]
    assert isinstance(done, Done)
    assert (done.outcome.reason, done.log) == ("fix it", "half a line")


# ---- child processes --------------------------------------------------------------------------------------------

DAEMON = "child = subprocess.Popen(['sleep', '300'], start_new_session=True); print(child.pid, flush=True)"
IN_GROUP = "print(subprocess.Popen(['sleep', '300']).pid, flush=True)"
FORKED = "print(subprocess.run(['sh', '-c', 'sleep 300 & echo $!'], capture_output=True, text=True).stdout, flush=True)"


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def ends(pid: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.parametrize("code", [IN_GROUP, FORKED.replace("capture_output=True", "stdout=-1, stderr=-3")])
@pytest.mark.parametrize("end", ["raise RuntimeError", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_child_processes_end_with_their_worker(workers: LocalWorkers, tmp_path: Path, code: str, end: str) -> None:
    # The shell's own child would keep its output open.
    run(workers, f"{code.replace('sleep 300 &', 'sleep 300 >/dev/null 2>&1 &')}; {end}")
    (child,) = (int(word) for word in printed(tmp_path) if word.isdigit())
    assert ends(child)


def test_daemons_end_with_the_pool_and_other_processes_do_not(
    create: Callable[..., LocalWorkers], tmp_path: Path
) -> None:
    ours = subprocess.Popen(["sleep", "300"], start_new_session=True)
    others = subprocess.Popen(["sleep", "300"], start_new_session=True, env={orphans.MARK: "another pool's"})
    try:
        workers = create(custom_code=True)
        run(workers, DAEMON)
        (child,) = map(int, printed(tmp_path))
        assert alive(child)
        workers.close()
        assert ends(child)
        assert alive(ours.pid)
        assert alive(others.pid)
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_all_child_processes_end_when_the_driver_is_killed(create: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    code = (
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from mnist_sweep.journal.trial import Trial\n"
        "from mnist_sweep.workers import forkserver, local\n"
        "from mnist_sweep.workers.base import Ready, Train\n"
        "from mnist_sweep.workers.devices import Slot\n"
        "local.ForkServer = partial(forkserver.ForkServer, modules=['tiny_worker'])\n"
        f"workers = local.LocalWorkers([Slot('cpu0', 1)], Path({str(tmp_path)!r}), Path({str(tmp_path / 'logs')!r}))\n"
        "while not workers.poll(1): pass\n"
        f"code = {f'{IN_GROUP}; {DAEMON}; time.sleep(300)'!r}\n"
        "workers.submit('cpu0', Train(Trial(0, {'code': code}, {}, 1), ('a', 'max'), ''))\n"
        "while True: workers.poll(1)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    until, children = time.monotonic() + 30, list[int]()
    while len(children) < 2 and time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            children = [int(word) for word in printed(tmp_path)]
        time.sleep(0.05)
    assert len(children) == 2
    driver.kill()
    driver.wait()
    assert all(map(ends, children))


# ---- invalid messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (r"raw(driver, b'\xff\xff\xff\xff half a message')", "sent something that is not a message"),
        (r"raw(driver, b'null\n')", "sent something that is not a message"),
        (r"raw(driver, b'x' * 2**20 + b'\n')", "sent something that is not a message (1048576 bytes)"),
        (r"raw(driver, b'{\"message\": \"Reported\"}\n')", "sent a Reported without the field trial"),
        (
            "driver.send(Done('', number + 1, Outcome(Status.COMPLETED, score=9.0)))",
            "does not belong to its task (Done)",
        ),
        ("driver.send(Ready('', 0))", "does not belong to its task (Ready)"),
        ("driver.send(Evaluated('', {}, []))", "does not belong to its task (Evaluated)"),
        ("driver.send(Reported('', number, 4, {}))", "does not belong to its task (Reported)"),
        ("[driver.send(Reported('', number, 1, {})) for _ in range(10**6)]", "does not belong to its task (Reported)"),
        ("driver._channel._socket.shutdown(socket.SHUT_RDWR); time.sleep(300)", "ended with exit code 0"),
        ("os.kill(os.getpid(), 40)", "was killed by signal 40"),
    ],
)
def test_a_worker_that_breaks_the_protocol_counts_as_dead(workers: LocalWorkers, code: str, reason: str) -> None:
    before = pid(workers)
    messages = run(workers, code, 7)
    (died,) = (m for m in messages if isinstance(m, Died))
    assert reason in died.reason
    assert not any(isinstance(m, Done) for m in messages)
    assert sum(isinstance(m, Reported) for m in messages) <= 1
    assert pid(workers) != before
    assert isinstance(run(workers, "pass", 8)[0], Done)


def test_half_a_message_does_not_block_other_slots(create: Callable[..., LocalWorkers]) -> None:
    workers = create(slots=2)
    workers.submit("cpu0", task(r"raw(driver, b'{\"message\": '); time.sleep(300)"))
    time.sleep(0.2)
    workers.submit("cpu1", task("pass", 1))
    assert isinstance(wait_for(workers, Done, seconds=10)[0], Done)


def test_a_suspended_worker_does_not_block_other_slots(create: Callable[..., LocalWorkers]) -> None:
    workers = create(slots=2)
    workers.submit("cpu0", task("os.kill(os.getpid(), signal.SIGSTOP)"))
    stopped = psutil.Process(pid(workers))
    until = time.monotonic() + 10
    while stopped.status() != psutil.STATUS_STOPPED and time.monotonic() < until:
        time.sleep(0.01)
    for _ in range(100):
        workers.stop("cpu0", 0, "x" * 10_000)
    workers.submit("cpu1", task("pass", 1))
    assert isinstance(wait_for(workers, Done, seconds=10)[0], Done)
    for _ in range(2000):
        workers.stop("cpu0", 0, "x" * 10_000)
    (died,) = (m for m in wait_for(workers, Died) if isinstance(m, Died))
    assert died.reason == "does not read its messages"


def test_user_code_that_closes_every_file_is_reported(workers: LocalWorkers) -> None:
    (died, _) = run(workers, "os.closerange(3, 4096)")
    assert isinstance(died, Died)
    assert died.reason == "ended with exit code 1 (OSError: [Errno 9] Bad file descriptor)"


def test_text_of_a_trial_is_made_safe_to_store(workers: LocalWorkers) -> None:
    (done, _) = run(
        workers, "raise ValueError(os.fsdecode(b'caf\\xe9') + '\\x1b[31m token=hunter2 ' + 'x' * 5_000_000)"
    )
    assert isinstance(done, Done)
    for text in (done.outcome.reason, done.log):
        assert "\x1b" not in text
        assert len(text.encode()) <= 4100
    assert done.outcome.reason.startswith(r"ValueError: caf\udce9\x1b[31m token=*** xxx")
    (done, _) = run(workers, "class E(Exception):\n    def __str__(self): raise TypeError\nraise E")
    assert isinstance(done, Done)
    assert done.outcome.reason == "E"


# ---- machine faults ---------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_machine_fault(workers: LocalWorkers) -> None:
    (failed, _) = run(workers, "raise RuntimeError('cannot save') from OSError(errno.ENOSPC, 'full', 'model.h5')", 5)
    assert isinstance(failed, MachineFailed)
    assert failed.trial == 5
    assert "the disk is full (model.h5)" in failed.reason


def test_a_missing_sweep_folder_is_a_machine_fault(workers: LocalWorkers, tmp_path: Path) -> None:
    moved = "os.rename({0!r}, {0!r} + '-moved'); open({0!r} + '/model.h5', 'wb')"
    (failed, _) = run(workers, moved.format(str(tmp_path / "arrays")))
    assert isinstance(failed, MachineFailed)
    assert failed.reason == f"the sweep's folder is gone ({tmp_path / 'arrays'})"


def test_a_missing_file_of_user_code_fails_the_trial(workers: LocalWorkers) -> None:
    (done, _) = run(workers, "open('no such file')")
    assert isinstance(done, Done)
    assert done.outcome.status is Status.FAILED


def test_images_that_change_under_a_worker_are_a_machine_fault(workers: LocalWorkers, tmp_path: Path) -> None:
    (died, _) = run(workers, "os.kill(os.getpid(), signal.SIGBUS)")
    assert isinstance(died, Died)
    os.truncate(tmp_path / "arrays" / "x_train.npy", 10)
    (failed, _) = run(workers, "os.kill(os.getpid(), signal.SIGBUS)", 3)
    assert isinstance(failed, MachineFailed)
    assert failed.trial == 3
    assert "x_train.npy" in failed.reason


def test_printing_to_a_full_disk_does_not_fail_a_trial(workers: LocalWorkers) -> None:
    full = "full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1); os.dup2(full, 2)"
    (done, _) = run(workers, f"{full}; print('x' * 100_000); print('y', file=sys.stderr, flush=True)")
    assert isinstance(done, Done)
    assert done.outcome == Outcome(Status.COMPLETED, score=1.0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_process_that_cannot_be_replaced_is_an_error_after_its_last_messages(
    workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local.ForkServer.func, "fork", fails)
    workers.submit("cpu0", task("raise RuntimeError('broken')"))
    (done,) = wait_for(workers, Done)
    assert isinstance(done, Done)
    with pytest.raises(MachineError, match=f"^workers: cpu0: no process can be started .{os.strerror(number)}"):
        workers.poll(1)


def test_a_log_that_cannot_be_opened_is_a_one_line_error(create: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    workers = create(custom_code=True)
    workers.submit("cpu0", task("pass"))
    os.rename(tmp_path / "logs", tmp_path / "moved")
    wait_for(workers, Done)
    with pytest.raises(MachineError, match=r"cpu0\.log: cannot be written \(No such file or directory\)"):
        workers.poll(1)


def test_each_pool_has_a_mark_of_its_own(create: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    marks = set()
    for _ in range(2):
        workers = create()
        run(workers, f"print(os.environ[{orphans.MARK!r}], flush=True)")
        marks.add(printed(tmp_path)[-1])
        workers.close()
    assert len(marks) == 2
    assert orphans.MARK not in os.environ
    assert json.dumps(sorted(marks)).isascii()
