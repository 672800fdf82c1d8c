"""The script for GPU machines plans its time, survives failures, and makes tables of what it has measured."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import parts, plan, report, watch, wheels
from benchmarks.harness.records import Store
from benchmarks.harness.sweeps import ROOT, Arrays
from mnist_sweep.journal.events import AttemptFailed, EpochEnded, SweepEnded, TrialEnded, TrialStarted
from mnist_sweep.journal.trial import Outcome, Status, Trial

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 1,
    "gpus": ["GPU"],
    "versions": {"jax": "0.11"},
    "date": "2026-01-01",
}


def test_parts_run_in_turn_until_no_time_is_left_for_the_next_one(tmp_path):
    now, lines = [0.0], list[str]()

    def part(kind: str, budget: float, takes: float) -> plan.Part:
        def measure(seconds: float) -> dict:
            assert seconds == budget
            now[0] += takes
            if kind == "broken":
                raise RuntimeError("out of luck")
            # The file is complete after each part.
            return {"before": len(Store(tmp_path / "gpu.json").records)}

        return plan.Part(kind, "all", budget, measure)

    every = [part("first", 50, 30), part("broken", 30, 5), part("large", 60, 60), part("last", 20, 10)]
    store = Store(tmp_path / "gpu.json")
    skipped = plan.run(every, store, MACHINE, 90, lines.append, clock=lambda: now[0])

    assert [part.kind for part in skipped] == ["large"]
    found = {run.part: run.figures for run in Store(tmp_path / "gpu.json").records}
    assert found == {
        "first": {"before": 0, "seconds": 30},
        "broken": {"error": "RuntimeError: out of luck", "seconds": 5},
        "last": {"before": 2, "seconds": 10},
    }
    assert lines[-1] == "no time was left for 1 part: --parts large:all"


def test_the_parts_have_names_of_their_own_and_together_all_networks_and_ways_of_sharing(tmp_path):
    names = [part.name for part in parts.Setup(parts.REAL, ARRAYS, tmp_path).parts()]
    assert len(set(names)) == len(names)
    for shape in ("small", "large", "cnn"):
        wanted = {f"fused:{shape}", f"keras-tuner:{shape}", *(f"sweep:{shape},{n}" for n in (1, 2, 4, 8, "auto"))}
        assert wanted <= set(names)


ARRAYS = Arrays("mnist", Path("whole.npz"), Path("split.npz"), 54_000, 6_000)
EVENTS = [
    TrialStarted(10, Trial(0, {"a": 1}, {}, 1), 1, "gpu0"),
    AttemptFailed(11, 0, 1, "its worker was killed"),
    TrialStarted(12, Trial(0, {"a": 1}, {}, 1), 2, "gpu0"),
    EpochEnded(15, 0, 1, 1, {"val_accuracy": 0.5, "epoch_seconds": 3.0}),
    TrialEnded(16, 0, Outcome(Status.COMPLETED, phases={"trace": 1.5, "train": 2.0, "validate": 0.5})),
    SweepEnded(17, Status.COMPLETED, "", 0),
]


def test_a_sweeps_figures_come_from_its_journal_and_from_the_readings_while_it_trained():
    samples = [watch.Sample(t, use, 2**30, {1: 2**29}) for t, use in ((9.0, 90.0), (12.0, 20.0), (14.0, 40.0))]
    found = parts.figures(EVENTS, 5.0, watch.Watch(samples))
    assert found["results"] == {'{"a": 1}': [{"val_accuracy": 0.5}]}
    assert (found["trials"], found["first_trial"], found["per_minute"], found["compile_seconds"]) == (1, 5, 10, 1.5)
    assert (found["gpu_use"], found["gpu_mib"], found["process_mib"]) == (pytest.approx(0.3), 1024, 512)
    assert found["step_share"] == pytest.approx(2.5 / 6)
    assert found["attempts_failed"] == ["its worker was killed"]


def test_the_report_has_a_table_for_each_kind_of_part(tmp_path):
    store = Store(tmp_path / "gpu.json")
    figures = parts.figures(EVENTS, 5.0, watch.Watch())
    other = {**figures, "per_minute": 30.0, "results": {'{"a": 1}': [{"val_accuracy": 0.75}]}}
    case = {"optimizer": "adam", "order": "own", "precision": "float32", "differ": {"loss": 1e-6}}
    case |= {"step_flops": 2e9, "step_bytes": None, "argument_mib": 1.0, "temporary_mib": 2.0, "compile_seconds": 3.0}
    stacks = [
        {**case, "lanes": 0, "step_seconds": 0.001},
        {**case, "lanes": 8, "step_seconds": 0.002},
        {**case, "lanes": 32, "skipped": True},
    ]
    for kind, variant, of in (
        ("sweep", "small, 1", figures),
        ("sweep", "small, 4", other),
        ("fault", "killed", figures),
        ("fused", "small", {"stacks": stacks}),
        ("not deterministic", "small", {"stacks": [{**case, "lanes": 0, "step_seconds": 0.0005}]}),
        ("keras-tuner", "small", {"error": "it fell over"}),
    ):
        store.add(kind, variant, 1, {}, of, MACHINE)

    lines = report.text([store]).splitlines()

    assert lines[0].endswith("GPU, 2026-01-01, jax 0.11.")
    assert "| Dense 16-16 | 4 | 1 | 30.0 | 3.00 × | 42% | none | none | none | 1.50 | 5.00 |" in lines
    assert "| Dense 16-16 | 1 at a time / 4 at a time | 0 of 1 | 0.2 |" in lines
    assert "| Dense 16-16 | 1 at a time / a worker was killed | 1 of 1 | 0 |" in lines
    assert "| killed | its worker was killed | 1 completed | completed |" in lines
    assert "| Dense 16-16 | adam | own | float32 | 8 | 2.000 | 4.00 × | 1.00 | none | 3.00 | 3.00 | 1e-06 |" in lines
    assert any("| 32 | no time was left |" in line for line in lines)
    assert "| Dense 16-16 | 1.000 | 0.500 | 2.00 × |" in lines
    assert lines[-1] == "`keras-tuner: small` failed: it fell over"


def test_wheels_are_for_what_is_needed_and_not_there():
    packages = {
        "a": {"requires_dist": ["b>=1", "here", 'c ; extra == "more"']},
        "b": {"requires_dist": ["d"]},
        "c": {},
        "d": {},
        "here": {"requires_dist": ["e"]},
        "e": {},
    }
    assert wheels.needed_by(["a"], packages, without={"here"}) == {"a", "b", "d"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the extra jax")
def test_the_whole_script_runs_on_cpu(digits, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--minutes", "19", "--to", tmp_path, "--data", digits]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(run.part, run.variant): run.figures for run in Store(tmp_path / "gpu.json").records}
    assert not [(name, figures["error"]) for name, figures in found.items() if "error" in figures]
    assert "no time was left" not in done.stdout
    assert found["fault", "killed"]["attempts_failed"]
    assert [text[:15] for text in found["fault", "out of memory"]["outcomes"].values()].count("failed: out of ") == 1
