"""The main job where a team has its runs: `mlflow server` with passwords, PostgreSQL and S3, of tests/stack.py."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from programs import command, environment
from stack import READER, Stack, free_port

import mnist_sweep
from mnist_sweep.cli.main import main
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded, TrialEnded
from mnist_sweep.tracking.tags import TAG_SWEEP, TAG_TRIAL

EPOCHS = 200
_FILES = {"model.h5", "learning_curves.png", "config.yaml", "sample_predictions.npz"}


def arguments(digits: Path, *more: str) -> list[str]:
    """A sweep of three trials that take seconds each, on one core."""
    return [
        "name=team", "search=grid", "model.units=choice(4,8,16)", f"training.epochs={EPOCHS}", "workers.count=1",
        "data=npz", f"data.path={digits}", *more,
    ]  # fmt: skip


def name_of(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


class Driver:
    """A sweep that runs in a process of its own.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(
        self, work: Path, env: Mapping[str, str], *given: str, published: bool = False, folder: Path | None = None
    ) -> None:
        """Starts it, and waits for its folder if that is a new one."""
        before = set(work.glob("experiments/*/*/journal.jsonl"))
        self._output = work / f"output-{len(list(work.iterdir()))}.txt"
        with open(self._output, "wb") as output:
            self.process = subprocess.Popen(
                command(*given, published=published),
                cwd=work, env=environment(**env), stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.folder = (
            folder or next(iter(self._until(lambda: set(work.glob("experiments/*/*/journal.jsonl")) - before))).parent
        )

    def wait_for(self, enough: Callable[[list[Any]], bool]) -> None:
        """Waits until the journal's events are enough."""
        self._until(lambda: enough(list(journal.read(self.folder))))

    def ends(self, code: int = 0) -> str:
        """Waits until it ends with an exit code, and returns what it has printed."""
        assert self.process.wait(200) == code, self.output()
        return self.output()

    def output(self) -> str:
        return self._output.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops its workers, so that their trials last as long as something else takes."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        for worker in workers:
            worker.suspend()
        try:
            yield
        finally:
            for worker in workers:
                worker.resume()

    def _until(self, found: Callable[[], Any]) -> Any:
        until = time.monotonic() + 100
        while time.monotonic() < until:
            if there := found():
                return there
            assert self.process.poll() is None, self.output()
            time.sleep(0.1)
        raise AssertionError(f"not in time: {self.output()}")


def epochs(count: int, trial: int) -> Callable[[list[Any]], bool]:
    """Whether a trial has that many epochs."""
    return lambda events: sum(isinstance(e, EpochEnded) and e.trial == trial for e in events) >= count


def ended(count: int) -> Callable[[list[Any]], bool]:
    return lambda events: sum(isinstance(event, TrialEnded) for event in events) >= count


@contextmanager
def watched_commands(words: list[str]) -> Iterator[set[str]]:
    """Collects the command lines on this machine that contain one of some words."""
    found, over = set[str](), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                found.update(line for word in words if word in line)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def wait_until_logged(stack: Stack, folder: Path, trial: int) -> None:
    """Waits until MLflow has the last epoch of a trial."""
    found = stack.server.ask(f"2.0/mlflow/experiments/get-by-name?experiment_name={folder.parent.name}")
    query = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.`{TAG_SWEEP}` = '{name_of(folder)}' AND tags.`{TAG_TRIAL}` = '{trial}'",
    }
    until = time.monotonic() + 60
    while time.monotonic() < until:
        runs = stack.server.ask("2.0/mlflow/runs/search", query).get("runs", ())
        if any(int(metric["step"]) == EPOCHS for run in runs for metric in run["data"].get("metrics", ())):
            return
        time.sleep(0.2)
    raise AssertionError(f"MLflow lacks the last epoch of trial {trial}")


@dataclass
class Team:
    """Two sweeps of one experiment, logged through the server.

    Attributes:
        stack: Where they are logged.
        work: The folder in which both ran.
        killed: The folder of the one that was killed and resumed.
        other: The folder of the other one, which ran at the same time.
        outputs: What they printed.
        shown: Command lines with a password that were seen meanwhile.
    """

    stack: Stack
    work: Path
    killed: Path
    other: Path
    outputs: list[str]
    shown: set[str]


@pytest.fixture(scope="module")
def team(stack: Stack, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """Runs them. Meanwhile PostgreSQL is restarted, S3 is down for a while, one driver and the server are killed."""
    work, env = tmp_path_factory.mktemp("team"), stack.env()
    with watched_commands(stack.secrets) as shown:
        killed = Driver(work, env, *arguments(digits))
        other = Driver(work, env, *arguments(digits, "seed=2"), published=True)
        killed.wait_for(epochs(50, 0))
        stack.postgres.stop()
        stack.postgres.start()
        stack.s3.stop()
        killed.wait_for(epochs(20, 1))
        killed.kill()
        other.wait_for(epochs(EPOCHS, 1))
        with other.paused():
            # Although its files cannot be written now.
            wait_until_logged(stack, other.folder, 1)
            stack.s3.start()
            stack.server.kill()
        other.wait_for(epochs(20, 2))
        with other.paused():
            stack.server.start()
        resumed = Driver(work, env, "resume", name_of(killed.folder), folder=killed.folder)
        outputs = [other.ends(), killed.output(), resumed.ends()]
    return Team(stack, work, killed.folder, other.folder, outputs, shown)


@pytest.fixture
def in_team(team: Team, monkeypatch: pytest.MonkeyPatch) -> Team:
    """In the folder of both, with the variables of the server."""
    monkeypatch.chdir(team.work)
    for name, value in team.stack.env().items():
        monkeypatch.setenv(name, value)
    return team


def ran(*given: str) -> None:
    """Runs a command in this process."""
    with pytest.raises(SystemExit) as end:
        main(given)
    assert end.value.code in (0, None)


def logged_epochs(folder: Path) -> dict[tuple[int, int, str], float]:
    """Every metric of every epoch in a journal, that of the last attempt."""
    events = [event for event in journal.read(folder) if isinstance(event, EpochEnded)]
    return {(e.trial, e.epoch, name): value for e in events for name, value in e.metrics.items()}


def assert_logged(folder: Path) -> None:
    """Checks that MLflow has all runs of a finished sweep, each epoch once, and that no run is left open."""
    name, columns = name_of(folder), ["trial", "epoch", "metric"]
    found = mnist_sweep.find_sweep(name)
    frame, curves = mnist_sweep.load_runs(name), mnist_sweep.load_curves(name)
    assert frame["status"].tolist() == ["completed"] * 3
    assert not curves.duplicated(columns).any()
    logged = dict(zip(curves[columns].itertuples(index=False, name=None), curves["value"], strict=True))
    assert logged == logged_epochs(folder)
    for run_id in [*frame["run_id"], found.parent.info.run_id]:
        assert found.client.get_run(run_id).info.status == "FINISHED"


def assert_has_files(folder: Path, stack: Stack) -> None:
    keys = stack.s3.files()
    for run_id in mnist_sweep.load_runs(name_of(folder))["run_id"]:
        assert {key.rpartition("/")[2] for key in keys if f"/{run_id}/" in key} >= _FILES


def test_both_sweeps_are_complete_although_each_part_of_the_stack_was_down_and_a_driver_was_killed(
    in_team: Team,
) -> None:
    for folder in (in_team.killed, in_team.other):
        assert_logged(folder)
        assert_has_files(folder, in_team.stack)


def test_no_password_is_in_any_command_line_output_file_or_run(in_team: Team) -> None:
    stack = in_team.stack
    assert in_team.shown == set()
    texts = {str(path): path.read_bytes() for path in in_team.work.rglob("*") if path.is_file()}
    texts |= {f"output {number}": text.encode() for number, text in enumerate(in_team.outputs)}
    experiment = stack.server.ask("2.0/mlflow/experiments/get-by-name?experiment_name=team")["experiment"]
    query = {"experiment_ids": [experiment["experiment_id"]], "max_results": 1000}
    texts["experiment"] = json.dumps(experiment).encode()
    texts["runs"] = json.dumps(stack.server.ask("2.0/mlflow/runs/search", query)).encode()
    s3 = stack.s3.client()
    texts |= {key: s3.get_object(Bucket="mlflow", Key=key)["Body"].read() for key in stack.s3.files()}
    assert len(texts) > 20
    assert [name for name, text in texts.items() for word in stack.secrets if word.encode() in text] == []


def test_ui_links_to_the_servers_pages_without_the_login(in_team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    ran("ui", "team")
    output = capsys.readouterr().out
    assert f"{name_of(in_team.other)}: {in_team.stack.server.uri}/#/experiments/" in output


def test_compare_and_the_report_read_from_the_server(in_team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    ran("compare", "team", "--all", "--to", "both.csv")
    assert len((in_team.work / "both.csv").read_text().splitlines()) == 7
    ran("report", name_of(in_team.other), "--to", "report.html")
    assert "val_accuracy" in (in_team.work / "report.html").read_text()


def image(digits: Path, path: Path) -> None:
    with np.load(digits) as arrays:
        Image.fromarray(arrays["x_test"][0]).save(path)


def test_the_champion_is_exported_and_recognizes_a_digit(
    in_team: Team, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("export", "models:/team-npz@champion", "--to", "champion")
    assert (in_team.work / "champion" / "model.h5").exists()
    image(digits, in_team.work / "zero.png")
    capsys.readouterr()
    ran("predict", "zero.png", "--model", name_of(in_team.other), "--format", "json")
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1


@pytest.mark.slow
def test_a_trial_trained_again_is_identical(in_team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    ran("rerun", name_of(in_team.killed), "1")
    assert f"identical: all 5 metrics of all {EPOCHS} epochs\n" in capsys.readouterr().out


def test_sync_brings_back_a_deleted_run_and_a_lost_file(in_team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    stack, name = in_team.stack, name_of(in_team.killed)
    runs = mnist_sweep.load_runs(name).set_index("trial")["run_id"]
    stack.server.ask("2.0/mlflow/runs/delete", {"run_id": runs[0]})
    (model,) = [key for key in stack.s3.files() if f"/{runs[1]}/" in key and key.endswith("/model.h5")]
    stack.s3.client().delete_object(Bucket="mlflow", Key=model)
    ran("sync", name)
    assert mnist_sweep.load_runs(name).set_index("trial")["run_id"].to_dict() == runs.to_dict()
    assert model in stack.s3.files()


@pytest.fixture
def at_work(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the variables of the server."""
    monkeypatch.chdir(tmp_path)
    for name, value in stack.env().items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.slow
def test_postgresql_that_is_killed_in_mid_sweep_gets_everything_when_it_is_back(
    stack: Stack, digits: Path, at_work: Path
) -> None:
    driver = Driver(at_work, stack.env(), *arguments(digits, "name=killed_postgres"))
    driver.wait_for(epochs(20, 0))
    stack.postgres.kill()
    driver.wait_for(epochs(20, 1))
    stack.postgres.start()
    driver.ends()
    assert_logged(driver.folder)
    assert_has_files(driver.folder, stack)


@pytest.mark.slow
def test_s3_that_stays_down_costs_only_files_which_sync_brings(
    stack: Stack, digits: Path, at_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = Driver(at_work, stack.env(), *arguments(digits, "name=no_files"))
    driver.wait_for(epochs(1, 0))
    stack.s3.stop()
    try:
        output = driver.ends(3)
        assert_logged(driver.folder)
    finally:
        stack.s3.start()
    assert f"sync {name_of(driver.folder)}" in output
    ran("sync")
    assert_logged(driver.folder)
    assert_has_files(driver.folder, stack)


@pytest.mark.slow
class TestDirect:
    """Without the server: in a database of its own, which has no tables at first, with files in S3."""

    @pytest.fixture(scope="class")
    def direct(self, stack: Stack, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
        stack.postgres.create("direct")
        work, env = tmp_path_factory.mktemp("direct"), stack.direct_env("direct")
        given = arguments(digits, "tracking.artifacts=s3://mlflow/direct")
        with watched_commands(stack.secrets) as shown:
            killed = Driver(work, env, *given)
            other = Driver(work, env, *given, "seed=2", published=True)
            killed.wait_for(epochs(50, 0))
            stack.postgres.stop()
            stack.postgres.start()
            stack.s3.stop()
            killed.wait_for(epochs(20, 1))
            killed.kill()
            other.wait_for(epochs(EPOCHS, 1))
            stack.s3.start()
            resumed = Driver(work, env, "resume", name_of(killed.folder), folder=killed.folder)
            outputs = [other.ends(), killed.output(), resumed.ends()]
        return Team(stack, work, killed.folder, other.folder, outputs, shown)

    @pytest.fixture
    def in_direct(self, direct: Team, monkeypatch: pytest.MonkeyPatch) -> Team:
        monkeypatch.chdir(direct.work)
        for name, value in direct.stack.direct_env("direct").items():
            monkeypatch.setenv(name, value)
        return direct

    def test_both_sweeps_are_complete(self, in_direct: Team) -> None:
        for folder in (in_direct.killed, in_direct.other):
            assert_logged(folder)
            assert_has_files(folder, in_direct.stack)
        assert not (in_direct.work / "mlruns").exists()

    def test_the_other_commands_work(self, in_direct: Team, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = name_of(in_direct.other)
        ran("compare", "team", "--all", "--to", "both.csv")
        assert len((in_direct.work / "both.csv").read_text().splitlines()) == 7
        ran("report", other, "--to", "report.html")
        ran("export", "models:/team-npz@champion", "--to", "champion")
        image(digits, in_direct.work / "zero.png")
        ran("predict", "zero.png", "--model", other)
        ran("rerun", name_of(in_direct.killed), "1")
        assert f"identical: all 5 metrics of all {EPOCHS} epochs\n" in capsys.readouterr().out

    def test_sync_brings_back_a_lost_file(self, in_direct: Team) -> None:
        stack, name = in_direct.stack, name_of(in_direct.killed)
        runs = mnist_sweep.load_runs(name).set_index("trial")["run_id"]
        (model,) = [key for key in stack.s3.files() if f"/{runs[1]}/" in key and key.endswith("/model.h5")]
        stack.s3.client().delete_object(Bucket="mlflow", Key=model)
        ran("sync", name)
        assert model in stack.s3.files()

    def test_ui_serves_its_runs_and_no_password_is_in_any_command_line_or_file(self, in_direct: Team) -> None:
        stack = in_direct.stack
        output = in_direct.work / "ui.txt"
        with watched_commands(stack.secrets) as shown, open(output, "wb") as written:
            ui = subprocess.Popen(
                command("ui", "team", "--port", "0"),
                cwd=in_direct.work, env=environment(**stack.direct_env("direct")), stdout=written, stderr=written,
            )  # fmt: skip
            until = time.monotonic() + 90
            while name_of(in_direct.other) not in output.read_text() and time.monotonic() < until:
                assert ui.poll() is None, output.read_text()
                time.sleep(0.2)
            ui.terminate()
            ui.wait(20)
        assert f"{name_of(in_direct.other)}: http://127.0.0.1:" in output.read_text()
        assert shown == in_direct.shown == set()
        texts = {str(path): path.read_bytes() for path in in_direct.work.rglob("*") if path.is_file()}
        texts |= {f"output {number}": text.encode() for number, text in enumerate(in_direct.outputs)}
        s3 = stack.s3.client()
        texts |= {key: s3.get_object(Bucket="mlflow", Key=key)["Body"].read() for key in stack.s3.files("direct/")}
        texts["tags"] = repr(stack.postgres.execute("SELECT key, value FROM tags", "direct")).encode()
        assert [name for name, text in texts.items() for word in stack.secrets if word.encode() in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["login", "reader", "password", "user", "database", "silent_database", "bucket", "server"]
)
def test_a_store_that_cannot_be_used_is_told_in_one_line_before_the_first_trial_ends(
    stack: Stack, team: Team, digits: Path, tmp_path: Path, fault: str
) -> None:
    direct = stack.direct_env()
    env, more, expected = {
        "login": ({**stack.env(), "MLFLOW_TRACKING_PASSWORD": "wrong-password"}, (), "rejects the login"),
        "reader": (stack.env(READER), (), "the server does not allow it (403)"),
        "password": (
            {**direct, "MLFLOW_TRACKING_URI": stack.postgres.uri(password="wrong-password")},
            (),
            "the database rejects the login",
        ),
        "user": (
            {**direct, "MLFLOW_TRACKING_URI": stack.postgres.uri().replace("//mlflow:", "//nobody:")},
            (),
            "the database rejects the login",
        ),
        "database": (stack.direct_env("absent"), (), 'database "absent" does not exist'),
        "silent_database": (
            {**direct, "MLFLOW_TRACKING_URI": f"postgresql://mlflow@127.0.0.1:{free_port()}/mlflow"},
            (),
            "MLflow does not answer",
        ),
        "bucket": (direct, ("tracking.artifacts=s3://absent-bucket/runs",), "the bucket does not exist"),
        "server": ({"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}, (), "does not answer"),
    }[fault]
    # Anybody may create an experiment; the reader may not write to that of others.
    name = team.other.parent.name if fault == "reader" else f"refused_{fault}"
    given = arguments(digits, f"name={name}", "training.epochs=2", *more)
    done = subprocess.run(
        command(*given), cwd=tmp_path, env=environment(**env), capture_output=True, text=True, timeout=100
    )
    # Lines that were broken are whole again.
    output = re.sub(r"\n[\d-]+ [\d:]+ {4}", " ", done.stdout + done.stderr)
    assert done.returncode in (2, 3), output
    told = next(number for number, line in enumerate(output.splitlines()) if expected in line)
    assert not any("completed" in line for line in output.splitlines()[:told])
    assert "Traceback" not in output
    assert "wrong-password" not in output
