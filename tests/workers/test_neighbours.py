"""Other sweeps on the same cores or GPUs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mnist_sweep.workers import neighbours
from mnist_sweep.workers.devices import Slot
from mnist_sweep.workers.neighbours import Neighbour, registered, warnings

CPU = [Slot("cpu0", 1), Slot("cpu1", 1)]


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(neighbours, "usable_cores", lambda: [0, 1])
    monkeypatch.setattr(neighbours, "cores", lambda: 2)
    monkeypatch.setattr(neighbours, "identity_of", lambda gpu: f"GPU-{gpu}")
    return tmp_path / f"mnist_sweep-{os.getuid()}"


def test_sweeps_know_of_each_other_while_they_run(shared: Path) -> None:
    with registered("mlp/1", Path("/work/a/experiments/mlp/1"), CPU) as first:
        with registered("cnn/2", Path("b"), [Slot("gpu0", 4, "1")]) as second, registered("x", Path("x"), CPU) as third:
            assert {other.sweep for other in third} == {"mlp/1", "cnn/2"}
        with registered("y", Path("y"), CPU) as fourth:
            assert [other.sweep for other in fourth] == ["mlp/1"]
    assert first == []
    assert second == [Neighbour("mlp/1", "/work/a/experiments/mlp/1", os.getpid(), 2, 2, [0, 1], [])]
    assert {tuple(other.gpus) for other in third} == {(), ("GPU-1",)}
    assert not shared.exists()


def test_what_a_killed_sweep_leaves_is_removed_and_what_is_damaged_is_ignored(shared: Path) -> None:
    with registered("mlp/1", Path("a"), CPU):
        (file,) = shared.iterdir()
        (shared / "1-killed.json").write_text(file.read_text())
        with registered("damaged", Path("b"), CPU):
            damaged = next(path for path in shared.iterdir() if path not in (file, shared / "1-killed.json"))
            damaged.write_text("nonsense")
            with registered("cnn/2", Path("c"), CPU) as others:
                assert [other.sweep for other in others] == ["mlp/1"]
        assert not (shared / "1-killed.json").exists()


def test_a_folder_that_others_may_write_to_is_not_used(shared: Path) -> None:
    shared.mkdir()
    shared.chmod(0o777)
    with registered("mlp/1", Path("a"), CPU), registered("cnn/2", Path("b"), CPU) as others:
        assert others == []
    assert list(shared.iterdir()) == []
    shared.rmdir()
    shared.symlink_to(".")
    with registered("mlp/1", Path("a"), CPU), registered("cnn/2", Path("b"), CPU) as others:
        assert others == []


def other(**more: object) -> Neighbour:
    given = {"folder": "/work/a", "workers": 2, "threads": 2, "cores": [0, 1], "gpus": [], **more}
    return Neighbour("mlp/1", process=123, **given)  # type: ignore[arg-type]


def test_sweeps_on_the_same_cores_are_named_with_what_shares_them() -> None:
    assert warnings(CPU, [other()]) == [
        "Another sweep (/work/a, process 123) trains on the same 2 cores, so each is slower. To share: workers.count=1"
    ]
    (line,) = warnings(CPU, [other(workers=1), other()])
    assert line.startswith("2 other sweeps (/work/a, process 123, …) train on the same 2 cores, so each is slower.")
    (line,) = warnings([Slot("cpu0", 2)], [other()])
    assert line.endswith("so each is slower. To share: workers.threads=1")
    (line,) = warnings(CPU[:1], [other()])
    assert line.endswith("so each is slower.")
    (line,) = warnings(CPU, [other(folder="/work/" + "a" * 200)])
    assert len(line) <= 160


@pytest.mark.parametrize(
    ("slots", "more"),
    [
        (CPU, {"cores": [2, 3]}),
        (CPU, {"workers": 0, "threads": 0, "gpus": ["GPU-0"]}),
        ([Slot("cpu0", 1)], {"workers": 1, "threads": 1}),
        ([Slot("gpu0", 1, "0")], {}),
        ([Slot("gpu0", 1, "0")], {"gpus": ["GPU-1"]}),
    ],
)
def test_a_sweep_that_takes_nothing_away_is_not_mentioned(slots: list[Slot], more: dict[str, object]) -> None:
    assert warnings(slots, [other(**more)]) == []


def test_sweeps_on_the_same_gpus_are_named_with_what_shares_them() -> None:
    running = other(workers=0, threads=0, gpus=["GPU-0", "GPU-1"])
    (line,) = warnings([Slot("gpu0", 1, "0"), Slot("gpu1", 1, "1")], [running])
    assert "trains on the same 2 GPUs (0, 1)" in line
    assert line.endswith("To share: CUDA_VISIBLE_DEVICES=1 for this one")
    (line,) = warnings([Slot("gpu0", 1, "0")], [running])
    assert "trains on the same GPU (0)" in line
    assert line.endswith("To avoid that: workers.devices=cpu")
