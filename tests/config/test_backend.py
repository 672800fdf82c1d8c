"""The choice of what Keras computes with: no backend is imported here."""

from __future__ import annotations

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import backend
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import resume


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    def installed(*names: str) -> None:
        monkeypatch.setattr(backend, "is_installed", lambda name: name in names)

    return installed


def test_one_that_is_not_there_is_refused_with_what_to_do(only) -> None:
    only("tensorflow")
    backend.check_installed("tensorflow")
    expected = "pip install jax, or use training.backend=tensorflow$"
    with pytest.raises(UserError, match=f"^training.backend=jax: is not installed; {expected}"):
        backend.check_installed("jax")
    only()
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
def test_a_saved_model_is_asked_on_its_own_or_on_what_is_there(only, config, there, expected: str) -> None:
    only(*there)
    assert backend.to_load({"training": config}) == expected


@pytest.mark.parametrize("value", ["choice(jax, tensorflow)", "jax,tensorflow"])
def test_it_cannot_be_searched(compose_config, value: str) -> None:
    config = compose_config()
    config["training"]["backend"] = value
    with pytest.raises(UserError, match="all trials of a sweep use the same backend; run one sweep per backend"):
        check_settings(config)


def test_a_sweep_goes_on_with_the_one_that_it_began_with(compose_config) -> None:
    old, new = compose_config(), compose_config("training.backend=jax")
    with pytest.raises(UserError, match=r"training.backend \(tensorflow → jax\)"):
        resume.check_unchanged(old, new)
    # Begun before there was a choice.
    del old["training"]["backend"]
    resume.check_unchanged(old, compose_config())
    with pytest.raises(UserError, match=r"training.backend \(tensorflow → jax\)"):
        resume.check_unchanged(old, new)
