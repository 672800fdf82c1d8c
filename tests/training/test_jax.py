"""Runs some tests of training on JAX, without TensorFlow. They belong to the modules that they name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the extra jax: pip install jax")

_HERE = Path(__file__).parent
_WITHOUT_TENSORFLOW = """
from functools import partial
from importlib.machinery import PathFinder


def _without(find, name, *rest):
    return None if name.partition(".")[0] == "tensorflow" else find(name, *rest)


PathFinder.find_spec = partial(_without, PathFinder.find_spec)
"""
# Only a few, as JAX takes a second or two to compile each model.
_TESTS = (
    "test_fit.py::test_each_epoch_reports_all_metrics",
    "test_fit.py::test_the_same_config_and_seed_give_the_same_metrics_to_the_last_bit[model1]",
    "test_model_cache.py::test_a_trial_is_the_same_whatever_the_model_trained_before",
    "test_model_cache.py::test_a_last_batch_as_large_as_another_trials_batches_does_not_affect_the_trial",
    "test_model_cache.py::test_only_the_latest_batch_sizes_stay_compiled",
    "test_backends.py::test_max_pooling_for_gpus_has_the_same_outputs_and_gradients_as_in_keras",
    "test_fit.py::test_resuming_gives_the_same_as_an_uninterrupted_trial[adam]",
    "test_fit.py::test_the_saved_model_has_the_weights_of_the_best_epoch",
    "test_fit.py::test_a_loss_that_is_not_finite_fails_the_trial",
    "test_fit.py::TestContinuingFromAnotherTrial::test_it_keeps_its_own_learning_rate",
)


def test_training_works_on_jax_without_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_TENSORFLOW)
    paths = os.pathsep.join([str(tmp_path), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    # With this variable, pytest would think that it is a worker of pytest-xdist.
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(_HERE / test) for test in _TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout
    # One of them has three cases.
    assert f"{len(_TESTS) + 2} passed" in done.stdout
