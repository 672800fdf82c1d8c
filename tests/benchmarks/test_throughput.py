"""Every system gets the same trials, and ratios compare runs of the same round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import limit
from benchmarks.harness.records import Record
from benchmarks.overhead.__main__ import main as overhead
from benchmarks.throughput import report, shapes
from benchmarks.throughput.__main__ import main as throughput
from benchmarks.throughput.record import OURS
from mnist_sweep.config import compose
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.space import Space
from mnist_sweep.config.trial_config import CNN, at_layer, check_trial
from mnist_sweep.driver import enqueue


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_this_program_and_its_peers_train_the_same_configurations(shape, tmp_path, monkeypatch):
    chosen = shapes.settings(shape, 24)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "these.yaml").write_text(shapes.experiment(shape, 24, 3))
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


def test_fewer_trials_are_the_first_ones_of_a_longer_run():
    assert shapes.settings("mixed", 5) == shapes.settings("mixed", 24)[:5]


WORK = {"trials": 24, "epochs": 5, "images": 54_000, "validation": 6_000, "data": "mnist"}
FIGURES = {
    "wall_seconds": 60,
    "cpu_seconds": 100,
    "driver_seconds": 10,
    "peak_mib": 900,
    "others_seconds": 0,
    "left_behind": 0,
    "cores": 2,
    "trials": 24,
    "ended": 24,
    "best": 0.95,
    "mean": 0.9,
}


def record(system: str = OURS, number: int = 1, **figures: float) -> Record:
    return Record("small", system, number, WORK, {**FIGURES, **figures}, number, None)


def grouped(*records: Record) -> dict[str, list[Record]]:
    (group,) = report.by_work(records)
    return group


def test_this_program_is_compared_with_each_peer_and_with_the_faster_of_two():
    seconds = {(1, OURS): 10, (1, "optuna"): 30, (1, "ray"): 20, (2, OURS): 20, (2, "optuna"): 30, (2, "ray"): 80}
    seconds |= {(3, OURS): 5, (3, "ray"): 10}
    group = grouped(*(record(system, number, wall_seconds=s) for (number, system), s in seconds.items()))
    found = {title: (spread.low, spread.median, spread.high) for title, spread in report.comparisons(group).items()}
    assert found == {
        "Optuna": pytest.approx((1.5, 2.25, 3)),
        "Ray Tune": pytest.approx((2, 2, 4)),
        "the faster of Optuna and Ray Tune": pytest.approx((1.5, 1.75, 2)),
    }


def test_only_the_same_work_is_compared():
    other = replace(record("ray"), work={**WORK, "epochs": 6})
    assert [sorted(group) for group in report.by_work([record(), other])] == [[OURS], ["ray"]]


def test_a_system_that_trains_something_else_is_reported():
    assert report.doubts(grouped(record(), record("ray", best=0.953))) == []
    assert [
        text.partition(":")[0] for text in report.doubts(grouped(record(), record("ray", best=0.90, ended=23)))
    ] == [
        "Ray Tune, round 1",
        "best validation accuracy 0.9000 of Ray Tune, 0.9500 of mnist_sweep",
    ]


def test_more_processor_time_than_was_available_is_reported():
    # The record's process had 60 s on 2 cores.
    (told,) = report.doubts(grouped(record(), record(number=2, cpu_seconds=130)))
    assert told == "mnist_sweep, round 2: more processor time was counted than there was; was the machine paused?"


def test_operations_are_counted_for_the_shapes_of_the_layers():
    cnn = limit.layers(shapes.settings("cnn", 1)[0])
    assert cnn == [
        ("conv", 28, 28, 1, 32, 0),
        ("conv", 26, 26, 32, 64, 1),
        ("dense", 1, 1, 12 * 12 * 64, 128, 1),
        ("dense", 1, 1, 128, 10, 1),
    ]
    forward = [2 * 26 * 26 * 9 * 32, 2 * 24 * 24 * 9 * 32 * 64, 2 * 9216 * 128, 2 * 128 * 10]
    assert limit.operations(cnn, training=False) == sum(forward)
    assert limit.operations(cnn, training=True) == 2 * forward[0] + 3 * sum(forward[1:])


@pytest.mark.parametrize("main", [throughput, overhead])
def test_missing_data_are_a_one_line_error(main, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--data", "nowhere.npz", "--to", str(tmp_path), *(["--systems", OURS] if main is throughput else [])])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: data.path=nowhere.npz: no such file or folder\n")


def test_a_peer_that_is_not_installed_is_reported_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        throughput(["--to", str(tmp_path)])
    assert ended.value.code == 2
    assert "--systems ray: is not installed; pip install -e '.[bench]'" in capsys.readouterr().err
