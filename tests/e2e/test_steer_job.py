"""The command `steer`, on a sweep that trains."""

from __future__ import annotations

import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Run, command, environment

from mnist_sweep import load_runs
from mnist_sweep.driver.steering import Steering
from mnist_sweep.journal import journal
from mnist_sweep.journal.events import Event, SweepEnded, TrialEnded, TrialStarted
from mnist_sweep.journal.files import FILE, SOCKET
from mnist_sweep.results.runs.find import find_sweep

SWEEP = (
    "data=npz",
    "name=steered",
    "search=random",
    "search.max_trials=100",
    "model.units=choice(4,8,16,32)",
    "model.dropout=interval(0,0.5)",
    "optimizer.learning_rate=0.01",
    "training.epochs=600",
    "confirm=null",
    "workers.count=2",
)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_running_sweep_is_steered_and_tells_who_did_it(
    work: Path, run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the path of a socket may be.
    folder = work / "experiments" / "steered" / ("long" * 30)
    arguments = command(*SWEEP, f"data.path={digits}", f"hydra.run.dir={folder}")
    driver = subprocess.Popen(arguments, cwd=work, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: (folder / FILE).exists() and any(isinstance(e, TrialStarted) for e in journal.read(folder)))
        steering = Steering(folder)
        added = steering.add("model.units=32", "model.dropout=0.25").trial
        assert added is not None
        assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
        steering.stop(0)
        done = run(work, "steer", "steered", "set", "model.units=64")
        assert done.returncode == 2
        assert "model.units=64: 64 is not in choice(4, 8, 16, 32); values can only be narrowed" in done.stderr
        steering.set("search.max_trials=4")
        steering.slots(1)

        def of(kind: type[Event]) -> list[Event]:
            return [event for event in journal.read(folder) if isinstance(event, kind)]

        until(lambda: any(event.trial.number == added for event in of(TrialStarted)))
        done = run(work, "steer", "last", "stop", str(added))
        assert (done.returncode, done.stdout) == (0, f"Trial {added} will stop after its current epoch\n"), done.stderr
        output, _ = driver.communicate(timeout=100)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, output
    assert f"stopped trial {added}" in output
    assert len(of(TrialEnded)) == 4
    assert len(of(SweepEnded)) == 1
    assert not (folder / SOCKET).exists()
    monkeypatch.chdir(work)
    assert load_runs(f"steered/{folder.name}").set_index("trial")["reason"][added].startswith("stopped by ")
    found = find_sweep(str(folder))
    tags = found.run_of(added).data.tags
    assert tags["mnist_sweep.added_by"] == tags["mnist_sweep.stopped_by"]
    assert "| limited the sweep to 1 slot |" in found.parent.data.tags["mlflow.note.content"]
    done = run(work, "steer", "steered", "pause")
    assert done.returncode == 2
    assert "no process runs this sweep; to continue it: " in done.stderr
    assert f"-m mnist_sweep resume steered/{folder.name}" in done.stderr
