"""GPUs that disappear from a real sweep. Only the devices are fake (`fake_gpus/`): they compute on the CPU."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, command, environment, with_store

import mnist_sweep
from mnist_sweep.journal import files, journal
from mnist_sweep.journal.events import AttemptFailed, EpochEnded, Event, SlotLost, SlotOpened, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Status

# Three sweeps at once take over a minute; the fast tests of the loop and the pool cover the same with fakes.
pytestmark = pytest.mark.slow

FAKE = Path(__file__).parent / "fake_gpus"
ERROR = "InternalError: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"
GONE = "cannot start: it ended with exit code 1 (RuntimeError: the GPU is gone, or TensorFlow cannot use it"


@dataclass
class Sweep:
    """A sweep in a folder of its own, on made-up GPUs."""

    folder: Path
    digits: Path
    store: Path

    def __post_init__(self) -> None:
        self.gpus.mkdir()
        self.work.mkdir()
        with_store(self.work, self.store)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def gpus(self) -> Path:
        return self.folder / "gpus"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.work}/mlruns/mlflow.db"

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Runs a command; without arguments, the sweep."""
        env = environment(FAKE_GPUS=str(self.gpus), PYTHONPATH=f"{FAKE}:{ROOT}", **env)
        return subprocess.Popen(
            command(*(arguments or self.config())), cwd=self.work, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def config(self, *changes: str) -> tuple[str, ...]:
        """The sweep's overrides."""
        return (
            "data=npz", f"data.path={self.digits}", "name=gone", "search=random", "search.max_trials=3",
            "model.layers=1", "model.units=int(interval(4,32))", "model.dropout=interval(0,0.5)", "training.epochs=3",
            "training.batch_size=32", "workers.threads=1", *changes,
        )  # fmt: skip

    def events(self) -> list[Event]:
        found = [path.parent for path in self.work.glob(f"experiments/*/*/{files.FILE}")]
        return list(journal.read(found[0])) if found else []

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def result(self) -> dict[str, Any]:
        """Trials, values and metrics, without times; an epoch or an end that is reported twice would show."""
        return {
            "values": {e.trial.number: e.trial.values for e in self.of(TrialStarted)},
            "ends": sorted((e.trial, e.outcome.status, e.outcome.score) for e in self.of(TrialEnded)),
            "epochs": sorted((e.trial, e.epoch, _timeless(e.metrics)) for e in self.of(EpochEnded)),
        }

    def logged(self) -> list[tuple[Any, ...]]:
        """The same, read from MLflow."""
        curves = mnist_sweep.load_curves("gone", tracking_uri=self.uri)
        curves = curves[curves["metric"] != "epoch_seconds"]
        return sorted(curves[["trial", "epoch", "metric", "value"]].itertuples(index=False, name=None))


def _timeless(metrics: dict[str, float]) -> list[tuple[str, float]]:
    return sorted((name, value) for name, value in metrics.items() if name != "epoch_seconds")


@dataclass
class Sweeps:
    """Three sweeps of the same config, and what runs them."""

    undisturbed: Sweep
    one_of_two: Sweep
    the_only: Sweep
    drivers: dict[str, subprocess.Popen[str]]


@pytest.fixture(scope="module")
def sweeps(digits: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeps]:
    """All started at once, as each would leave a core idle while its workers start one after another."""

    def sweep(name: str, *lasting: str) -> Sweep:
        made = Sweep(tmp_path_factory.mktemp(name), digits, store)
        for number, steps in enumerate(lasting):
            (made.gpus / str(number)).write_text(steps)
        return made

    # The first disappears in its third, the second in its second trial.
    all_sweeps = {
        "undisturbed": sweep("undisturbed", "", ""),
        "one_of_two": sweep("one_of_two", "", "2"),
        "the_only": sweep("the_only", "4"),
    }
    # So that the GPU that stays does not do everything before the other has had a trial and is given up.
    (all_sweeps["one_of_two"].gpus / "hold").touch()
    drivers = {name: one.start() for name, one in all_sweeps.items()}
    yield Sweeps(**all_sweeps, drivers=drivers)
    for driver in drivers.values():
        driver.kill()
        driver.communicate()


@pytest.fixture(scope="module")
def expected(sweeps: Sweeps) -> Sweep:
    output, errors = sweeps.drivers["undisturbed"].communicate(timeout=250)
    assert "workers  gpu0, gpu1" in output, errors
    assert not sweeps.undisturbed.of(AttemptFailed)
    assert {e.outcome.status for e in sweeps.undisturbed.of(TrialEnded)} == {Status.COMPLETED}, output + errors
    return sweeps.undisturbed


def test_a_gpu_that_disappears_costs_one_attempt_of_one_trial(sweeps: Sweeps, expected: Sweep) -> None:
    sweep, driver = sweeps.one_of_two, sweeps.drivers["one_of_two"]
    until = time.monotonic() + 200
    while not sweep.of(SlotLost) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    (sweep.gpus / "hold").unlink()
    output, errors = driver.communicate(timeout=200)
    assert driver.returncode == 0, output + errors
    assert (sweep.result(), sweep.logged()) == (expected.result(), expected.logged())

    (failed,) = sweep.of(AttemptFailed)
    assert (failed.attempt, failed.reason) == (1, ERROR)
    assert "CUDA_ERROR_LAUNCH_FAILED" in failed.log
    epochs = [(e.attempt, e.epoch) for e in sweep.of(EpochEnded) if e.trial == failed.trial]
    assert epochs == [(1, 1), (1, 2), (2, 3)]
    assert [e.slot for e in sweep.of(TrialStarted) if e.trial.number == failed.trial] == ["gpu1", "gpu0"]
    (lost,) = sweep.of(SlotLost)
    assert lost.slot == "gpu1"
    assert lost.reason.startswith(GONE)
    lines = " ".join(output.split())
    assert f"trial {failed.trial}: {ERROR}; it is retried" in lines
    assert f"gpu1 {GONE}" in lines
    _told_in_mlflow(sweep, failed, lost)


def _told_in_mlflow(sweep: Sweep, failed: AttemptFailed, lost: SlotLost) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import load_text

    client = MlflowClient(sweep.uri)
    frame = mnist_sweep.load_runs("gone", tracking_uri=sweep.uri).set_index("trial")
    run = client.get_run(frame.loc[failed.trial, "run_id"])
    assert run.data.tags["mnist_sweep.attempt_1"] == ERROR
    assert load_text(f"{run.info.artifact_uri}/attempt_1.log") == failed.log
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["mnist_sweep.lost_gpu1"] == lost.reason


def test_a_sweep_whose_only_gpu_disappears_is_resumed_when_it_is_back(sweeps: Sweeps, expected: Sweep) -> None:
    sweep, driver = sweeps.the_only, sweeps.drivers["the_only"]
    _, errors = driver.communicate(timeout=250)
    assert driver.returncode == 2, errors
    assert errors.startswith(f"mnist_sweep: workers: gpu0 {GONE}")
    assert errors.count("\n") == 1
    assert [(e.attempt, e.reason) for e in sweep.of(AttemptFailed)] == [(1, ERROR)]
    assert len(sweep.of(TrialEnded)) == 1

    without = sweep.start("resume")
    _, errors = without.communicate(timeout=60)
    assert without.returncode == 2
    assert "gone/" in errors
    assert ": ran on a GPU, and none is visible now (nvidia-smi, CUDA_VISIBLE_DEVICES); on the CPU its" in errors

    (sweep.gpus / "0").touch()
    resumed = sweep.start("resume")
    output, errors = resumed.communicate(timeout=250)
    assert resumed.returncode == 0, output + errors
    assert (sweep.result(), sweep.logged()) == (expected.result(), expected.logged())


@pytest.mark.slow
def test_shares_of_a_gpu_give_the_same_results_as_a_whole_gpu(digits: Path, store: Path, tmp_path: Path) -> None:
    sweeps = {}
    for shares in ("1", "auto"):
        (tmp_path / shares).mkdir()
        sweeps[shares] = sweep = Sweep(tmp_path / shares, digits, store)
        (sweep.gpus / "0").touch()
    drivers = [
        sweep.start(*sweep.config("training.epochs=400", "search.max_trials=6", f"workers.trials_per_gpu={shares}"))
        for shares, sweep in sweeps.items()
    ]
    for driver in drivers:
        output, errors = driver.communicate(timeout=400)
        assert driver.returncode == 0, output + errors
    shared = sweeps["auto"]
    assert shared.of(SlotOpened)[0].slot == "gpu0.1"
    assert {e.slot for e in shared.of(TrialStarted)} >= {"gpu0.0", "gpu0.1"}
    assert not shared.of(AttemptFailed)
    assert shared.result() == sweeps["1"].result()


@pytest.mark.slow
def test_a_gpu_missing_at_the_start_is_reported_and_the_others_train_its_trials(
    expected: Sweep, digits: Path, store: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, digits, store)
    (sweep.gpus / "GPU-there").touch()
    (sweep.gpus / "hold").touch()
    driver = sweep.start(CUDA_VISIBLE_DEVICES="GPU-gone,GPU-there")
    until = time.monotonic() + 200
    while not sweep.of(SlotLost) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    (sweep.gpus / "hold").unlink()
    output, errors = driver.communicate(timeout=200)
    assert driver.returncode == 0, output + errors
    assert [e.slot for e in sweep.of(SlotLost)] == ["gpu0"]
    assert not sweep.of(AttemptFailed)
    assert sweep.result() == expected.result()
