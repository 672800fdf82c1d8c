"""A sweep's profile shows where all of the slots' time went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import sweeps
from benchmarks.harness.processes import Sample, Usage
from benchmarks.harness.sweeps import Swept
from benchmarks.overhead import activities, measure
from benchmarks.overhead.__main__ import main
from mnist_sweep.journal.events import (
    AttemptFailed,
    EpochEnded,
    Event,
    SweepEnded,
    SweepStarted,
    TrialAsked,
    TrialEnded,
    TrialStarted,
    WinnerTested,
)
from mnist_sweep.journal.trial import Outcome, Status, Trial

BEGIN, END = 1000.0, 1050.0
PHASES = {"build": 0.5, "trace": 1.0, "train": 6.0, "validate": 1.0, "save": 0.25}


def started(time: float, trial: int, slot: str, attempt: int = 1) -> TrialStarted:
    return TrialStarted(time, Trial(trial, {}, {}, 1), attempt, slot)


def ended(time: float, trial: int) -> TrialEnded:
    return TrialEnded(time, trial, Outcome(Status.COMPLETED, score=0.9, seconds=9, phases=PHASES))


# cpu0: trial 0 from 5 to 15, trial 2 from 16 to 26. cpu1: trial 1 fails from 6 to 8, and is trained from 9 to 20.
EVENTS: list[Event] = [
    SweepStarted(1002, "s/t", {}, {}, {}, {}),
    TrialAsked(1004, 0),
    started(1005, 0, "cpu0"),
    started(1006, 1, "cpu1"),
    AttemptFailed(1008, 1, 1, "its worker was killed"),
    started(1009, 1, "cpu1", attempt=2),
    EpochEnded(1014, 0, 1, 1, {"val_accuracy": 0.9}),
    ended(1015, 0),
    started(1016, 2, "cpu0"),
    ended(1020, 1),
    ended(1026, 2),
    WinnerTested(1028, 0, {}, []),
    SweepEnded(1028, Status.COMPLETED, "", 0),
]


def test_a_slots_activities_add_up_to_the_time_from_start_to_exit():
    slots = activities.by_slot(EVENTS, BEGIN, END)

    assert {slot: sum(seconds.values()) for slot, seconds in slots.items()} == pytest.approx({"cpu0": 50, "cpu1": 50})
    outside = {"winner's test": 2, "after": 22}
    two = {name: 2 * seconds for name, seconds in PHASES.items()}
    assert slots["cpu0"] == pytest.approx(
        {**two, "other": 2.5, "start-up": 5, "between trials": 1, "idle": 0, **outside}
    )
    assert slots["cpu1"] == pytest.approx(
        {**PHASES, "other": 2.25, "failed": 2, "start-up": 6, "between trials": 1, "idle": 6, **outside}
    )


def test_shares_count_training_and_validation_steps():
    seconds = activities.together(activities.by_slot(EVENTS, BEGIN, END))

    assert sum(seconds.values()) == pytest.approx(2 * (END - BEGIN))
    assert activities.shares(seconds) == pytest.approx((21 / 35, 21 / 46, 21 / 100))


def test_the_first_step_ends_when_a_batch_of_the_first_epoch_is_done():
    swept = Swept(EVENTS, BEGIN, Usage(END - BEGIN, 1, 1, 1, 0, 0))
    assert measure.first_step(swept, batches=12) == pytest.approx((7, 7.5))


def test_a_workers_memory_is_that_of_the_process_that_trained():
    samples = [
        Sample(time, slot, pid, rss, rss / 2)
        for time, slot, pid, rss in (
            (1014.9, "cpu0", 7, 300.0),
            (1014.9, "server", 6, 500.0),
            (1025.8, "cpu0", 8, 310.0),
            (1025.9, "server", 6, 500.0),
        )
    ]
    events = [event for event in EVENTS if getattr(event, "slot", "cpu0") == "cpu0"]
    swept = Swept(events, BEGIN, Usage(END - BEGIN, 1, 1, 1, 0, 0, samples))
    assert [(one["pid"], one["rss"]) for one in measure.memory(swept)] == [(7, 300), (7, 300), (8, 310)]


def test_the_parts_to_switch_off_exist_in_the_program(tmp_path):
    code = """if True:
        from pathlib import Path
        from mnist_sweep.common import files
        from mnist_sweep.driver import loop, publish
        from mnist_sweep.journal.files import MODEL_FILE, SAMPLE_FILE, STATE_FILE
        from mnist_sweep.tracking import tracker
        for name in (MODEL_FILE, SAMPLE_FILE, STATE_FILE, "config.yaml"):
            files.write_whole(Path(name), "text")
        tracker = tracker.Tracker(None, None, None)
        tracker.handle(None)
        tracker.close()
        print(sorted(path.name for path in Path().iterdir()), tracker.error, tracker.refusals.count, publish.publish())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=sweeps.environment("mlflow,files"),
        check=True,
    )
    assert done.stdout.startswith("['config.yaml'] None 0 Published(")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sweeps_are_measured_with_and_without_logging(tmp_path, digits, capsys):
    main(["--quick", "--parts", "trivial,logging", "--data", str(digits), "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    for expected in ("trivial, round 1, without MLflow", "logging, round 1, Dense 512-512, off", "on / off"):
        assert expected in printed
    assert (tmp_path / "overhead.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="its memory is told otherwise")
def test_a_commands_memory_excludes_that_of_its_parent(tmp_path):
    (tmp_path / "tensorflow.py").touch()
    ballast = bytearray(200 * 2**20)

    found = measure.command(["-c", "import tensorflow, sys; sys.exit(3)"], Path(tmp_path), returncode=3)

    assert ballast.count(0) > found["peak_mib"] * 2**20
    assert found["tensorflow"]
