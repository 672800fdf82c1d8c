"""Tests of training that hold for each backend, on JAX, and where there is no TensorFlow."""

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
# Few, as JAX compiles for a second or two for each model.
_TESTS = (
    "test_fit.py::test_each_epoch_reports_all_metrics",
    "test_fit.py::test_the_same_config_and_seed_give_the_same_metrics_to_the_last_bit[model1]",
    "test_fit.py::test_a_trial_is_the_same_whatever_was_trained_before_on_the_same_engine",
    "test_fit.py::test_a_last_batch_that_is_as_large_as_the_batches_of_another_trial_leaves_nothing_behind",
    "test_fit.py::test_what_is_compiled_for_one_size_of_batches_is_not_kept_for_ever",
    "test_fit.py::test_going_on_from_a_saved_state_equals_never_having_stopped[adam]",
    "test_fit.py::test_the_saved_model_is_that_of_the_best_epoch",
    "test_fit.py::test_a_loss_that_is_not_finite_ends_the_trial_with_that_reason",
    "test_fit.py::TestGoingOnFromAnotherTrial::test_its_own_learning_rate_holds",
)


def test_a_trial_is_on_jax_what_it_is_on_tensorflow_which_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_TENSORFLOW)
    paths = os.pathsep.join([str(tmp_path), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    # It would tell pytest there that it is a worker of pytest-xdist.
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(_HERE / test) for test in _TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout
    assert f"{len(_TESTS)} passed" in done.stdout
