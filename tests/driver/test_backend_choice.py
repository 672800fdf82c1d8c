"""Choosing Keras's backend for a new sweep."""

from __future__ import annotations

import pytest

from mnist_sweep.config import backend
from mnist_sweep.driver import backend_choice

BOTH = ("tensorflow", "jax")


@pytest.mark.parametrize(
    ("installed", "gpus", "jax_finds_gpu", "changes", "expected"),
    [
        pytest.param(BOTH, ["0"], True, {}, "jax", id="JAX trains on a GPU that it can use"),
        pytest.param(BOTH, ["0"], False, {}, "tensorflow", id="TensorFlow, if JAX cannot use the GPU"),
        pytest.param(BOTH, [], True, {}, "tensorflow", id="TensorFlow on a CPU"),
        pytest.param(BOTH, ["0"], True, {"workers": {"devices": "cpu"}}, "tensorflow", id="the GPU is not to be used"),
        pytest.param(BOTH, ["0"], True, {"model": {"builder": "a:b"}}, "tensorflow", id="a model of the user's own"),
        pytest.param(BOTH, ["0"], True, {"model": {"hypermodel": "a:b"}}, "tensorflow", id="a hypermodel"),
        pytest.param(("jax",), [], False, {}, "jax", id="only JAX is installed"),
        pytest.param(("tensorflow",), ["0"], True, {}, "tensorflow", id="only TensorFlow is installed"),
        pytest.param(BOTH, ["0"], True, {"training": {"backend": "tensorflow"}}, "tensorflow", id="it was named"),
    ],
)
def test_the_backend_is_chosen_by_what_is_there_and_what_trains(
    monkeypatch: pytest.MonkeyPatch, installed, gpus, jax_finds_gpu, changes, expected
) -> None:
    monkeypatch.setattr(backend, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(backend_choice, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(backend_choice, "jax_finds_gpu", lambda: jax_finds_gpu)
    config = {"training": {"backend": "auto", "epochs": 3}, "model": {}, "workers": {"devices": "auto"}}
    chosen = backend_choice.with_backend({group: {**config[group], **changes.get(group, {})} for group in config})
    assert chosen["training"] == {"backend": expected, "epochs": 3}
