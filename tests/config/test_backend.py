"""Choosing the library that Keras computes with; no backend is imported."""

from __future__ import annotations

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import backend
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import resume


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    def install(*names: str) -> None:
        monkeypatch.setattr(backend, "is_installed", lambda name: name in names)

    return install


def test_a_missing_backend_is_refused_with_what_to_install(installed) -> None:
    installed("tensorflow")
    backend.check_installed("tensorflow")
    expected = r"python -m pip install 'mnist_sweep\[jax\]', or use training.backend=tensorflow$"
    with pytest.raises(UserError, match=f"^training.backend=jax: is not installed; {expected}"):
        backend.check_installed("jax")
    installed()
    with pytest.raises(UserError, match="pip install tensorflow$"):
        backend.check_installed("tensorflow")


@pytest.mark.parametrize(
    ("config", "there", "expected"),
    [
        ({}, ("tensorflow", "jax"), "tensorflow"),
        ({"backend": "jax"}, ("tensorflow", "jax"), "jax"),
        ({"backend": "jax"}, ("tensorflow",), "tensorflow"),
        ({}, ("jax",), "jax"),
    ],
)
def test_a_saved_model_loads_with_its_own_backend_or_an_installed_one(installed, config, there, expected: str) -> None:
    installed(*there)
    assert backend.to_load({"training": config}) == expected


@pytest.mark.parametrize("value", ["choice(jax, tensorflow)", "jax,tensorflow"])
def test_the_backend_cannot_be_searched(compose_config, value: str) -> None:
    config = compose_config()
    config["training"]["backend"] = value
    with pytest.raises(UserError, match="all trials of a sweep use the same backend; run one sweep per backend"):
        check_settings(config)


def test_a_resumed_sweep_keeps_its_backend(compose_config) -> None:
    old, new = compose_config(), compose_config("training.backend=jax")
    with pytest.raises(UserError, match=r"training.backend \(tensorflow → jax\)"):
        resume.check_unchanged(old, new)
    # A sweep from before the key existed.
    del old["training"]["backend"]
    resume.check_unchanged(old, compose_config())
    with pytest.raises(UserError, match=r"training.backend \(tensorflow → jax\)"):
        resume.check_unchanged(old, new)
