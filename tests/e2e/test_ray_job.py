"""Sweeps on a private Ray, from the command line: their metrics, their end, and how they continue elsewhere."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from processes import gone
from programs import Run, command, environment

from mnist_sweep.journal import journal
from mnist_sweep.journal.events import EpochEnded, SlotLost, SweepStarted, TrialStarted
from mnist_sweep.journal.state import SweepState

SMALL = ("data=mnist_5k", "search.max_trials=4", "workers.threads=1")


def metrics(folder: Path) -> dict[tuple[int, int, int], dict[str, float]]:
    """The metrics of each epoch of each execution of a trial, without times."""
    return {
        (event.trial, event.execution, event.epoch): {
            key: value for key, value in event.metrics.items() if key != "epoch_seconds"
        }
        for event in journal.read(folder)
        if isinstance(event, EpochEnded)
    }


@pytest.mark.slow
def test_a_sweep_with_ray_is_that_of_one_machine(work: Path, run: Run) -> None:
    # Trials continue from others, and are trained on two folds; the winner is tested, packaged and registered.
    what = (
        "+experiment=quick",
        "search=pbt",
        "search.population=2",
        "search.interval=1",
        "training.epochs=2",
        "validation=kfold",
        "folds=2",
        *SMALL,
    )
    # On one slot: on several, the order in which trials end decides which of them others continue from.
    what = (*what, "workers.count=1")
    for pool in ("local", "ray"):
        where = f"hydra.run.dir=experiments/quick/{pool}"
        done = run(work, *what, f"workers={pool}", where, published=pool == "ray")
        assert done.returncode == 0, done.stdout + done.stderr
    here, there = (work / "experiments" / "quick" / pool for pool in ("local", "ray"))
    assert metrics(there) == metrics(here) != {}
    started, *events = journal.read(there)
    assert isinstance(started, SweepStarted)
    (node,) = started.nodes
    assert {e.slot for e in events if isinstance(e, TrialStarted)} == {f"cpu0@{node}"}
    assert "Model: quick-mnist_5k version 1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("ray", "local"), ("local", "ray")])
def test_a_sweep_whose_driver_is_killed_leaves_nothing_behind_and_continues_elsewhere(
    work: Path, run: Run, first: str, then: str
) -> None:
    sweep = work / "experiments" / "quick" / "killed"
    arguments = ("+experiment=quick", *SMALL, "workers.count=2", "training.epochs=300", "workers.checkpoint_every=1s")
    with open(work / "output", "w") as output:
        driver = subprocess.Popen(
            command(*arguments, f"workers={first}", f"hydra.run.dir={sweep}"),
            cwd=work,
            env=environment(),
            stdout=output,
            stderr=output,
        )
    until = time.monotonic() + 120
    while time.monotonic() < until and not any((sweep / "trials").rglob("state.npz")):
        assert driver.poll() is None, (work / "output").read_text()
        time.sleep(0.2)
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # Ray's own agents find out after a minute or two that it has ended.
    assert gone(processes, 180)
    before = metrics(sweep)
    done = run(work, "resume", str(sweep), f"workers={then}", "search.max_trials=4")
    assert done.returncode == 0, done.stdout + done.stderr
    state = SweepState.after(journal.read(sweep))
    assert state.completed
    assert not any(isinstance(event, SlotLost) for event in journal.read(sweep))
    after = metrics(sweep)
    assert {key: after[key] for key in before} == before
    # The folders of the killed agents are removed by the next one.
    if then == "ray":
        assert not list(Path(tempfile.gettempdir()).glob("mnist_sweep-node-*/task*"))


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_told_before_anything_is_trained(work: Path, run: Run) -> None:
    for address in ("127.0.0.1:1", "nowhere.invalid:6390"):
        done = run(work, "+experiment=quick", "workers=ray", f"workers.address={address}")
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith(f"mnist_sweep: workers.address={address}: "), done.stderr
        assert len(done.stderr.splitlines()) == 1
