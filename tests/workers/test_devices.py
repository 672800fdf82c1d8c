"""Slots: which GPU, which share of one, how many threads."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.settings import WorkersConfig, check_settings
from mnist_sweep.workers import devices
from mnist_sweep.workers.devices import Slot, slots, visible_gpus

Machine = Any


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets the machine's GPUs and CPU cores, and CUDA_VISIBLE_DEVICES."""

    def made(gpus: int = 0, cores: int = 8, visible: str | None = None) -> None:
        monkeypatch.setattr(devices, "_count_gpus", lambda: gpus)
        monkeypatch.setattr(devices, "cores", lambda: cores)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return made


@functools.cache
def _shipped() -> WorkersConfig:
    return check_settings(compose.defaults()).workers


def workers(**changes: Any) -> WorkersConfig:
    """The shipped config, with some changes."""
    return _shipped().model_copy(update=changes)


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "", []),
        (2, "-1", []),
        (2, "0", ["0"]),
        (2, "1,0", ["1", "0"]),
        (2, " 1 , 0 ", ["1", "0"]),
        # CUDA ignores the first invalid entry and all after it.
        (2, "0,9,1", ["0"]),
        (2, "2,0", []),
        (2, "0,-1,1", ["0"]),
        (2, "1,,0", ["1"]),
        (2, "NoDevFiles", []),
        (2, "GPU-5a1c4e", ["GPU-5a1c4e"]),
        (2, "GPU-5a1c4e,GPU-77", ["GPU-5a1c4e", "GPU-77"]),
        (2, "MIG-c7e2", ["MIG-c7e2"]),
        (0, "GPU-5a1c4e", []),
        (0, "0", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_sees(machine, gpus, visible, expected):
    machine(gpus=gpus, visible=visible)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("config", "gpus", "most", "expected"),
    [
        ({}, 1, None, [Slot("gpu0", 8, "0")]),
        ({}, 2, None, [Slot("gpu0", 4, "0"), Slot("gpu1", 4, "1")]),
        ({}, 3, None, [Slot("gpu0", 2, "0"), Slot("gpu1", 2, "1"), Slot("gpu2", 2, "2")]),
        ({"devices": "gpu"}, 1, None, [Slot("gpu0", 8, "0")]),
        ({"threads": 3}, 2, None, [Slot("gpu0", 3, "0"), Slot("gpu1", 3, "1")]),
        # `count` is for CPU workers.
        ({"count": 5}, 1, None, [Slot("gpu0", 8, "0")]),
        # Shares: few trials spread over all GPUs.
        (
            {"trials_per_gpu": 2},
            2,
            None,
            [Slot("gpu0.0", 2, "0"), Slot("gpu1.0", 2, "1"), Slot("gpu0.1", 2, "0"), Slot("gpu1.1", 2, "1")],
        ),
        ({"trials_per_gpu": 2}, 2, 3, [Slot("gpu0.0", 2, "0"), Slot("gpu1.0", 2, "1"), Slot("gpu0.1", 2, "0")]),
        ({"trials_per_gpu": 2}, 2, 1, [Slot("gpu0.0", 8, "0")]),
        ({}, 2, 1, [Slot("gpu0", 8, "0")]),
        ({}, 2, 20, [Slot("gpu0", 4, "0"), Slot("gpu1", 4, "1")]),
    ],
)
def test_each_gpu_has_its_slots_and_its_part_of_the_threads(machine, config, gpus, most, expected):
    machine(gpus=gpus)
    assert slots(workers(**config), most) == expected


@pytest.mark.parametrize(
    ("config", "gpus", "cores", "most", "expected"),
    [
        ({}, 1, 16, None, [Slot("gpu0.0", 4, "0")]),
        ({}, 2, 4, None, [Slot("gpu0.0", 2, "0"), Slot("gpu1.0", 2, "1")]),
        ({"threads": 6}, 1, 2, None, [Slot("gpu0.0", 6, "0")]),
        ({}, 2, 16, 1, [Slot("gpu0.0", 4, "0")]),
        ({}, 0, 2, None, [Slot("cpu0", 1), Slot("cpu1", 1)]),
    ],
)
def test_measured_shares_start_with_one(machine, config, gpus, cores, most, expected):
    machine(gpus=gpus, cores=cores)
    assert slots(workers(trials_per_gpu="auto", **config), most) == expected


@pytest.mark.parametrize(("gpus", "cores", "most"), [(1, 2, 2), (1, 12, 12), (1, 64, 16), (2, 9, 4), (8, 4, 1)])
def test_shares_are_limited_by_the_cores_per_gpu(machine, gpus, cores, most):
    machine(cores=cores)
    assert devices.most_shares(gpus) == most


@pytest.mark.parametrize("gpu", ["1", "GPU-5a1c4e", "MIG-c7e2"])
def test_the_memory_of_a_gpu_is_found_by_the_name_that_cuda_uses(monkeypatch, gpu):
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: {1: "one"}[index])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: name)
    found = {"one": 3, "GPU-5a1c4e": 4, "MIG-c7e2": 5}
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(used=found[handle], free=1, total=9)
    )
    assert devices.memory(gpu) == (found.get(gpu, 3), 9)

    def unsupported(handle: str) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", unsupported)
    assert devices.memory(gpu) is None


def test_the_memory_that_a_process_holds_is_added_up(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpus=2, visible="0,1")
    import pynvml

    running = [SimpleNamespace(pid=7, usedGpuMemory=3), SimpleNamespace(pid=8, usedGpuMemory=5)]
    monkeypatch.setattr(devices, "ask", lambda gpu, ask: ask(gpu))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: running)
    assert devices.held_by(7) == 6
    assert devices.held_by(9) == 0


def test_slots_name_gpus_as_cuda_does(machine):
    machine(gpus=4, visible="3,1")
    assert slots(workers()) == [Slot("gpu0", 4, "3"), Slot("gpu1", 4, "1")]
    machine(gpus=4, visible="GPU-5a1c4e")
    assert slots(workers()) == [Slot("gpu0", 8, "GPU-5a1c4e")]


def test_more_gpu_slots_than_cores_have_a_thread_each(machine):
    machine(gpus=8, cores=4)
    assert {slot.threads for slot in slots(workers())} == {1}


@pytest.mark.parametrize(
    ("config", "cores", "most", "count", "threads"),
    [
        ({}, 8, None, 8, 1),
        ({}, 8, 20, 8, 1),
        ({}, 8, 3, 3, 1),
        # A single trial gets the whole machine.
        ({}, 8, 1, 1, 8),
        ({"threads": 2}, 8, 1, 1, 2),
        ({"threads": 2}, 8, None, 4, 2),
        ({"threads": 3}, 8, None, 2, 3),
        ({"threads": 16}, 8, None, 1, 16),
        ({"count": 2}, 8, None, 2, 1),
        ({"count": 12}, 8, None, 12, 1),
        ({"count": 4, "threads": 2}, 8, 3, 3, 2),
        ({}, 1, None, 1, 1),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "cpu"])
def test_slots_on_cpu_divide_the_cores(machine, kind, config, cores, most, count, threads):
    machine(cores=cores)
    assert slots(workers(devices=kind, **config), most) == [Slot(f"cpu{i}", threads) for i in range(count)]


def test_devices_cpu_ignores_gpus(machine):
    machine(gpus=2)
    assert slots(workers(devices="cpu", count=1)) == [Slot("cpu0", 1)]


@pytest.mark.parametrize(("gpus", "visible"), [(0, None), (2, ""), (2, "-1"), (1, "1")])
def test_devices_gpu_without_a_gpu_is_an_error(machine, gpus, visible):
    machine(gpus=gpus, visible=visible)
    with pytest.raises(UserError) as caught:
        slots(workers(devices="gpu"))
    assert str(caught.value) == (
        "workers.devices=gpu: no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES); use workers.devices=auto"
    )


@pytest.mark.parametrize(("gpus", "visible"), [(0, None), (2, "-1")])
def test_devices_auto_without_a_visible_gpu_uses_the_cpu(machine, gpus, visible):
    machine(gpus=gpus, visible=visible)
    assert slots(workers(), most=2) == [Slot("cpu0", 1), Slot("cpu1", 1)]


@pytest.fixture
def nvml(monkeypatch):
    """Two GPUs, of which the second is divided: it has instances 0 and 2 of three."""
    import pynvml

    def instance(handle: str, number: int) -> str:
        if number == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"instance{number}"

    def by_uuid(name: str) -> str:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    ids = {"0": "GPU-5a1c4e77", "1": "GPU-77", "instance0": "MIG-a", "instance2": "MIG-c"}
    for name, replacement in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": str,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetUUID": ids.__getitem__,
        "nvmlDeviceGetMigMode": lambda handle: [int(handle == "1"), 0],
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": instance,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=int(handle), free=1, total=9),
    }.items():
        monkeypatch.setattr(pynvml, name, replacement)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_part_of_a_gpu_that_is_divided_with_mig_is_a_device(nvml):
    assert visible_gpus() == ["0", "MIG-a", "MIG-c"]


def test_the_beginning_of_a_uuid_names_a_gpu(nvml):
    assert devices.memory("GPU-5a") == (0, 9)
    assert devices.identity_of("GPU-77") == "GPU-77"
    assert devices.memory("GPU-6") is None


def test_no_gpus_are_found_if_nvml_cannot_count_them(monkeypatch):
    import pynvml

    def lost() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lost)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    assert visible_gpus() == []


def test_cores_are_those_that_the_process_may_use():
    import os

    assert 1 <= devices.cores() <= (os.cpu_count() or 1)
