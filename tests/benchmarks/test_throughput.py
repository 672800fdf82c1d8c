"""Every system is given the same trials, and ratios compare what ran side by side."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import limit
from benchmarks.overhead.__main__ import main as overhead
from benchmarks.throughput import report, shapes
from benchmarks.throughput.__main__ import main as throughput
from benchmarks.throughput.record import OURS, Record
from mnist_sweep.config import compose
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import CNN, at_layer, check_trial
from mnist_sweep.driver import enqueue


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_this_program_is_given_the_settings_that_the_peers_are_given(shape, tmp_path, monkeypatch):
    chosen = shapes.settings(shape, 24)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "these.yaml").write_text(shapes.experiment(shape, chosen, 3))
    monkeypatch.chdir(tmp_path)
    settings = check_settings(compose.defaults(["+experiment=these"]))
    space = Space(settings.trial)

    enqueued = enqueue.enqueued(settings, space, None)

    assert enqueued == [shapes.values(shape, setting) for setting in chosen]
    assert settings.search.max_trials == len(chosen)
    for values, setting in zip(enqueued, chosen, strict=True):
        config = check_trial(space.config(values))
        model = config.model
        dense = model.dense if isinstance(model, CNN) else model
        filters = tuple(at_layer(model.filters, i) for i in range(model.layers)) if isinstance(model, CNN) else ()
        assert setting == shapes.Setting(
            filters,
            tuple(at_layer(dense.units, i) for i in range(dense.layers)),
            dense.activation,
            dense.dropout,
            config.optimizer.name,
            config.optimizer.learning_rate,
            config.training.batch_size,
        )
        assert config.training.epochs == 3


def test_fewer_trials_are_the_first_of_more():
    assert shapes.settings("mixed", 5) == shapes.settings("mixed", 24)[:5]


RECORD = Record("small", OURS, 1, 24, 5, 54_000, 6_000, "mnist", 60, 100, 900, 0, 2, 24, 0.95, 0.9, 0, 0, None)


def records(seconds: dict[tuple[int, str], float]) -> list[Record]:
    return [replace(RECORD, round=n, system=system, wall_seconds=s) for (n, system), s in seconds.items()]


def test_ratios_are_taken_within_each_round_against_the_faster_peer_of_that_round():
    found = records(
        {(1, OURS): 10, (1, "optuna"): 30, (1, "ray"): 20, (2, OURS): 20, (2, "optuna"): 30, (2, "ray"): 80}
        | {(3, OURS): 5, (3, "ray"): 10}
    )
    assert report.ratios(found, ["ray"]) == pytest.approx([2, 4, 2])
    assert report.ratios(found, ["optuna", "ray"]) == pytest.approx([2, 1.5])
    assert report.ratios(found, ["keras-tuner"]) == []


def test_a_system_that_trains_something_else_is_told():
    same = [RECORD, replace(RECORD, system="ray", best=0.953)]
    assert report.doubts(same) == []
    other = [RECORD, replace(RECORD, system="ray", best=0.90, ended=23)]
    assert [text.partition(":")[0] for text in report.doubts(other)] == [
        "Ray Tune, round 1",
        "best validation accuracy 0.9000 of Ray Tune, 0.9500 of mnist_sweep",
    ]


def test_more_processor_time_than_there_was_is_told():
    # The record's process had 60 s on 2 cores.
    (told,) = report.doubts([RECORD, replace(RECORD, round=2, cpu_seconds=130)])
    assert told == "mnist_sweep, round 2: more processor time was counted than there was; was the machine paused?"


def test_operations_are_those_of_the_layers():
    cnn = limit.products(shapes.settings("cnn", 1)[0])
    assert cnn == [
        ("conv", 28, 28, 1, 32, 0),
        ("conv", 26, 26, 32, 64, 1),
        ("dense", 1, 1, 12 * 12 * 64, 128, 1),
        ("dense", 1, 1, 128, 10, 1),
    ]
    forward = [2 * 26 * 26 * 9 * 32, 2 * 24 * 24 * 9 * 32 * 64, 2 * 9216 * 128, 2 * 128 * 10]
    assert limit.operations(cnn, training=False) == sum(forward)
    assert limit.operations(cnn, training=True) == 2 * forward[0] + 3 * sum(forward[1:])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processor_time_of_what_a_command_leaves_behind_counts(tmp_path):
    # In a process of its own, as it takes in all that its children leave.
    code = """if True:
        import os, sys
        from pathlib import Path
        from benchmarks import machine
        burn = "import time\\nwhile time.process_time() < 0.4: pass"
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}], start_new_session=True)"
        here = Path(sys.argv[1])
        usage = machine.measure([sys.executable, "-c", code], cwd=here, env=os.environ, log=here / "log", timeout=20)
        print(usage.returncode, usage.cpu_seconds, usage.left_behind, usage.peak_mib)
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root, check=True
    )
    returncode, cpu, left, peak = map(float, done.stdout.split())
    assert (returncode, left) == (0, 0)
    assert 0.4 <= cpu < 5
    assert peak > 1


@pytest.mark.parametrize("main", [throughput, overhead])
def test_data_that_are_not_there_are_one_line(main, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--data", "nowhere.npz", "--to", str(tmp_path), *(["--systems", OURS] if main is throughput else [])])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: data.path=nowhere.npz: there is no such file or folder\n")


def test_a_peer_that_is_not_installed_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        throughput(["--to", str(tmp_path)])
    assert ended.value.code == 2
    assert "--systems ray: is not installed; pip install -e '.[bench]'" in capsys.readouterr().err
