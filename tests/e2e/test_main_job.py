"""From one command to a leaderboard, MLflow, pandas and an exported model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from programs import command, environment, with_store

import mnist_sweep
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import SweepEnded, TrialEnded, WinnerTested


@pytest.fixture
def in_swept(swept, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(swept[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return swept[0]


def sweep_of(folder: Path, name: str) -> Path:
    (found,) = [path.parent for path in folder.glob(f"experiments/{name}/*/journal.jsonl")]
    return found


def test_the_output_shows_data_space_trials_leaderboard_and_next_commands(swept) -> None:
    _, output = swept
    for text in (
        "data     npz: 360 training, 40 validation and 200 test images of 28x28x1, 10 classes",
        "search   model.layers = choice(1, 2)",
        "workers  cpu0",
        "Leaderboard",
        "Winner: trial ",
        "on the test data: test_loss ",
        "MLflow: sqlite:///mlruns/mlflow.db, experiment four, shown while ",
        "python -m mnist_sweep ui runs\n  http://127.0.0.1:5000/#/experiments/",
        "Report: experiments/four/",
        "Model: four-npz version 1, the champion (the first one)",
        "python -m mnist_sweep export four/",
        "python -m mnist_sweep ui four/",
        "python -m mnist_sweep serve four/",
    ):
        assert text in output
    line = r"^\d\d-\d\d \d\d:\d\d:\d\d  trial \d+  completed  val_accuracy 0\.\d+ \(epoch \d(, the best so far)?\)"
    assert len(re.findall(line, output, re.M)) == 4
    # But for MLflow's link.
    assert max(len(line) for line in output.splitlines() if "://127.0.0.1" not in line) <= 160


def test_everything_is_in_the_sweeps_folder_and_nothing_else_appears(swept) -> None:
    folder, _ = swept
    assert sorted(p.name for p in folder.iterdir()) == ["experiments", "mlruns"]
    sweep = sweep_of(folder, "four")
    assert {p.name for p in sweep.iterdir()} >= {
        ".hydra",
        "config.yaml",
        "driver.log",
        "journal.jsonl",
        "report.html",
        "workers",
    }
    assert {p.name for p in sweep.glob("trials/*/*")} == {
        "model.h5", "sample_predictions.npz", "test_details.npz", "data_profile.npz",
    }  # fmt: skip
    assert not (sweep / "arrays").exists()


def test_the_journal_agrees_with_mlflow(in_swept: Path) -> None:
    events = list(journal.read(sweep_of(in_swept, "four")))
    outcomes = {e.trial: e.outcome for e in events if isinstance(e, TrialEnded)}
    (tested,) = [e for e in events if isinstance(e, WinnerTested)]
    assert isinstance(events[-1], SweepEnded)
    frame = mnist_sweep.load_runs("four").set_index("trial")
    assert sorted(frame.index) == sorted(outcomes) == [0, 1, 2, 3]
    for number, outcome in outcomes.items():
        assert frame.loc[number, "metrics.best_val_accuracy"] == pytest.approx(outcome.score)
        assert frame.loc[number, "metrics.best_epoch"] == outcome.best_epoch
        assert frame.loc[number, "metrics.parameters"] == outcome.parameters
    assert frame.loc[tested.trial, "metrics.test_accuracy"] == pytest.approx(tested.metrics["test_accuracy"])
    assert frame["metrics.test_accuracy"].notna().sum() == 1


def test_frames_are_typed_and_curves_are_long(in_swept: Path) -> None:
    frame = mnist_sweep.load_runs()
    assert str(frame["params.model.units"].dtype) == "Int64"
    assert str(frame["params.optimizer.learning_rate"].dtype) == "Float64"
    assert str(frame["params.model.batch_normalization"].dtype) == "boolean"
    assert frame["data.digest"].nunique() == 1
    curves = mnist_sweep.load_curves("four")
    assert list(curves.columns) == ["sweep", "trial", "epoch", "metric", "value"]
    counts = curves.groupby(["trial", "metric"])["epoch"].apply(list)
    assert all(epochs == [1, 2] for epochs in counts)
    assert set(curves["metric"]) >= {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"}


def test_each_run_has_its_artifacts_and_its_parent(in_swept: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{in_swept}/mlruns/mlflow.db")
    for run_id in mnist_sweep.load_runs("four")["run_id"]:
        names = {artifact.path for artifact in client.list_artifacts(run_id)}
        assert names >= {"model.h5", "learning_curves.png", "config.yaml", "sample_predictions.npz"}
        run = client.get_run(run_id)
        parent = client.get_run(run.data.tags["mlflow.parentRunId"])
        assert parent.data.tags["mnist_sweep.kind"] == "sweep"
        assert run.info.status == parent.info.status == "FINISHED"
        assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["data.digest"]
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert names >= {"config.yaml", "space.yaml", "confusion_matrix.png", "report.html"}


def test_compare_prints_the_best_first_and_writes_csv(in_swept: Path, run) -> None:
    done = run(in_swept, "compare", "four")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(next(in_swept.glob("experiments/four/*/runs.csv")))
    assert frame["metrics.best_val_accuracy"].is_monotonic_decreasing
    first = next(line for line in done.stdout.splitlines() if re.match(r" \d", line))
    assert first.split()[0] == str(frame["trial"][0])


def test_the_exported_models_are_those_of_the_best_trial(in_swept: Path, run, tmp_path: Path) -> None:
    formats = "h5,keras,savedmodel,tflite,tflite-int8"
    done = run(in_swept, "export", "four", "--to", str(tmp_path / "out"), "--format", formats)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("exported trial ")
    assert done.stderr == ""
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    frame = mnist_sweep.load_runs("four")
    best = frame.loc[frame["metrics.best_val_accuracy"].idxmax()]
    assert manifest["run_id"] == best["run_id"]
    assert manifest["data"]["digest"] == best["data.digest"]
    files = manifest["files"]
    assert [about["format"] for about in files.values()] == formats.split(",")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*files, "manifest.json"])
    assert all(about["largest_difference"] < 1e-5 for about in list(files.values())[:4])
    accuracy = files["model_int8.tflite"]["accuracy"]
    assert accuracy["images"] == "40 validation images"
    # Of the exported model, on the images that the trial was scored on: the same share is right.
    assert accuracy["float32"] == pytest.approx(best["metrics.best_val_accuracy"])


def test_an_export_whose_predictions_differ_is_refused(in_swept: Path, run_here, tmp_path: Path) -> None:
    best = mnist_sweep.load_runs("four").sort_values("metrics.best_val_accuracy").iloc[-1]
    (sample,) = in_swept.glob(f"mlruns/artifacts/four/{best['run_id']}/artifacts/sample_predictions.npz")
    whole = sample.read_bytes()
    with np.load(sample) as arrays:
        changed = {"images": arrays["images"], "predictions": arrays["predictions"] + np.float32(0.01)}
    try:
        np.savez_compressed(sample, **changed)
        done = run_here(in_swept, "export", "four", "--to", str(tmp_path / "out"))
    finally:
        sample.write_bytes(whole)
    assert done.returncode == 2
    complaint = (
        "model.h5: its predictions differ from the logged ones by 0.01, but at most 1e-05 is allowed; "
        "nothing was exported"
    )
    assert complaint in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_worker_killed_in_the_middle_costs_only_time(digits: Path, work: Path) -> None:
    driver = subprocess.Popen(
        command(
            "model.units=4", "training.epochs=600", "data=npz", f"data.path={digits}", "name=killed",
        ),
        cwd=work, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    found = wait_for("epoch_ended", work)
    processes = psutil.Process(driver.pid).children()
    worker = next(p for p in processes if os.readlink(f"/proc/{p.pid}/fd/1").endswith("/workers/cpu0.log"))
    worker.kill()
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    assert "its worker was killed by SIGKILL (out of memory?); it is retried" in output
    events = list(journal.read(found.parent))
    assert [e.outcome.status.value for e in events if isinstance(e, TrialEnded)] == ["completed"]
    curves = mnist_sweep.load_curves("killed", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    assert curves[curves["metric"] == "loss"]["epoch"].tolist() == list(range(1, 601))


def wait_for(event: str, folder: Path, seconds: float = 100) -> Path:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in folder.glob("experiments/*/*/journal.jsonl"):
            if f'"{event}"' in path.read_text():
                return path
        time.sleep(0.1)
    raise AssertionError(f"no {event}")


def test_ctrl_c_lets_running_epochs_end_and_the_sweep_can_be_resumed(run, digits: Path, work: Path) -> None:
    driver = subprocess.Popen(
        command("model.units=choice(4,8)", "training.epochs=300", "workers.count=1", "data=npz", f"data.path={digits}"),
        cwd=work, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for("epoch_ended", work)
    driver.send_signal(2)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "Stopping when the running epochs have ended; Ctrl-C again to stop at once." in output
    assert re.search(r"Interrupted\. To continue: \S+ -m mnist_sweep resume mlp/", output)
    events = list(journal.read(sweep_of(work, "mlp")))
    assert events[-1].reason == "stopped by Ctrl-C"
    assert not [e for e in events if isinstance(e, WinnerTested)]
    refused = run(work, "resume", "mlp", "search.max_trials=1")
    assert refused.returncode == 2
    assert (
        "search.max_trials (20 → 1); what determines the results must stay the same, and a budget may only grow"
        in refused.stderr
    )
    done = run(work, "resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Winner: trial " in done.stdout
    frame = mnist_sweep.load_runs("mlp", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    assert frame["status"].tolist() == ["completed", "completed"]
    curves = mnist_sweep.load_curves("mlp", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    losses = curves[curves["metric"] == "loss"].groupby("trial")["epoch"].apply(list).tolist()
    assert losses == [list(range(1, 301))] * 2


def test_ctrl_c_twice_ends_the_sweep_at_once_and_says_how_to_continue(digits: Path, work: Path) -> None:
    driver = subprocess.Popen(
        command("training.batch_size=1", "model.units=4096", "workers.count=1", "data=npz", f"data.path={digits}"),
        cwd=work, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    # Of an epoch that takes a minute.
    wait_for("trial_started", work)
    assert driver.stdout is not None
    driver.send_signal(2)
    lines = []
    while not lines or "Ctrl-C again" not in lines[-1]:
        lines.append(driver.stdout.readline())
    driver.send_signal(2)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert re.search(r"Interrupted\. To continue: \S+ -m mnist_sweep resume mlp/", output)
    assert "Traceback" not in output
    assert list(journal.read(sweep_of(work, "mlp")))[-1].reason == "interrupted"


def test_hyperband_trials_continue_from_their_parents_and_the_driver_loads_no_tensorflow(
    digits: Path, work: Path
) -> None:
    code = (
        "import sys\nfrom mnist_sweep.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: print('code', end.code)\n"
        "print('loaded', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "model.units=int(interval(4,400))", "training.epochs=3", "search=hyperband",
         "data=npz", f"data.path={digits}", "name=bands"],
        cwd=work, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.endswith("code 0\nloaded False\n"), done.stdout + done.stderr
    frame = mnist_sweep.load_runs("bands", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    assert (frame["status"] == "completed").all()
    curves = mnist_sweep.load_curves("bands", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    epochs = curves[curves["metric"] == "loss"].groupby("trial")["epoch"].apply(list).tolist()
    assert sorted(epochs) == sorted([[1]] * 3 + [[2, 3]] + [[1, 2, 3]] * 2)


class TestConfigs:
    @pytest.mark.slow
    def test_a_users_experiment_and_model_in_the_working_directory_are_found(
        self, run, digits: Path, work: Path
    ) -> None:
        (work / "conf" / "experiment").mkdir(parents=True)
        (work / "conf" / "experiment" / "mine.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /data: npz\n  - override /search: bayesian\n"
            f"description: My own\ndata:\n  path: {digits}\n"
            "model:\n  builder: own:build\n  width: choice(4, 8)\ntraining:\n  epochs: 1\n"
        )
        (work / "own.py").write_text(
            "import keras\n\ndef build(config, shape, classes):\n"
            "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(),\n"
            "        keras.layers.Dense(config['width']), keras.layers.Dense(classes, 'softmax')])\n"
        )
        assert "mine" in run(work, "experiments").stdout
        done = run(work, "+experiment=mine")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "model.width = choice(4, 8)" in done.stdout
        assert "experiments/mine/" in done.stdout

    @pytest.fixture(scope="class")
    def two_offline(self, run, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        """Two sweeps of one trial, without a network: their working directory, and what they printed."""
        folder = with_store(tmp_path_factory.mktemp("offline"), store)
        done = run(
            folder, "-m", "seed=1,2", "model.units=4", "training.epochs=1",
            KERAS_HOME=str(folder / "no-cache"), **OFFLINE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return folder, done.stdout

    def test_multirun_runs_one_whole_sweep_after_another(self, two_offline) -> None:
        folder, _ = two_offline
        frame = mnist_sweep.load_runs(experiment="mlp", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
        assert frame["params.training.seed"].tolist() == [1, 2]
        assert frame["sweep"].nunique() == 2

    def test_a_config_error_is_one_line_and_leaves_nothing_behind(self, run, tmp_path: Path) -> None:
        done = run(tmp_path, "+experiment=quick", "model.units=choice(0,16)")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "mnist_sweep: model.units=0: must be at least 1\n"
        assert list(tmp_path.iterdir()) == []

    def test_the_debug_flag_shows_a_traceback(self, run, tmp_path: Path) -> None:
        done = run(tmp_path, "--debug", "model.units=0")
        assert done.returncode == 2
        assert "Traceback" in done.stderr

    @pytest.mark.parametrize(
        "arguments", [["--help"], ["--cfg", "job"], ["+experiment=cnn", "--cfg", "job"], ["experiments"]]
    )
    def test_commands_that_only_show_something_run_nothing(self, run, tmp_path: Path, arguments: list[str]) -> None:
        done = run(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert list(tmp_path.iterdir()) == []

    def test_without_network_the_5000_digits_are_used_and_the_fallback_is_shown(self, two_offline) -> None:
        folder, output = two_offline
        assert "data=mnist CANNOT BE DOWNLOADED: this sweep uses the 5,000 digits of mnist_5k instead" in output
        from mlflow import MlflowClient

        frame = mnist_sweep.load_runs(experiment="mlp", tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
        run_of = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db").get_run
        trial = run_of(frame["run_id"][0])
        for tags in (trial.data.tags, run_of(trial.data.tags["mlflow.parentRunId"]).data.tags):
            assert (tags["data.name"], tags["data.fallback_for"]) == ("mnist_5k", "mnist")

    def test_without_network_and_fallback_it_is_an_error(self, run, tmp_path: Path) -> None:
        done = run(tmp_path, "data.fallback=null", KERAS_HOME=str(tmp_path / "no-cache"), **OFFLINE)
        assert done.returncode == 2
        assert done.stderr.startswith("mnist_sweep: data=mnist: not in Keras's cache, and cannot be downloaded (")
        assert not (tmp_path / "experiments").exists()


# A proxy that never answers, so the tests are the same on a machine with a network.
OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}


@pytest.mark.slow
def test_a_signal_while_the_report_is_written_leaves_a_complete_sweep_and_no_process(digits: Path, work: Path) -> None:
    driver = subprocess.Popen(
        command(
            "model.units=4", "training.epochs=1", "data=npz", f"data.path={digits}", "name=late", published=True,
        ),
        cwd=work, env=environment(TMPDIR=str(work / "mlruns"), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    lines = iter(driver.stdout.readline, "")
    assert any("Writing the report" in line for line in lines)
    driver.terminate()
    rest, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, rest
    assert re.search(r"Interrupted; the sweep is complete\. To log it: \S+ -m mnist_sweep sync late/", rest)
    events = list(journal.read(sweep_of(work, "late")))
    assert isinstance(events[-1], SweepEnded)
    # Where a worker was making the winner an MLflow model.
    assert not (sweep_of(work, "late") / "package").exists()
    left = [path.name for path in (work / "mlruns").iterdir() if path.name.startswith(("mnist_sweep-", "tmp"))]
    assert left == []


@pytest.mark.slow
def test_a_store_of_another_mlflow_is_told_while_the_sweep_runs_and_by_the_exit_code(
    run, digits: Path, work: Path
) -> None:
    database = work / "mlruns" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (right,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = '4465047574b1'")
        connection.commit()
    done = run(work, "model.units=8", "training.epochs=1", "data=npz", f"data.path={digits}")
    assert done.returncode == 3, done.stdout + done.stderr
    told = done.stdout.index("MLflow cannot be used; training continues, and the journal keeps everything")
    assert told < done.stdout.index("The last results could not be written to MLflow")
    assert "-m mlflow db upgrade" in done.stdout
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (right,))
        connection.commit()
    assert run(work, "sync").returncode == 0
    assert len(mnist_sweep.load_runs("mlp", tracking_uri=f"sqlite:///{database}")) == 1
