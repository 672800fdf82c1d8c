"""Sweeps that a script starts, with a function that only the script has."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from programs import Run, environment

SCRIPT = """
    import sys

    import keras
    import numpy as np

    from mnist_sweep import sweep

    SCALE = 2


    @keras.saving.register_keras_serializable("train")
    class Scaled(keras.layers.Layer):
        def call(self, inputs):
            return inputs * SCALE


    def layers(hp):
        return [keras.layers.Flatten(), Scaled(), keras.layers.Dense(hp.Choice("units", [4, 8, 16, 32]))]


    def build_model(hp):
        model = keras.Sequential([keras.Input((8, 8)), *layers(hp), keras.layers.Dense(2, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model


    def data():
        random = np.random.default_rng(0)
        labels = random.integers(0, 2, 400)
        images = random.integers(0, 100, (400, 8, 8), dtype=np.uint8)
        images[labels == 1, :, ::2] += 100
        return images, labels


    s = sweep(
        build_model, "workers.count=1", "name=own", "tracking.register=false", "tracking.report=false", *sys.argv[2:],
        data=data(), max_trials=int(sys.argv[1]),
    )
    print(s.progress)
"""  # fmt: skip


@pytest.fixture
def script(work: Path) -> Path:
    (work / "train.py").write_text(textwrap.dedent(SCRIPT))
    return work


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sweep_of(folder: Path) -> Path:
    (found,) = (folder / "experiments" / "own").iterdir()
    return found


@pytest.mark.slow
def test_a_script_is_killed_and_another_process_resumes_its_sweep(script: Path, run: Run) -> None:
    killed = start(script, "1", "training.epochs=250", "training.early_stopping.patience=null")
    try:
        assert killed.stdout is not None
        line = killed.stdout.readline()
        assert line.startswith("data: has no test part; 80 of the 400 rows are held out"), line
        journal = sweep_of(script) / "journal.jsonl"
        until = time.monotonic() + 120
        while not journal.exists() or b"epoch_ended" not in journal.read_bytes():
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        killed.kill()
        killed.communicate()
    # Its driver stops by itself, and what only the script had is in the sweep's folder.
    while b"sweep_ended" not in journal.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert b"SIGTERM" in journal.read_bytes().splitlines()[-1]
    (script / "train.py").unlink()
    done = run(script, "resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.values.units = choice(4, 8, 16, 32)" in done.stdout
    assert "trial 0  completed" in done.stdout


@pytest.mark.slow
def test_what_a_script_defined_works_in_every_command(script: Path, run: Run) -> None:
    done = start(script, "2", "training.epochs=2", "tracking.register=true")
    printed, errors = done.communicate(timeout=250)
    assert done.returncode == 0, printed + errors
    assert "complete · 2 of 2 trials done" in printed
    assert re.search(r"Model: own-\w+ version 1", printed), printed
    (script / "train.py").unlink()
    again = run(script, "rerun", "own")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical" in again.stdout
    exported = run(script, "export", "own", "--to", "exported", "--format", "keras")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    retrained = run(script, "retrain", "own", "0", "training.epochs=1")
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    # MLflow alone has all that is needed, except for the data.
    moved = sweep_of(script)
    shutil.copy(moved / "data.npz", script / "data.npz")
    shutil.rmtree(moved / "code")
    again = run(script, "rerun", "own")
    assert "identical" in again.stdout, again.stdout + again.stderr
    packaged = run(script, "sync", "own")
    assert packaged.returncode == 0, packaged.stdout + packaged.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_gracefully_and_the_script_goes_on(script: Path) -> None:
    started = start(script, "4", "training.epochs=2000", "training.early_stopping.patience=null")
    until = time.monotonic() + 120
    journal: list[Path] = []
    while not journal or b"epoch_ended" not in journal[0].read_bytes():
        assert started.poll() is None
        assert time.monotonic() < until
        journal = list((script / "experiments" / "own").glob("*/journal.jsonl"))
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    printed, errors = started.communicate(timeout=100)
    assert started.returncode == 0, errors
    assert "Stopping when the running epochs have ended" in printed
    assert "stopped · 0 of 4 trials done" in printed
