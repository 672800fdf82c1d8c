"""`mnist_sweep.sweep`, as far as it needs no process."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from programs import environment
from watching import Story

import mnist_sweep
from mnist_sweep.api import sweeps
from mnist_sweep.common import secrets
from mnist_sweep.common.errors import UserError
from mnist_sweep.driver import task_choice
from mnist_sweep.driver.steering import Answer
from mnist_sweep.journal.events import SweepEnded
from mnist_sweep.journal.journal import Journal
from mnist_sweep.journal.trial import Status

DATA = (np.zeros((10, 4, 4), np.uint8), np.arange(10) % 2)


class FakeDriver:
    """Runs nothing: plays the events of a journal, or fails."""

    jobs: ClassVar[list[dict[str, Any]]] = []
    error: Exception | None = None

    def __init__(self, job: dict[str, Any], *, output: Any, inherits: bool) -> None:
        self.jobs.append(job)
        self.output, self.running, self.stops = output, True, 0
        if "folder" in job and "resume" not in job and self.error is None:
            self.play(job)

    def play(self, job: dict[str, Any]) -> None:
        with Journal(Path(job["folder"])) as journal:
            story = Story(journal, config=job["config"])
            story.starts(0)
            story.epoch(0, 1, 0.9)
            story.ends(0, 0.9)
            journal.handle(SweepEnded(1001.0, Status.COMPLETED, "", 0))

    def wait(self, seconds: float | None = None) -> bool:
        self.running = False
        return True

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeDriver]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sweeps, "Driver", FakeDriver)
    monkeypatch.setattr(FakeDriver, "jobs", [])
    return FakeDriver


def test_an_experiment_with_overrides_and_arrays_becomes_the_config_of_the_command_line(driver):
    s = mnist_sweep.sweep("quick", "training.epochs=2", data=DATA, objective="val_loss min", max_trials=7, name="mine")
    (job,) = driver.jobs
    config = job["config"]
    assert config["search"]["max_trials"] == 7
    assert config["objective"] == "val_loss min"
    assert config["training"]["epochs"] == 2
    assert config["data"]["name"] == "npz"
    assert Path(config["data"]["path"]) == Path(job["folder"]) / "data.npz"
    assert Path(config["data"]["path"]).exists()
    assert job["folder"].startswith("experiments/mine/")
    assert "2 of the 10 rows are held out" in job["notes"][0]
    # The default configuration, for `search.enqueue`.
    assert job["baseline"]["training"]["epochs"] == 2
    overrides = (s.folder / ".hydra" / "overrides.yaml").read_text()
    assert f"data.path={config['data']['path']}" in overrides
    assert s.progress.phase == "complete"
    assert s.progress.best == 0.9
    assert repr(s) == f"Sweep('{s.name}'): {s.progress}"
    assert "● complete" in s._repr_html_()


def test_an_earlier_sweep_is_found_by_its_name(driver):
    s = mnist_sweep.sweep(name="mine", verbose=0)
    assert mnist_sweep.Sweep("mine").folder == s.folder
    with pytest.raises(UserError, match="no such sweep"):
        mnist_sweep.Sweep("other")


def test_resuming_passes_a_larger_budget(driver):
    s = mnist_sweep.sweep(name="mine")
    s.resume("workers.count=1", max_trials=50, time_budget="2h", retry_failed=True)
    assert driver.jobs[-1] == {
        "sweep": str(s.folder),
        "overrides": ["workers.count=1", "search.max_trials=50", "search.time_budget=2h"],
        "notes": [],
        "retry_failed": True,
        "other_versions": False,
    }


def test_a_sweep_that_never_started_leaves_no_folder(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(FakeDriver, "error", UserError("model.hypermodel=…: raised"))
    with pytest.raises(UserError, match="raised"):
        mnist_sweep.sweep("quick", data=DATA)
    assert not (tmp_path / "experiments").exists()


def test_without_waiting_the_error_comes_with_wait(driver, monkeypatch):
    monkeypatch.setattr(FakeDriver, "error", UserError("too bad"))
    s = mnist_sweep.sweep("quick", wait=False)
    assert s._follower is not None
    s._follower.join()
    with pytest.raises(UserError, match="too bad"):
        s.wait()
    assert "too bad" in s._repr_html_()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: mnist_sweep.sweep("quik"), "experiment=quik: no such experiment; did you mean 'quick'?"),
        (
            lambda: mnist_sweep.sweep(3),
            "sweep: 3 is of type int; pass the name of an experiment, a build_model(hp) or a ",
        ),
        (lambda: mnist_sweep.sweep("quick", 3), "sweep: 3 is of type int; overrides are texts, 'KEY=VALUE'"),
        (lambda: mnist_sweep.sweep("quick", "-m"), "sweep: -m: is an option of the command line; overrides are texts"),
        (lambda: mnist_sweep.sweep(verbose=2), "verbose=2: must be 'auto', 0 or 1"),
        (lambda: mnist_sweep.sweep(data="mnist_5k", test=DATA), "data=mnist_5k: arrays are given too; pass only one"),
        (lambda: mnist_sweep.sweep("model.unit=3"), "model.unit: unknown key; did you mean 'model.units'?"),
        (lambda: mnist_sweep.sweep(data=DATA, train=DATA), "train: data is given too; pass only one of them"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(driver, given, message, tmp_path):
    with pytest.raises(UserError) as raised:
        given()
    assert str(raised.value).startswith(message)
    assert not driver.jobs
    assert not (tmp_path / "experiments").exists()


def test_memory_that_the_notebook_holds_on_a_gpu_is_mentioned(driver, monkeypatch):
    monkeypatch.setattr(sweeps.devices, "held_by", lambda process: 70 * 10**9)
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    mnist_sweep.sweep("quick")
    assert driver.jobs[0]["notes"][0].startswith("This process holds 70 GB of GPU memory, which the workers lack.")


def test_a_file_or_the_name_of_a_data_set_may_be_passed(driver):
    mnist_sweep.sweep(data="mnist_5k")
    Path("my data").mkdir()
    x, y = DATA
    np.savez("my data/it's.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    mnist_sweep.sweep(data="my data/it's.npz")
    assert driver.jobs[0]["config"]["data"]["name"] == "mnist_5k"
    assert driver.jobs[1]["config"]["data"]["path"] == "my data/it's.npz"


def test_an_interrupted_sweep_continues_with_the_same_arrays(driver, monkeypatch):
    def interrupted(self: FakeDriver, job: dict[str, Any]) -> None:
        digest = task_choice.load(job["config"]).digest()
        with Journal(Path(job["folder"])) as journal:
            story = Story(journal, config=job["config"])
            story.starts(0)
        path = Path(job["folder"]) / "journal.jsonl"
        path.write_text(path.read_text().replace('"data": {}', f'"data": {{"digest": "{digest}"}}', 1))

    monkeypatch.setattr(FakeDriver, "play", interrupted)
    first = mnist_sweep.sweep("quick", data=DATA)
    assert first.progress.phase == "interrupted"
    again = mnist_sweep.sweep("quick", "resume=auto", data=DATA)
    assert again.folder == first.folder
    job = driver.jobs[-1]
    assert job["resume"]
    assert job["config"]["data"]["path"] == str(Path(job["folder"]) / "data.npz")
    assert len(list(first.folder.parent.iterdir())) == 1


def test_the_examples_in_docstrings_work(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(sweeps)
    assert result.attempted >= 3
    assert not result.failed


def test_rows_to_validate_on_are_among_the_arrays_of_the_sweep(driver):
    s = mnist_sweep.sweep(train=DATA, validation=DATA, test=DATA, name="mine")
    with np.load(s.folder / "data.npz") as saved:
        assert set(saved.files) == {"x_train", "y_train", "x_val", "y_val", "x_test", "y_test"}
    with pytest.raises(UserError, match="data=mnist_5k: arrays are given too"):
        mnist_sweep.sweep(data="mnist_5k", validation=DATA)


def test_this_process_keeps_none_of_the_arrays(driver):
    task_choice.forget()
    mnist_sweep.sweep(train=DATA, name="mine")
    assert task_choice._LAST == {}


def test_the_addresses_of_services_reach_the_driver_and_no_file(driver, monkeypatch):
    monkeypatch.setattr(secrets, "_hidden_uris", {})
    monkeypatch.setenv("HOOK", "json://from-the-environment")
    s = mnist_sweep.sweep("notify=[slack://HUSH/HUSH,'${oc.env:HOOK}']", name="mine")
    job = driver.jobs[0]
    assert job["config"]["notify"] == ["slack://***", "${oc.env:HOOK}"]
    assert job.pop("secrets") == {"slack://***": "slack://HUSH/HUSH", "${oc.env:HOOK}": "json://from-the-environment"}
    assert "HUSH" not in str(job)
    for path in s.folder.rglob("*"):
        assert not path.is_file() or "HUSH" not in path.read_text()


class FakeSteering:
    """Answers like a sweep that runs, and keeps what it was asked."""

    asked: ClassVar[list[tuple[Any, ...]]] = []
    trial = 20

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> Any:
        def answer(*given: Any) -> Answer:
            self.asked.append((name, *given))
            if name == "add":
                FakeSteering.trial += 1
            text = f"Trial {given[0]} will stop after its current epoch" if name == "stop" else f"Done: {name}"
            return Answer(text, self.trial if name == "add" else None)

        return answer


@pytest.fixture
def steering(monkeypatch):
    monkeypatch.setattr(sweeps, "Steering", FakeSteering)
    monkeypatch.setattr(FakeSteering, "asked", [])
    monkeypatch.setattr(FakeSteering, "trial", 20)
    return FakeSteering


def test_a_sweep_can_be_changed_while_it_runs(driver, steering):
    s = mnist_sweep.sweep(name="mine")
    assert s.stop_trial(3) == "Trial 3 will stop after its current epoch"
    assert s.add({"model.units": 64}) == 21
    assert s.add("model.units=64", "optimizer.name=sgd") == 22
    assert (s.pause(), s.unpause(), s.slots(1)) == ("Done: pause", "Done: unpause", "Done: slots")
    assert s.set("search.target=0.9", max_trials=80, time_budget="2h") == "Done: set"
    assert steering.asked == [
        ("stop", 3),
        ("add", {"model.units": 64}),
        ("add", "model.units=64", "optimizer.name=sgd"),
        ("pause",),
        ("unpause",),
        ("slots", 1),
        ("set", "search.target=0.9", "search.max_trials=80", "search.time_budget=2h"),
    ]
    with pytest.raises(UserError, match="^add: pass a dict, or strings"):
        s.add({"model.units": 64}, "optimizer.name=sgd")


def test_a_sweep_that_does_not_run_cannot_be_changed(driver):
    s = mnist_sweep.sweep(name="mine")
    with pytest.raises(UserError, match=r"^steer: .*: no process runs this sweep; to continue it: .* resume .*mine/"):
        s.pause()


def test_the_examples_of_changing_a_sweep_work(driver, steering):
    mnist_sweep.sweep("search.max_trials=2", name="mlp")
    checks = doctest.DocTestRunner()
    for method in (sweeps.Sweep.stop_trial, sweeps.Sweep.add, sweeps.Sweep.set):
        for test in doctest.DocTestFinder().find(method, globs={"Sweep": mnist_sweep.Sweep}):
            for example in test.examples:
                example.options.pop(doctest.SKIP, None)
            checks.run(test)
    assert checks.tries == 10
    assert not checks.failures


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, mnist_sweep; mnist_sweep.sweep, mnist_sweep.Sweep; assert 'sweep' in dir(mnist_sweep); "
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'pandas', 'ray', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_a_function_that_returns_data_is_carried_to_the_process_that_calls_it(driver, monkeypatch):
    monkeypatch.setattr(load, "__module__", "__main__")
    mnist_sweep.sweep(data=load, name="mine")
    (job,) = driver.jobs
    config = job["config"]
    assert (config["data"]["name"], config["data"]["loader"].partition(":")[2]) == ("loader", "load")
    (module,) = (Path(job["folder"]) / "code").glob("*.py")
    assert config["data"]["loader"].partition(":")[0] == module.stem
    # The data were loaded to tell the task.
    assert config["task"]["kind"] == "binary"


def load():
    return DATA
