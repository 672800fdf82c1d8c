"""Keras without a tensor library."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mnist_sweep.common import light_keras

_SCRIPT = """
import json, os, sys
from mnist_sweep.common.light_keras import load

class Mine:  # stands for JAX, if it was imported before
    pass

if sys.argv[1] == "jax":
    sys.modules["jax"] = sys.modules["jax.numpy"] = Mine
tuner = load("keras_tuner")
hyperparameters = tuner.HyperParameters()
hyperparameters.Int("units", 16, 64)
mnist = load("keras.datasets.mnist")
optional = sorted({"pandas", "sklearn", "matplotlib", "scipy.optimize"} & set(sys.modules))
oracle = tuner.oracles.BayesianOptimizationOracle(
    objective=tuner.Objective("accuracy", "max"), max_trials=20, num_initial_points=2, hyperparameters=hyperparameters
)
oracle._set_project_dir(sys.argv[2], "bayesian")
for score in (0.1, 0.2, 0.3):
    trial = oracle.create_trial("tuner0")
    oracle.update_trial(trial.trial_id, {"accuracy": score})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
import pandas
print(json.dumps({
    "backend": os.environ.get("KERAS_BACKEND"),
    "heavy": sorted(n for n in sys.modules if n.partition(".")[0] in ("tensorflow", "jax", "jaxlib", "torch")),
    "mine": sys.modules.get("jax") is Mine,
    "name": tuner.__name__,
    "units": hyperparameters.get("units"),
    "loads": callable(mnist.load_data),
    "optional": optional,
    "fitted": hasattr(oracle.gpr, "X_train_"),
    "pandas": hasattr(pandas, "DataFrame"),
    "finders": [repr(f) for f in sys.meta_path if type(f).__module__ == "mnist_sweep.common.light_keras"],
    "again": load("keras_tuner") is tuner,
}))
"""


def loaded(folder: Path, backend: str | None, jax: bool = False) -> dict[str, object]:
    env = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    if backend is not None:
        env["KERAS_BACKEND"] = backend
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "jax" if jax else "none", str(folder)],
        env={**env, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_keras_tuner_needs_neither_tensorflow_nor_jax_and_loads_other_packages_on_first_use(tmp_path):
    assert loaded(tmp_path, None) == {
        "backend": None,
        "heavy": [],
        "mine": False,
        "name": "keras_tuner",
        "units": 16,
        "loads": True,
        "optional": [],
        "fitted": True,
        "pandas": True,
        "finders": [],
        "again": True,
    }


def test_the_backend_and_jax_of_the_process_are_restored(tmp_path):
    found = loaded(tmp_path, "jax", jax=True)
    assert found["backend"] == "jax"
    assert found["mine"] is True
    assert found["heavy"] == ["jax", "jax.numpy"]


def test_another_thread_may_import_at_the_same_time(monkeypatch: pytest.MonkeyPatch):
    is_jax = light_keras._is_jax

    def meanwhile(name: str) -> bool:
        monkeypatch.setitem(sys.modules, f"meanwhile_{name}", ModuleType("meanwhile"))
        return is_jax(name)

    monkeypatch.setattr(light_keras, "_is_jax", meanwhile)
    with light_keras._without_jax():
        import jax

        assert isinstance(jax, light_keras._StandIn)
    assert "jax" not in sys.modules


def test_another_thread_may_use_scipy_at_the_same_time() -> None:
    from scipy import stats

    with light_keras._without_jax():
        importlib.import_module("jax")
        assert stats.ttest_rel([1.0, 2.0, 4.0], [1.5, 2.0, 3.0]).pvalue > 0.5
