"""A keras-tuner user's `build_model` function, searched unchanged from the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mnist_sweep

EXAMPLES = Path(__file__).parent.parent / "hypermodels.py"


def test_a_users_hypermodel_function_runs_unchanged(run, digits: Path, work: Path) -> None:
    shutil.copy(EXAMPLES, work / "own.py")
    done = run(
        work, "model.hypermodel=own:build_model", "data=npz", f"data.path={digits}", "search.max_trials=3",
        "training.epochs=1", "training.batch_size=16,32", "+model.values.lr=0.003", "+model.values.units_0=16,24",
        "workers.count=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.values.units_0 = choice(16, 24)\n" in done.stdout
    assert "model.values.units_2 = choice(8, 16, 24, 32) if model.values.num_layers in [3]\n" in done.stdout
    assert len(re.findall(r"^[\d: -]+ trial \d  completed  .*num_layers=\d units_0=(?:16|24) ", done.stdout, re.M)) == 3
    assert re.search(r"on the test data: test_loss \d\.\d+, test_accuracy 0\.\d+", done.stdout)

    frame = mnist_sweep.load_runs("build_model", tracking_uri=f"sqlite:///{work}/mlruns/mlflow.db")
    assert set(frame["params.model.values.lr"]) == {0.003}
    assert (
        frame["params.model.values.units_2"].notna().tolist() == (frame["params.model.values.num_layers"] == 3).tolist()
    )
    assert not [column for column in frame.columns if column.startswith("params.optimizer.")]


def test_a_mistake_in_a_hypermodel_is_a_one_line_error_and_leaves_nothing_behind(
    run, digits: Path, tmp_path: Path
) -> None:
    shutil.copy(EXAMPLES, tmp_path / "own.py")
    done = run(tmp_path, "model.hypermodel=own:raises", "data=npz", f"data.path={digits}", "workers.count=1")
    assert done.returncode == 2
    assert re.fullmatch(
        r"mnist_sweep: model.hypermodel=own:raises: raised \(ZeroDivisionError at own.py:\d+: oh\)\n", done.stderr
    )
    assert not (tmp_path / "experiments").exists()
