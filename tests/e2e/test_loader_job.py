"""Whole sweeps on data from a user's function: killed and resumed, trained again, tested, exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from programs import ROOT, command, environment

from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded

SMALL = ("model.units=8,16", "training.epochs=6", "search.max_trials=2", "optimizer.learning_rate=0.01")


@pytest.fixture
def here(work: Path) -> Path:
    shutil.copy(ROOT / "tests" / "loaders.py", work / "loaders.py")
    return work


def epochs(folder: Path, name: str) -> dict[tuple[int, int], dict[str, float]]:
    """The metrics of each trial and epoch of a sweep, without times."""
    (sweep,) = (folder / "experiments" / name).iterdir()
    found = {}
    for event in journal.read(sweep):
        if isinstance(event, EpochEnded):
            found[event.trial, event.epoch] = {k: v for k, v in event.metrics.items() if k != "epoch_seconds"}
    return found


@pytest.mark.slow
def test_arrays_from_a_function_give_the_same_metrics_as_the_same_arrays_in_a_file(run, here: Path) -> None:
    import loaders
    import numpy as np

    train, validation, test = loaders.arrays()
    parts = {"train": train, "val": validation, "test": test}
    np.savez(
        here / "same.npz", **{f"{n}_{part}": a for part, pair in parts.items() for n, a in zip("xy", pair, strict=True)}
    )
    for name, given in (
        ("file", ["data=npz", "data.path=same.npz"]),
        ("mine", ["data=loader", "data.loader=loaders:arrays"]),
    ):
        done = run(here, *given, *SMALL, f"name={name}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert epochs(here, "mine") == epochs(here, "file")
    assert len(epochs(here, "mine")) == 12


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["tensors", "batches"])
def test_a_killed_sweep_on_a_stream_continues_to_the_last_bit(run, here: Path, loader: str) -> None:
    given = [
        "data=loader",
        f"data.loader=loaders:{loader}",
        *SMALL,
        "model.dropout=0.2",
        "workers.checkpoint_every=0.001s",
    ]
    whole = run(here, *given, "name=whole", published=True)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert re.search(r"200 training, 50 validation and 50 test images of 6x6x1, 3 classes", whole.stdout)
    assert re.search(r"on the test data: test_loss \S+, test_accuracy \S+", whole.stdout)
    started = subprocess.Popen(command(*given, "name=killed"), cwd=here, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 120
    while not any("epoch_ended" in path.read_text() for path in here.glob("experiments/killed/*/journal.jsonl")):
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    resumed = run(here, "resume", "killed")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert epochs(here, "killed") == epochs(here, "whole")
    again = run(here, "rerun", "whole")
    assert (again.returncode, "identical: all" in again.stdout) == (0, True), again.stdout + again.stderr
    exported = run(here, "export", "whole", "--to", "out", "--format", "keras,onnx")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert json.loads((here / "out" / "manifest.json").read_text())["files"].keys() == {"model.keras", "model.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.loader=loaders:one_part"], "returned a stream without a validation part; return (train, validation)"),
        (["data.loader=loaders:endless"], "its training part is endless; set data.steps_per_epoch"),
        (["data.loader=loaders:empty"], "its training part is empty"),
        (["data.loader=loaders:dicts"], "yields a dict; it must yield (inputs, targets)"),
        (
            ["data.loader=loaders:tensors", "validation=kfold"],
            "validation=kfold: data.loader=loaders:tensors returns",
        ),
        (["data.loader=loaders:tensors", "data.test_split=0.3"], "data.test_split=0.3: is not used"),
    ],
)
def test_what_a_stream_cannot_do_is_a_one_line_error(run, here: Path, given: list[str], message: str) -> None:
    done = run(here, "data=loader", *given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr
    assert message in done.stderr
