"""What slots use, of processes and GPUs that are real or made up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mnist_sweep.workers import agent, devices, figures
from mnist_sweep.workers.agent import Agent, Measured
from mnist_sweep.workers.devices import GpuReading, Slot
from mnist_sweep.workers.figures import Figures, Gauge, Use
from mnist_sweep.workers.local import LocalWorkers

BUSY = "while True: pass"
# Starts a process that holds 50 MB, and waits.
WITH_CHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; held = bytearray(50_000_000); print(flush=True); time.sleep(60)"])
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts Python, and waits for a line if it prints one."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def measured(gauge: Gauge, *uses: Use) -> list[Figures]:
    """Waits for the figures of one measurement."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        gauge.tick(lambda: list(uses))
        if found := gauge.take():
            return found
        time.sleep(0.01)
    raise AssertionError("nothing was measured")


@pytest.fixture
def gauge() -> Iterator[Gauge]:
    found = Gauge(lambda gpu: GpuReading(10**9, 8 * 10**9, 75.0, 120.5) if gpu == "1" else None, every=0.0)
    yield found
    found.close()


def test_the_memory_of_a_slot_is_that_of_its_process_and_of_those_that_it_has_started(gauge, started) -> None:
    alone, parent = started("import time; print(flush=True); time.sleep(60)"), started(WITH_CHILD)
    for process in (alone, parent):
        assert process.stdout is not None
        process.stdout.readline()
    small, large = measured(gauge, Use(Slot("cpu0", 1), alone.pid, 3), Use(Slot("cpu1", 2), parent.pid, None))
    assert (small.slot, small.device, small.trial) == ("cpu0", "1 CPU core", 3)
    assert (large.slot, large.device, large.trial) == ("cpu1", "2 CPU cores", None)
    assert small.memory is not None
    assert large.memory is not None
    assert large.memory - small.memory > 50_000_000
    assert small.memory_total == psutil.virtual_memory().total
    assert small.gpu is small.gpu_memory is small.watts is None


def test_processor_time_is_in_percent_of_the_slots_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([10.0, 13.0])
    now = iter([1000.0, 1000.0, 1002.0])
    process = SimpleNamespace(
        create_time=lambda: 980.0,
        cpu_times=lambda: SimpleNamespace(user=next(used), system=0.0),
        memory_info=lambda: SimpleNamespace(rss=500),
    )
    monkeypatch.setattr(figures.psutil, "Process", lambda pid: process)
    monkeypatch.setattr(figures.psutil, "process_iter", lambda: iter(()))
    monkeypatch.setattr(figures, "time", SimpleNamespace(monotonic=lambda: next(now), time=lambda: 1000.0))
    gauge = Gauge()
    # 10 s of processor time in the 20 s since its start, then 3 s in 2 s.
    for expected in (25.0, 75.0):
        (found,) = gauge._measure([Use(Slot("cpu0", 2), 7, 0)])
        assert found.cpu == pytest.approx(expected)
        assert found.memory == 500


def test_slots_that_share_a_gpu_have_its_figures(gauge) -> None:
    first, second, hidden = measured(
        gauge,
        Use(Slot("gpu0.0", 1, "1"), None, 1),
        Use(Slot("gpu0.1", 1, "1"), None, 2),
        Use(Slot("gpu1", 1, "GPU-77"), None, None),
    )
    assert first == Figures("gpu0.0", "GPU 1", 1, None, None, first.memory_total, 75.0, 10**9, 8 * 10**9, 120.5)
    assert (second.trial, second.gpu, second.watts) == (2, 75.0, 120.5)
    # Chosen by its UUID, and its driver does not answer.
    assert (hidden.device, hidden.gpu, hidden.gpu_memory_total) == ("GPU 1", None, None)


def test_a_process_that_is_gone_has_no_figures(gauge, started) -> None:
    process = started("")
    process.wait()
    (found,) = measured(gauge, Use(Slot("cpu0", 1), process.pid, 0))
    assert (found.cpu, found.memory) == (None, None)


def test_a_gpu_whose_driver_is_too_old_ends_the_measuring_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def fails(gpu: str) -> GpuReading:
        raise AttributeError("no such function")

    gauge = Gauge(fails, every=0.0)
    uses = [Use(Slot("gpu0", 1, "0"), None, 0)]
    until = time.monotonic() + 20
    while not caplog.records and time.monotonic() < until:
        gauge.tick(lambda: uses)
        time.sleep(0.01)
    for _ in range(3):
        gauge.tick(lambda: uses)
    gauge.close()
    assert gauge.take() == []
    assert [record.getMessage() for record in caplog.records] == [
        "what the slots use cannot be measured: AttributeError: no such function"
    ]


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def refuses(handle: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": refuses,
        "nvmlDeviceGetPowerUsage": lambda handle: 61_500,
        "nvmlDeviceGetComputeRunningProcesses": refuses,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3, total=9),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert devices.read_gpu("0") == GpuReading(3, 9, None, 61.5, {})
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", refuses)
    assert devices.read_gpu("0") is None


def test_a_pool_measures_only_if_it_should(tmp_path: Path) -> None:
    for measures in (True, False):
        workers = LocalWorkers([], None, tmp_path / "logs", measures=measures)
        workers.open(Slot("gpu0", 1, "0"))
        try:
            until, found = time.monotonic() + (20 if measures else 0.5), list[Figures]()
            while not found and time.monotonic() < until:
                workers.poll(0.05)
                found = workers.measured()
            assert [(one.slot, one.device) for one in found] == ([("gpu0", "GPU 0")] if measures else [])
        finally:
            workers.close()


def test_an_agent_sends_what_its_slots_use(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    uses = [Figures("cpu0", "1 CPU core", 4, 90.0, 100, 200)]

    class Pool:
        def poll(self, timeout: float) -> list[object]:
            return []

        def measured(self) -> list[Figures]:
            found = list(uses)
            uses.clear()
            return found

        def close(self) -> None: ...

    monkeypatch.setattr(agent, "LocalWorkers", lambda *_, measures, **__: Pool() if measures else None)
    job = SimpleNamespace(
        code={}, config=SimpleNamespace(recycle_after=1), custom_code=False, backend="tensorflow", measures=True
    )
    mine = Agent(job, sent.append)  # type: ignore[arg-type]
    try:
        mine._do(agent.Call("start", (Slot("cpu0", 1),)))
        assert mine._turn()
        assert mine._turn()
        assert sent == [Measured([Figures("cpu0", "1 CPU core", 4, 90.0, 100, 200)])]
    finally:
        mine.close()
